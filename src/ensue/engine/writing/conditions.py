"""Conditions and expressions of write calls: which rows they choose, and what a value becomes under the row's lock.

On PostgreSQL a bulk write locks the chosen ids in order first and chooses again in a later statement, so that a row which
another transaction changed meanwhile is judged as it is now.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from ensue.engine.propagation.propagate import propagate
from ensue.engine.read.reads import find
from ensue.engine.transaction import Transaction
from ensue.errors import DeclarationError, InvalidValue
from ensue.expression.nodes import Column, columns
from ensue.expression.python import compile_function, source
from ensue.expression.resolve import resolve
from ensue.expression.trace import Expr, Path, Root
from ensue.plan.plan import RecordPlan
from ensue.plan.tables import link_of
from ensue.store.statement import Run, Work

Computed = list[tuple[int, Callable[[list[Any]], Any]]]


def condition_ids(tx: Transaction, plan: RecordPlan, where: Any) -> Work[list[int]]:
    """The ids of the rows that satisfy `where` (an expression, or values by member name), locked in order."""
    condition = _equalities(cast("Mapping[str, Any]", where)) if isinstance(where, Mapping) else where
    if tx.pending:
        yield from propagate(tx)
    ids = yield from _chosen(tx, plan, condition)
    if ids and tx.plan.dialect == "postgresql":
        lock = tx.plan.records[plan.name].statements.select_many["update"]
        yield Run(lock, (ids,))
        # What came to match meanwhile is not locked and may be changing again: it is as if it came after this write.
        locked = set(ids)
        ids = [id_ for id_ in (yield from _chosen(tx, plan, condition)) if id_ in locked]
    return ids


def _chosen(tx: Transaction, plan: RecordPlan, condition: Any) -> Work[list[int]]:
    found = yield from find(tx.reader, plan.name, condition, fields=[Path(Root(None), ("id",))])
    return [record.__ensue_id__() for record in found]


def _equalities(values: Mapping[str, Any]) -> Expr[bool]:
    condition: Expr[bool] | None = None
    for name, value in values.items():
        one = Path(Root(None), (name,)) == value
        condition = one if condition is None else condition & one
    assert condition is not None
    return condition


def expression_values(tx: Transaction, plan: RecordPlan, values: Mapping[str, Any]) -> tuple[dict[str, Any], Computed]:
    """Plain values, and those given as expressions as functions of the row under its lock."""
    plain: dict[str, Any] = {}
    computed: Computed = []
    for name, value in values.items():
        if isinstance(value, Expr) and name in plan.normalise:
            computed.append((plan.index[name], _compute(tx, plan, name, cast("Expr[Any]", value))))
        else:
            plain[name] = value
    return plain, computed


def _compute(tx: Transaction, plan: RecordPlan, name: str, value: Expr[Any]) -> Callable[[list[Any]], Any]:
    node = resolve(value, plan.name, tx.plan.model)
    if any(column.path for column in columns(node)):
        raise DeclarationError(
            f"The new value of {plan.name}.{name} reads another record; an update's expression reads the updated row only. "
            "Declare a Computed for it, or read the value first."
        )

    def column(node: Column) -> str:
        field = node.field if node.field in plan.index else link_of(plan.model, node.field)
        return f"row[{plan.index[field]}]"

    constants: dict[str, Any] = {}
    evaluate = compile_function("assign", ("row",), source(node, column, constants), constants)
    check = plan.normalise[name]

    def compute(row: list[Any]) -> Any:
        try:
            return check(evaluate(row))
        except (ValueError, TypeError) as error:
            # An expression's own refusal says its code first, which the new one says already.
            found = (error.message if isinstance(error, InvalidValue) else str(error)).removesuffix(".")
            raise InvalidValue(f"{plan.name} does not accept: {name}: {found}.", fields={name: found}) from error

    return compute
