"""The three evaluators agree: Python, SQLite and PostgreSQL give the same value, or all refuse, for every operator ×
type × null.

One table holds rows of edge values, with nulls in every position. Expressions come in batches, each batch being one
statement per database: first every operator on every pair of columns and with literals, then nested ones that
Hypothesis makes up.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import apsw
import asyncpg
import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.errors import DeclarationError, InvalidValue
from ensue.expression import semantics
from ensue.expression.nodes import Call, Column, Node, walk
from ensue.expression.python import evaluator
from ensue.expression.records import FieldType, Member
from ensue.expression.resolve import lift, resolve
from ensue.expression.sql import (
    ValueColumn,
    compile_statement,
    decoder,
    json_expression,
    json_row_decoder,
    lower,
    row_decoder,
    sqlite_functions,
)
from ensue.expression.trace import Expr, Literal, Operation, Path, Root
from ensue.expression.types import ValueType
from tests.services import Databases


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 9


TYPES: dict[str, ValueType] = {
    "int": semantics.INT,
    "float": semantics.FLOAT,
    "money": semantics.decimal(2),
    "rate": semantics.decimal(5),
    "str": semantics.STR,
    "bool": semantics.BOOL,
    "at": semantics.DATETIME,
    "day": ValueType("date", date),
    "key": ValueType("uuid", UUID),
    "raw": ValueType("bytes", bytes),
    "color": ValueType("enum", Color, values=("red", "blue")),
    "level": ValueType("enum", Level, values=(1, 9)),
    "word": ValueType("literal", str, values=("red", "green")),
    "digit": ValueType("literal", int, values=(1, 2, 3)),
    "json": ValueType("json", dict),
}
EDGES: dict[str, list[Any]] = {
    "int": [0, 1, -1, 2, 3, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**31, 3_037_000_500],
    "float": [0.0, 1.0, -1.0, 0.1, 2.5, -1e-3, float(2**53), 9.3e18, 1.7e308, -1.7e308, 5e-324, 1e-200, 1 / 3],
    "money": [Decimal(text) for text in ("0.00", "0.01", "-0.01", "1.00", "2.50", "-99.99", "92233720368547758.07")],
    "rate": [
        Decimal(text)
        for text in ("0.00000", "0.00001", "1.00000", "2.50000", "-0.01500", "0.00500", "92233720368547.75807")
    ],
    "str": ["", "a", "A", "b", "é", "ß", "straße", "\uffff", "\U0001f600", "z", "it's", "%_:x\\", "\n"],
    "bool": [True, False],
    "at": [
        datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2026, 2, 28, 12, 0, 0, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_998, tzinfo=UTC),
    ],
    "day": [date(1, 1, 1), date(999, 12, 31), date(2026, 2, 28), date(9999, 12, 31)],
    "key": [UUID(int=0), UUID(int=1), UUID(int=2**127), UUID(int=2**128 - 1)],
    "raw": [b"", b"\0", b"a", b"ab", b"\xff", b"\\x"],
    "color": list(Color),
    "level": list(Level),
    "word": ["red", "green"],
    "digit": [1, 2, 3],
    "json": [{}, {"b": [1, 2.5, None], "a": "ü"}],
}
FIELDS = {
    f"{name}{suffix}": FieldType(type_, suffix in ("_c", "_d"))
    for name, type_ in TYPES.items()
    for suffix in ("_a", "_b", "_c", "_d")
}
"""Per type two required columns (a, b) and two that may be null (c, d)."""


class Types:
    def member(self, record: str, name: str) -> Member | None:
        return FIELDS.get(name) if name != "id" else FieldType(semantics.INT, optional=False)

    def names(self, record: str) -> tuple[str, ...]:
        return tuple(FIELDS)


TABLE = sa.Table(
    "item",
    sa.MetaData(),
    sa.Column("id", ValueColumn(semantics.INT), primary_key=True),
    *(sa.Column(name, ValueColumn(field.type), nullable=field.optional) for name, field in FIELDS.items()),
    sqlite_strict=True,
)


def random_value(kind: str, chance: random.Random) -> Any:
    if chance.random() < 0.75:
        return chance.choice(EDGES[kind])
    made: dict[str, Callable[[], Any]] = {
        "int": lambda: chance.randint(-(10**6), 10**6),
        "float": lambda: chance.uniform(-1, 1) * 10 ** chance.randint(-30, 30),
        "money": lambda: Decimal(chance.randint(-(10**6), 10**6)).scaleb(-2),
        "rate": lambda: Decimal(chance.randint(-(10**12), 10**12)).scaleb(-5),
        "at": lambda: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=chance.randint(-(10**16), 10**16)),
        "key": lambda: UUID(int=chance.getrandbits(128)),
        "raw": lambda: chance.randbytes(3),
    }
    return made.get(kind, lambda: chance.choice(EDGES[kind]))()


def make_rows(count: int) -> list[dict[str, Any]]:
    chance = random.Random(20)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        row: dict[str, Any] = {"id": number + 1}
        for name, field in FIELDS.items():
            kind = name[:-2]
            row[name] = None if field.optional and chance.random() < 0.3 else random_value(kind, chance)
        rows.append(row)
    return rows


ROWS = make_rows(70)


class Refused:
    """Stands for "the evaluator refused this row"."""

    def __repr__(self) -> str:
        return "refused"


REFUSED = Refused()


class Sqlite:
    dialect = "sqlite"

    def __init__(self) -> None:
        self.connection = apsw.Connection(":memory:")
        for name, function in sqlite_functions().items():
            self.connection.create_scalar_function(name, function, deterministic=True)

    def run(self, text: str, params: Sequence[Any] = ()) -> list[Any]:
        return list(self.connection.execute(text, tuple(params)))

    def refuses(self, text: str, params: Sequence[Any]) -> bool:
        try:
            self.run(text, params)
        except InvalidValue:
            return True
        return False


class Postgres:
    dialect = "postgresql"

    def __init__(self, url: str, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.connection = runner.run(asyncpg.connect(url))

    def run(self, text: str, params: Sequence[Any] = ()) -> list[Any]:
        return [tuple(row) for row in self.runner.run(self.connection.fetch(text, *params))]

    def refuses(self, text: str, params: Sequence[Any]) -> bool:
        try:
            self.run(text, params)
        except (asyncpg.NumericValueOutOfRangeError, asyncpg.DatetimeFieldOverflowError):
            return True
        return False


Database = Sqlite | Postgres


@pytest.fixture(scope="module")
def databases(postgres_databases: Databases) -> Iterator[tuple[Database, ...]]:
    with asyncio.Runner() as runner, postgres_databases.fresh() as url:
        both = (Sqlite(), Postgres(url, runner))
        for database in both:
            fill(database)
        yield both
        runner.run(both[1].connection.close())


def fill(database: Database) -> None:
    ddl = sa.schema.CreateTable(TABLE)
    database.run(compile_statement(ddl, database.dialect, "item.table", rows=False).statement.text)
    insert = compile_statement(sa.insert(TABLE), database.dialect, "item.insert")
    assert not insert.statement.rows
    for row in ROWS:
        database.run(insert.statement.text, insert.bind(row))


@dataclass
class Case:
    """One expression with its node and what Python says of each row."""

    node: Node
    text: str
    expected: list[Any]
    good: list[int]
    """The ids of the rows on which every part has a value, needed or not."""

    @property
    def refused(self) -> int | None:
        """A row that every evaluator must refuse: one where nothing lets the offending part be skipped."""
        lazy = {"and", "or", "or_else"} | semantics.PREDICATES
        if REFUSED not in self.expected or any(isinstance(part, Call) and part.op in lazy for part in walk(self.node)):
            return None
        return ROWS[self.expected.index(REFUSED)]["id"]


def path(name: str) -> Path:
    return Path(Root("item"), (name,))


def make_case(expr: Expr[Any]) -> Case:
    node = resolve(expr, "item", Types())
    expected = values_of(node)
    parts = [values_of(part) for part in walk(node) if isinstance(part, Call) and part.op not in semantics.PREDICATES]
    good = [row["id"] for index, row in enumerate(ROWS) if all(part[index] is not REFUSED for part in parts)]
    return Case(node, repr(expr), expected, good)


def values_of(node: Node) -> list[Any]:
    evaluate = evaluator(node, lambda column: f"row[{column.field!r}]")

    def value(row: dict[str, Any]) -> Any:
        try:
            return evaluate(row)
        except InvalidValue:
            return REFUSED

    return [value(row) for row in ROWS]


def element(column: Column) -> sa.ColumnElement[Any]:
    return TABLE.c[column.field]


def check(cases: Sequence[Case], database: Database, *, lifted: bool) -> None:
    """Evaluate all cases on all rows in one statement, and each case that refuses on one row that it refuses."""
    columns: list[Any] = [TABLE.c.id]
    values: dict[str, Any] = {}
    for case in cases:
        node = case.node
        if lifted:
            node, more = lift(node, start=len(values))
            values.update({f"p{len(values) + index}": value for index, value in enumerate(more)})
        # A CASE keeps the database from evaluating the rows that it must refuse; their ids stand in its text.
        ids = ", ".join(map(str, case.good)) or "NULL"
        good: sa.ColumnElement[bool] = sa.literal_column(f"item.id IN ({ids})", sa.Boolean()).op("IS")(
            sa.literal_column("TRUE")
        )
        columns.append(sa.case((good, lower(node, element, database.dialect))))
        if node.type.kind == "bool":
            columns.append(sa.case((good, lower(node, element, database.dialect, filter=True))))
    compiled = compile_statement(sa.select(*columns).order_by(TABLE.c.id), database.dialect, "batch")
    rows = database.run(compiled.statement.text, compiled.bind(values))
    for index, row in enumerate(rows):
        cells = iter(row[1:])
        for case in cases:
            found, expected = next(cells), case.expected[index]
            if ROWS[index]["id"] not in case.good:
                expected = REFUSED
            decode = decoder(case.node.type, database.dialect)
            if expected is not REFUSED:
                found = found if found is None or decode is None else decode(found)
                assert same(found, expected), report(case, database, index, found)
            if case.node.type.kind == "bool":
                passed = next(cells)
                if expected is not REFUSED:
                    assert bool(passed) is (expected is True), report(case, database, index, passed)
    for case in cases:
        key = case.refused
        if key is not None:
            refused = sa.select(lower(case.node, element, database.dialect)).where(
                TABLE.c.id == sa.literal_column(str(key))
            )
            single = compile_statement(refused, database.dialect, "refused")
            assert database.refuses(single.statement.text, single.bind({})), report(case, database, key - 1, "a value")


def same(found: Any, expected: Any) -> bool:
    if type(found) is not type(expected):
        return False
    if isinstance(found, Decimal):
        return str(found) == str(expected)
    return found == expected and not (isinstance(found, float) and not math.isfinite(found))


def report(case: Case, database: Database, index: int, found: Any) -> str:
    row = {name: value for name, value in ROWS[index].items() if name in repr(case.node)}
    return f"{case.text}\non {row}\nPython: {case.expected[index]!r}, {database.dialect}: {found!r}\n{case.node}"


COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
BINARY = (*COMPARISONS, "add", "sub", "mul", "div", "or_else", "and", "or")
UNARY = ("is_null", "not", "neg", "upper", "lower")


def candidates() -> Iterator[Expr[Any]]:
    """Every operator on every pair of kinds and null position, and with literals; `resolve` refuses many."""
    for left, right, positions, op in itertools.product(TYPES, TYPES, ("ab", "cb", "ad", "cd"), BINARY):
        yield Operation(op, (path(f"{left}_{positions[0]}"), path(f"{right}_{positions[1]}")))
    for kind, position in itertools.product(TYPES, "ac"):
        yield from with_literals(path(f"{kind}_{position}"), EDGES[kind])
    for position in "ac":
        yield from special(position)


def with_literals(column: Path, edges: list[Any]) -> Iterator[Expr[Any]]:
    for op in UNARY:
        yield Operation(op, (column,))
    for value, op in itertools.product(edges[:3], BINARY):
        yield Operation(op, (column, Literal(value)))
        yield Operation(op, (Literal(value), column))
    for values in ((), edges[:1], edges[1:4]):
        if not column.steps[0].startswith("json"):
            yield column.in_(values)


def special(position: str) -> Iterator[Expr[Any]]:
    for by in (timedelta(days=1), -timedelta(microseconds=1)):
        yield path(f"at_{position}") + by
        yield path(f"at_{position}") - by
    yield path(f"int_{position}") > 2.5
    yield path(f"int_{position}").in_([1, 2.5, float(2**53)])
    yield path(f"int_{position}") == Decimal("2.5")
    yield path(f"money_{position}").in_([1, Decimal("2.505")])
    yield path(f"money_{position}") * Decimal("1.125")
    yield path(f"money_{position}") < 10**17


def systematic() -> list[Case]:
    cases: list[Case] = []
    for expr in candidates():
        try:
            cases.append(make_case(expr))
        except DeclarationError:
            continue
    return cases


def runs_on(case: Case, database: Database) -> bool:
    return database.dialect == "sqlite" or not any(f"op='{op}'" in repr(case.node) for op in ("upper", "lower"))


def test_values_survive_the_way_there_and_back(databases: tuple[Database, ...]) -> None:
    types = [field.type for field in FIELDS.values()]
    for database in databases:
        rows = compile_statement(sa.select(*TABLE.c).order_by(TABLE.c.id), database.dialect, "item.read")
        decode = row_decoder([semantics.INT, *types], database.dialect)
        assert decode is not None
        for row, found in zip(ROWS, database.run(rows.statement.text), strict=True):
            assert all(same(*pair) for pair in zip(decode(found), row.values(), strict=True)), (database.dialect, row)


def test_values_survive_in_json(databases: tuple[Database, ...]) -> None:
    for database in databases:
        build = sa.func.json_array if database.dialect == "sqlite" else sa.func.json_build_array
        # PostgreSQL takes a hundred arguments at most.
        for part in (list(FIELDS.items())[:30], list(FIELDS.items())[30:]):
            cells = [json_expression(TABLE.c[name], field.type, database.dialect) for name, field in part]
            rows = compile_statement(sa.select(build(*cells)).order_by(TABLE.c.id), database.dialect, "item.json")
            decode = json_row_decoder([field.type for _, field in part], database.dialect)
            assert decode is not None
            for row, (text,) in zip(ROWS, database.run(rows.statement.text), strict=True):
                found = decode(msgspec.json.decode(text))
                expected = [row[name] for name, _ in part]
                assert all(same(*pair) for pair in zip(found, expected, strict=True)), (found, expected)


def test_every_operator_on_every_type(databases: tuple[Database, ...]) -> None:
    cases = systematic()
    assert len(cases) > 900
    for database in databases:
        chosen = [case for case in cases if runs_on(case, database)]
        for start in range(0, len(chosen), 60):
            check(chosen[start : start + 60], database, lifted=start % 120 == 0)


def numbers(children: st.SearchStrategy[Expr[Any]]) -> st.SearchStrategy[Expr[Any]]:
    return st.builds(
        lambda op, a, b: Operation(op, (a, b)),
        st.sampled_from(("add", "sub", "mul", "div", "or_else")),
        children,
        children,
    )


LEAVES = st.sampled_from(
    [f"{kind}_{position}" for kind in ("int", "float", "money", "rate") for position in "abcd"]
).map(path)
CONSTANTS = st.sampled_from([0, 1, -3, 10, 2.5, -0.5, Decimal("1.5"), Decimal("-0.01"), 2**62]).map(Literal)
NUMBERS: st.SearchStrategy[Expr[Any]] = st.recursive(
    LEAVES, lambda deeper: numbers(deeper | CONSTANTS) | deeper.map(lambda a: -a), max_leaves=5
)
TEXTS: st.SearchStrategy[Expr[Any]] = st.recursive(
    st.sampled_from(["str_a", "str_c", "word_a", "word_d"]).map(path),
    lambda deeper: (
        st.builds(lambda a, b: a + b, deeper, deeper)
        | deeper.map(lambda a: a + "x")
        | deeper.map(lambda a: a.or_else("red"))
    ),
    max_leaves=3,
)
ATOMS = (
    st.builds(lambda op, a, b: Operation(op, (a, b)), st.sampled_from(COMPARISONS), NUMBERS, NUMBERS | CONSTANTS)
    | st.builds(lambda op, a, b: Operation(op, (a, b)), st.sampled_from(COMPARISONS), TEXTS, TEXTS)
    | st.sampled_from(["bool_a", "bool_c", "bool_d"]).map(path)
    | NUMBERS.map(lambda a: a.is_null())
)
BOOLS: st.SearchStrategy[Expr[Any]] = st.recursive(
    ATOMS,
    lambda deeper: (
        st.builds(
            lambda op, a, b: Operation(op, (a, b)),
            st.sampled_from(("and", "or", "eq", "ne", "or_else")),
            deeper,
            deeper,
        )
        | deeper.map(lambda a: ~a)
        | deeper.map(lambda a: a.is_null())
    ),
    max_leaves=6,
)


def try_case(expr: Expr[Any]) -> Case | None:
    try:
        return make_case(expr)
    except DeclarationError:
        return None


@settings(max_examples=40)
@given(st.lists(st.one_of(NUMBERS, BOOLS, BOOLS, TEXTS), min_size=10, max_size=16))
def test_nested_expressions(databases: tuple[Database, ...], exprs: list[Expr[Any]]) -> None:
    cases = [case for expr in exprs if (case := try_case(expr)) is not None]
    for database in databases:
        for lifted in (False, True):
            check(cases, database, lifted=lifted)
