"""What operators do: targets stopped and started, unknown outcomes answered, effects sent once more, progress (P18, P19)."""

from __future__ import annotations

from ensue.effects.ledger import discard_effects, effect_states, show_effect
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
from tests.effects.world import NAME, Recorder, World


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
