"""The statements of delivery use their indexes on a filled table: what is settled and what waits must not slow them down."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from ensue.effects.outbox import Gate, Want, first_after, micros, outcome
from ensue.effects.sql.claim import CLAIM, PICK
from ensue.effects.sql.settle import SETTLE
from ensue.store.effect_table import supersede_params, supersede_statements
from ensue.store.statement import Statement
from tests.effects.world import NAME, World, query

FILL = {
    "sqlite": "WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < {0})",
    "postgresql": "WITH g AS (SELECT n FROM generate_series(1, {0}) AS n)",
}


async def filled(world: World) -> None:
    """Many settled, many that wait, and one key behind whose head thousands wait."""
    fill = FILL[world.driver.dialect]
    for count, state, key in ((20_000, "done", "NULL"), (5_000, "pending", "NULL"), (5_000, "pending", f"'{NAME}|a'")):
        await world.driver.write(
            query(
                f"{fill.format(count)} INSERT INTO ensue_effect (name, key, record, record_id, payload, state, order_key,"
                f" position, available_at, settled_at) SELECT '{NAME}', '{state}' || coalesce({key}, '') || n, 'M', n, '{{}}',"
                f" '{state}', {key}, CASE WHEN {key} IS NOT NULL THEN n END, n, CASE WHEN '{state}' = 'done' THEN n END FROM g"
                " RETURNING id"
            )
        )
    if world.driver.dialect == "postgresql":
        await world.driver.write(query("ANALYZE ensue_effect"))


def json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


async def plan(world: World, statement: Statement, *params: Any) -> str:
    """The plan that every parameter gets, as a prepared statement has it."""
    if world.driver.dialect == "sqlite":
        return "\n".join(
            row[3] for row in await world.driver.read(query(f"EXPLAIN QUERY PLAN {statement.text}", *params))
        )
    return "\n".join(row[0] for row in await world.driver.read(query(f"EXPLAIN {statement.text}", *params)))


async def test_no_statement_reads_the_whole_table(world: World) -> None:
    await filled(world)
    claims = await world.claim(free=5)
    wants, gates = [Want(NAME, 8, NAME, after=first_after(NAME))], [Gate(NAME, concurrency=5)]
    statements, settling = CLAIM[world.driver.dialect], SETTLE[world.driver.dialect]
    plans = [
        await plan(world, statements.due, json(wants)),
        await plan(
            world, statements.walk_end, NAME, first_after(NAME), *(() if world.driver.dialect == "sqlite" else (0, 0))
        ),
    ]
    if world.driver.dialect == "postgresql":
        plans.append(await plan(world, statements.claim, json(wants), json(gates), "t", micros(30), "w", True))
    else:
        plans.append(await plan(world, PICK.room, json(gates)))
        plans.append(await plan(world, PICK.plain, NAME, 8))
        plans.append(await plan(world, PICK.keyed, NAME, 8, first_after(NAME)))
    ends = json([outcome(one, "retry", error=("transient", "x"), parks=True, yields=True) for one in claims])
    plans += [await plan(world, settling.settle, ends), await plan(world, settling.note, ends)]
    plans.append(await plan(world, settling.beat, json([one.lease for one in claims]), micros(30)))
    superseding = supersede_statements(world.driver.dialect)
    plans += [await plan(world, statement, *supersede_params({f"{NAME}|a": 3})) for statement in superseding]
    assert any("ensue_effect_claimed" in text for text in plans), "what goes to a target is counted over its index"
    for text in plans:
        assert not re.search(r"Seq Scan on ensue_effect( |$)|SCAN (e|h|n|ensue_effect)( |$)(?!USING)", text, re.M), text


@pytest.mark.parametrize("behind", [5_000])
async def test_a_long_key_is_one_look(world: World, behind: int) -> None:
    await filled(world)
    claims = await world.claim(free=10_000 - behind + 1)
    assert sum(1 for one in claims if one.row.order_key is not None) == 1, "the head alone, however many wait behind it"
