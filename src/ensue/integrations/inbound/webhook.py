"""`@webhook`: a method of an integration that hears of outside events over HTTP.

Decides what an endpoint is made of and where it is reached. Leaves signatures to `verify`, what is done with messages to
`handling`, and HTTP to the server. Invariant: an endpoint verifies, or says in its declaration why it doesn't.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from ensue.errors import DeclarationError, Origin, Problem
from ensue.integrations.inbound.message import Inbound
from ensue.integrations.inbound.verify import Verifier
from ensue.schema.incoming import Incoming
from ensue.schema.written.call import misfit

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
        options = self.options
        found = [
            *wrong_function(self.function),
            *wrong_numbers(options, above_zero=("max_bytes", "unverified_per_minute")),
            *self._wrong_verifier(),
        ]
        if not isinstance(self.path, str) or _PATH.fullmatch(self.path) is None:  # pyright: ignore[reportUnnecessaryIsInstance]
            found.append(f"has the path {self.path!r}; expected one part of letters, digits, '-', '_' and '.'.")
        return [Problem(WRONG_ENDPOINT, f"The webhook {namespace}.{self.name}: {text}", self.origin) for text in found]

    def _wrong_verifier(self) -> list[str]:
        verifier = self.options.verify
        if isinstance(verifier, type) or not callable(getattr(verifier, "verify", None)):
            known = "StandardWebhooks(…), StripeSignature(…), GitHubSignature(…), HmacSignature(…), NoVerification(reason=…)"
            return [f"has verify={verifier!r}; expected {known}, or an object with verify(body, headers, now)."]
        names = misfit(verifier.verify, b"", {}, None)
        if names is not None:
            return [f"has a verifier whose verify takes ({names}) besides self; expected verify(body, headers, now)."]
        if inspect.iscoroutinefunction(verifier.verify):
            return ["has a verifier whose verify is async; expected `def verify(self, body, headers, now)`."]
        check: Any = getattr(verifier, "check", None)
        try:
            if check is not None:
                check()
        except DeclarationError as error:
            return [problem.message for problem in error.problems]
        return []


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


def wrong_function(function: Receive) -> list[str]:
    """What is wrong with the function of an endpoint: the first message would be too late to find it."""
    if not inspect.iscoroutinefunction(function):
        return ["is not async; expected `async def name(self, message)`."]
    names = misfit(function, None)
    if names is not None:
        return [f"takes ({names}) besides self; expected `async def name(self, message)`."]
    return []


def wrong_numbers(options: Any, *, above_zero: Sequence[str]) -> list[str]:
    """What is wrong with the numbers of an endpoint's options: those `above_zero`, and how long its function may take."""
    found: list[str] = []
    for name in above_zero:
        value: object = getattr(options, name)
        if not isinstance(value, int | float) or not 1 <= value < float("inf"):
            found.append(f"has {name}={value!r}; expected a number that is at least 1.")
    seconds: object = options.timeout_seconds
    if not isinstance(seconds, int | float) or not 0 < seconds <= TIMEOUT_SECONDS_MAX:
        found.append(f"has timeout_seconds={seconds!r}; expected more than 0 and at most {TIMEOUT_SECONDS_MAX:g}.")
    return found


def webhook_mark(method: object) -> tuple[WebhookOptions, Origin] | None:
    """What `@webhook` left on a method."""
    return getattr(method, _MARK, None)
