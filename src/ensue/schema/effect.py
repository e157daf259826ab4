"""`SideEffect` and its decorator: what is to happen outside when data changed; `Effect`: one such call.

Decides how a side effect is declared. Its expressions are resolved when the schema is frozen; enqueuing and delivery
are the business of `engine` and `effects`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any, Generic, Literal, TypeAlias, TypedDict, TypeVar, Unpack, cast, overload

import msgspec

from ensue.errors import DeclarationError, Origin, Problem
from ensue.expression.trace import Expr
from ensue.schema.delivery import Nats, Poison, Receipt, Retry, Target
from ensue.schema.entity import Entity
from ensue.schema.event import MutationEvent
from ensue.schema.interaction import Context as Context
from ensue.schema.model import Change
from ensue.schema.record import Record, record_values, refuse_private
from ensue.schema.relation import Link
from ensue.schema.written.origin import here

E = TypeVar("E", bound=Entity)
I = TypeVar("I")  # noqa: E741  # the integration whose method it is
R = TypeVar("R", None, Receipt | None, Receipt | Sequence[Receipt | None] | None)
Delivery: TypeAlias = Literal["durable", "after_commit"]
Verified: TypeAlias = Receipt | bool | None
"""The answer of `verify=`: arrived (True, or its Receipt), did not arrive (False), or can't be said now (None)."""
Where: TypeAlias = Callable[[type[E]], Expr[bool]] | None

DECLARED = "__ensue_side_effects__"
"""The attribute of a method that holds its `EffectDeclaration`s."""


@dataclass(frozen=True, slots=True)
class Effect(Generic[E]):
    """One call of a side effect.

    `event` is the change as it was, `record` its record with the `fields=` asked for, `key` a stable idempotency key
    (the same on every attempt). `attempt` is 1 for the first call and one more after each that failed, also for those that
    `max_attempts` does not count.
    """

    event: MutationEvent[E]
    record: E
    key: str
    attempt: int = 1

    def json(self) -> str:
        """The change as JSON text: `type`, `record_name`, `record`, `old_record`, `changed` and `key`."""
        body = {
            "type": self.event.type,
            "record_name": self.event.record_name,
            "record": self.record,
            "old_record": self.event.old_record,
            "changed": sorted(self.event.changed),
            "key": self.key,
        }
        return msgspec.json.encode(body, enc_hook=plain).decode()


def plain(value: object) -> Any:
    """A record as a mapping of its loaded values, references as `{"id": …}`; for JSON encoders."""
    if not isinstance(value, Record):
        raise NotImplementedError(f"{type(value).__name__} can't be written as JSON")
    refuse_private(value)
    members = type(value).__ensue_members__
    return {
        name: {"id": item} if isinstance(item, int) and isinstance(members.get(name), Link) else item
        for name, item in record_values(value).items()
    }


class EffectArguments(TypedDict, Generic[E], total=False):
    """The arguments that `side_effect` and `SideEffect` have in common; their meaning is told at `EffectOptions`."""

    fields: Sequence[Any]
    of: Sequence[Any]
    where: Where[E]
    delivery: Delivery
    order_by: Callable[[type[E]], Expr[Any]] | None
    retry: Retry
    timeout_seconds: float
    concurrency: int
    target: Target | None
    poison: Poison
    coalesce: bool
    priority: int
    delay: timedelta | Callable[[type[E]], Expr[Any]] | None
    key_ttl: timedelta | None
    relay: Nats | Callable[[Any], Nats] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectOptions:
    """When a side effect applies, and how it is delivered.

    `fields` are added to the record's own columns, `of` narrows updates to changes of these fields, `where` is a condition
    on the new side (of a delete on the old), `order_by` a key within which effects are delivered in commit order.
    `concurrency` bounds the calls at a time in one process, `target` what holds for all processes. `poison` says what
    becomes of an ordered effect that fails for good, `coalesce` that only the newest of a key is wanted, `batch` that the
    function takes so many at a time. Each level of `priority` (0 to 9) overtakes what is up to a minute older. `delay` is
    how long to wait, or a number of seconds or an instant of the record. `verify` asks whether a call arrived, and
    `key_ttl` is how long the other side folds repeats of `effect.key`. With `relay` the effect is handed to a broker, and the
    function called by a worker that needs no database; a function of the integration may give the relay, from its settings.
    """

    fields: Sequence[Any] = ()
    of: Sequence[Any] = ()
    where: Callable[[Any], Any] | None = None
    delivery: Delivery = "durable"
    order_by: Callable[[Any], Any] | None = None
    retry: Retry = field(default_factory=Retry)
    timeout_seconds: float = 30.0
    concurrency: int = 8
    target: Target | None = None
    poison: Poison = "skip"
    coalesce: bool = False
    batch: int | None = None
    priority: int = 0
    delay: timedelta | Callable[[Any], Any] | None = None
    verify: Callable[..., Awaitable[Verified]] | str | None = None
    key_ttl: timedelta | None = None
    relay: Nats | Callable[..., Nats] | None = None


