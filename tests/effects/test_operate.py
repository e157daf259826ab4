"""What operators do: targets stopped and started, unknown outcomes answered, effects sent once more, progress (P18, P19)."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from ensue.effects.ledger import (
    discard_effects,
    effect_states,
    forget_order_keys,
    prune_effects,
    show_effect,
)
from ensue.effects.operate import (
    attempts_of,
    pause_target,
    progress,
    replay_effects,
    resolve_effects,
    resume_target,
    target_states,
    unserved_effects,
)
from ensue.effects.target import Handling
from ensue.errors import UnknownOutcome
from ensue.schema.delivery import Retry
from ensue.store.statement import Call, Work
from tests.effects.world import NAME, Recorder, World, enqueue, query


async def test_an_unknown_outcome_is_answered_by_an_operator(world: World) -> None:
    seen = Recorder(lambda row: UnknownOutcome("no answer") if len(seen.rows) <= 3 else None)
    worker = await world.worker(seen)
    await world.enqueue(world.effects(3))
    await worker.drain()
    ids = await world.rows("id")
    assert await resolve_effects(world.driver, ids[:1], arrived=True, note="seen in their list") == ids[:1]
    assert await resolve_effects(world.driver, ids[1:2], arrived=False) == ids[1:2]
    assert await discard_effects(world.driver, ids[2:]) == ids[2:]
    await worker.drain()
    assert await world.rows() == ["done", "done", "cancelled"]
    assert seen.numbers == [1, 2, 3, 2]
    assert await effect_states(world.driver, [*ids[1:], 99]) == {ids[1]: "done", ids[2]: "cancelled"}
    detail = await show_effect(world.driver, ids[0])
    assert (detail.note, detail.target) == ("seen in their list", NAME)
    assert [entry.outcome for entry in await attempts_of(world.driver, ids[1])] == ["doubt", "succeed"]


WEEK = timedelta(days=7)


async def order_keys(world: World) -> list[tuple[str, int]]:
    return await world.driver.read(query("SELECT order_key, last_position FROM ensue_effect_order ORDER BY order_key"))


OLD = "state = 'done', settled_at = 1"
"""Done in 1970."""


async def test_order_keys_of_which_nothing_is_left_are_forgotten(world: World) -> None:
    seen = Recorder(lambda row: RuntimeError("down") if row.record_id == 2 else None)
    worker = await world.worker({NAME: Handling(seen, Retry(max_attempts=1), ordered=True)})
    for key in ("a", "dead", "waits", "b", "b"):
        await world.enqueue(world.effects(1, order=key))
    await world.set("available_at = available_at + CASE WHEN record_id = 3 THEN 3600000000 ELSE 0 END")
    await worker.drain()
    await world.enqueue([*world.effects(1, order="dead"), *world.effects(1, order="waits")])
    # Of `b` the first was done long ago and the second just now; of `dead` and `waits` the newest is gone, and not the first.
    await world.set(
        f"{OLD.replace('1', 'CASE WHEN record_id = 5 THEN settled_at ELSE 1 END')} WHERE record_id NOT IN (2, 3)"
    )
    assert await prune_effects(world.driver, older_than=WEEK) == 4
    assert await order_keys(world) == [(f"{NAME}|b", 2), (f"{NAME}|dead", 2), (f"{NAME}|waits", 2)]
    await world.enqueue([*world.effects(2, order="waits"), *world.effects(1, order="b"), *world.effects(1, order="a")])
    assert await world.rows("position") == [1, 1, 2, 3, 4, 3, 1]


async def test_positions_go_on_while_anything_of_a_key_is_in_the_table(world: World) -> None:
    """The ledger tells effects of a key apart by them."""
    seen = Recorder()
    worker = await world.worker({NAME: Handling(seen, ordered=True)})
    for _ in range(3):
        await world.enqueue(world.effects(1, order="a"))
        await worker.drain()
        assert await prune_effects(world.driver, older_than=WEEK) == 0
    assert await world.rows("position") == [1, 2, 3]
    await world.set(OLD)
    assert await prune_effects(world.driver, older_than=WEEK) == 3
    assert await order_keys(world) == []


async def test_many_order_keys_are_forgotten_in_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensue.effects.ledger.ORDER_KEYS_AT_ONCE", 10)
    for n in range(25):
        await world.enqueue(world.effects(1, order=f"k{n}"))
    await world.set(OLD)
    await prune_effects(world.driver, older_than=WEEK)
    assert await order_keys(world) == []


async def test_a_key_that_is_being_used_is_not_forgotten(postgres_url: str) -> None:
    """A transaction took a position and has not committed: what waits of the key can't be seen yet."""
    async with World(postgres_url) as world:
        await world.enqueue(world.effects(1, order="a"))
        await world.set(OLD)
        other, taken, go_on = await world.open(), asyncio.Event(), asyncio.Event()

        async def pause(_session: object) -> None:
            taken.set()
            await go_on.wait()

        def slow() -> Work[None]:
            yield from enqueue(other, world.effects(1, order="a"))
            yield Call(pause)

        enqueuing = asyncio.create_task(other.write(slow()))
        await taken.wait()
        assert await prune_effects(world.driver, older_than=WEEK) == 1
        go_on.set()
        await enqueuing
        assert await order_keys(world) == [(f"{NAME}|a", 2)]
        await world.enqueue(world.effects(1, order="a"))
        assert await world.rows("position") == [2, 3]


