"""The comparison itself: it must say nothing about an app that is right and find one that is wrong.

The app here is a second slow model behind the store's interface, with ids of its own, so that no database is needed.
"""

import asyncio
import operator
import types
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from ensue.errors import ConstraintViolated, InvalidValue
from ensue.expression.nodes import Call, Children, Column, Constant, Follow, Node
from ensue.expression.trace import Literal, Operation, Path, Root
from ensue.expression.types import ValueType
from ensue.schema.model import Aggregate, CollectionModel, FieldModel, LinkModel, Model, RecordModel
from ensue.testing.generate_operations import Create, Extreme, Nested, Pick, Script, Update, operations
from ensue.testing.slow_agreement import Agreement, Disagreement, Options, all_at_once, differences, one_by_one
from ensue.testing.slow_model import SlowModel
from ensue.testing.slow_values import Place, follow

INT = ValueType("int", int)
BOOL = ValueType("bool", bool)


class Row:
    """A record of the pretended app: what was given, or what was read."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def _class(name: str, *members: str) -> type[Any]:
    return type(name, (Row,), {member: Path(Root(name), (member,)) for member in members})


def _edges(
    name: str, kind: Any, path: tuple[str, ...], *, value: Node | None = None, where: Node | None = None
) -> FieldModel:
    type_ = BOOL if kind in ("any", "every") else INT
    return FieldModel(name, type_, optional=True, computation=Aggregate(kind, "Item", path, (), where, value))


def _record(name: str, fields: list[FieldModel], links: list[LinkModel], **options: Any) -> RecordModel:
    members = {item.name: item for item in fields}, {item.name: item for item in links}
    names = (*members[0], *members[1], *options.get("collections", ()))
    return RecordModel(
        name,
        options.pop("kind", "entity"),
        _class(name, *names),
        name,
        *members,
        options.pop("collections", {}),
        **options,
    )


SCORE = Column((), "score", INT, optional=True)
TRUSTED = Call(
    "and",
    (
        Column(("owner",), "good", BOOL, optional=True),
        Call("gt", (SCORE, Constant(3, INT)), BOOL, optional=False),
    ),
    BOOL,
    optional=False,
)
LABELS = CollectionModel(
    "labels", "Label", (Children("Item_labels", "source"), Follow("target", "Label")), relation="Item_labels"
)

MODEL = Model(
    {
        record.name: record
        for record in (
            _record("Owner", [FieldModel("good", BOOL, optional=True)], []),
            _record(
                "Host",
                [
                    FieldModel("tag", INT, optional=False),
                    _edges("n", "count", ("host",)),
                    _edges("best", "max", ("host",), value=SCORE),
                    _edges("trusted", "sum", ("host",), value=SCORE, where=TRUSTED),
                ],
                [],
            ),
            _record(
                "Item",
                [FieldModel("score", INT, optional=True)],
                [
                    LinkModel("host", "Host", optional=False, on_delete="cascade"),
                    LinkModel("owner", "Owner", optional=True, on_delete="restrict"),
                ],
                collections={"labels": LABELS},
            ),
            _record("Label", [FieldModel("key", INT, optional=False, unique=True)], []),
            _record(
                "Item_labels",
                [],
                [
                    LinkModel(name, target, optional=False, on_delete="cascade")
                    for name, target in (("source", "Item"), ("target", "Label"))
                ],
                kind="relation",
                source="source",
                target="target",
                unique=(("source", "target"),),
                implicit=True,
            ),
            _record("All", [_edges("total", "sum", (), value=SCORE)], [], kind="globals"),
        )
    },
    {},
    {},
    None,
)

_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
}


class PretendedStore:
    """The store's interface on a slow model, whose ids are `OFFSET` above the ones compared with."""

    OFFSET = 1_000

    def __init__(self, fault: str = "") -> None:
        self.slow = SlowModel(MODEL)
        self.fault = fault

    async def find(self, record: Any) -> list[Row]:
        name = record if isinstance(record, str) else record.__name__
        return [self._shown(name, row) for row in self.slow.tables.rows[name]]

    async def globals(self, record: type[Any]) -> Row:
        row = self._shown(record.__name__, 1)
        if self.fault == "global":
            row.total = 0
        return row

    async def create_many(self, records: Iterable[Row]) -> list[Row]:
        made = [(type(record).__name__, self._fresh(type(record).__name__), vars(record)) for record in records]
        self.slow.create_many(made[0][0], [(row, values) for _, row, values in made])
        return [self._shown(name, row) for name, row, _ in made]

    async def create(self, record: Row) -> Row:
        return (await self.create_many([record]))[0]

    async def update(self, record: str, row: int, **values: Any) -> None:
        self._update(record, [row], values)

    async def update_many(self, record: str, where: Any, **values: Any) -> int:
        rows = self._matching(record, where)
        self._update(record, rows, values)
        return len(rows)

    async def delete(self, record: str, row: int) -> None:
        self.slow.delete(record, row)

    async def delete_many(self, record: str, where: Any) -> int:
        rows = self._matching(record, where)
        self.slow.delete_many(record, rows)
        return len(rows)

    async def link(self, many: Path, host: int, item: int) -> None:
        assert many.steps == ("labels",)
        self.slow.create("Item_labels", self._fresh("Item_labels"), {"source": host, "target": item})

    async def unlink(self, _: Path, host: int, item: int) -> None:
        self.slow.unlink("Item_labels", host, item)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        before = self.slow.snapshot()
        try:
            yield
        except BaseException:
            if self.fault != "rollback":
                self.slow.restore(before)
            raise

    def _fresh(self, record: str) -> int:
        return self.slow.allocate(record) + (0 if self.slow.tables.rows[record] else self.OFFSET)

    def _shown(self, name: str, row: int) -> Row:
        model = MODEL.records[name]
        values = {member: self.slow.value(name, row, member) for member in self.slow.names(name)}
        return model.cls(
            id=row, **{k: Row(id=v) if k in model.links and v is not None else v for k, v in values.items()}
        )

    def _update(self, record: str, rows: list[int], values: dict[str, Any]) -> None:
        if self.fault == "re-parent" and "host" in values:
            values = {name: value for name, value in values.items() if name != "host"}
        self.slow.update_many(
            record, [(row, {name: self._value(value, (record, row)) for name, value in values.items()}) for row in rows]
        )

    def _matching(self, record: str, where: Any) -> list[int]:
        return [row for row in list(self.slow.tables.rows[record]) if self._value(where, (record, row)) is True]

    def _value(self, trace: Any, place: Place) -> Any:
        """A traced expression of the few forms that scripts use."""
        match trace:
            case Path():
                self.slow.settle()
                end = follow(self.slow.tables, place, trace.steps[:-1])
                return None if end is None else self.slow.value(*end, trace.steps[-1])
            case Literal():
                return trace.value
            case Operation(op="ne" | "not"):
                inner = trace.args[0] if trace.op == "not" else Operation("eq", trace.args)
                return not self._value(inner, place)
            case Operation():
                left, *right = (self._value(argument, place) for argument in trace.args)
                return self._applied(trace.op, left, right)
            case _:
                return trace

    def _applied(self, op: str, left: Any, right: list[Any]) -> Any:
        if op == "is_null":
            return left is None
        if op == "in":
            return left in right[0]
        if op == "add":
            return None if left is None else left + right[0]
        return left is not None and _SIGNS[op](left, right[0])


