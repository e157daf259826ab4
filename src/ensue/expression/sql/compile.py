"""SQLAlchemy statements as text and parameter order for the raw drivers.

Decides how values get from names to positions, encoded. Invariant: the text is constant: nothing in it depends on the
values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.engine import Dialect as SaDialect
from sqlalchemy.sql import ClauseElement

from ensue.errors import InternalError
from ensue.expression.python import compile_function
from ensue.expression.sql.codecs import Codec, Dialect
from ensue.expression.sql.types import parameter_encoder
from ensue.store.statement import Statement


def sqlalchemy_dialect(dialect: Dialect) -> SaDialect:
    """The SQLAlchemy dialect that ensue's statements are compiled with: `?` on SQLite, `$1` on PostgreSQL."""
    return SQLiteDialect(paramstyle="qmark") if dialect == "sqlite" else PGDialect_asyncpg()


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A statement and how to make its parameters.

    `names` are the values that a caller gives, in the order that `bind_row` takes them. `encoders` has the codec of
    each (None: none). `bind` takes the values by name.
    """

    statement: Statement
    names: tuple[str, ...]
    encoders: Mapping[str, Codec | None]
    bind: Callable[[Mapping[str, Any]], tuple[Any, ...]]
    bind_row: Callable[[Sequence[Any]], tuple[Any, ...]]


def compile_statement(
    statement: ClauseElement,
    dialect: Dialect,
    name: str,
    *,
    order: Sequence[str] | None = None,
    rows: bool | None = None,
) -> Compiled:
    """Compile once. `name` shows in logs and counts; `order` fixes the order of the values for `bind_row` (default: as
    they appear).

    `rows` says whether the statement returns rows; by default SQLAlchemy's own idea (SELECT, RETURNING).
    """
    compiled: Any = statement.compile(dialect=sqlalchemy_dialect(dialect))
    text: str = compiled.string
    if "POSTCOMPILE" in text:
        raise InternalError(
            f"The statement {name} has a list whose length changes its text; pass it as one parameter (ValueList)."
        )
    returns = (
        bool(getattr(compiled, "effective_returning", None) or getattr(statement, "is_select", False))
        if rows is None
        else rows
    )
    # DDL has neither.
    binds: dict[str, Any] = getattr(compiled, "binds", {})
    positions: list[str] = list(getattr(compiled, "positiontup", None) or ())
    given: tuple[str, ...] = tuple(dict.fromkeys(key for key in positions if _given(binds[key])))
    names: tuple[str, ...] = given if order is None else tuple(order)
    if missing := set(given) - set(names):
        raise InternalError(
            f"The statement {name} needs the values {sorted(missing)}, which are not in the order {names}."
        )
    encoders = {key: parameter_encoder(binds[key].type, dialect) for key in given}
    constants: dict[str, Any] = {}
    cells = [_cell(binds[key], dialect, constants) for key in positions]
    by_name = (cell.format(f"values[{key!r}]") for key, cell in zip(positions, cells, strict=True))
    by_row = (
        cell.format(f"values[{names.index(key)}]" if key in given else "")
        for key, cell in zip(positions, cells, strict=True)
    )
    return Compiled(
        Statement(name, text, rows=returns),
        names,
        encoders,
        compile_function("bind", ("values",), f"({''.join(cell + ', ' for cell in by_name)})", constants),
        compile_function("bind_row", ("values",), f"({''.join(cell + ', ' for cell in by_row)})", constants),
    )


def _given(bind: Any) -> bool:
    return bool(bind.required) and bind.callable is None


def _cell(bind: Any, dialect: Dialect, constants: dict[str, Any]) -> str:
    """The source of one parameter, with `{}` where the given value goes."""
    encode = parameter_encoder(bind.type, dialect)
    name = f"_v{len(constants)}"
    if not _given(bind):
        fixed = bind.effective_value
        constants[name] = fixed if encode is None or fixed is None else encode(fixed)
        return name
    if encode is None:
        return "{}"
    constants[name] = encode
    return f"(None if (_x := {{}}) is None else {name}(_x))"
