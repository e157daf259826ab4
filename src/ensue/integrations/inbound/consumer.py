"""`@consume`: a method of an integration that is given the messages of a broker.

Decides what a consumer is made of and which brokers there are. Leaves talking to them to `consuming`, and what is done
with messages to `handling`. Invariant: a message is acknowledged after the commit of what it means, or once it is kept
as failed; never before.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import MISSING, dataclass, field
from typing import Any, Final, Literal, TypeAlias, TypeVar, overload

from ensue.errors import DeclarationError, Origin, Problem
from ensue.integrations.inbound.identify import Identify, check_identify
from ensue.integrations.inbound.message import Inbound
from ensue.integrations.inbound.webhook import TIMEOUT_SECONDS, WRONG_ENDPOINT, Receive, wrong_function, wrong_numbers
from ensue.integrations.settings.environment import env
from ensue.schema.incoming import Incoming

I = TypeVar("I")  # noqa: E741  # the integration whose method it is
Method: TypeAlias = Callable[[I, Inbound], Awaitable[Incoming]]
Mark: TypeAlias = Callable[[Method[I]], Method[I]]

MAX_ATTEMPTS: Final = 10
BATCH: Final = 32
REDELIVER_SECONDS: Final = 60.0
_MARK: Final = "__ensue_consumer__"


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsPlace:
    """A JetStream consumer, made if it is not there: its subject, the stream (by default the one of the subject), its name."""

    subject: str
    stream: str | None = None
    durable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisPlace:
    """A stream and a group of it, made if it is not there.

    With `field` the body is that field and the others are headers; else the body is all fields as a JSON object.
    """

    stream: str
    group: str | None = None
    field: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpPlace:
    """A queue, which must exist."""

    queue: str


Place: TypeAlias = NatsPlace | RedisPlace | AmqpPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """How messages are taken.

    `id` says what the sender calls a message, as for `HmacSignature`; by default NATS's `Nats-Msg-Id` or the position in
    the stream, the entry's id in Redis, AMQP's `message_id`. Up to `batch` messages are handled in one transaction. A
    message whose handling failed `max_attempts` times is acknowledged and stays in the inbox as failed. One that a
    process took and never acknowledged goes to another after `redeliver_seconds` (AMQP: when the connection is gone).
    """

    url: str = field(repr=False)
    id: Identify = None
    max_attempts: int = MAX_ATTEMPTS
    batch: int = BATCH
    timeout_seconds: float = TIMEOUT_SECONDS
    redeliver_seconds: float = REDELIVER_SECONDS


@dataclass(frozen=True, slots=True)
class Consumer:
    """One consumer as a value: what `@consume` makes of a method, and what `create_consumers` gives."""

    name: str
    function: Receive = field(repr=False)
    place: Place
    options: ConsumerOptions
    origin: Origin | None = None

    def problems(self, namespace: str) -> list[Problem]:
        """What is wrong with it, once settings are resolved."""
        options = self.options
        found = [
            *wrong_function(self.function),
            *wrong_numbers(options, above_zero=("max_attempts", "batch", "redeliver_seconds")),
        ]
        schemes = _SCHEMES[type(self.place)]
        if not isinstance(options.url, str) or options.url.partition("://")[0] not in schemes:  # pyright: ignore[reportUnnecessaryIsInstance]
            found.append(
                f"has a url that is none of its broker; expected {' or '.join(f'{name}://…' for name in schemes)}."
            )
        durable = getattr(self.place, "durable", None) or ""
        if any(letter in durable for letter in ".*> /\\"):
            found.append(
                f"has durable={durable!r}; NATS takes no dots, spaces, slashes or wildcards in a consumer's name."
            )
        return [Problem(WRONG_ENDPOINT, f"The consumer {namespace}.{self.name} {text}", self.origin) for text in found]


@overload
def consume(
    broker: Literal["nats"],
    /,
    *,
    subject: str,
    stream: str | None = ...,
    durable: str | None = ...,
    url: str | None = ...,
    id: Identify = ...,
    max_attempts: int = ...,
    batch: int = ...,
    timeout_seconds: float = ...,
    redeliver_seconds: float = ...,
) -> Mark[Any]: ...
@overload
def consume(
    broker: Literal["redis"],
    /,
    *,
    stream: str,
    group: str | None = ...,
    field: str | None = ...,
    url: str | None = ...,
    id: Identify = ...,
    max_attempts: int = ...,
    batch: int = ...,
    timeout_seconds: float = ...,
    redeliver_seconds: float = ...,
) -> Mark[Any]: ...
@overload
def consume(
    broker: Literal["amqp"],
    /,
    *,
    queue: str,
    url: str | None = ...,
    id: Identify = ...,
    max_attempts: int = ...,
    batch: int = ...,
    timeout_seconds: float = ...,
) -> Mark[Any]: ...
def consume(
    broker: str,
    /,
    *,
    url: str | None = None,
    id: Identify = None,
    max_attempts: int = MAX_ATTEMPTS,
    batch: int = BATCH,
    timeout_seconds: float = TIMEOUT_SECONDS,
    redeliver_seconds: float = REDELIVER_SECONDS,
    **place: Any,
) -> Mark[Any]:
    """A method of an integration that is given the messages of a broker, each once.

    `"nats"`: `subject`, `stream`, `durable`. `"redis"`: `stream`, `group`, `field`. `"amqp"`: `queue`. `url` is by default
    that of `NATS_URL`, `REDIS_URL` or `AMQP_URL`, else a server on this machine. The rest are `ConsumerOptions`.

    >>> class Payments(Integration):
    ...     @consume("nats", subject="payments.received")
    ...     async def paid(self, message: Inbound) -> Incoming:
    ...         return PaymentReceived(order=message.json()["order"])
    """
    if broker not in _BROKERS:
        raise DeclarationError(f"consume({broker!r}): expected one of {', '.join(map(repr, _BROKERS))}.")
    made, variable, default = _BROKERS[broker]
    check_identify("consume", id)
    fields = made.__dataclass_fields__
    needed = [name for name, field_ in fields.items() if field_.default is MISSING]
    if strange := [name for name in place if name not in fields] or [name for name in needed if name not in place]:
        raise DeclarationError(
            f"consume({broker!r}, …) {'does not take' if strange[0] in place else 'needs'} {strange[0]}=; beside the options of"
            f" every consumer it takes {', '.join(fields)}, of which it needs {', '.join(needed)}."
        )
    where: Place = made(**place)
    options = ConsumerOptions(
        url=env(variable, default=default) if url is None else url,
        id=id,
        max_attempts=max_attempts,
        batch=batch,
        timeout_seconds=timeout_seconds,
        redeliver_seconds=redeliver_seconds,
    )
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # inspect.stack() reads files
    origin = Origin(frame.f_code.co_filename, frame.f_lineno)

    def mark(method: Method[Any]) -> Method[Any]:
        setattr(method, _MARK, (where, options, origin))
        return method

    return mark


_BROKERS: Final[dict[str, tuple[type[Place], str, str]]] = {
    "nats": (NatsPlace, "NATS_URL", "nats://localhost:4222"),
    "redis": (RedisPlace, "REDIS_URL", "redis://localhost:6379"),
    "amqp": (AmqpPlace, "AMQP_URL", "amqp://localhost:5672"),
}


_SCHEMES: Final[dict[type[Place], tuple[str, ...]]] = {
    NatsPlace: ("nats", "tls", "ws", "wss"),
    RedisPlace: ("redis", "rediss", "unix"),
    AmqpPlace: ("amqp", "amqps"),
}


def consumer_mark(method: object) -> tuple[Place, ConsumerOptions, Origin] | None:
    """What `@consume` left on a method."""
    return getattr(method, _MARK, None)