def run(script: Script, *, fault: str = "", **options: Any) -> Agreement:
    agreement = Agreement(MODEL, types.SimpleNamespace(store=PretendedStore(fault)), Options(**options))

    async def work() -> None:
        await agreement.run(script)
        await agreement.clear()

    asyncio.run(work())
    return agreement


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(operations(MODEL), st.sampled_from(["as written", "small", "bulk"]), st.booleans())
def test_a_right_app_agrees_with_every_script(script: Script, size: Any, reads: bool) -> None:
    agreement = run(script, size=size, reads=reads)
    assert all(rows == {} for name, rows in agreement.expected().items() if name != "All")


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(operations(MODEL))
def test_the_ways_to_divide_a_script_agree(script: Script) -> None:
    finals: list[Any] = []
    for divided in (one_by_one(script), all_at_once(script)):
        agreement = Agreement(MODEL, types.SimpleNamespace(store=PretendedStore()))
        finals.append(asyncio.run(agreement.run(divided)))
    assert [*differences(*finals)] == []


HOSTS = Create("Host", ((("tag", 1),), (("tag", 2),)), together=True)
ITEMS = Create(
    "Item",
    ((("score", 5), ("host", Pick(0)), ("owner", None)), (("score", 2), ("host", Pick(0)), ("owner", None))),
    together=True,
)

FAULTS: dict[str, Script] = {
    "re-parent": (HOSTS, ITEMS, Update("Item", Pick(0), (("host", Pick(1)),))),
    "global": (HOSTS, ITEMS),
    "rollback": (HOSTS, ITEMS, Nested((Update("Item", Pick(0), (("score", 9),)),), kept=False)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_app_is_found(fault: str) -> None:
    run(FAULTS[fault])
    with pytest.raises(Disagreement, match="expected"):
        run(FAULTS[fault], fault=fault)


def test_the_row_that_holds_an_extremum_is_the_one_taken() -> None:
    agreement = Agreement(MODEL, types.SimpleNamespace(store=PretendedStore()))
    asyncio.run(agreement.run((HOSTS, ITEMS, Extreme("Host", "best", Pick(0), None))))
    assert agreement.slow.value("Host", 1, "best") == 2


def test_a_refusal_must_be_the_apps_too() -> None:
    script = (Create("Label", ((("key", 1),), (("key", 1),)), together=True),)
    assert run(script).exceptions == 1
    with pytest.raises(ConstraintViolated):
        SlowModel(MODEL).create_many("Label", [(1, {"key": 1}), (2, {"key": 1})])
    with pytest.raises(InvalidValue):
        SlowModel(MODEL).create("Item", 1, {"score": 1})


def test_what_is_derived_is_offered_to_the_generator() -> None:
    names: set[str] = set()

    @hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
    @hypothesis.given(operations(MODEL))
    def collect(script: Script) -> None:
        names.update(type(operation).__name__ for operation in script)

    collect()
    assert names == {"Create", "Update", "Increase", "Delete", "Link", "Extreme", "Cross", "Nested"}
