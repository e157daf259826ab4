"""What one write did to one record, as state machines, transforms and side effects see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

from ensue.engine.propagation.changes import Changes
from ensue.plan.plan import Plan, RecordPlan, Row
from ensue.schema.event import MutationEvent
from ensue.schema.model import Change


@dataclass(eq=False)
class Event:
    """One change of one record; `instance` is the interaction, for the record of a dispatched one."""

    plan: RecordPlan
    old: Row | None
    new: Row | None
    instance: Any = None

    @property
    def change(self) -> Change:
        return "create" if self.old is None else "delete" if self.new is None else "update"

    @property
    def row(self) -> Row:
        """The new side; of a delete the old one."""
        row = self.new if self.new is not None else self.old
        assert row is not None
        return row

    @cached_property
    def mutation(self) -> MutationEvent[Any]:
        """The event as callbacks and callers get it, with images as snapshots."""
        snapshot = self.plan.snapshot
        record = snapshot(self.row)
        old = None if self.old is None else record if self.new is None else snapshot(self.old)
        return MutationEvent(self.change, self.plan.name, record, old, changed_names(self.plan, self.old, self.new))

    @property
    def argument(self) -> Any:
        """What a callback is given: the interaction itself, or the mutation event."""
        return self.instance if self.instance is not None else self.mutation


def changed_names(plan: RecordPlan, old: Row | None, new: Row | None) -> frozenset[str]:
    """The visible members whose value differs; nothing for a create or a delete."""
    if old is None or new is None:
        return frozenset()
    return frozenset(
        column.name for n, column in enumerate(plan.columns) if column.role != "hidden" and old[n] != new[n]
    )


class NetChanges(Sequence[MutationEvent[Any]]):
    """The net changes of a transaction but for its events, as callers get them: made when somebody looks."""

    __slots__ = ("_changes", "_made", "_plan")

    def __init__(self, plan: Plan, changes: Changes) -> None:
        self._plan = plan
        self._changes = changes
        self._made: tuple[MutationEvent[Any], ...] | None = None

    def _all(self) -> tuple[MutationEvent[Any], ...]:
        if self._made is None:
            events = net_events(self._plan, self._changes)
            self._made = tuple(event.mutation for event in events if event.plan.model.kind != "event")
        return self._made

    @overload
    def __getitem__(self, index: int) -> MutationEvent[Any]: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[MutationEvent[Any], ...]: ...

    def __getitem__(self, index: int | slice) -> Any:
        return self._all()[index]

    def __len__(self) -> int:
        return len(self._all())

    def __eq__(self, other: object) -> bool:
        return self._all() == (other._all() if isinstance(other, NetChanges) else other)

    def __hash__(self) -> int:
        return hash(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


def net_events(plan: Plan, changes: Changes, records: frozenset[str] | None = None) -> list[Event]:
    """The net change of each record, by record type in order of first change; those of `records` only, if given."""
    return [
        Event(plan.records[name], old, new)
        for name, table in changes.items()
        if records is None or name in records
        for old, new in table.values()
        if old != new
    ]
