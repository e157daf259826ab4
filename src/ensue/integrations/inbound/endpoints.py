"""The webhooks and consumers of an app, with their settings.

Decides which there are, and what is wrong with them. Invariant: an endpoint's name, `namespace.name`, is unique, as the
inbox tells messages apart by it; every problem of every endpoint is found at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ensue.errors import Problem
from ensue.integrations.contract import Integration, created_by, members_of
from ensue.integrations.inbound.consumer import Consumer, consumer_mark
from ensue.integrations.inbound.embedded import Place, Sources, resolve_embedded
from ensue.integrations.inbound.webhook import WRONG_ENDPOINT, Receive, Webhook, webhook_mark
from ensue.integrations.settings.environment import UNSET


@dataclass(slots=True)
class Endpoints:
    """By full name (`"shop.paid"`), with the namespace of each."""

    webhooks: dict[str, tuple[str, Webhook]] = field(default_factory=dict[str, tuple[str, Webhook]])
    consumers: dict[str, tuple[str, Consumer]] = field(default_factory=dict[str, tuple[str, Consumer]])
    problems: list[Problem] = field(default_factory=list[Problem])

    def __len__(self) -> int:
        return len(self.webhooks) + len(self.consumers)

    def function(self, endpoint: str) -> Receive | None:
        """What is called with the messages of an endpoint."""
        found = self.webhooks.get(endpoint) or self.consumers.get(endpoint)
        return None if found is None else found[1].function

    def timeout_seconds(self, endpoint: str) -> float:
        """How long that may take."""
        return (self.webhooks.get(endpoint) or self.consumers[endpoint])[1].options.timeout_seconds

    def at(self, namespace: str, path: str) -> tuple[str, Webhook] | None:
        """The full name and the webhook that is reached at `/api/webhooks/{namespace}/{path}`."""
        for name, (owner, found) in self.webhooks.items():
            if owner == namespace and found.path == path:
                return name, found
        return None


def endpoints_of(members: Mapping[str, Integration], environ: Mapping[str, str], *, created: bool) -> Endpoints:
    """All endpoints; without `created` only those that are decorated, since the others may need settings."""
    found = Endpoints()
    for namespace, integration in members.items():
        settings = integration.__ensue_settings__
        values = vars(integration)
        sources = Sources({name: (item.variable, values.get(name, UNSET)) for name, item in settings.items()}, environ)
        for endpoint in _declared(integration, created=created):
            _add(found, namespace, endpoint, sources)
    return found


def _declared(integration: Integration, *, created: bool) -> Iterable[Webhook | Consumer]:
    for name, function in members_of(type(integration)):
        if (hook := webhook_mark(function)) is not None:
            yield Webhook(name, getattr(integration, name), *hook)
        if (consumer := consumer_mark(function)) is not None:
            yield Consumer(name, getattr(integration, name), *consumer)
    if created:
        yield from created_by(integration, "create_webhooks", Webhook)
        yield from created_by(integration, "create_consumers", Consumer)


def _add(found: Endpoints, namespace: str, endpoint: Webhook | Consumer, sources: Sources) -> None:
    name = f"{namespace}.{endpoint.name}"
    what = "verify" if isinstance(endpoint, Webhook) else "url"
    options: Any
    options, problems = resolve_embedded(endpoint.options, sources, Place(f"{name} {what}=", endpoint.origin))
    if options is None:
        found.problems.extend(problems)
        return
    made = replace(endpoint, options=options)
    problems = made.problems(namespace)
    if name in found.webhooks or name in found.consumers:
        problems.append(_repeated(f"two endpoints named {name!r}", made))
    elif isinstance(made, Webhook) and found.at(namespace, made.path) is not None:
        problems.append(_repeated(f"two webhooks at /api/webhooks/{namespace}/{made.path}", made))
    found.problems.extend(problems)
    if isinstance(made, Webhook):
        found.webhooks[name] = (namespace, made)
    else:
        found.consumers[name] = (namespace, made)


def _repeated(what: str, endpoint: Webhook | Consumer) -> Problem:
    return Problem(WRONG_ENDPOINT, f"There are {what}. Rename one, or give it a path= of its own.", endpoint.origin)
