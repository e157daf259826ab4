"""`Computed`: a value of a record from its own columns and those at the end of its to-one links."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ensue.errors import DeclarationError
from ensue.expression.trace import Expr
from ensue.schema.computations.contract import Built, Computation, Scope, agree
from ensue.schema.model import Formula

T = TypeVar("T")


class Computed(Computation[T]):
    """`heading = Computed[str](lambda p: p.title + " by " + p.author.name)`; the subscript fixes the type for
    checkers.
    """

    def __init__(self, expression: Callable[[Any], Expr[T]]) -> None:
        super().__init__()
        self.expression = expression

    def build(self, scope: Scope) -> Built:
        if scope.is_global:
            raise DeclarationError("Computed belongs to a record; a Globals class has aggregates over entities only.")
        value = scope.expression(self.expression, scope.host, "Computed")
        type_, optional = agree(scope.declared, value.type, optional=value.optional)
        return Built(Formula(value), type_, optional)
