"""The structural key of a read: equal for two reads that differ only in their literals.

Decides what of a trace is structure (it ends up in the statement) and what is a value (it is bound at each
execution). Leaves the meaning of names to `resolve`. Invariant: equal keys give equal statements; the literals come
out in one fixed order, so that the values of a later read can be bound to the statement of an earlier one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import timedelta
from typing import Any, cast

from ensue.errors import ExpressionError
from ensue.expression.trace import Literal, Operation, Order, Path, Quantified, Root, Shape


class Keys:
    """Makes the keys of one read, and gathers its literals on the way.

    >>> from ensue.expression.trace import Path, Root
    >>> keys = Keys()
    >>> keys.key(Path(Root("Post"), ("score",)) > 3)
    ('gt', ('Post', ('score',)), <class 'int'>)
    >>> keys.literals
    [3]
    """

    __slots__ = ("_tokens", "literals")

    def __init__(self) -> None:
        self.literals: list[Literal] = []
        self._tokens: dict[int, int] = {}

    def key(self, item: Any) -> Hashable:
        """The key of an expression, an order, a field, or a sequence of them."""
        make = _MAKERS.get(item.__class__)
        return make(self, item) if make is not None else self._other(item)

    def keys(self, items: Sequence[Any]) -> Hashable:
        """The keys of several."""
        return tuple([self.key(item) for item in items])

    def path(self, item: Path) -> Hashable:
        return self._root(item.root), item.steps

    def operation(self, item: Operation) -> Hashable:
        key = self.key
        return (item.op, *[key(argument) for argument in item.args])

    def literal(self, item: Literal) -> Hashable:
        value = item.value
        if isinstance(value, timedelta) or value is None:
            return ("constant", value)
        self.literals.append(item)
        if isinstance(value, tuple):
            return frozenset([_type(member) for member in cast("tuple[Any, ...]", value)])
        return _type(value)

    def quantified(self, item: Quantified) -> Hashable:
        root = self._root(item.root)
        return ("any", self.path(item.collection), root, None if item.condition is None else self.key(item.condition))

    def order(self, item: Order) -> Hashable:
        return ("order", self.key(item.value), item.descending)

    def shape(self, item: Shape) -> Hashable:
        path = None if item.path is None else self.path(item.path)
        where = None if item.where is None else self.key(item.where)
        return ("shape", path, self.keys(item.fields), where, self.keys(item.order_by), item.limit)

    def _root(self, root: Root) -> Hashable:
        """A named root is itself; the parameter of a lambda is the number of its first appearance."""
        return root.record if root.token == 0 else (root.record, self._tokens.setdefault(root.token, len(self._tokens)))

    def _other(self, item: Any) -> Hashable:
        if isinstance(item, type):
            return cast("Hashable", item)
        for kind, make in _MAKERS.items():
            if isinstance(item, kind):
                return make(self, item)
        raise ExpressionError(
            f"A read was given {item!r} ({type(item).__name__}) as a field, condition or order; expected an "
            f"expression such as `Post.title`, a selection such as `Post.author.fields(User.name)`, or a name."
        )


def _type(value: Any) -> Hashable:
    """What of a value decides how it is resolved: its class; and a float that is whole can stand for an int."""
    return value.__class__ if value.__class__ is not float else (float, value.is_integer())


def _name(_: Keys, item: str) -> Hashable:
    return item


_MAKERS: dict[type[Any], Any] = {
    Path: Keys.path,
    Operation: Keys.operation,
    Literal: Keys.literal,
    Quantified: Keys.quantified,
    Order: Keys.order,
    Shape: Keys.shape,
    str: _name,
    list: Keys.keys,
    tuple: Keys.keys,
}
