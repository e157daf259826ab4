"""How an app is served: what `app.asgi(...)` takes.

Decides defaults, and whether what was given makes sense. Leaves applying it to the other modules. Invariant: whatever
opens data to clients is closed unless it was asked for here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypedDict

from starlette.requests import HTTPConnection

from ensue.errors import DeclarationError
from ensue.schema.entity import Entity
from ensue.schema.interaction import Context
from ensue.schema.model import Model
from ensue.schema.written.names import suggestion

SUBSCRIBABLE_KINDS = ("entity", "relation")

Authenticate: TypeAlias = Callable[[HTTPConnection], Any]
"""Gives the user of a request or WebSocket connection (a record or an id; None for nobody), or an awaitable of it.

In place of the user it may give an `Authenticated`, so that a WebSocket does not outlive the credentials it came with.

It raises `Rejected("not_authenticated", ...)` for credentials that are wrong or expired.
"""
AllowSubscribe: TypeAlias = Callable[[Context, type[Any], int], bool | Awaitable[bool]]
"""Whether `ctx.user` may see the record of that class and id now; asked again before each push."""


class AsgiOptions(TypedDict, total=False):
    """The keyword arguments of `app.asgi(...)`, for type checkers; `ServerOptions` says what they mean."""

    authenticate: Authenticate | None
    cors_origins: Collection[str]
    body_limit_bytes: int
    docs: bool
    subscribable: Collection[type[Entity] | str]
    allow_subscribe: AllowSubscribe | None
    heartbeat_seconds: float
    send_messages_max: int
    send_bytes_max: int
    metrics: bool
    metrics_token: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The options of `app.asgi(...)`.

    `authenticate` gives the user of a request. `cors_origins`: origins of other sites whose pages may call
    (`"https://app.example"`, or `"*"` without credentials). `body_limit_bytes` is the limit of a request's body and a
    WebSocket message. `docs`: serve `/docs` and `/openapi.json`. `subscribable`: record types that every known user may
    subscribe to over `/ws`, all ids of them; `allow_subscribe` decides instead for each record. For one client at most
    `send_messages_max` messages of together `send_bytes_max` may be waiting. `metrics`: serve `/metrics` for Prometheus,
    with `metrics_token` only to those who send it as `Authorization: Bearer`.
    """

    authenticate: Authenticate | None = None
    cors_origins: Collection[str] = ()
    body_limit_bytes: int = 1024 * 1024
    docs: bool = True
    subscribable: Collection[type[Entity] | str] = ()
    allow_subscribe: AllowSubscribe | None = None
    heartbeat_seconds: float = 25.0
    send_messages_max: int = 1_000
    send_bytes_max: int = 4 * 1024 * 1024
    metrics: bool = False
    metrics_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("cors_origins", "subscribable"):
            given = getattr(self, name)
            if isinstance(given, str | type):
                one = given.__name__ if isinstance(given, type) else repr(given)
                raise DeclarationError(f"asgi({name}={one}) is a single one; expected several: {name}=[{one}].")
        for name in ("body_limit_bytes", "heartbeat_seconds", "send_messages_max", "send_bytes_max"):
            given = getattr(self, name)
            if given <= 0:
                raise DeclarationError(f"asgi({name}={given!r}) is out of range; expected more than 0.")
        if self.metrics_token is not None and not (self.metrics and self.metrics_token):
            raise DeclarationError("asgi(metrics_token=…) needs metrics=True, and a token that is not empty.")

    def subscribable_in(self, model: Model) -> frozenset[str]:
        """The names of the record types that are open. Raises DeclarationError for one that the app does not have."""
        names = {item if isinstance(item, str) else item.__name__ for item in self.subscribable}
        for name in names - model.records.keys():
            hint = suggestion(name, model.records)
            raise DeclarationError(f"asgi(subscribable=...) names {name}, which is no record type of this app.{hint}")
        for name in sorted(names):
            record = model.records[name]
            if record.kind not in SUBSCRIBABLE_KINDS:
                raise DeclarationError(
                    f"asgi(subscribable=...) names {name}, which is neither an entity nor a relation; subscriptions are to "
                    "records of these, and to interactions with reads=."
                )
            if record.cls.__ensue_private__:
                raise DeclarationError(f"asgi(subscribable=...) names {name}, which is declared private=True.")
        return frozenset(names)
