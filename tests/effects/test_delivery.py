"""The delivery loop on both databases: sharing, order, failures, shutdown, and what happens when something dies."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from ensue.effects.after_commit import run_after_commit
from ensue.effects.deliver import Delivery, Polling
from ensue.effects.heartbeat import Rhythm
from ensue.effects.ledger import count_effects, list_effects, prune_effects, retry_effects, show_effect
from ensue.effects.outbox import Claim, outcome
from ensue.effects.sql.conditions import FEW
from ensue.effects.target import EffectRow, Handling
from ensue.errors import NotFound, Rejected, UsageError
from ensue.schema.delivery import Retry
from ensue.store.url import open_driver
from tests.effects.world import NAME, QUICK, Recorder, World
from tests.services import PostgresServer


async def deaf(_callback: Callable[[str], None]) -> None:
    """A `watch` whose notifications all get lost."""


class Throttled(Exception):
    retry_after_seconds = 0.0


async def test_everything_is_delivered_once_with_its_row(world: World) -> None:
    seen = Recorder()
    await world.enqueue(world.effects(100))
    await world.running(seen)
    await world.until_all("done")
    assert sorted(seen.numbers) == list(range(1, 101))
    row = seen.rows[0]
    assert (row.name, row.record, row.attempt) == (NAME, "Message", 1)
    assert row.payload == f'{{"v":1,"number":{row.record_id}}}'
    assert row.key == f"{NAME}:Message:{row.record_id}:create-1"
    assert await world.rows("attempt, lease_token") == [(1, None)] * 100


async def test_wake_claims_at_once(world: World) -> None:
    seen = Recorder()
    worker = await world.running(seen, polling=Polling(30, 30), watch=deaf)
    await world.until(lambda: worker._looked_at > 0)  # pyright: ignore[reportPrivateUsage]
    await asyncio.sleep(0.05)
    await world.enqueue()
    worker.wake()
    await world.until_all("done", seconds=5)


async def test_a_commit_of_another_process_is_noticed(world: World) -> None:
    seen = Recorder()
    await world.running(seen, polling=Polling(30, 30))
    await asyncio.sleep(0.15)
    await world.enqueue()
    await world.until_all("done", seconds=5)


async def test_a_second_listener_is_refused_at_the_start_and_not_in_the_loop(world: World) -> None:
    await world.driver.watch(lambda _payload: None)
    with pytest.raises(UsageError, match="watched already"):
        await Delivery(world.driver, {NAME: Handling(Recorder())}).start()


async def test_the_loop_outlives_errors_that_nobody_expected(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Recorder()
    worker = await world.worker(seen)
    driver = worker._driver  # pyright: ignore[reportPrivateUsage]
    with monkeypatch.context() as patch:
        patch.setattr(driver, "write", _defect)
        patch.setattr(driver, "read", _defect)
        await worker.start()
        await world.enqueue(world.effects(3))
        await world.until(lambda: caplog.text.count("a round of delivery failed") > 2)
    await world.until_all("done")
    assert sorted(seen.numbers) == [1, 2, 3]


async def test_polling_alone_delivers(world: World) -> None:
    seen = Recorder()
    await world.running(seen, watch=deaf)
    await asyncio.sleep(0.15)
    await world.enqueue(world.effects(20))
    await world.until_all("done", seconds=5)


async def test_an_idle_worker_asks_twice_a_second_at_most(world: World) -> None:
    worker = await world.worker(Recorder(), polling=Polling())
    statements: list[str] = []
    await worker.start()
    await asyncio.sleep(0.2)
    end = time.monotonic() + 3.2
    while time.monotonic() < end:
        if end - time.monotonic() < 2.1 and "mark" not in statements:
            worker._driver.observers.append(lambda statement, _n: statements.append(statement.name))  # pyright: ignore[reportPrivateUsage]
            statements.append("mark")
        await asyncio.sleep(0.05)
    asked = [name for name in statements if name.startswith("effect.")]
    assert set(asked) <= {"effect.due"}
    assert len(asked) <= 4


async def test_two_workers_share_without_doing_anything_twice(world: World) -> None:
    one, two = Recorder(seconds=0.001), Recorder(seconds=0.001)
    await world.enqueue(world.effects(300))
    await asyncio.gather(world.running(one), world.running(two, seed=2))
    await world.until_all("done", seconds=30)
    assert sorted(one.numbers + two.numbers) == list(range(1, 301))
    assert one.numbers
    assert two.numbers


async def test_concurrency_is_bounded_per_target(world: World) -> None:
    running = most = 0

    async def handler(_row: EffectRow) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1

    await world.enqueue(world.effects(40))
    await world.running({NAME: Handling(handler, concurrency=3)})
    await world.until_all("done", seconds=20)
    assert most == 3


async def test_a_late_completion_of_a_lost_lease_is_refused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.enqueue()
    [late] = await world.claim(worker="late", lease=0.05)
    await asyncio.sleep(0.1)
    failing = Recorder(lambda _row: RuntimeError("down"))
    await world.running(failing, polling=Polling(0.01, 0.05))
    await world.until(lambda: len(failing.rows) == 1)
    await world.until(lambda: "left by worker late" in caplog.text)
    assert await world.settle([outcome(late, "succeed")]) == {}
    assert "done" not in await world.rows()


async def test_the_effects_of_a_dead_worker_are_rescued_with_their_attempts(world: World) -> None:
    await world.enqueue(world.effects(5))
    assert len(await world.claim(worker="dead", lease=0.3)) == 5
    seen = Recorder()
    await world.running(seen)
    await asyncio.sleep(0.1)
    assert seen.rows == []
    await world.until_all("done")
    assert [row.attempt for row in seen.rows] == [1] * 5


async def test_leases_of_long_handlers_are_kept_alive(world: World) -> None:
    first, second = Recorder(seconds=1.2), Recorder()
    await world.enqueue()
    await world.running(first, rhythm=QUICK)
    await world.until(lambda: len(first.rows) == 1)
    await world.running(second, rhythm=QUICK, seed=2)
    await world.until_all("done")
    assert second.rows == []


async def test_a_blocked_event_loop_keeps_its_leases_with_a_heartbeat_of_its_own(world: World) -> None:
    stolen: list[EffectRow] = []
    rhythm = Rhythm(lease_seconds=1.2, beat_seconds=0.3)
    begun, over = threading.Event(), threading.Event()

    async def blocks(_row: EffectRow) -> None:
        begun.set()
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            time.sleep(0.05)  # noqa: ASYNC251 - the mistake that the thread is there for
        over.set()

    def steal() -> None:
        async def run() -> None:
            driver = open_driver(world.url)
            await driver.open()
            thief = Delivery(driver, {NAME: Handling(_append(stolen))}, polling=Polling(0.01, 0.05))
            await thief.start()
            await asyncio.to_thread(over.wait, 10)
            await thief.stop(0)
            await driver.close()

        assert begun.wait(10)
        asyncio.run(run())

    await world.enqueue()
    await world.running(blocks, rhythm=rhythm, heartbeat_driver=lambda: open_driver(world.url))
    await asyncio.gather(asyncio.to_thread(steal), world.until_all("done"))
    assert stolen == []


async def test_a_handler_whose_lease_was_taken_is_ended_and_reports_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    ended = asyncio.Event()

    async def handler(_row: EffectRow) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    await world.enqueue()
    worker = await world.running(handler, rhythm=QUICK)
    await world.until(lambda: worker_has(worker, 1))
    await world.set("lease_token = 'taken', worker = 'thief'")
    await asyncio.wait_for(ended.wait(), 5)
    await world.until(lambda: worker_has(worker, 0))
    assert await world.rows("state, lease_token, attempt") == [("claimed", "taken", 0)]
    assert "lost its lease" in caplog.text


async def test_order_per_key_holds_over_failures_and_workers(world: World) -> None:
    rng = Random(3)
    done: dict[str, list[int]] = {}
    running: set[str] = set()

    async def handler(row: EffectRow) -> None:
        key = row.order_key or ""
        assert key not in running, "two of one key at a time"
        running.add(key)
        try:
            await asyncio.sleep(0.001)
            if rng.random() < 0.3:
                raise Throttled("again")
            done.setdefault(key, []).append(row.position or 0)
        finally:
            running.discard(key)

    await asyncio.gather(*(world.enqueue(world.effects(2, order=number % 3)) for number in range(15)))
    await asyncio.gather(world.running(handler), world.running(handler, seed=2))
    for _ in range(200):
        await world.set("available_at = 0")
        if set(await world.rows()) == {"done"}:
            break
        await asyncio.sleep(0.05)
    assert {key: list(range(1, 11)) for key in done} == done
    assert len(done) == 3


async def test_order_per_key_holds_while_many_become_few(world: World) -> None:
    """PostgreSQL looks at the last of them in another way."""
    keys, each = 40, FEW // 10
    done: dict[str, list[int]] = {}

    async def handler(row: EffectRow) -> None:
        done.setdefault(row.order_key or "", []).append(row.position or 0)

    await world.enqueue([effect for _ in range(each) for key in range(keys) for effect in world.effects(order=key)])
    await world.enqueue(world.effects(FEW // 2))
    assert len(await world.rows()) > 2 * FEW
    await asyncio.gather(world.running(handler), world.running(handler, seed=2))
    await world.until_all("done", 60)
    unordered = done.pop("")
    assert len(unordered) == FEW // 2
    assert list(done.values()) == [list(range(1, each + 1))] * keys


async def test_positions_are_commit_order(world: World) -> None:
    # Ids are drawn before the key's lock is taken; positions after it, and it is held to the commit.
    drivers = [await world.open() for _ in range(3)]
    await asyncio.gather(
        *(driver.write(_enqueue_two_keys(world, driver)) for driver in drivers * 5),
    )
    for key in ("a", "b"):
        rows = [row[1] for row in await world.rows("order_key, position") if row[0] == f"{NAME}|{key}"]
        assert sorted(rows) == list(range(1, 16)), "no gaps and no repeats"


async def test_the_next_of_a_key_waits_for_a_failing_head_and_goes_when_it_is_dead(world: World) -> None:
    seen = Recorder(lambda row: RuntimeError("down") if row.record_id == 1 else None)
    await world.enqueue([*world.effects(2, order="a"), *world.effects(1, order="b")])
    await world.running({NAME: Handling(seen, retry=Retry(max_attempts=2))})
    await world.until(lambda: 3 in seen.numbers)
    await asyncio.sleep(0.1)
    assert 2 not in seen.numbers[:2]
    await world.until(lambda: 2 in seen.numbers)
    assert seen.numbers.index(2) > [n for n, row in enumerate(seen.rows) if row.record_id == 1][-1]
    await world.until(lambda: _states_are(world, ["dead", "done", "done"]))


@pytest.mark.parametrize("place", range(4))
async def test_a_poison_row_strands_nobody(world: World, place: int) -> None:
    poison = ValueError("bad\0text\ud800")
    seen = Recorder(lambda row: poison if row.record_id == place + 1 else None)
    await world.enqueue(world.effects(4))
    await world.running({NAME: Handling(seen, retry=Retry(max_attempts=1))})
    await world.until(lambda: _states_are(world, ["dead" if n == place else "done" for n in range(4)]))
    entry = (await list_effects(world.driver, state="dead"))[0]
    assert entry.error == "ValueError: bad\\0text\\ud800"


async def test_retries_come_and_end_dead_with_the_error_kept(world: World, caplog: pytest.LogCaptureFixture) -> None:
    seen = Recorder(lambda row: RuntimeError(f"down {row.attempt}"))
    await world.enqueue()
    await world.running({NAME: Handling(seen, retry=Retry(max_attempts=3))})
    for attempt in (1, 2, 3):
        await world.until(lambda n=attempt: len(seen.rows) == n)
        await world.until(lambda: _states_are(world, ["retry_wait" if attempt < 3 else "dead"]))  # noqa: B023
        await world.set("available_at = 0")
    assert [row.attempt for row in seen.rows] == [1, 2, 3]
    assert len({row.key for row in seen.rows}) == 1
    assert await world.rows("attempt, error_class, error") == [(3, "transient", "RuntimeError: down 3")]
    assert "number" not in caplog.text, "the payload is never logged"
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (record.__dict__["effect_name"], record.__dict__["effect_attempt"]) == (NAME, 3)


async def test_age_ends_it_too(world: World) -> None:
    await world.enqueue()
    await world.set("enqueued_at = enqueued_at - 7200000000")
    await world.running(
        {NAME: Handling(Recorder(lambda _row: RuntimeError("down")), retry=Retry(max_age=timedelta(hours=1)))}
    )
    await world.until_all("dead")
    assert await world.rows("attempt, error") == [(1, "RuntimeError: down")]


async def test_a_rejection_is_dead_at_once(world: World) -> None:
    await world.enqueue()
    await world.running(Recorder(lambda _row: Rejected("no_such_channel", "The channel is gone.")))
    await world.until_all("dead")
    [row] = await world.rows("attempt, error_class, error")
    assert row == (1, "rejected", "Rejected: no_such_channel: The channel is gone.")


async def test_throttling_uses_up_no_attempt(world: World) -> None:
    seen = Recorder(lambda _row: Throttled("429") if len(seen.rows) <= 5 else None)
    await world.enqueue()
    await world.running({NAME: Handling(seen, retry=Retry(max_attempts=1))})
    for _ in range(100):
        await world.set("available_at = 0")
        if await world.rows() == ["done"]:
            break
        await asyncio.sleep(0.03)
    assert [row.attempt for row in seen.rows] == [1] * 6
    assert await world.rows("attempt, error_class") == [(1, "throttled")]


async def test_a_handler_that_takes_too_long_is_a_failure(world: World) -> None:
    await world.enqueue()
    await world.running({NAME: Handling(Recorder(seconds=30), timeout_seconds=0.05)})
    await world.until(lambda: _states_are(world, ["retry_wait"]))
    assert await world.rows("error") == ["TimeoutError: no end within 0.05 s"]


async def test_shutdown_gives_back_what_runs_and_finishes_what_can(world: World) -> None:
    async def handler(row: EffectRow) -> None:
        await asyncio.sleep(0.1)
        if row.record_id > 1:
            await asyncio.Event().wait()

    await world.enqueue(world.effects(3))
    worker = await world.running(handler)
    await world.until(lambda: _states_are(world, ["claimed"] * 3))
    started = time.monotonic()
    await worker.stop(grace_seconds=0.4)
    assert time.monotonic() - started < 3
    assert await world.rows("state, attempt, lease_token") == [("done", 1, None)] + [("pending", 0, None)] * 2
    with pytest.raises(UsageError, match="make a new one"):
        await worker.start()


@pytest.mark.parametrize("grace_seconds", [5, 0])
async def test_what_the_last_round_claims_is_not_left_behind(
    grace_seconds: float, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Recorder(seconds=0.1)
    worker = await world.running(handler)
    claiming, go_on = asyncio.Event(), asyncio.Event()

    def slow(run: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def running(work: Any) -> Any:
            result = await run(work)
            if isinstance(result, tuple) and result and isinstance(result[0], Claim):
                claiming.set()
                await go_on.wait()
            return result

        return running

    # A claim is a statement of its own on PostgreSQL, and a transaction on SQLite.
    for way in ("read", "write"):
        monkeypatch.setattr(worker._driver, way, slow(getattr(worker._driver, way)))
    await world.enqueue(world.effects(3))
    worker.wake()
    await claiming.wait()
    stopping = asyncio.create_task(worker.stop(grace_seconds=grace_seconds))
    await world.until(lambda: worker._closing if grace_seconds == 0 else worker._stopping)
    await asyncio.sleep(0.05)
    go_on.set()
    await stopping
    # One that comes back after the grace is not begun any more.
    state = ("pending", 0, None) if grace_seconds == 0 else ("done", 1, None)
    assert await world.rows("state, attempt, lease_token") == [state] * 3
    assert len(handler.rows) == (0 if grace_seconds == 0 else 3)


async def test_thirty_restarts_burn_no_attempt(world: World) -> None:
    await world.enqueue(world.effects(5))
    for _ in range(30):
        driver = await world.open()
        worker = Delivery(driver, {NAME: Handling(Recorder(seconds=30))}, polling=Polling(0.01, 0.1))
        await worker.start()
        await world.until(lambda: _states_are(world, ["claimed"] * 5))
        await worker.stop(grace_seconds=0)
        await driver.close()
    assert await world.rows("state, attempt") == [("pending", 0)] * 5


async def test_a_handler_that_ignores_its_cancellation_does_not_hold_up_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ensue.effects.deliver.CANCEL_SECONDS_MAX", 0.1)
    release = asyncio.Event()

    async def stubborn(_row: EffectRow) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    await world.enqueue()
    worker = await world.running(stubborn)
    await world.until(lambda: _states_are(world, ["claimed"]))
    await worker.stop(grace_seconds=0)
    assert await world.rows("state, attempt") == [("pending", 0)]
    assert "given to others" in caplog.text
    release.set()
    await asyncio.sleep(0.01)


async def test_a_failing_and_a_slow_target_starve_nobody(world: World) -> None:
    quick = Recorder()
    await world.enqueue([*world.effects(500, name="noisy"), *world.effects(500, name="slow"), *world.effects(20)])
    await world.running(
        {
            "noisy": Handling(Recorder(lambda _row: RuntimeError("down"))),
            "slow": Handling(Recorder(seconds=30), concurrency=2),
            NAME: Handling(quick),
        }
    )
    await world.until(lambda: len(quick.rows) == 20, seconds=3)


async def test_effects_of_others_are_left_alone(world: World) -> None:
    await world.enqueue([*world.effects(3, name="elsewhere"), *world.effects(1)])
    await world.running(Recorder())
    await world.until(lambda: _states_are(world, ["pending"] * 3 + ["done"]))


async def test_drain_delivers_what_is_due_without_a_loop(world: World) -> None:
    seen = Recorder(lambda row: RuntimeError("down") if row.attempt == 1 else None)
    worker = await world.worker(seen)
    await world.enqueue(world.effects(30))
    await worker.drain()
    # A pause may be so short that it is over while the others are delivered.
    assert set(await world.rows("state, attempt")) <= {("retry_wait", 1), ("done", 2)}
    await worker.drain(waiting=True)
    assert await world.rows("state, attempt") == [("done", 2)] * 30


async def test_after_commit_effects_are_tried_once_and_never_raise(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Recorder(lambda row: RuntimeError("down") if row.id == 1 else None)
    worker = await world.worker(seen)
    rows = [EffectRow(number, NAME, f"key-{number}", "Message", number, "{}") for number in (1, 2)]
    for row in rows:
        worker.run_after_commit(NAME, row)
    await worker.drain()
    assert seen.numbers == [1, 2]
    assert "key-1" in caplog.text
    assert "key-2" not in caplog.text
    assert await run_after_commit(Handling(Recorder()), rows[0])
    assert not await run_after_commit(Handling(Recorder(seconds=9), timeout_seconds=0.01), rows[0])


async def test_the_ledger_shows_and_redrives(world: World) -> None:
    seen = Recorder(lambda row: Rejected("no") if len(seen.rows) <= 1 else None)
    await world.enqueue(world.effects(2, order="a"))
    worker = await world.worker({NAME: Handling(seen)})
    await worker.drain()
    counts = {(count.name, count.state): count.count for count in await count_effects(world.driver)}
    assert counts == {(NAME, "dead"): 1, (NAME, "done"): 1}
    [dead] = await list_effects(world.driver, state="dead", name=NAME)
    assert (dead.error_class, dead.attempt, dead.position) == ("rejected", 1, 1)
    assert [entry.id for entry in await list_effects(world.driver, limit=1)] == [2]
    assert [entry.id for entry in await list_effects(world.driver, before_id=2)] == [1]
    detail = await show_effect(world.driver, dead.id)
    assert (detail.payload, detail.entry.key) == ('{"v":1,"number":1}', dead.key)
    assert await retry_effects(world.driver, [dead.id]) == [dead.id]
    await worker.drain()
    assert await world.rows() == ["done", "done"]
    assert [row.key for row in seen.rows].count(dead.key) == 2
    with pytest.raises(NotFound, match="no effect 99"):
        await show_effect(world.driver, 99)


async def test_what_is_dead_is_never_pruned(world: World) -> None:
    seen = Recorder(lambda row: Rejected("no") if row.record_id == 1 else None)
    await world.enqueue(world.effects(3))
    await (await world.worker(seen)).drain()
    assert await prune_effects(world.driver, older_than=timedelta(hours=1)) == 0
    await world.set("settled_at = 0")
    assert await prune_effects(world.driver, older_than=timedelta(hours=1)) == 2
    assert await world.rows() == ["dead"]


@pytest.mark.parametrize("crash", [False, True])
async def test_a_restart_of_the_database_in_the_middle(postgres_server: PostgresServer, crash: bool) -> None:
    with postgres_server.database() as url:
        async with World(url) as world:
            seen = Recorder(seconds=0.02)
            await world.enqueue(world.effects(100))
            await world.running(seen, rhythm=QUICK)
            await world.until(lambda: len(seen.rows) > 20)
            await asyncio.to_thread(postgres_server.kill if crash else postgres_server.stop)
            await asyncio.sleep(0.2)
            await asyncio.to_thread(postgres_server.start)
            await world.until(lambda: _settled(world), seconds=30)
            assert set(seen.numbers) == set(range(1, 101)), "nothing is lost"
            await world.enqueue()
            await world.until(lambda: 101 in seen.numbers, seconds=5)


def worker_has(worker: Delivery, count: int) -> bool:
    return len(worker._flights) == count  # pyright: ignore[reportPrivateUsage]


async def _defect(_work: object) -> None:
    raise RuntimeError("a defect")


def _append(rows: list[EffectRow]) -> Callable[[EffectRow], Awaitable[None]]:
    async def handler(row: EffectRow) -> None:
        rows.append(row)

    return handler


async def _states_are(world: World, states: list[str]) -> bool:
    return await world.rows() == states


async def _settled(world: World) -> bool:
    try:
        return set(await world.rows()) == {"done"}
    except Exception:  # noqa: BLE001 - the server is still starting
        return False


def _enqueue_two_keys(world: World, driver: object):
    from tests.effects.world import enqueue

    return enqueue(driver, [*world.effects(1, order="b"), *world.effects(1, order="a")])  # type: ignore[arg-type]
