"""An app's semantics in dicts and loops: the independent answer that the engine is compared with.

Decides, slowly and plainly, what every write, event and derivation comes to. It reads the frozen `Model` and
nothing else: no plan, no SQL, no rule. Invariant: after any sequence of calls, `derive()` is a function of what was
written, computed anew.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from ensue.errors import InternalError, NotFound
from ensue.schema.model import CustomModel, Machine, Model
from ensue.testing.slow_derive import derived_in_place, settle
from ensue.testing.slow_events import Happening, Move, RowView, called, heard, moves, take
from ensue.testing.slow_tables import GLOBAL_ID, Removal, Row, Tables
from ensue.testing.slow_values import Place

EVENTS_MAX = 10_000
"""More events than this from one write are a loop of machines that move each other."""

START = datetime(2026, 1, 1, tzinfo=UTC)


class SlowModel:
    """One app in memory.

    Ids are given by the caller (`allocate` has fresh ones). Every write is atomic: one that is refused
    (`ConstraintViolated`, `NotFound`, `InvalidValue`) changes nothing. `now` is what `default=now` gives.

    >>> slow = SlowModel(model)
    >>> slow.create("Post", 1, {"title": "x", "author": 7})
    >>> slow.derive()["Post"][1]["comment_count"]
    0
    """

    def __init__(self, model: Model, *, now: datetime = START) -> None:
        self.model = model
        self.tables = Tables(model, now)
        self._stale = True
        for record in model.records.values():
            if record.kind == "globals":
                self.tables.insert(record.name, GLOBAL_ID, {})

    # --- Writing ------------------------------------------------------------------------------------------------------

    def create(self, record: str, row: int, values: Mapping[str, Any]) -> None:
        """Create one record; links are given by id."""
        self.create_many(record, [(row, values)])

    def create_many(self, record: str, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Create records in one call: all are there before the first of their events."""
        given = list(rows)
        with self._atomic():
            for row, values in given:
                self.tables.insert(record, row, values)
            self.tables.check_unique(record)
            self._happen([self._created(record, row) for row, _ in given])

    def update(self, record: str, row: int, values: Mapping[str, Any]) -> None:
        """Change members of one record."""
        self.update_many(record, [(row, values)])

    def update_many(self, record: str, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Change records in one call, each by its own values."""
        with self._atomic():
            happenings = [self._assigned(record, row, values) for row, values in rows]
            self.tables.check_unique(record)
            self._happen(happenings)

    def delete(self, record: str, row: int) -> None:
        """Delete one record and what goes with it; raises `ConstraintViolated` where a link restricts it."""
        self.delete_many(record, [row])

    def delete_many(self, record: str, rows: Iterable[int]) -> None:
        """Delete records in one call."""
        self.settle()
        removal = self.tables.removal(record, rows)
        with self._atomic():
            # Asked for while the rows are still there: a pattern over a deletion reads the old side.
            deleted = [self._deleted(place) for place in removal.rows]
            asked = [moves(self.tables, happening) for happening in deleted if heard(self.tables, happening)]
            detached = [self._assigned(*place, {link: None}) for place, link in removal.detached]
            for place in removal.rows:
                self.tables.remove(place)
            self._happen(detached, asked=asked)

    def removal(self, record: str, rows: Iterable[int]) -> Removal:
        """What deleting these rows would come to; raises what `delete_many` would."""
        self.settle()
        return self.tables.removal(record, rows)

    def link(self, record: str, source: int, target: int) -> int:
        """Link two records by a row of the relation `record`; its id."""
        row = self.allocate(record)
        self.create(record, row, dict(zip(self._ends(record), (source, target), strict=True)))
        return row

    def unlink(self, record: str, source: int, target: int) -> None:
        """Delete the link row between two records; raises `NotFound` if there is none."""
        row = self.linked(record, source, target)
        if row is None:
            raise NotFound(f"{record} does not link {source} and {target}.")
        self.delete(record, row)

    def linked(self, record: str, source: int, target: int) -> int | None:
        """The id of the link row between two records, if there is one."""
        names = self._ends(record)
        rows = self.tables.rows[record].items()
        return next((row for row, values in rows if tuple(values[name] for name in names) == (source, target)), None)

    def dispatch(self, interaction: str, values: Mapping[str, Any]) -> list[Place]:
        """Apply an interaction's event: what is derived from it is created, machines move. The records it created."""
        row = self.allocate(interaction)
        created: list[Place] = []
        with self._atomic():
            # `at` is the framework's to give.
            given = {"at": self.tables.now} if "at" in self.model.records[interaction].fields else {}
            self.tables.insert(interaction, row, {**given, **values})
            event = RowView(self.tables, interaction, row, dict(self.tables.rows[interaction][row]))
            for record in self.model.records.values():
                transform = record.transform
                if transform is not None and transform.event and transform.source == interaction:
                    for values_ in _several(called(transform.function(event)) if transform.function else None):
                        created.append((record.name, self.allocate(record.name)))
                        self.tables.insert(*created[-1], values_)
                        self.tables.check_unique(record.name)
            image = dict(self.tables.rows[interaction][row])
            happening = Happening("create", interaction, row, None, image, event=True)
            self._happen([happening, *(self._created(*place) for place in created)])
        return created

    def allocate(self, record: str) -> int:
        """An id that no row of this type had."""
        return self.tables.allocate(record)

    # --- Savepoints ---------------------------------------------------------------------------------------------------

    def snapshot(self) -> object:
        """All that was written so far."""
        return self.tables.snapshot()

    def restore(self, snapshot: object) -> None:
        """Go back to a snapshot."""
        self.tables.restore(snapshot)
        self._stale = True

    # --- Reading ------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Derive everything anew, if anything was written since."""
        if self._stale:
            settle(self.tables)
            self._stale = False

    def derive(self) -> dict[str, dict[int, Row]]:
        """By record type and id: every derived value, states and the fields of derived records included."""
        self.settle()
        return {
            name: {row: {field: self.value(name, row, field) for field in self.derived_names(name)} for row in rows}
            for name, rows in self.tables.rows.items()
        }

    def image(self) -> dict[str, dict[int, Row]]:
        """By record type and id: every member, stored or derived, except what a Python computation gives."""
        self.settle()
        return {
            name: {row: {member: self.value(name, row, member) for member in self.names(name)} for row in rows}
            for name, rows in self.tables.rows.items()
        }

    def value(self, record: str, row: int, name: str) -> Any:
        """One member of one row."""
        self.settle()
        return self.tables.member(record, row, name)

    def names(self, record: str) -> tuple[str, ...]:
        """The members that the slow model knows the values of."""
        model = self.model.records[record]
        fields = [name for name, item in model.fields.items() if not isinstance(item.computation, CustomModel)]
        return (*fields, *model.links)

    def derived_names(self, record: str) -> tuple[str, ...]:
        """The members that are derived."""
        model = self.model.records[record]
        mapping = model.transform.mapping if model.transform is not None else None
        derived = (
            name
            for name, item in model.fields.items()
            if derived_in_place(item) or isinstance(item.computation, Machine)
        )
        return (*derived, *(mapping or ()))

    # --- Details ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _atomic(self) -> Generator[None, None, None]:
        before = self.tables.snapshot()
        self._stale = True
        try:
            yield
        except BaseException:
            self.tables.restore(before)
            raise
        finally:
            self._stale = True

    def _ends(self, record: str) -> tuple[str, str]:
        model = self.model.records[record]
        if model.source is None or model.target is None:
            raise InternalError(f"{record} is no relation; only the rows of one link two records.")
        return model.source, model.target

    def _created(self, record: str, row: int) -> Happening:
        return Happening("create", record, row, None, dict(self.tables.rows[record][row]))

    def _assigned(self, record: str, row: int, values: Mapping[str, Any]) -> Happening:
        old = dict(self.tables.rows[record].get(row, {}))
        changed = self.tables.assign(record, row, values)
        return Happening("update", record, row, old, dict(self.tables.rows[record][row]), changed)

    def _deleted(self, place: Place) -> Happening:
        return Happening("delete", *place, dict(self.tables.rows[place[0]][place[1]]), None)

    def _happen(self, happenings: Sequence[Happening], *, asked: Iterable[list[Move]] = ()) -> None:
        """Let machines move: by what was asked for already, then by each event and what it leads to, in order."""
        waiting = list(happenings)
        for moves_ in asked:
            waiting += take(self.tables, moves_)
        for _ in range(EVENTS_MAX):
            if not waiting:
                return
            happening = waiting.pop(0)
            if not heard(self.tables, happening):
                continue
            # A pattern may read derived columns, which earlier writes of this call have changed.
            settle(self.tables)
            waiting += take(self.tables, moves(self.tables, happening))
        raise InternalError(
            f"One write led to more than {EVENTS_MAX} events: state machines move each other in a loop."
        )


def _several(given: Any) -> list[Mapping[str, Any]]:
    if given is None:
        return []
    return [given] if isinstance(given, Mapping) else list(given)
