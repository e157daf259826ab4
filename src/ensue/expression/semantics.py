"""The one table of what operators mean; `resolve` types expressions by it and every evaluator keeps to it.

| operators | operands | result | null |
| --- | --- | --- | --- |
| eq ne in | two of one kind (not json); int, float and decimal by promotion | bool | eq, in: false; ne: true |
| lt le gt ge | str int float decimal datetime date uuid bytes | bool | false |
| and or not | bool | bool | a null counts as false |
| is_null | anything | bool | true |
| or_else | two of one kind | that kind | the second operand |
| add sub mul neg | int; float; decimal (the larger scale; for mul the sum) | the kind | null |
| div | int float decimal | float | null; also x/0 |
| concat upper lower | str | str | null |
| shift | datetime and a constant number of microseconds | datetime | null |

Promotion: int to float, int to decimal; float and decimal don't mix. An int is promoted to a float as the nearest one,
a decimal as its scaled integer over a power of ten. Out of range (64-bit int, decimal whose scaled integer is more than
64-bit, float that overflows or vanishes, instant outside of the years 1 to 9999) is an error. Text orders by code
point. Decimals that lose decimals round half-even; exact numbers compare exactly, whatever their scales. Where the
result does not depend on an operand (another one is null, the other side of `and` or `or` decides) it may be skipped,
and then is no error. Order on uuid and bytes is by byte. Invariant: there is no result that depends on the evaluator.
"""

from datetime import datetime
from decimal import Decimal

from ensue.expression.nodes import Operator
from ensue.expression.types import Kind, ValueType

BOOL = ValueType("bool", bool)
INT = ValueType("int", int)
FLOAT = ValueType("float", float)
STR = ValueType("str", str)
DATETIME = ValueType("datetime", datetime)

INT_MIN = -(2**63)
INT_MAX = 2**63 - 1
SCALE_MAX = 18
"""More decimals than this leave a 64-bit scaled integer no room for a whole number."""

COMPARISONS: frozenset[Operator] = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
ORDERINGS: frozenset[Operator] = frozenset({"lt", "le", "gt", "ge"})
PREDICATES: frozenset[Operator] = COMPARISONS.union(("and", "or", "not", "in", "is_null"))
"""Operators whose result is a bool that is never null."""

NUMBERS: frozenset[Kind] = frozenset({"int", "float", "decimal"})
ORDERED: frozenset[Kind] = NUMBERS.union(("str", "datetime", "date", "uuid", "bytes"))

EXPECTED: dict[str, str] = {
    "eq": "two values of one kind (json has no equality)",
    "ne": "two values of one kind (json has no equality)",
    "in": "values of the operand's own kind (json has no equality)",
    **dict.fromkeys(("lt", "le", "gt", "ge"), "two numbers, or two of str, datetime, date, uuid or bytes"),
    **dict.fromkeys(("and", "or", "not"), "bool"),
    "or_else": "a value and a replacement of the same kind",
    "add": "two numbers (float and decimal don't mix), two str, or a datetime and a timedelta",
    "sub": "two numbers (float and decimal don't mix), or a datetime and a timedelta",
    "mul": "two numbers (float and decimal don't mix)",
    "div": "two numbers",
    "neg": "a number",
    "upper": "str",
    "lower": "str",
}
"""Per operator, what it accepts, in words for error messages."""

SYMBOLS: dict[str, str] = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "and": "&",
    "or": "|",
    "not": "~",
    "in": ".in_()",
    "is_null": ".is_null()",
    "or_else": ".or_else()",
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "neg": "-",
    "upper": ".upper()",
    "lower": ".lower()",
}
"""Per operator, how a user writes it."""


def decimal(scale: int) -> ValueType:
    """The decimal type with so many decimals."""
    return ValueType("decimal", Decimal, scale=scale)


def plain(type_: ValueType) -> ValueType:
    """The type without its list of values: a `literal` as the str or int that it is."""
    if type_.kind != "literal":
        return type_
    return INT if type_.base == "int" else STR


def common(left: ValueType, right: ValueType) -> ValueType | None:
    """The type in which two operands meet (each is cast to it), or None if they can't."""
    if left == right:
        return left
    left, right = plain(left), plain(right)
    if "json" in (left.kind, right.kind):
        return None
    if left.kind == right.kind:
        if left.kind == "decimal":
            return decimal(max(left.scale or 0, right.scale or 0))
        return left if left.kind != "enum" or left.python is right.python else None
    if {left.kind, right.kind} == {"int", "float"}:
        return FLOAT
    if {left.kind, right.kind} == {"int", "decimal"}:
        return left if left.kind == "decimal" else right
    return None


def accepts(op: str, meeting: ValueType) -> bool:
    """Whether the binary operator `op` takes operands that meet in this type."""
    kind = plain(meeting).kind
    if op in ("eq", "ne", "in"):
        return kind != "json"
    if op in ORDERINGS:
        return kind in ORDERED
    if op == "or_else":
        return True
    return kind in NUMBERS or (op == "add" and kind == "str")


def castable(source: ValueType, target: ValueType) -> bool:
    """Whether a value of `source` can stand where `target` is due, by promotion or by rounding a decimal."""
    if source == target or plain(source) == plain(target):
        return True
    return (plain(source).kind, target.kind) in {
        ("int", "float"),
        ("int", "decimal"),
        ("decimal", "decimal"),
    }