class SideEffect:
    """A side effect as a value: `SideEffect("publish", Message, on={"create", "update"}, content=publish)`.

    `record` is a class, a name, or `Post.tags.relation`; the other arguments are told at `EffectOptions`. `content` gets
    the `Effect`, with `batch=` a list of them, and may return a `Receipt`.
    """

    @overload
    def __init__(
        self,
        name: str,
        record: type[E] | str,
        *,
        on: Change | Collection[Change],
        content: Callable[[Effect[E]], Awaitable[object]],
        batch: None = None,
        verify: Callable[[Effect[E]], Awaitable[Verified]] | None = None,
        **options: Unpack[EffectArguments[E]],
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        record: type[E] | str,
        *,
        on: Change | Collection[Change],
        content: Callable[[list[Effect[E]]], Awaitable[object]],
        batch: int,
        verify: Callable[[Effect[E]], Awaitable[Verified]] | None = None,
        **options: Unpack[EffectArguments[E]],
    ) -> None: ...
    def __init__(
        self,
        name: str,
        record: type[Any] | str,
        *,
        on: Change | Collection[Change],
        content: Callable[[Any], Awaitable[object]],
        **options: Any,
    ) -> None:
        self.name = name
        self.record: Any = record
        self.on = changes(on)
        self.content: Callable[[Any], Awaitable[object]] = content
        self.options = EffectOptions(**options)
        self.origin = here()


@dataclass(frozen=True, slots=True)
class EffectDeclaration:
    """What `@side_effect` keeps on a method; `bind` makes the side effect once the integration exists."""

    record: Any
    on: frozenset[Change]
    options: EffectOptions
    origin: Origin

    def bind(self, name: str, content: Any) -> SideEffect:
        """The side effect whose content is the bound method."""
        effect = SideEffect(name, self.record, on=self.on, content=content)
        relay = self.options.relay
        if callable(relay):
            relay = partial(relay, content.__self__)
        effect.options = replace(self.options, verify=self._verify(name, content), relay=relay)
        effect.origin = self.origin
        return effect

    def _verify(self, name: str, content: Any) -> Callable[[Any], Awaitable[Verified]] | None:
        """`verify=` as a function of the effect: a method by its name, or a function of the integration and the effect."""
        verify, integration = self.options.verify, content.__self__
        if isinstance(verify, str):
            found = getattr(integration, verify, None)
            if found is None:
                raise DeclarationError(
                    Problem(
                        DeclarationError.code,
                        f"verify={verify!r} of side effect {name!r}: {type(integration).__name__} has no such method.",
                        self.origin,
                    )
                )
            return found
        # What can't be called is refused with the other options, when the app starts.
        return partial(verify, integration) if callable(verify) else verify


MethodVerify: TypeAlias = str | Callable[[Any, Effect[E]], Awaitable[Verified]] | None


@overload
def side_effect(
    record: type[E] | str,
    *,
    on: Change | Collection[Change],
    batch: None = None,
    verify: MethodVerify[E] = None,
    **options: Unpack[EffectArguments[E]],
) -> Callable[[Callable[[I, Effect[E]], Awaitable[R]]], Callable[[I, Effect[E]], Awaitable[R]]]: ...
@overload
def side_effect(
    record: type[E] | str,
    *,
    on: Change | Collection[Change],
    batch: int,
    verify: MethodVerify[E] = None,
    **options: Unpack[EffectArguments[E]],
) -> Callable[[Callable[[I, list[Effect[E]]], Awaitable[R]]], Callable[[I, list[Effect[E]]], Awaitable[R]]]: ...
def side_effect(record: type[Any] | str, *, on: Change | Collection[Change], **options: Any) -> Any:
    """A method of an integration as a side effect: `@side_effect(Message, on="create", fields=[Message.sender.name])`.

    The arguments are those of `SideEffect`; the method's name is the effect's. With `batch=100` the method takes a list of
    effects. `verify` is the name of another method, or a function of the integration and the effect. The method may return
    a `Receipt`.
    """
    declaration = EffectDeclaration(record, changes(on), EffectOptions(**options), here())

    def mark(method: Any) -> Any:
        setattr(method, DECLARED, (*declarations(method), declaration))
        return method

    return mark


def declarations(method: object) -> tuple[EffectDeclaration, ...]:
    """What `@side_effect` declared on a method; empty if nothing."""
    return getattr(method, DECLARED, ())


def changes(on: object) -> frozenset[Change]:
    """One kind of change or several, as a set. Raises DeclarationError for a word that is none."""
    several = isinstance(on, Collection) and not isinstance(on, str)
    found = frozenset(cast("Collection[Change]", on if several else (on,)))
    if not found or found - {"create", "update", "delete"}:
        raise DeclarationError(f"on={on!r}: expected 'create', 'update', 'delete' or several of them.")
    return found