async def test_whoever_comes_while_a_key_is_forgotten_waits_for_it(postgres_url: str) -> None:
    async with World(postgres_url) as world:
        await world.enqueue(world.effects(1, order="a"))
        await world.set(OLD)
        other, forgotten, go_on = await world.open(), asyncio.Event(), asyncio.Event()

        async def pause(_session: object) -> None:
            forgotten.set()
            await go_on.wait()

        def slow() -> Work[None]:
            yield from forget_order_keys("postgresql", {f"{NAME}|a": 1})
            yield Call(pause)

        pruning = asyncio.create_task(other.write(slow()))
        await forgotten.wait()
        enqueuing = asyncio.create_task(world.driver.write(enqueue(world.driver, world.effects(1, order="a"))))
        assert not (await asyncio.wait([enqueuing], timeout=0.2))[0]
        go_on.set()
        await asyncio.gather(pruning, enqueuing)
        assert await order_keys(world) == [(f"{NAME}|a", 1)]
        assert await world.rows("state, position") == [("done", 1), ("pending", 1)]


async def test_what_came_between_the_look_and_the_lock_is_seen(world: World) -> None:
    await world.enqueue(world.effects(1, order="a"))

    def late() -> Work[None]:
        work = forget_order_keys(world.driver.dialect, {f"{NAME}|a": 1})
        next(work)
        yield work.send([(f"{NAME}|a",)])

    await world.driver.write(late())
    assert await order_keys(world) == [(f"{NAME}|a", 1)]


async def test_a_replay_is_something_new_and_comes_last(world: World) -> None:
    seen = Recorder()
    worker = await world.worker({NAME: Handling(seen, ordered=True)})
    await world.enqueue(world.effects(2, order="a"))
    await worker.drain()
    assert await replay_effects(world.driver, [1, 99]) == [1]
    await worker.drain()
    assert seen.numbers == [1, 2, 1]
    assert len({row.key for row in seen.rows}) == 3
    assert [row.position for row in seen.rows] == [1, 2, 3]
    assert await replay_effects(world.driver, [1, 2], per_second=0.5) == [1, 2]
    waits = (await world.rows("available_at - enqueued_at"))[-1]
    assert 1_900_000 < waits < 2_100_000


async def test_targets_are_stopped_and_started(world: World) -> None:
    seen = Recorder()
    worker = await world.worker(seen)
    await pause_target(world.driver, NAME, "maintenance")
    await world.enqueue(world.effects(2))
    await worker.drain()
    [state] = await target_states(world.driver)
    assert (state.target, state.paused, state.reason, state.breaker) == (NAME, True, "maintenance", "closed")
    [found] = await progress(world.driver)
    assert (found.name, found.pending, found.claimed, found.settled) == (NAME, 2, 0, 0)
    assert await resume_target(world.driver, NAME, [NAME])
    assert not await resume_target(world.driver, "never seen")
    await worker.drain()
    assert await world.rows() == ["done", "done"]
    assert [(one.settled, one.pending) for one in await progress(world.driver)] == [(2, 0)]


async def test_effects_of_a_name_that_nobody_serves_are_told_of(world: World) -> None:
    worker = await world.worker(Recorder())
    await world.enqueue(world.effects(2))
    assert await unserved_effects(world.driver, worker.names) == {}
    assert await unserved_effects(world.driver, {"renamed.call"}) == {NAME: 2}
    await worker.drain()
    assert await unserved_effects(world.driver, {"renamed.call"}) == {}
