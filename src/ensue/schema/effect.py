"""`SideEffect` and its decorator: what is to happen outside when data changed; `Effect`: one such call.

Decides how a side effect is declared. Its expressions are resolved when the schema is frozen; enqueuing and delivery
are the business of `engine` and `effects`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

from ensue.errors import DeclarationError, Origin
from ensue.expression.trace import Expr
from ensue.schema.entity import Entity
from ensue.schema.event import MutationEvent
from ensue.schema.interaction import Context as Context
from ensue.schema.model import Change
from ensue.schema.record import Record, record_values, refuse_private
from ensue.schema.relation import Link
from ensue.schema.written.origin import here

E = TypeVar("E", bound=Entity)
I = TypeVar("I")  # noqa: E741  # the integration whose method it is
Delivery: TypeAlias = Literal["durable", "after_commit"]
Where: TypeAlias = Callable[[type[E]], Expr[bool]] | None

DECLARED = "__ensue_side_effects__"
"""The attribute of a method that holds its `EffectDeclaration`s."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How long to try: at most `max_attempts` times and not after `max_age` since the change."""

    max_attempts: int = 20
    max_age: timedelta = timedelta(days=3)


@dataclass(frozen=True, slots=True)
class Effect(Generic[E]):
    """One call of a side effect.

    `event` is the change as it was, `record` its record with the `fields=` asked for, `key` a stable idempotency key
    (the same on every attempt), `attempt` counts from 1.
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


@dataclass(frozen=True, slots=True)
class EffectOptions:
    """When a side effect applies, and how it is delivered."""

    fields: tuple[Any, ...] = ()
    of: tuple[Any, ...] = ()
    where: Callable[[Any], Any] | None = None
    delivery: Delivery = "durable"
    order_by: Callable[[Any], Any] | None = None
    retry: Retry = field(default_factory=Retry)
    timeout_seconds: float = 30.0
    concurrency: int = 8


class SideEffect:
    """A side effect as a value: `SideEffect("publish", Message, on={"create", "update"}, content=publish)`.

    `record` is a class, a name, or `Post.tags.relation`. `fields` are added to the record's own columns, `of` narrows
    updates to changes of these fields, `where` is a condition on the new side (of a delete on the old), `order_by` a
    key within which effects are delivered in commit order.
    """

    def __init__(  # noqa: PLR0913  # the public arguments of a side effect
        self,
        name: str,
        record: type[E] | str,
        *,
        on: Change | Collection[Change],
        content: Callable[[Effect[E]], Awaitable[object]],
        fields: Sequence[Any] = (),
        of: Sequence[Any] = (),
        where: Where[E] = None,
        delivery: Delivery = "durable",
        order_by: Callable[[type[E]], Expr[Any]] | None = None,
        retry: Retry | None = None,
        timeout_seconds: float = 30.0,
        concurrency: int = 8,
    ) -> None:
        self.name = name
        self.record: Any = record
        self.on = changes(on)
        self.content: Callable[[Effect[Any]], Awaitable[object]] = content
        self.options = EffectOptions(
            tuple(fields), tuple(of), where, delivery, order_by, retry or Retry(), timeout_seconds, concurrency
        )
        self.origin = here()


@dataclass(frozen=True, slots=True)
class EffectDeclaration:
    """What `@side_effect` keeps on a method; `bind` makes the side effect once the integration exists."""

    record: Any
    on: frozenset[Change]
    options: EffectOptions
    origin: Origin

    def bind(self, name: str, content: Callable[[Effect[Any]], Awaitable[object]]) -> SideEffect:
        """The side effect whose content is the bound method."""
        effect = SideEffect(name, self.record, on=self.on, content=content)
        effect.options = self.options
        effect.origin = self.origin
        return effect


def side_effect(
    record: type[E] | str,
    *,
    on: Change | Collection[Change],
    fields: Sequence[Any] = (),
    of: Sequence[Any] = (),
    where: Where[E] = None,
    delivery: Delivery = "durable",
    order_by: Callable[[type[E]], Expr[Any]] | None = None,
    retry: Retry | None = None,
    timeout_seconds: float = 30.0,
    concurrency: int = 8,
) -> Callable[[Callable[[I, Effect[E]], Awaitable[None]]], Callable[[I, Effect[E]], Awaitable[None]]]:
    """A method of an integration as a side effect: `@side_effect(Message, on="create", fields=[Message.sender.name])`.

    The arguments are those of `SideEffect`; the method's name is the effect's.
    """
    options = EffectOptions(
        tuple(fields), tuple(of), where, delivery, order_by, retry or Retry(), timeout_seconds, concurrency
    )
    declaration = EffectDeclaration(record, changes(on), options, here())

    def mark(method: Callable[[I, Effect[E]], Awaitable[None]]) -> Callable[[I, Effect[E]], Awaitable[None]]:
        setattr(method, DECLARED, (*declarations(method), declaration))
        return method

    return mark


def declarations(method: object) -> tuple[EffectDeclaration, ...]:
    """What `@side_effect` declared on a method; empty if nothing."""
    return getattr(method, DECLARED, ())


def changes(on: Change | Collection[Change]) -> frozenset[Change]:
    """One kind of change or several, as a set. Raises DeclarationError for a word that is none."""
    found = frozenset((on,)) if isinstance(on, str) else frozenset(on)
    wrong = sorted(found - {"create", "update", "delete"})
    if wrong or not found:
        raise DeclarationError(f"on={on!r}: expected 'create', 'update', 'delete' or several of them.")
    return found
