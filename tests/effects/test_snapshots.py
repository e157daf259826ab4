"""What a snapshot that somebody keeps open leaves in the indexes on PostgreSQL, and what commits late, is met by delivery."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ensue.effects.ledger import retry_effects
from ensue.effects.outbox import Due, Gate, Turn, Want, claim, due, first_after, micros, outcome
from ensue.effects.sql.claim import CLAIM
from ensue.effects.sql.lists import as_json
from ensue.effects.states import SETTLED, TRANSITIONS
from ensue.errors import Unavailable
from ensue.store.statement import Statement
from tests.effects.world import NAME, Recorder, World, enqueue, query
from tests.services import PostgresServer

DELIVERED = 12_000
A_LOOK_BLOCKS = 60
"""However much was delivered: what is passed over in an index is read too."""


@pytest_asyncio.fixture
async def world(postgres_url: str) -> AsyncIterator[World]:
    async with World(postgres_url) as world:
        yield world


def want(found: Due | None = None, *, keyed: bool) -> Want:
    floor, server = (0, 0) if found is None else (found.floor, found.server)
    return Want(NAME, 8, NAME, keyed=keyed, after=first_after(NAME), floor=floor, server=server)


async def look(world: World, *, keyed: bool) -> Due:
    [found] = await world.driver.read(due("postgresql", [want(keyed=keyed)]))
    return found


async def blocks_of(world: World, statement: Statement, *params: object) -> int:
    """What a statement reads."""
    text = f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) {statement.text}"
    lines = [row[0] for row in await world.driver.read(query(text, *params))]
    return max(int(found.group(1)) for line in lines if (found := re.search(r"shared hit=(\d+)", line)))


async def blocks_of_a_claim(world: World, asked: Want) -> int:
    """What a claim that finds nothing reads."""
    params = (as_json([asked]), as_json([Gate(NAME)]), "t", micros(30), "w", False)
    return await blocks_of(world, CLAIM["postgresql"].claim, *params)


async def blocks_of_a_look(world: World, asked: Want) -> int:
    """What it costs to learn that nothing is due."""
    return await blocks_of(world, CLAIM["postgresql"].due, as_json([asked]))


@pytest.mark.parametrize("order", [None, "a"])
async def test_what_was_delivered_under_an_old_snapshot_costs_a_claim_next_to_nothing(
    world: World, order: str | None
) -> None:
    keyed = order is not None
    other = await world.open()
    async with other.transaction() as session:
        await session.run(query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        await session.run(query("SELECT count(*) FROM ensue_effect"))
        for _ in range(DELIVERED // 1000):
            await world.enqueue(world.effects(1000, order=order))
            await world.set("state = 'claimed', lease_token = 't', lease_until = 9e15")
            await world.set("state = 'done', lease_token = NULL, lease_until = NULL, settled_at = 1")
        await world.driver.write(query("ANALYZE ensue_effect"))
        everything = await blocks_of_a_claim(world, want(keyed=keyed))
        anew = await blocks_of_a_look(world, want(keyed=keyed))
        known = want(await look(world, keyed=keyed), keyed=keyed)
        above_the_floor, looked = await blocks_of_a_claim(world, known), await blocks_of_a_look(world, known)
    assert above_the_floor * 4 < everything
    assert looked * 4 < anew
    assert max(above_the_floor, looked) < A_LOOK_BLOCKS


async def test_a_transaction_that_commits_late_is_not_passed_over(world: World) -> None:
    late = await world.open()
    seen = Recorder()
    worker = await world.running(seen)
    [first, *others] = world.effects(5)
    async with late.transaction() as session:
        await session.run(enqueue(late, [first]))
        await world.enqueue(others)
        await world.until(lambda: len(seen.rows) == 4)
        await worker.drain()
        assert (await look(world, keyed=False)).floor <= (await world.rows("since_transaction"))[-1]
    await world.until_all("done")
    assert seen.numbers[-1] == 1


async def test_the_older_of_a_key_is_not_passed_over(world: World) -> None:
    seen = Recorder()
    await world.enqueue(world.effects(1, order="a"))
    claims = await world.claim()
    await world.enqueue(world.effects(2, order="a"))
    worker = await world.worker(seen)
    await worker.drain()
    assert not seen.rows, "the head is somebody else's"
    await world.settle([outcome(one, "retry", error=("transient", "x")) for one in claims])
    await worker.drain()
    assert [row.position for row in seen.rows] == [1, 2, 3]


async def test_the_floor_of_another_server_is_ignored(world: World) -> None:
    await world.enqueue()
    found = await look(world, keyed=False)
    strange = Want(NAME, 8, NAME, floor=2**62, server=found.server + 1)
    assert len(await world.driver.write(claim("postgresql", Turn([strange], [Gate(NAME)], "t", "w", micros(30))))) == 1


async def test_a_server_of_which_a_process_was_killed_is_another_one(postgres_server: PostgresServer) -> None:
    """It goes on under the same postmaster, and gives numbers of transactions again that were not on the disk yet."""
    async with World(postgres_server.url) as world:
        found = await look(world, keyed=False)
        [[started, pid]] = await world.driver.read(query("SELECT pg_postmaster_start_time(), pg_backend_pid()"))
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            while True:
                try:
                    await world.enqueue(world.effects(1))
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
        assert await world.driver.read(query("SELECT pg_postmaster_start_time()")) == [(started,)]
        high = Want(NAME, 8, NAME, floor=2**62, server=found.server)
        assert (await world.driver.read(due("postgresql", [high])))[0].claimable_in is not None
        assert len(await world.driver.write(claim("postgresql", Turn([high], [Gate(NAME)], "t", "w", micros(30))))) == 1


async def test_what_begins_to_wait_again_is_above_every_floor(world: World) -> None:
    seen = Recorder(lambda row: TypeError("wrong") if len(seen.rows) < 4 else None)
    worker = await world.worker(seen)
    await world.enqueue()
    for _ in range(3):
        await worker.drain(waiting=True)
    assert await world.rows() == ["dead"]
    # The floor rises with what others do meanwhile.
    await world.enqueue(world.effects(1, name="other"))
    await worker.drain()
    assert (await look(world, keyed=False)).floor > (await world.rows("since_transaction"))[0]
    await retry_effects(world.driver, [1])
    await worker.drain()
    assert (await world.rows())[0] == "done"


def test_only_operators_set_going_what_was_settled() -> None:
    """And give it the number of their transaction: whoever else did would have to."""
    revived = {one.name for one in TRANSITIONS.values() if {*one.sources} & {*SETTLED} and one.target not in SETTLED}
    assert revived == {"requeue"}


async def test_plans_are_made_anew_when_a_new_table_has_grown(world: World) -> None:
    """Those of an empty table read all of it."""
    seen = Recorder()
    worker = await world.worker(seen)
    asked: list[str] = []
    worker._driver.observers.append(lambda statement, _n: asked.append(statement.name))  # pyright: ignore[reportPrivateUsage]
    await world.enqueue(world.effects(900))
    await worker.drain()
    assert "effect.analyze" not in asked
    await world.enqueue(world.effects(400))
    await worker.drain()
    assert asked.count("effect.analyze") == 1


async def test_plans_are_not_made_anew_for_a_table_that_was_large_before(world: World) -> None:
    """With millions of rows, each start of a process would pay for it."""
    await world.driver.write(query("ALTER TABLE ensue_effect ALTER COLUMN id RESTART WITH 1000000"))
    worker = await world.worker(Recorder())
    asked: list[str] = []
    worker._driver.observers.append(lambda statement, _n: asked.append(statement.name))  # pyright: ignore[reportPrivateUsage]
    for _ in range(2):
        await world.enqueue()
        await worker.drain()
    assert "effect.claim" in asked
    assert "effect.analyze" not in asked


async def test_what_was_claimed_is_called_even_if_plans_can_not_be_made_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would wait for the end of its lease, and count as left by a worker that was lost."""
    seen = Recorder()
    worker = await world.worker(seen)
    monkeypatch.setattr(worker, "_growths", (1,))
    monkeypatch.setattr("ensue.effects.deliver.plan_anew", lambda: query("SELECT 1 / 0"))
    await world.enqueue(world.effects(3))
    await worker.start()
    await world.until_all("done")
    assert sorted(seen.numbers) == [1, 2, 3]
