"""`@webhook`: a method of an integration that hears of outside events over HTTP.

Decides what an endpoint is made of and where it is reached. Leaves signatures to `verify`, what is done with messages to
`handling`, and HTTP to the server. Invariant: an endpoint verifies, or says in its declaration why it doesn't.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from ensue.errors import DeclarationError, Origin, Problem
from ensue.integrations.inbound.message import Inbound
from ensue.integrations.inbound.verify import Verifier
from ensue.schema.incoming import Incoming

I = TypeVar("I")  # noqa: E741  # the integration whose method it is
Receive = Callable[[Inbound], Awaitable[Incoming]]

WRONG_ENDPOINT: Final = "E0161"
BYTES_MAX: Final = 1024 * 1024
TIMEOUT_SECONDS: Final = 10.0
TIMEOUT_SECONDS_MAX: Final = 60.0
UNVERIFIED_PER_MINUTE: Final = 60
_MARK: Final = "__ensue_webhook__"
_PATH: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookOptions:
    """How an endpoint takes messages.

    `path` is the last part of its route, by default its name. A message of more than `max_bytes` is refused unread.
    `defer`: answer as soon as the message is stored, and handle it afterwards; for methods that take longer than the
    sender waits. One address may send `unverified_per_minute` messages that can't be verified; then it has to wait.
    """

    verify: Verifier
    path: str | None = None
    max_bytes: int = BYTES_MAX
    defer: bool = False
    timeout_seconds: float = TIMEOUT_SECONDS
    unverified_per_minute: int = UNVERIFIED_PER_MINUTE


@dataclass(frozen=True, slots=True)
class Webhook:
    """One endpoint as a value: what `@webhook` makes of a method, and what `create_webhooks` gives.

    >>> async def paid(message: Inbound) -> Incoming: ...
    >>> Webhook("paid", paid, WebhookOptions(verify=NoVerification(reason="only reached from our own network"))).path
    'paid'
    """

    name: str
    function: Receive = field(repr=False)
    options: WebhookOptions
    origin: Origin | None = None

    @property
    def path(self) -> str:
        """The last part of its route."""
        return self.options.path or self.name

    @property
    def description(self) -> str:
        """The method's docstring."""
        return inspect.getdoc(self.function) or ""

    def problems(self, namespace: str) -> list[Problem]:
        """What is wrong with it, once settings are resolved."""
        found: list[str] = []
        options = self.options
        if _PATH.fullmatch(self.path) is None:
            found.append(f"has the path {self.path!r}; expected one part of letters, digits, '-', '_' and '.'.")
        if options.max_bytes < 1 or options.unverified_per_minute < 1:
            found.append("has max_bytes or unverified_per_minute below 1.")
        if not 0 < options.timeout_seconds <= TIMEOUT_SECONDS_MAX:
            found.append(
                f"has timeout_seconds={options.timeout_seconds}; expected more than 0 and at most {TIMEOUT_SECONDS_MAX:g}."
            )
        if not callable(getattr(options.verify, "verify", None)):
            found.append(
                f"has verify={options.verify!r}; expected StandardWebhooks(…), StripeSignature(…), GitHubSignature(…), "
                "HmacSignature(…), NoVerification(reason=…), or an object with verify(body, headers, now)."
            )
        check: Any = getattr(options.verify, "check", None)
        try:
            if check is not None:
                check()
        except DeclarationError as error:
            found.extend(problem.message for problem in error.problems)
        return [Problem(WRONG_ENDPOINT, f"The webhook {namespace}.{self.name}: {text}", self.origin) for text in found]


def webhook(
    *,
    verify: Verifier,
    path: str | None = None,
    max_bytes: int = BYTES_MAX,
    defer: bool = False,
    timeout_seconds: float = TIMEOUT_SECONDS,
    unverified_per_minute: int = UNVERIFIED_PER_MINUTE,
) -> Callable[[Callable[[I, Inbound], Awaitable[Incoming]]], Callable[[I, Inbound], Awaitable[Incoming]]]:
    """A method of an integration as an endpoint, `POST /api/webhooks/{namespace}/{name}`.

    The method says what a message means: interactions to dispatch, records to create, None for nothing. That happens
    once, in the transaction that keeps the message. The arguments are those of `WebhookOptions`.

    >>> class Payments(Integration):
    ...     @webhook(verify=StandardWebhooks(secret=env("PAYMENTS_SECRET")))
    ...     async def paid(self, message: Inbound) -> Incoming:
    ...         return PaymentReceived(order=message.json()["order"])
    """
    options = WebhookOptions(
        verify=verify,
        path=path,
        max_bytes=max_bytes,
        defer=defer,
        timeout_seconds=timeout_seconds,
        unverified_per_minute=unverified_per_minute,
    )
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # inspect.stack() reads files
    origin = Origin(frame.f_code.co_filename, frame.f_lineno)

    def mark(method: Callable[[I, Inbound], Awaitable[Incoming]]) -> Callable[[I, Inbound], Awaitable[Incoming]]:
        setattr(method, _MARK, (options, origin))
        return method

    return mark


def webhook_mark(method: object) -> tuple[WebhookOptions, Origin] | None:
    """What `@webhook` left on a method."""
    return getattr(method, _MARK, None)
