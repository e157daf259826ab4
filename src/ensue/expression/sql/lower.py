"""Nodes as SQLAlchemy expressions, with the meaning of the one table in `semantics` on each database.

Decides the SQL of every operator. Where a column lives and how a collection is joined the caller says. Invariant: the
value of an element is null exactly where the node's is; a bool element that is not a plain column is never null, unless
a filter was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from typing import Any, cast
from uuid import UUID

import sqlalchemy as sql
from sqlalchemy import ColumnElement
from sqlalchemy.sql.elements import Grouping
from sqlalchemy.types import TypeEngine

from ensue.errors import DeclarationError, InternalError, Problem
from ensue.expression import semantics
from ensue.expression.nodes import Call, Column, Constant, Exists, Node, Parameter
from ensue.expression.sql.codecs import Dialect, encoder
from ensue.expression.sql.types import ValueColumn, ValueList, raw_type
from ensue.expression.types import ValueType

Element = ColumnElement[Any]


def text(source: str) -> Element:
    """SQL text that is right on both databases; never with a user's value in it."""
    return cast("Element", sql.literal_column(source))


TRUE = text("TRUE")
DOUBLE: TypeEngine[Any] = sql.Double()
_COMPARISONS = {"eq": "=", "ne": "<>", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_ARITHMETIC = {"add": "+", "sub": "-", "mul": "*"}


def lower(
    node: Node,
    column: Callable[[Column], Element],
    dialect: Dialect,
    exists: Callable[[Exists], Element] | None = None,
    *,
    filter: bool = False,
    parameter: Callable[[Parameter], Element] | None = None,
) -> Element:
    """The SQL of `node`. `column` gives the element of a column, as encoded in the database; `exists` that of an
    `Exists`.

    A `Parameter` becomes a bind parameter named `p<index>` unless `parameter` says otherwise. With `filter` a bool may
    be null where it should be false, which is the same to WHERE, FILTER, CASE WHEN and JOIN ON, and lets them use an
    index.
    """
    return _Lowering(column, dialect, exists, parameter).lower(node, filter=filter)


def literal(value: Any, type_: ValueType, dialect: Dialect) -> Element:
    """A constant as SQL text, quoted; safe in DDL and in index predicates, where parameters can't be."""
    encode = encoder(type_, dialect)
    quoted = _quoted(value if encode is None else encode(value), type_, dialect)
    return sql.literal_column(quoted, raw_type(type_, dialect))


def json_expression(element: Element, type_: ValueType, dialect: Dialect) -> Element:
    """The element in the form in which it survives in JSON that the database builds; `codecs.json_decoder` reads it
    back."""
    kind = type_.kind
    if dialect == "sqlite":
        if kind == "json":
            return sql.func.json(element)
        # Of null, hex makes an empty text.
        return sql.case((element.is_not(sql.null()), sql.func.hex(element))) if kind == "bytes" else element
    if kind == "decimal":
        return sql.cast(element, sql.Text())
    if kind == "bytes":
        return sql.func.encode(element, text("'hex'"))
    if kind == "datetime":
        return _postgresql_micros(element)
    return element


def _postgresql_micros(element: Element) -> Element:
    return sql.cast(sql.extract("epoch", element) * text("1000000"), sql.BigInteger())


def _quoted(value: Any, type_: ValueType, dialect: Dialect) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        if dialect == "postgresql" and not -(2**31) < value < 2**31:
            return f"CAST('{value}' AS BIGINT)"
        return f"({value})" if value < 0 else str(value)
    if isinstance(value, float):
        # Not as a bare number, which PostgreSQL takes for a numeric.
        return f"CAST('{value!r}' AS DOUBLE PRECISION)" if dialect == "postgresql" else f"({value!r})"
    if isinstance(value, bytes):
        return f"BYTEA '\\x{value.hex()}'" if dialect == "postgresql" else f"x'{value.hex()}'"
    if isinstance(value, datetime):
        return f"TIMESTAMPTZ '{value.isoformat(sep=' ')}'"
    if isinstance(value, date):
        # As asyncpg does with a parameter: the first and last date are infinities.
        day = {date.min: "-infinity", date.max: "infinity"}.get(value) or value.isoformat()
        return f"DATE '{day}'"
    if isinstance(value, UUID):
        return f"UUID '{value}'"
    if isinstance(value, str):
        quoted = "'" + value.replace("'", "''") + "'"
        return f"CAST({quoted} AS JSONB)" if type_.kind == "json" and dialect == "postgresql" else quoted
    digits = f"{value:f}"
    return f"({digits})" if value < 0 else digits


class _Lowering:
    def __init__(
        self,
        column: Callable[[Column], Element],
        dialect: Dialect,
        exists: Callable[[Exists], Element] | None,
        parameter: Callable[[Parameter], Element] | None,
    ) -> None:
        self._column = column
        self._dialect: Dialect = dialect
        self._exists = exists
        self._parameter = parameter
        self._sqlite = dialect == "sqlite"

    def lower(self, node: Node, *, filter: bool) -> Element:
        if filter and node.type.kind == "bool":
            return self.predicate(node, filter=True)
        return self.value(node)

    # --- Booleans -----------------------------------------------------------------------------------------------------

    def predicate(self, node: Node, *, filter: bool) -> Element:
        """The bool `node`; with `filter` null may stand for false, otherwise it is true or false."""
        if isinstance(node, Exists):
            if self._exists is None:
                raise InternalError(f"No way was given to lower {node!r}.")
            return self._boolean(self._exists(node))
        if not isinstance(node, Call) or node.op == "or_else":
            raw = self.value(node)
            return self._is_true(raw) if node.optional and not filter else raw
        if node.op in ("and", "or"):
            sides = [Grouping(self.predicate(argument, filter=filter)) for argument in node.args]
            return self._infix(sides[0], node.op.upper(), sides[1])
        if node.op == "not":
            return self._complement(node.args[0])
        if node.op == "is_null":
            return self._boolean(sql.type_coerce(Grouping(self.value(node.args[0])), sql.Integer()).is_(sql.null()))
        if node.op == "ne":
            return self._unequal(node)
        raw = self._membership(node) if node.op == "in" else self._comparison(node)
        return raw if filter or not _nullable(node) else self._is_true(raw)

    def _complement(self, node: Node) -> Element:
        raw = self.predicate(node, filter=True)
        if _may_be_null(node):
            return self._infix(Grouping(raw), "IS NOT", TRUE)
        return self._boolean(_prefixed("NOT", Grouping(raw)))

    def _unequal(self, node: Call) -> Element:
        left, right = (self._aligned(argument, node.args) for argument in node.args)
        if not _nullable(node):
            return self._infix(left, "<>", right)
        return self._infix(Grouping(self._infix(left, "=", right)), "IS NOT", TRUE)

    def _comparison(self, node: Call) -> Element:
        left, right = (self._aligned(argument, node.args) for argument in node.args)
        if not self._sqlite and node.op in semantics.ORDERINGS and node.args[0].type.base == "str":
            right = self._in_c_order(right)
        return self._infix(left, _COMPARISONS[node.op], right)

    def _aligned(self, node: Node, beside: tuple[Node, ...]) -> Element:
        """An operand of a comparison; on SQLite scaled integers of different scales are brought to one.

        What overflows there becomes a float beyond every integer, which still compares right.
        """
        element = self.operand(node)
        digits = max(argument.type.scale or 0 for argument in beside) - (node.type.scale or 0)
        return Grouping(element.op("*")(text(str(10**digits)))) if digits and self._sqlite else element

    def _in_c_order(self, element: Element) -> Element:
        """An explicit collation wins over that of any column, and equals that of ensue's, so their indexes still
        serve."""
        return sql.type_coerce(Grouping(element.collate("C")), sql.Text())

    def _membership(self, node: Call) -> Element:
        subject, items = node.args
        left = self._aligned(subject, node.args)
        if isinstance(items, Constant):
            if not items.value:
                return self._boolean(text("FALSE"))
            values = [literal(value, items.type, self._dialect) for value in items.value]
            return self._infix(left, "IN", sql.tuple_(*values))
        bound = self.parameter(cast("Parameter", items), ValueList(items.type))
        if not self._sqlite:
            return self._infix(left, "=", sql.func.any(bound))
        value: Element = text("value")
        if items.type.kind == "bytes":
            value = sql.func.unhex(value)
        chosen = sql.select(value).select_from(sql.func.json_each(bound).alias("items"))
        return self._infix(left, "IN", chosen.scalar_subquery())

    def _is_true(self, element: Element) -> Element:
        return self._infix(Grouping(element), "IS", TRUE)

    def _boolean(self, element: Element) -> Element:
        # SQLite has no booleans; typed as one, SQLAlchemy would compare it with 1 at every use.
        return sql.type_coerce(element, sql.Integer() if self._sqlite else sql.Boolean())

    def _infix(self, left: Element, operator: str, right: Element) -> Element:
        return self._boolean(left.op(operator, precedence=5)(right))

    # --- Values -------------------------------------------------------------------------------------------------------

    def operand(self, node: Node) -> Element:
        """The value in parentheses unless it is an atom."""
        element = self.lower(node, filter=False)
        return element if isinstance(node, Column | Constant | Parameter) else Grouping(element)

    def value(self, node: Node) -> Element:
        """The value, checked to be in range."""
        if isinstance(node, Column):
            return sql.type_coerce(self._column(node), raw_type(node.type, self._dialect))
        if isinstance(node, Constant):
            return literal(node.value, node.type, self._dialect)
        if isinstance(node, Parameter):
            return self.parameter(node, ValueColumn(node.type))
        if isinstance(node, Call) and node.op not in semantics.PREDICATES:
            return self.checked(node)
        return self.predicate(node, filter=False)

    def parameter(self, node: Parameter, type_: Any) -> Element:
        if self._parameter is not None:
            return self._parameter(node)
        return sql.bindparam(f"p{node.index}", type_=type_)

    def checked(self, node: Call) -> Element:
        if self._sqlite and _is_chain(node):
            # An integer that overflows becomes a float, and so does what is computed from it: one test at the end.
            chain = self.chain(node)
            whole = sql.func.typeof(chain)
            overflow = sql.func.ensue_overflow(type_=sql.Integer())
            tested = sql.case(
                (whole.op("<>")(text("'real'")), chain),
                else_=overflow,
            )
            return sql.type_coerce(tested, sql.Integer())
        return sql.type_coerce(getattr(self, f"_op_{node.op}")(node), raw_type(node.type, self._dialect))

    def chain(self, node: Node) -> Element:
        """Integer arithmetic on SQLite, without the test for overflow."""
        if not (isinstance(node, Call) and _is_chain(node)):
            return self.operand(node)
        args = [self.chain(argument) for argument in node.args]
        if node.op == "neg":
            return Grouping(_prefixed("-", args[0]))
        if node.op == "cast":
            digits = (node.type.scale or 0) - (node.args[0].type.scale or 0)
            return Grouping(args[0].op("*")(text(str(10**digits))))
        return Grouping(args[0].op(_ARITHMETIC[node.op])(args[1]))

    def _op_or_else(self, node: Call) -> Element:
        return sql.func.coalesce(*(self.lower(argument, filter=False) for argument in node.args))

    def _op_concat(self, node: Call) -> Element:
        return self.operand(node.args[0]).op("||")(self.operand(node.args[1]))

    def _op_upper(self, node: Call) -> Element:
        if self._sqlite:
            return getattr(sql.func, f"ensue_{node.op}")(self.value(node.args[0]))
        raise DeclarationError(
            Problem(
                "E0131",
                f"`.{node.op}()` can't run inside PostgreSQL, where it could differ from Python's for letters beyond "
                f"ASCII. Store it as a derived column, `Computed(lambda x: x.name.{node.op}())`, which is computed in "
                "Python when the record is written, and compare that one.",
            )
        )

    _op_lower = _op_upper

    def _op_add(self, node: Call) -> Element:
        left, right = (self.operand(argument) for argument in node.args)
        kind = node.type.kind
        if self._sqlite:
            if node.op == "mul":
                return sql.func.ensue_float_mul(left, right)
            return sql.func.ensue_float_fit(left.op(_ARITHMETIC[node.op])(right))
        result = left.op(_ARITHMETIC[node.op])(right)
        return self.fit_decimal(Grouping(result), node.type.scale or 0) if kind == "decimal" else result

    _op_sub = _op_mul = _op_add

    def _op_neg(self, node: Call) -> Element:
        result = _prefixed("-", self.operand(node.args[0]))
        if node.type.kind == "decimal":
            return self.fit_decimal(Grouping(result), node.type.scale or 0)
        return result

    def _op_div(self, node: Call) -> Element:
        left, right = (self.operand(argument) for argument in node.args)
        if all(_whole(argument) for argument in node.args):
            # Of two whole numbers or decimals the quotient can neither overflow nor vanish.
            return left.op("/")(sql.func.nullif(right, text("0.0")))
        if self._sqlite:
            return sql.func.ensue_float_div(left, right)
        return left.op("/")(sql.func.nullif(right, text("0")))

    def _op_shift(self, node: Call) -> Element:
        instant, micros = (self.operand(argument) for argument in node.args)
        if self._sqlite:
            return sql.func.ensue_shift(instant, micros)
        shifted: Element = Grouping(instant.op("+")(micros.op("*")(text("INTERVAL '1 microsecond'"))))
        inside = shifted.op("BETWEEN")(
            text("TIMESTAMPTZ '0001-01-01 00:00:00.000001+00' AND TIMESTAMPTZ '9999-12-31 23:59:59.999998+00'")
        )
        # Out of the years that Python knows: raises "timestamp out of range".
        beyond = sql.func.to_timestamp(sql.cast(sql.extract("epoch", shifted), DOUBLE) * text("1e18"))
        return sql.case((shifted.is_(sql.null()), sql.null()), (inside, shifted), else_=beyond)

    def _op_cast(self, node: Call) -> Element:
        source = node.args[0]
        value = self.operand(source)
        if node.type.kind == "float":
            return self.to_float(value, source.type)
        lost = (source.type.scale or 0) - (node.type.scale or 0)
        if lost > 0:
            return self.rounded(value, node.type.scale or 0, lost)
        return self.fit_decimal(value, node.type.scale or 0)

    def to_float(self, value: Element, source: ValueType) -> Element:
        real: TypeEngine[Any] = sql.REAL() if self._sqlite else DOUBLE
        if source.kind != "decimal":
            return sql.cast(value, real)
        power = text(
            f"{10 ** (source.scale or 0)}.0" if self._sqlite else f"CAST(1e{source.scale or 0} AS DOUBLE PRECISION)"
        )
        whole = value if self._sqlite else self.scaled(value, source.scale or 0)
        return sql.cast(whole, real).op("/")(power)

    def rounded(self, value: Element, scale: int, lost: int) -> Element:
        if self._sqlite:
            return sql.func.ensue_scaled_round(value, text(str(lost)))
        power = text(f"1{'0' * scale}")
        big: Element = Grouping(value.op("*")(power))
        # PostgreSQL rounds halves away from zero; half of a half is no half, so this rounds them to even.
        half = sql.func.abs(big.op("-")(sql.func.trunc(big))).op("=")(text("0.5"))
        even = sql.func.round(big.op("/")(text("2"))).op("*")(text("2"))
        whole: Element = sql.case((half, even), else_=sql.func.round(big))
        return sql.cast(whole, sql.BigInteger()).op("*")(self.unit(scale))

    def fit_decimal(self, value: Element, scale: int) -> Element:
        """On PostgreSQL: the numeric itself, with this scale, or "bigint out of range"."""
        return self.scaled(value, scale).op("*")(self.unit(scale))

    def scaled(self, value: Element, scale: int) -> Element:
        return sql.cast(value.op("*")(text(f"CAST(1{'0' * scale} AS NUMERIC)")), sql.BigInteger())

    def unit(self, scale: int) -> Element:
        return text("CAST(1 AS NUMERIC)" if scale == 0 else f"0.{'0' * (scale - 1)}1")


def _prefixed(operator: str, operand: Element) -> Element:
    return cast("Element", text(operator).op("")(operand))


def _is_chain(node: Call) -> bool:
    """Whether SQLite does it in integers, where overflow turns into a float."""
    if node.op == "cast":
        return node.type.kind == "decimal" and (node.type.scale or 0) >= (node.args[0].type.scale or 0)
    return node.op in ("add", "sub", "mul", "neg") and node.type.kind in ("int", "decimal")


def _whole(node: Node) -> bool:
    return isinstance(node, Call) and node.op == "cast" and node.args[0].type.kind != "float"


def _nullable(node: Call) -> bool:
    return any(argument.optional for argument in node.args)


def _may_be_null(node: Node) -> bool:
    """Whether the filter form of the bool node can be null."""
    if isinstance(node, Call) and node.op in ("and", "or"):
        return any(_may_be_null(argument) for argument in node.args)
    if isinstance(node, Call) and node.op in semantics.PREDICATES:
        return node.op not in ("not", "is_null", "ne") and _nullable(node)
    return node.optional
