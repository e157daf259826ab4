"""What moves state machines: every write as an event of its own, one after the other.

Decides which transition an event takes and what follows from it. Leaves the writes themselves to `slow_model`.
Invariant: for one event and one record the first declared matching transition is taken, and no other.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from ensue.errors import InternalError
from ensue.schema.model import Change, Machine, TransitionModel, Trigger
from ensue.testing.slow_tables import Row, Tables, identity
from ensue.testing.slow_values import evaluate, plain


class RowView:
    """A row as a user's function sees it: fields as values, links as views of the linked rows, and `id`."""

    def __init__(self, tables: Tables, record: str, row: int, image: Mapping[str, Any]) -> None:
        self._tables, self._record, self._image = tables, record, image
        self.id = row

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self._image:
            raise AttributeError(f"{self._record} has no {name} that a function could read.")
        value = self._image[name]
        link = self._tables.model.records[self._record].links.get(name)
        if link is None or value is None:
            return value
        return RowView(self._tables, link.target, value, self._tables.rows[link.target].get(value, {}))


class MutationView:
    """A mutation event as a user's function sees it; fields of the record can be read on it directly."""

    def __init__(
        self, kind: Change, record: RowView, *, old: RowView | None, changed: frozenset[str], name: str
    ) -> None:
        self.type, self.record, self.old_record, self.changed, self.record_name = kind, record, old, changed, name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.record, name)


@dataclass(frozen=True, slots=True)
class Happening:
    """One write of one row, with the images before and after it; `event` marks the event of an interaction."""

    change: Change
    record: str
    row: int
    old: Row | None
    new: Row | None
    changed: frozenset[str] = frozenset()
    event: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """A transition that an event asks for, on these rows, if they are in one of its source states."""

    record: str
    field: str
    transition: TransitionModel
    rows: tuple[int, ...]
    view: Any


def moves(tables: Tables, happening: Happening) -> list[Move]:
    """The transitions that an event asks for, in declared order. The row must be there still, also for a deletion."""
    view = _view(tables, happening)
    return [
        Move(record, field, transition, tuple(_targets(transition, view)), view)
        for record, field, machine in machines(tables)
        for transition in machine.transitions
        if _triggers(tables, transition.trigger, happening)
    ]


def heard(tables: Tables, happening: Happening) -> bool:
    """Whether any state machine listens to writes of this kind."""
    return any(
        (trigger.record, trigger.change, trigger.event) == (happening.record, happening.change, happening.event)
        for _, _, machine in machines(tables)
        for trigger in (transition.trigger for transition in machine.transitions)
    )


def take(tables: Tables, asked: Iterable[Move]) -> Iterator[Happening]:
    """Take the moves that one event asks for; what that writes is given back as further events."""
    taken: set[tuple[str, str, int]] = set()
    for move in asked:
        for row in move.rows:
            key = (move.record, row, move.field)
            state = tables.states.get(key)
            if state is None or (move.record, move.field, row) in taken or not _leaves(move.transition, state):
                continue
            taken.add((move.record, move.field, row))
            tables.states[key] = move.transition.target
            old = dict(tables.rows[move.record][row])
            changed = tables.assign(move.record, row, {move.field: _value(tables, move, old[move.field])})
            if changed:
                yield Happening("update", move.record, row, old, dict(tables.rows[move.record][row]), changed)


def machines(tables: Tables) -> Iterator[tuple[str, str, Machine]]:
    """Every state machine: its record type, its field and itself."""
    for record in tables.model.records.values():
        for item in record.fields.values():
            if isinstance(item.computation, Machine):
                yield record.name, item.name, item.computation


def called(result: Any) -> Any:
    """What a user's function gave, also if it is an async one (which may not wait for anything here)."""
    if not inspect.iscoroutine(result):
        return result
    try:
        result.send(None)
    except StopIteration as stop:
        return stop.value
    raise InternalError("A function of the schema waits for something; the slow model can't run an event loop.")


def _leaves(transition: TransitionModel, state: str) -> bool:
    return "*" in transition.sources or state in transition.sources


def _triggers(tables: Tables, trigger: Trigger, happening: Happening) -> bool:
    if (trigger.record, trigger.change, trigger.event) != (happening.record, happening.change, happening.event):
        return False
    if happening.change == "update" and trigger.of and not happening.changed & set(trigger.of):
        return False
    return trigger.where is None or evaluate(trigger.where, tables, (happening.record, happening.row)) is True


def _view(tables: Tables, happening: Happening) -> Any:
    new, old = happening.new, happening.old
    image = RowView(tables, happening.record, happening.row, new if new is not None else old or {})
    if happening.event:
        return image
    before = None if old is None else RowView(tables, happening.record, happening.row, old)
    return MutationView(happening.change, image, old=before, changed=happening.changed, name=happening.record)


def _targets(transition: TransitionModel, view: Any) -> Iterator[int]:
    found = called(transition.record(view))
    several = cast("Iterable[Any]", found) if isinstance(found, list | tuple | set | frozenset) else (found,)
    for one in several:
        row = identity(one)
        if row is not None:
            yield row


def _value(tables: Tables, move: Move, last: Any) -> Any:
    machine = tables.model.records[move.record].fields[move.field].computation
    function = machine.values.get(move.transition.target) if isinstance(machine, Machine) else None
    return move.transition.target if function is None else plain(called(function(last, move.view)))
