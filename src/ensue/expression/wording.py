"""Nodes as text for people and for comparing definitions: what an explanation prints and a fingerprint keeps.

Invariant: nodes that mean different things give different texts, and the text is the same in every process.
"""

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from ensue.expression.nodes import Call, Children, Column, Constant, Exists, Hop, Node, Parameter

_INFIX = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "and": "and",
    "or": "or",
    "in": "in",
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "concat": "+",
    "or_else": "or else",
    "shift": "shifted by microseconds",
}


def wording(node: Node) -> str:
    """The expression in a form close to how it was written: `approved and author.verified`."""
    match node:
        case Column():
            return ".".join(("outer",) * node.depth + node.path + (node.field,))
        case Constant():
            return constant_wording(node.value)
        case Parameter():
            return f"parameter {node.index}"
        case Exists():
            return _exists(node)
        case Call():
            return _call(node)


def constant_wording(value: Any) -> str:
    """A value, the same in every process."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(constant_wording(item) for item in value)}]"  # pyright: ignore[reportUnknownVariableType]  # any value
    return repr(value)


def hop_wording(hop: Hop) -> str:
    """One step between record types."""
    return f"{hop.record} by {hop.link}" if isinstance(hop, Children) else f"its {hop.link}"


def _exists(node: Exists) -> str:
    route = ", ".join(hop_wording(hop) for hop in node.hops)
    where = "" if node.condition is None else f" where {wording(node.condition)}"
    return f"any({'outer ' * node.depth}{route}{where})"


def _call(node: Call) -> str:
    first = _operand(node.args[0])
    if node.op in _INFIX:
        return f"{first} {_INFIX[node.op]} {_operand(node.args[1])}"
    if node.op == "cast":
        return f"{node.type}({wording(node.args[0])})"
    if node.op == "is_null":
        return f"{first} is null"
    if node.op in ("not", "neg"):
        return f"{'not ' if node.op == 'not' else '-'}{first}"
    return f"{node.op}({wording(node.args[0])})"


def _operand(node: Node) -> str:
    text = wording(node)
    return f"({text})" if isinstance(node, Call) and node.op != "cast" and node.op not in ("upper", "lower") else text
