"""Which changes go out, as the app declares it: `{"post.created": OnCreate(Post, fields=[Post.author.name])}`.

Decides how an event is declared, what its message says, and which patterns of endpoints it fits. Leaves whom it goes to
to `deliveries`. Invariant: an event is declared or it isn't; nothing of a record goes out because somebody subscribed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias, cast

import msgspec

from ensue.engine.read.json_form import json_value
from ensue.errors import DeclarationError
from ensue.schema.effect import Effect
from ensue.schema.entity import Entity
from ensue.schema.model import Change

NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
PATTERN = re.compile(r"\*|[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*(\.\*)?")
TEST_EVENT = "webhook.test"

Data: TypeAlias = Callable[[Effect[Any]], Any]
Owner: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _More:
    """What can be said of every kind of event.

    `fields` are selected besides the record's own columns, `where` is a condition on the record. `data` makes what the
    message says from the `Effect`; without it that is the record. `owner` gives, from the record, whose endpoints are
    told (a user or an id, several, or None for nobody); without it all endpoints are.
    """

    fields: Sequence[Any] = ()
    where: Callable[[Any], Any] | None = None
    data: Data | None = None
    owner: Owner | None = None


@dataclass(frozen=True, slots=True)
class OnCreate(_More):
    """A record was created."""

    record: type[Entity] | str


@dataclass(frozen=True, slots=True)
class OnUpdate(_More):
    """A record was changed; with `of`, in one of these fields."""

    record: type[Entity] | str
    of: Sequence[Any] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class OnDelete(_More):
    """A record was deleted; the message says what it was."""

    record: type[Entity] | str


Event: TypeAlias = OnCreate | OnUpdate | OnDelete


def change_of(event: Event) -> Change:
    """The kind of change that an event is about."""
    if isinstance(event, OnCreate):
        return "create"
    return "update" if isinstance(event, OnUpdate) else "delete"


def check_names(names: Mapping[str, Event]) -> None:
    """Raise DeclarationError for a name that is none, or that can't be told from another's effect."""
    effects: dict[str, str] = {}
    for name in names:
        if NAME.fullmatch(name) is None or name == TEST_EVENT:
            raise DeclarationError(
                f"HttpOut(events={{{name!r}: …}}): expected a name of words joined by dots, such as 'post.created', "
                f"and not {TEST_EVENT!r}."
            )
        other = effects.setdefault(effect_name(name), name)
        if other != name:
            raise DeclarationError(f"HttpOut(events=…): {other!r} and {name!r} differ in dots and underscores only.")


def effect_name(event: str) -> str:
    """The name of the side effect that tells an event."""
    return f"tell_{event.replace('.', '_')}"


def fits(event: str, patterns: Sequence[str]) -> bool:
    """Whether an endpoint with these patterns wants the event.

    >>> fits("post.created", ["post.*"]), fits("post.created", ["user.*"]), fits("post.created", [])
    (True, False, True)
    """
    return not patterns or any(
        pattern in ("*", event) or (pattern.endswith(".*") and event.startswith(pattern[:-1])) for pattern in patterns
    )


def body_of(name: str, data: Any, *, at: datetime) -> str:
    """The JSON text of a message: `{"type": …, "timestamp": …, "data": …}`."""
    instant = at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return msgspec.json.encode({"type": name, "timestamp": instant, "data": json_value(data)}).decode()


def told(event: Event, effect: Effect[Any]) -> Any:
    """What the message of an event says."""
    return effect.record if event.data is None else event.data(effect)


def owners(event: Event, record: Any) -> list[int] | None:
    """The ids of those whose endpoints are told; None for everybody's."""
    if event.owner is None:
        return None
    found = event.owner(record)
    several = list(cast("Iterable[Any]", found)) if isinstance(found, list | tuple | set | frozenset) else [found]
    return [one if isinstance(one, int) else one.id for one in several if one is not None]
