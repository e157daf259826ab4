"""`MutationEvent` and `DispatchResult`: what happened, as it is given to callbacks and callers.

Decides their attributes. Building them is the engine's matter. Invariant: they are values; the event's own attributes
win over the record's of the same name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ensue.schema.entity import Entity
from ensue.schema.interaction import Interaction
from ensue.schema.model import Change

E = TypeVar("E", bound=Entity)
I = TypeVar("I", bound=Interaction)  # noqa: E741  # an interaction


@dataclass(frozen=True, slots=True)
class MutationEvent(Generic[E]):
    """One change of one record.

    `record` is the image after the change (of a delete the one before), `old_record` the one before (None for a
    create), `changed` the names of the fields that differ. The record's fields can be read on the event itself:
    `event.task_id`.
    """

    type: Change
    record_name: str
    record: E
    old_record: E | None = None
    changed: frozenset[str] = field(default_factory=frozenset[str])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.record, name)


@dataclass(frozen=True, slots=True)
class DispatchResult(Generic[I]):
    """What a dispatch gave: the interaction as it was stored, the net changes, and whether it was a replay of an
    earlier one.
    """

    event: I
    changes: Sequence[MutationEvent[Any]] = ()
    replayed: bool = False
    response: Any = None
