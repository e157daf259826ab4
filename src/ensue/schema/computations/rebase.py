"""Moving an expression from the member of a collection to the edge row that stands for it.

Decides nothing about meaning: the same columns are read, by a longer path, at whose end there may be nobody. Invariant:
roots of enclosing or inner rows are left as they are.
"""

from __future__ import annotations

from dataclasses import replace

from ensue.expression.nodes import Call, Column, Exists, Follow, Node, with_arguments
from ensue.schema.computations.contract import Edges
from ensue.schema.written.value import BOOL, INT


def rebase(node: Node, edges: Edges) -> Node:
    """`node`, rooted at the member at `edges.prefix`, rooted at the edge row instead."""
    return _move(node, edges, 0) if edges.prefix else node


def present(edges: Edges) -> Node:
    """The condition that there is a member at the end of the prefix."""
    link = Column(edges.prefix[:-1], edges.prefix[-1], INT, optional=True)
    return Call("not", (Call("is_null", (link,), BOOL, optional=False),), BOOL, optional=False)


def _move(node: Node, edges: Edges, depth: int) -> Node:
    if isinstance(node, Column):
        return _column(node, edges) if node.depth == depth else node
    if isinstance(node, Call):
        return with_arguments(node, tuple(_move(argument, edges, depth) for argument in node.args))
    if isinstance(node, Exists):
        condition = None if node.condition is None else _move(node.condition, edges, depth + 1)
        hops = node.hops
        if node.depth == depth:
            hops = (*(hop for hop in edges.hops[-len(edges.prefix) :] if isinstance(hop, Follow)), *hops)
        return replace(node, hops=hops, condition=condition)
    return node


def _column(column: Column, edges: Edges) -> Column:
    if column.field == "id" and not column.path:
        return replace(column, path=edges.prefix[:-1], field=edges.prefix[-1], optional=edges.partial)
    return replace(column, path=(*edges.prefix, *column.path), optional=column.optional or edges.partial)
