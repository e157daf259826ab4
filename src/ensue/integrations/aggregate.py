"""Several integrations as one.

Decides the namespaces of the parts: those inside an aggregate replace the aggregate's own. Leaves running them to
`lifecycle`, which sees the parts only. Invariant: an aggregate has no behaviour of its own that could be lost when it
is taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ensue.errors import DeclarationError, Problem
from ensue.integrations.contract import Integration

DUPLICATE_NAMESPACE = "E0152"
WRONG_NAMESPACE = "E0153"
_HOOKS = (
    "configure",
    "setup",
    "cleanup",
    "health",
    "create_side_effects",
    "create_apis",
    "create_webhooks",
    "create_consumers",
)
_NAMESPACE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class AggregatedIntegration(Integration):
    """Integrations under namespaces, as one `Integration`; classes are instantiated without arguments.

    >>> class Mail(Integration): ...
    >>> everything = AggregatedIntegration({"mail": Mail, "backup_mail": Mail()})
    >>> list(everything.parts("ignored"))
    ['mail', 'backup_mail']
    """

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        overridden = [name for name in _HOOKS if name in cls.__dict__]
        if overridden:
            raise DeclarationError(
                f"{cls.__name__} overrides {', '.join(overridden)} of AggregatedIntegration, which is never called: "
                f"only the parts "
                "run. Put it into an Integration of its own and add that as a part."
            )

    def __init__(self, parts: Mapping[str, type[Integration] | Integration], /) -> None:
        super().__init__()
        if not isinstance(parts, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # unchecked callers
            raise DeclarationError(
                f"AggregatedIntegration({parts!r}): expected a mapping of namespaces to integrations, such as "
                '{"channels": RedisChannels}.'
            )
        self._parts = {name: part() if isinstance(part, type) else part for name, part in parts.items()}

    def parts(self, namespace: str) -> Mapping[str, Integration]:
        """The parts by their own namespaces; `namespace`, which they replace, is not used."""
        return flatten(self._parts)

    def __repr__(self) -> str:
        return f"AggregatedIntegration({self._parts!r})"


def flatten(integrations: Mapping[str, Integration]) -> dict[str, Integration]:
    """Every integration by its final namespace. Raises `DeclarationError` for names that are taken or can't be one."""
    found: dict[str, Integration] = {}
    problems: list[Problem] = []
    for outer, integration in integrations.items():
        if not isinstance(integration, Integration):  # pyright: ignore[reportUnnecessaryIsInstance]  # unchecked callers
            problems.append(Problem(WRONG_NAMESPACE, _no_integration(outer, integration)))
            continue
        for namespace, part in integration.parts(outer).items():
            if not isinstance(namespace, str) or _NAMESPACE.fullmatch(namespace) is None:  # pyright: ignore[reportUnnecessaryIsInstance]
                problems.append(
                    Problem(WRONG_NAMESPACE, f"The namespace {namespace!r} must be letters, digits and underscores.")
                )
            elif namespace in found:
                problems.append(Problem(DUPLICATE_NAMESPACE, _taken(namespace, found[namespace], part)))
            else:
                found[namespace] = part
    if problems:
        raise DeclarationError(problems)
    return found


def _no_integration(namespace: str, found: object) -> str:
    if isinstance(found, type):
        return f"integrations={{{namespace!r}: {found.__name__}}} gives the class. Make an object of it: {found.__name__}()."
    return (
        f"integrations={{{namespace!r}: {found!r}}} is no Integration. Its class must inherit from ensue.Integration."
    )


def _taken(namespace: str, first: Integration, second: Integration) -> str:
    return (
        f"Two integrations claim the namespace {namespace!r}: {type(first).__name__} and {type(second).__name__}. "
        f"Namespaces inside "
        "an AggregatedIntegration replace the outer one, so each must be unique in the app. Rename one."
    )
