"""What statements over a list of values have in common: the list travels as one JSON parameter, so that the text is constant.

Decides how each database reads the list. Leaves what is done with it to the statements.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from ensue.store.driver import Dialect, Driver
from ensue.store.statement import Run, Statement, Work


def each(dialect: Dialect) -> str:
    """A sub-select of the elements of the first parameter, a JSON list, as text."""
    return (
        "SELECT value FROM json_each(?1)" if dialect == "sqlite" else "SELECT json_array_elements_text($1::text::json)"
    )


def each_id(dialect: Dialect) -> str:
    """The same as numbers."""
    return each(dialect) if dialect == "sqlite" else f"SELECT v::bigint FROM ({each(dialect)}) AS t(v)"


def as_json(value: Any) -> str:
    """The parameter that carries `value`."""
    return msgspec.json.encode(value).decode()


def rows_of(statement: Statement, params: Sequence[Any] = ()) -> Work[list[tuple[Any, ...]]]:
    """The work of one statement."""
    return (yield Run(statement, params))


async def states_of(driver: Driver, table: str, ids: Sequence[int]) -> dict[int, str]:
    """The states of the rows with those ids, for those that there are."""
    text = f"SELECT id, state FROM {table} WHERE id IN ({each_id(driver.dialect)}) ORDER BY id"
    return dict(await driver.read(rows_of(Statement(f"{table}.states", text, rows=True), (as_json(list(ids)),))))


async def change_rows(
    driver: Driver, name: str, table: str, change: str, *, states: str, ids: Sequence[int], more: Sequence[Any] = ()
) -> list[int]:
    """Set `change` in the rows with those ids that are in one of `states`, an SQL list; answers which they were, sorted.

    `more` are the parameters of `change`, from the second on.
    """
    text = f"UPDATE {table} SET {change} WHERE state IN {states} AND id IN ({each_id(driver.dialect)}) RETURNING id"
    rows = await driver.write(rows_of(Statement(name, text, rows=True), (as_json(list(ids)), *more)))
    return sorted(row[0] for row in rows)
