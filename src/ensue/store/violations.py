"""The errors by which a driver reports that the database refused a write, in the same words for every database.

Decides codes, constraint names and messages. Leaves reading native errors to the drivers, and names of the schema
(which column is which property) to the engine. Codes are `unique`, `reference`, `check`, `not_null`, and `invalid` for
values that can't be stored. Invariant: `.constraint` of `unique` and `not_null` is `table(column,column)` in both
databases; of `check` it is the name of the constraint; of `reference` it is `table(column)` where the database tells
the column, the constraint's name or `""` else.
"""

from collections.abc import Sequence

from ensue.errors import ConstraintViolated, InternalError, InvalidValue
from ensue.store.statement import Statement


def constraint_name(table: str, columns: Sequence[str]) -> str:
    """How a unique, reference or not-null constraint is named in `ConstraintViolated.constraint`.

    >>> constraint_name("post", ["author_id", "slug"])
    'post(author_id,slug)'
    """
    return f"{table}({','.join(columns)})"


def unique(table: str, columns: Sequence[str], *, name: str = "") -> ConstraintViolated:
    """`name` is used only where the database tells no columns (an index over an expression)."""
    named = constraint_name(table, columns) if columns else name
    message = f"Another row has the same value of {', '.join(columns) or name}."
    return ConstraintViolated("unique", message, constraint=named, fields=dict.fromkeys(columns, "is already taken"))


def reference(
    table: str = "", columns: Sequence[str] = (), *, name: str = "", removed: bool = False
) -> ConstraintViolated:
    """`removed`: the referenced row was to be deleted; else the row that refers names one that doesn't exist."""
    named = constraint_name(table, columns) if columns else name
    if removed:
        return ConstraintViolated("reference", f"Rows of {table} still refer to it.", constraint=named)
    what = f"{table}.{', '.join(columns)} refers" if columns else "The write refers"
    message = f"{what} to a row that does not exist, or removes one that others refer to."
    return ConstraintViolated("reference", message, constraint=named, fields=dict.fromkeys(columns, "does not exist"))


def check(name: str) -> ConstraintViolated:
    return ConstraintViolated("check", f"The condition {name} does not hold.", constraint=name)


def not_null(table: str, column: str) -> ConstraintViolated:
    message = f"{column} of {table} needs a value."
    return ConstraintViolated(
        "not_null", message, constraint=constraint_name(table, [column]), fields={column: "is missing"}
    )


def overflow(column: str = "") -> InvalidValue:
    where = f" for {column}" if column else ""
    message = f"A number is out of the range of its column{where} (integers have 64 bits)."
    return InvalidValue(message, fields={column: "is out of range"} if column else None)


def unstorable_text() -> InvalidValue:
    return InvalidValue("A text contains a NUL character or a lone surrogate, which no database stores; remove it.")


def broken_statement(statement: Statement, cause: BaseException) -> InternalError:
    return InternalError(f"The statement {statement.name} failed: {cause}\nSQL: {statement.text}")
