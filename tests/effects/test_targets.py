"""Limits, breakers, holds and pauses of targets over several workers, on both databases (pitfalls P13, P14, P22, P25, P26)."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from random import Random
from typing import Any

import pytest

from ensue.effects.breaker import CallWindow
from ensue.effects.deliver import Polling
from ensue.effects.outbox import Gate, Move, Turn, Want, claim, ensure_targets, first_after, micros, move, outcome
from ensue.effects.target import EffectRow, Handling
from ensue.errors import Throttled
from ensue.schema.delivery import Breaker, Rate, Retry, Target
from ensue.store.effect_table import NEVER
from tests.effects.world import NAME, Recorder, World, query

ENDED = "state = 'done', lease_token = NULL, lease_until = NULL, settled_at = 1"
QUICK_BREAKER = Breaker(consecutive=3, open_seconds=0.3)


async def target_rows(world: World, columns: str) -> list[Any]:
    return await world.driver.read(query(f"SELECT {columns} FROM ensue_effect_target ORDER BY target"))


async def test_an_outage_opens_the_breaker_for_all_parks_and_burns_no_attempt(world: World) -> None:
    down = True
    seen = Recorder(lambda _row: OSError("down") if down else None)
    handling = Handling(seen, Retry(max_attempts=1), target=Target("crm", breaker=QUICK_BREAKER), concurrency=2)
    await world.enqueue(world.effects(10))
    for seed in (1, 2):
        await world.running({NAME: handling}, seed=seed)

    async def is_open() -> bool:
        return bool(await target_rows(world, "target")) and "parked" in await world.rows()

    await world.until(is_open)
    called = len(seen.rows)
    assert called <= 3 + 3 * 2, "what is under way when it opens, and nothing after"
    down = False
    await world.until_all("done")
    assert await world.rows("attempt") == [1] * 10
    assert [row[0] for row in await target_rows(world, "breaker_state, target")] == ["closed"]


async def test_exactly_one_probe_goes_through(world: World) -> None:
    await world.enqueue(world.effects(5))
    await world.driver.write(move(world.driver.dialect, [Move("trip", NAME, pause=0)]))
    [probe] = await world.claim()
    assert probe.probe
    assert await world.claim(worker="other") == []
    reopened = Move("reopen", NAME, most=micros(300), token=probe.token, names=(NAME,))
    end = outcome(probe, "outage", error=("unavailable", "down"), parks=True)
    assert await world.settle([end], [reopened]) == {probe.row.id: "parked"}
    assert await target_rows(world, "breaker_state, probe_token") == [("open", None)]
    await world.driver.write(query("UPDATE ensue_effect_target SET open_until = 0 RETURNING target"))
    [probe] = await world.claim()
    late = Move("close", NAME, token="of another", names=(NAME,))
    assert await world.driver.write(move(world.driver.dialect, [late])) == []
    close = Move("close", NAME, token=probe.token, names=(NAME,))
    await world.settle([outcome(probe, "succeed")], [close])
    assert await target_rows(world, "breaker_state") == [("closed",)]
    assert "parked" not in await world.rows()
    assert len(await world.claim()) == 4


async def test_being_told_to_wait_holds_the_whole_target(world: World) -> None:
    first = Recorder(lambda _row: Throttled(30.0))
    other = Recorder()
    target = Target("crm")
    await world.enqueue(world.effects(1))
    await world.running({NAME: Handling(first, target=target), "b": Handling(other, target=target)})
    await world.until(lambda: len(first.rows) == 1)

    async def held() -> bool:
        return bool(await target_rows(world, "held_until"))

    await world.until(held)
    await world.enqueue([*world.effects(3, name="b"), *world.effects(2)])
    await asyncio.sleep(0.2)
    assert (len(first.rows), other.rows) == (1, [])
    assert (await world.rows("attempt"))[0] == 0


async def test_a_pause_stops_everything_and_a_resume_lets_it_go(world: World) -> None:
    seen = Recorder()
    await world.driver.write(move(world.driver.dialect, [Move("pause", NAME, reason="maintenance")]))
    await world.enqueue(world.effects(5))
    worker = await world.running(seen)
    await asyncio.sleep(0.2)
    assert seen.rows == []
    await world.driver.write(move(world.driver.dialect, [Move("resume", NAME, names=(NAME,))]))
    await world.until_all("done")
    assert worker is not None


async def test_the_concurrency_of_a_target_holds_for_the_fleet(world: World) -> None:
    running = most = 0

    async def handler(_row: EffectRow) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1

    await world.enqueue([*world.effects(20), *world.effects(20, name="b")])
    handling = Handling(handler, target=Target("crm", concurrency=3))
    for seed in (1, 2):
        await world.running({NAME: handling, "b": handling}, seed=seed)
    await world.until_all("done", seconds=20)
    assert most == 3


async def test_the_rate_of_a_target_holds_for_the_fleet(world: World) -> None:
    rate = Rate(20, per_seconds=1, burst=2)
    seen: list[float] = []

    async def handler(_row: EffectRow) -> None:
        seen.append(asyncio.get_running_loop().time())

    await world.enqueue(world.effects(14))
    handling = Handling(handler, target=Target("crm", rate=rate))
    for seed in (1, 2):
        await world.running({NAME: handling}, seed=seed)
    await world.until_all("done", seconds=20)
    assert seen[-1] - seen[0] >= 12 / 20 * 0.9, "two at once, the others at the rate"


@pytest.mark.parametrize(
    ("rate", "most"),
    [
        (Rate(1, per_seconds=1), 1),
        (Rate(2, per_seconds=1), 2),
        (Rate(15, per_seconds=1), 15),
        (Rate(100, per_seconds=60), 100),
        (Rate(1000, per_seconds=1), 1000),
        (Rate(100, per_seconds=1, burst=1), 100),
        (Rate(100, per_seconds=1, burst=50), 149),
    ],
)
def test_no_window_holds_more_calls_than_were_allowed(rate: Rate, most: int) -> None:
    """The bucket as the statements keep it, asked at random instants in integers of microseconds."""
    for seed in range(20):
        rng, now, refilled, tokens, calls = Random(seed), 0, 0, rate.burst_count, list[int]()
        while len(calls) < 4 * rate.count + 10:
            # Busy and idle stretches.
            now += rng.choice((1, 1_000, rng.randrange(round(rate.per_seconds * 2e6 / rate.count) + 1)))
            tokens = min(rate.burst_count, tokens + (now - refilled) * rate.refill_per_second / 1e6)
            refilled, taken = now, int(tokens)
            calls += [now] * taken
            tokens -= taken
        window = round(rate.per_seconds * 1e6)
        held = [bisect_left(calls, start + window) - n for n, start in enumerate(calls)]
        assert max(held) <= most


async def test_no_window_of_a_fleet_holds_more_calls_than_were_allowed(world: World) -> None:
    handling = Handling(Recorder(), target=Target("crm", rate=Rate(20, per_seconds=0.5)))
    await world.enqueue(world.effects(50))
    for seed in (1, 2):
        await world.running({NAME: handling}, seed=seed)
    await world.until_all("done", seconds=20)
    claimed = sorted(await world.rows("claimed_at"))
    held = [bisect_left(claimed, start + 500_000) - claimed.index(start) for start in claimed]
    assert max(held) <= 20


async def test_names_that_another_worker_alone_knows_count_too(world: World) -> None:
    running = most = 0

    async def handler(_row: EffectRow) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    await world.enqueue([*world.effects(15), *world.effects(15, name="b")])
    handling = Handling(handler, target=Target("crm", concurrency=2))
    for seed, name in enumerate((NAME, "b")):
        await world.running({name: handling}, seed=seed)
    await world.until_all("done", seconds=20)
    assert most == 2


async def batches(world: World, gate: Gate, token: str) -> list[tuple[str, list[int]]]:
    """Claim batches of ten; answers the calls that they are."""
    turn = Turn([Want(NAME, 8, gate.target, after=first_after(NAME), batch=10)], [gate], token, "w", micros(30))
    calls: dict[Any, list[int]] = {}
    for one in await world.driver.write(claim(world.driver.dialect, turn)):
        calls.setdefault(one.call, []).append(one.row.record_id)
        assert one.turn == token
    return [(str(call[1]), ids) for call, ids in calls.items()]


async def test_a_batch_takes_one_place_and_one_token(world: World) -> None:
    await world.enqueue(world.effects(65))
    await world.driver.write(ensure_targets(world.driver.dialect, ["crm"]))
    places, tokens = Gate("crm", concurrency=3), Gate("crm", rate=1e-12, burst=2.0)
    first = await batches(world, places, "first")
    assert [len(ids) for _, ids in first] == [10, 10, 10]
    assert await batches(world, places, "second") == [], "three calls are being made"
    await world.driver.write(query(f"UPDATE ensue_effect SET {ENDED} WHERE record_id IN (1, 2, 3, 4, 5) RETURNING id"))
    assert await batches(world, places, "third") == [], "half of a batch is still a call"
    await world.driver.write(query(f"UPDATE ensue_effect SET {ENDED} WHERE record_id <= 10 RETURNING id"))
    assert [len(ids) for _, ids in await batches(world, places, "fourth")] == [10]
    assert [len(ids) for _, ids in await batches(world, tokens, "fifth")] == [10, 10]
    assert await batches(world, tokens, "sixth") == []
    claimed = "SELECT count(*) FROM ensue_effect WHERE state = 'claimed'"
    [(before,)] = await world.driver.read(query(claimed))
    await world.release("fifth")
    assert await world.driver.read(query(claimed)) == [(before - 20,)], "what a turn claimed goes back together"
    assert [round(row[0]) for row in await target_rows(world, "tokens, target")] == [0]


async def test_what_failed_before_is_a_call_of_its_own(world: World) -> None:
    await world.enqueue(world.effects(20))
    await world.driver.write(ensure_targets(world.driver.dialect, ["crm"]))
    failed = "UPDATE ensue_effect SET {0} WHERE record_id IN ({1}) RETURNING id"
    for change, ids in (
        ("error_class = 'transient'", "2"),
        ("attempt = 1", "3"),
        ("error_class = 'throttled'", "4, 5"),
    ):
        await world.driver.write(query(failed.format(change, ids)))
    calls = await batches(world, Gate("crm", concurrency=4), "t")
    assert sorted(len(ids) for _, ids in calls) == [1, 1, 8, 10]


async def test_a_batch_that_failed_is_split_into_calls_that_count(world: World) -> None:
    calls: list[list[int]] = []

    async def handler(rows: list[EffectRow]) -> None:
        calls.append([row.record_id for row in rows])
        if 2 in calls[-1]:
            raise ValueError("poison")

    await world.enqueue(world.effects(4))
    target = Target("crm", rate=Rate(1_000_000, per_seconds=1))
    await world.running({NAME: Handling(handler, Retry(max_attempts=1), target=target, batch=10)})

    async def ended() -> bool:
        return await world.rows() == ["done", "dead", "done", "done"]

    await world.until(ended)
    assert sorted(calls) == [[1], [1, 2, 3, 4], [2], [3], [4]]
    assert [row[0] for row in await target_rows(world, "version, target")] != [1], "claimed anew"
    split = await world.driver.read(query("SELECT outcome, error_class FROM ensue_effect_attempt ORDER BY id"))
    assert split[:4] == [("split", "transient")] * 4
    assert await world.rows("attempt") == [1] * 4


async def test_a_doubtful_batch_is_asked_about_and_not_called_one_by_one(world: World) -> None:
    calls: list[int] = []
    asked: list[int] = []

    async def handler(rows: list[EffectRow]) -> None:
        calls.append(len(rows))
        raise ConnectionResetError("accepted, then reset")

    async def verify(row: EffectRow) -> bool:
        asked.append(row.record_id)
        return True

    await world.enqueue(world.effects(3))
    await world.running({NAME: Handling(handler, batch=10, verify=verify)})
    await world.until_all("done")
    assert (calls, sorted(asked)) == ([3], [1, 2, 3])


async def test_a_row_of_a_target_that_is_removed_comes_back(world: World) -> None:
    running = most = 0

    async def handler(_row: EffectRow) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    await world.enqueue(world.effects(1))
    await world.running({NAME: Handling(handler, target=Target("crm", concurrency=2))})
    await world.until_all("done")
    await world.driver.write(query("DELETE FROM ensue_effect_target RETURNING target"))
    await world.enqueue(world.effects(10))
    await world.until_all("done")
    assert most == 2
    assert [row[0] for row in await target_rows(world, "target, version")] == ["crm"]


async def test_a_higher_priority_overtakes_what_is_a_minute_older(world: World) -> None:
    await world.enqueue([*world.effects(2, name="low"), *world.effects(2, name="high"), *world.effects(1, name="old")])
    await world.driver.write(
        query("UPDATE ensue_effect SET available_at = available_at - 120000000 WHERE name = 'old' RETURNING id")
    )
    await world.driver.write(ensure_targets(world.driver.dialect, ["crm"]))
    wants = [
        Want(name, 5, "crm", priority, after=first_after(name))
        for name, priority in (("low", 0), ("high", 1), ("old", 0))
    ]
    gates = [Gate("crm", concurrency=3)]
    claims = await world.driver.write(claim(world.driver.dialect, Turn(wants, gates, "t", "w", micros(30))))
    assert sorted(one.row.name for one in claims) == ["high", "high", "old"]


async def test_a_blocked_key_among_hundreds_hides_nobody(world: World) -> None:
    effects = [effect for key in range(1200) for effect in world.effects(1, order=f"{key:05}")]
    await world.enqueue(effects)
    await world.driver.write(
        query("UPDATE ensue_effect SET available_at = available_at + 600000000 WHERE record_id < 1199 RETURNING id")
    )
    seen = Recorder()
    await world.running({NAME: Handling(seen, ordered=True)})
    await world.until(lambda: len(seen.rows) == 2)
    assert sorted(seen.numbers) == [1199, 1200]


async def test_thousands_of_blocked_keys_are_passed_quickly(world: World) -> None:
    await world.enqueue([effect for n in range(5000) for effect in world.effects(1, order=f"k{n:04}")])
    await world.set(f"available_at = {NEVER}, state = 'parked'")
    await world.enqueue(world.effects(1, order="z"))
    seen = Recorder()
    await world.running({NAME: Handling(seen, ordered=True)}, polling=Polling(0.02, 60.0))
    await world.until(lambda: len(seen.rows) == 1)


def test_a_share_of_failures_opens_it_too() -> None:
    window = CallWindow(Breaker(consecutive=100, minimum_calls=10, window_seconds=30))
    said = [window.count(answered=n % 2 == 0, now=n / 10) for n in range(10)]
    assert said == [False] * 9 + [True]
    assert not any(window.count(answered=n % 2 == 0, now=100 + n * 10) for n in range(30)), "too few within the window"
