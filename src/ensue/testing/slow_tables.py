"""The slow model's memory: rows as dicts, and the rules that a write must keep.

Decides what a row holds, what a deletion takes with it and which constraint refuses a write. Leaves derived values
to `slow_derive` and events to `slow_events`. Invariant: `rows` holds only what was written (and states, which are
facts); what is derived lives in `derived` and can be thrown away at any time.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ensue.errors import ConstraintViolated, InvalidValue, NotFound
from ensue.schema.model import NO_DEFAULT, NOW, FieldModel, LinkModel, Machine, Model, RecordModel
from ensue.testing.slow_values import Place, agree, fitted, plain

GLOBAL_ID = 1
"""The slow model's id of the one row of a Globals class."""

Row = dict[str, Any]
State = tuple[str, int, str]


@dataclass(slots=True)
class Removal:
    """What deleting some rows comes to: the rows that go, and the links that are emptied.

    `contested` says that a restricting row goes too, so that the answer depends on the order in which a database looks.
    """

    rows: list[Place] = field(default_factory=list[Place])
    detached: list[tuple[Place, str]] = field(default_factory=list[tuple[Place, str]])
    contested: bool = False


class Tables:
    """All rows of one app. Ids are the caller's; `allocate` gives one that was never used."""

    def __init__(self, model: Model, now: datetime) -> None:
        self.model = model
        self.now = now
        self.rows: dict[str, dict[int, Row]] = {name: {} for name in model.records}
        self.derived: dict[str, dict[int, Row]] = {name: {} for name in model.records}
        self.states: dict[State, str] = {}
        self.owners: dict[Place, int] = {}
        self._last: dict[str, int] = dict.fromkeys(model.records, 0)

    # --- Reading ------------------------------------------------------------------------------------------------------

    def member(self, record: str, row: int, name: str) -> Any:
        """The value of a member of a row, stored or derived. Null if it was not derived yet, or if the row is gone."""
        name = real_name(self.model.records[record], name)
        stored = self.rows[record].get(row)
        if name == "id" or stored is None:
            # Only an event refers to rows that are gone.
            return row if name == "id" else None
        return stored[name] if name in stored else self.derived[record].get(row, {}).get(name)

    def target(self, record: str, link: str) -> str:
        """The record type that a link leads to."""
        found = self.model.records[record]
        return found.links[real_name(found, link)].target

    def children(self, record: str, link: str, row: int) -> Sequence[int]:
        """The rows of `record` whose `link` holds `row`."""
        name = real_name(self.model.records[record], link)
        return [child for child, values in self.rows[record].items() if values[name] == row]

    def allocate(self, record: str) -> int:
        """An id that no row of this type had, not even one that was rolled back."""
        self._last[record] += 1
        return self._last[record]

    # --- Writing ------------------------------------------------------------------------------------------------------

    def insert(self, record: str, row: int, values: Mapping[str, Any]) -> None:
        """Add a row: what was given, defaults for the rest, every machine in its initial state."""
        model = self.model.records[record]
        if row in self.rows[record]:
            raise ConstraintViolated("unique", f"{record} {row} exists already; give another id.")
        unknown = set(values) - set(model.fields) - set(model.links)
        if unknown:
            raise InvalidValue(f"{record} has no member {', '.join(sorted(unknown))}.")
        made: Row = {}
        for name, item in model.fields.items():
            if isinstance(item.computation, Machine):
                made[name] = self._initial(item.computation, item)
                self.states[record, row, name] = item.computation.initial
            elif item.computation is None:
                made[name] = fitted(plain(values[name] if name in values else self._default(record, item)), item.type)
        for name in model.links:
            made[name] = identity(values.get(name))
        self.rows[record][row] = made
        self._last[record] = max(self._last[record], row)
        for link in model.links.values():
            self._check_link(record, row, link)

    def assign(self, record: str, row: int, values: Mapping[str, Any]) -> frozenset[str]:
        """Change members of a row; the names of those that changed."""
        if row not in self.rows[record]:
            raise NotFound(f"{record} {row} does not exist.")
        model, stored, changed = self.model.records[record], self.rows[record][row], set[str]()
        for name, value in values.items():
            link = model.links.get(name)
            new = identity(value) if link is not None else fitted(plain(value), model.fields[name].type)
            if not agree(stored[name], new):
                changed.add(name)
            stored[name] = new
            if link is not None:
                self._check_link(record, row, link)
        return frozenset(changed)

    def remove(self, place: Place) -> None:
        """Forget a row."""
        record, row = place
        del self.rows[record][row]
        self.owners.pop(place, None)
        for name in self.model.records[record].fields:
            self.states.pop((record, row, name), None)

    def removal(self, record: str, rows: Iterable[int]) -> Removal:
        """What deleting these rows comes to; raises `ConstraintViolated` where a link that stays restricts it."""
        result, restricting = Removal(), list[tuple[Place, Place]]()
        waiting = [(record, row) for row in rows]
        for place in waiting:
            if place[1] not in self.rows[place[0]]:
                raise NotFound(f"{place[0]} {place[1]} does not exist.")
        while waiting:
            place = waiting.pop(0)
            if place in result.rows:
                continue
            result.rows.append(place)
            waiting += [derived for derived in self.owners if self._owner(derived) == place]
            for holder, link in self._holders(place):
                if link.on_delete == "cascade":
                    waiting.append(holder)
                elif link.on_delete == "detach":
                    result.detached.append((holder, link.name))
                elif link.on_delete == "restrict":
                    restricting.append((holder, place))
        for holder, place in restricting:
            if holder not in result.rows:
                raise ConstraintViolated(
                    "restricted", f"{place[0]} {place[1]} is still referred to by {holder[0]} {holder[1]}."
                )
            result.contested = True
        result.detached = [(holder, name) for holder, name in result.detached if holder not in result.rows]
        return result

    def check_unique(self, record: str) -> None:
        """Raise `ConstraintViolated` if two rows agree in what must be unique; null is equal to nothing."""
        model = self.model.records[record]
        single = [(item.name,) for item in (*model.fields.values(), *model.links.values()) if item.unique]
        for names in (*single, *model.unique):
            keys = [tuple(self.member(record, row, name) for name in names) for row in self.rows[record]]
            known = [key for key in keys if None not in key]
            if len(known) != len(set(known)):
                raise ConstraintViolated("unique", f"Two rows of {record} have the same {', '.join(names)}.")

    # --- Savepoints ---------------------------------------------------------------------------------------------------

    def snapshot(self) -> object:
        """All that was written so far, to be given to `restore`."""
        return deepcopy((self.rows, self.states, self.owners))

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot; it may be used again."""
        self.rows, self.states, self.owners = deepcopy(snapshot)

    # --- Details ------------------------------------------------------------------------------------------------------

    def _initial(self, machine: Machine, item: FieldModel) -> Any:
        if item.default is not NO_DEFAULT:
            return plain(item.default)
        function = machine.values.get(machine.initial)
        return machine.initial if function is None else plain(function(None, None))

    def _default(self, record: str, item: FieldModel) -> Any:
        if item.default is NO_DEFAULT:
            if item.optional:
                return None
            raise InvalidValue(f"{record}.{item.name} has no default and was not given.")
        if item.default is NOW:
            return self.now
        return item.default() if callable(item.default) else item.default

    def _check_link(self, record: str, row: int, link: LinkModel) -> None:
        linked = self.rows[record][row][link.name]
        if linked is None and not link.optional:
            raise InvalidValue(f"{record}.{link.name} must refer to a {link.target}; it is empty.")
        if linked is not None and linked not in self.rows[link.target]:
            raise ConstraintViolated(
                "reference", f"{record}.{link.name} refers to {link.target} {linked}, which does not exist."
            )

    def _holders(self, place: Place) -> Iterable[tuple[Place, LinkModel]]:
        for name, model in self.model.records.items():
            for link in model.links.values():
                if link.target == place[0]:
                    yield from (((name, row), link) for row in self.children(name, link.name, place[1]))

    def _owner(self, derived: Place) -> Place | None:
        transform = self.model.records[derived[0]].transform
        return None if transform is None else (transform.source, self.owners[derived])


def real_name(record: RecordModel, name: str) -> str:
    """The member that `name` means: `source` and `target` of a relation stand for its two links."""
    if name == "source" and record.source is not None:
        return record.source
    return record.target if name == "target" and record.target is not None else name


def identity(value: Any) -> int | None:
    """The id that a record, a reference or an id stands for."""
    return value if value is None or isinstance(value, int) else value.id
