"""Calls that are cut short, and limits at their edges: nothing is called without a lease, or tried for ever."""

from __future__ import annotations

import asyncio
import random
import string
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Any, cast

import msgspec
import pytest

from ensue.clock import SystemClock
from ensue.effects.heartbeat import Heartbeat
from ensue.effects.outbox import Lease, Move, move
from ensue.effects.retry import Circumstances, after_denial
from ensue.effects.target import EffectRow, Handling
from ensue.errors import Unavailable
from ensue.schema.delivery import Poison, Retry, Target
from ensue.store.effect_table import NEVER, order_key_of
from tests.effects.world import NAME, QUICK, Recorder, World, query


class Converting:
    """A function that turns its cancellation into another error, as cleaning up that fails does."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def __call__(self, given: EffectRow | list[EffectRow]) -> None:
        self.calls.append(len(given) if isinstance(given, list) else 1)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError("cleaning up failed") from None


@pytest.mark.parametrize("batch", [None, 5])
async def test_a_shutdown_that_a_function_turns_into_an_error_is_no_attempt(world: World, batch: int | None) -> None:
    called = Converting()
    await world.enqueue(world.effects(3))
    worker = await world.running({NAME: Handling(called, batch=batch)})
    await world.until(lambda: sum(called.calls) == 3)
    await worker.stop(grace_seconds=0)
    assert called.calls == ([3] if batch else [1, 1, 1])
    assert await world.rows("state, attempt, failures") == [("pending", 0, 0)] * 3


class Deaf:
    """A function whose first call swallows every cancellation until `ends` is set."""

    def __init__(self) -> None:
        self.ends = asyncio.Event()
        self.calls: list[int] = []

    async def __call__(self, row: EffectRow) -> None:
        first = not self.calls
        self.calls.append(row.record_id)
        while first and not self.ends.is_set():
            with suppress(asyncio.CancelledError):
                await self.ends.wait()


async def test_a_call_that_ignores_its_cancellation_keeps_its_place_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ensue.effects.flights.IGNORED_SECONDS", 0.1)
    deaf = Deaf()
    handling = Handling(deaf, Retry(max_attempts=1), timeout_seconds=0.1, concurrency=1, ordered=True)
    await world.enqueue(world.effects(2, order="a"))
    await world.running({NAME: handling}, rhythm=QUICK)

    async def timed_out() -> bool:
        return await world.rows() == ["dead", "pending"]

    await world.until(timed_out)
    assert (await world.rows("lease_token, error_class"))[0] == (None, "transient")
    assert "no end within 0.1 s, and the call can't be ended" in (await world.rows("error"))[0]
    await asyncio.sleep(0.2)
    assert deaf.calls == [1], "its place is taken"
    [told] = [record for record in caplog.records if "swallows CancelledError" in record.message]
    assert told.levelname == "ERROR"
    assert NAME in told.message
    deaf.ends.set()

    async def went_on() -> bool:
        return await world.rows("state, attempt") == [("dead", 1), ("done", 1)]

    await world.until(went_on)
    assert deaf.calls == [1, 2]


async def test_others_go_on_beside_a_call_that_ignores_its_cancellation(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensue.effects.flights.IGNORED_SECONDS", 0.1)
    deaf = Deaf()
    await world.enqueue(world.effects(3))
    worker = await world.worker({NAME: Handling(deaf, timeout_seconds=0.1, concurrency=2)})
    await worker.drain()
    assert (await world.rows())[1:] == ["done", "done"]
    await worker.drain(waiting=True)
    assert set(await world.rows()) == {"done"}
    assert sorted(deaf.calls) == [1, 1, 2, 3]
    deaf.ends.set()


async def test_an_endless_question_leaves_the_outcome_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensue.effects.flights.IGNORED_SECONDS", 0.1)
    deaf = Deaf()
    seen = Recorder(lambda _row: ConnectionResetError("accepted, then reset"))
    await world.enqueue()
    worker = await world.worker({NAME: Handling(seen, verify=deaf, timeout_seconds=0.1)})
    await worker.drain()
    await world.set("available_at = 0")
    await worker.drain()
    assert await world.rows("state, doubt") == [("unknown", 2)]
    deaf.ends.set()


async def test_without_its_lease_a_batch_is_not_tried_one_by_one(world: World) -> None:
    called = Converting()
    await world.enqueue(world.effects(3))
    await world.running({NAME: Handling(called, batch=5)}, rhythm=QUICK)
    await world.until(lambda: called.calls == [3])
    await world.set(f"lease_token = 'another', lease_until = {NEVER}")
    await world.until(lambda: not any(task.get_name() == f"ensue.effects.{NAME}" for task in asyncio.all_tasks()))
    assert called.calls == [3]
    assert set(await world.rows("state, lease_token")) == {("claimed", "another")}


class Silent:
    """A database behind a network that drops everything: no statement fails, and none ends."""

    dialect = "postgresql"

    async def write(self, _work: Any) -> Any:
        await asyncio.Event().wait()


async def test_leases_end_though_the_database_is_silent() -> None:
    lost: list[Lease] = []
    clock = SystemClock()
    heartbeat = Heartbeat(cast("Any", Silent()), QUICK, clock=clock, on_lost=lost.append)
    heartbeat.start(None)
    lease = Lease(1, "token")
    heartbeat.hold([lease], since=clock.monotonic_seconds())
    async with asyncio.timeout(10):
        while not lost:  # noqa: ASYNC110 - called by the heartbeat
            await asyncio.sleep(0.01)
        await heartbeat.stop()
    assert lost == [lease]


@pytest.mark.parametrize("error", [GeneratorExit(), SystemExit(2)])
async def test_every_end_is_written_at_once(world: World, error: BaseException) -> None:
    await world.enqueue(world.effects(1))
    await world.running(Recorder(lambda _row: error))

    async def written() -> bool:
        return await world.rows() == ["retry_wait"]

    await world.until(written)


async def test_what_never_arrives_ends_with_its_age_though_it_can_be_asked_about(world: World) -> None:
    async def missing(_row: EffectRow) -> bool:
        return False

    handling = Handling(
        Recorder(lambda _row: ConnectionResetError("reset")),
        Retry(max_age=timedelta(seconds=0.5)),
        verify=missing,
        target=Target("crm", breaker=None),
    )
    await world.enqueue()
    await world.running({NAME: handling})
    await world.until_all("dead")


@pytest.mark.parametrize(
    ("poison", "attempts", "age", "transition"),
    [
        ("skip", 3, 0, "deny"),
        ("skip", 4, 0, "give_up"),
        ("skip", 1, 2, "give_up"),
        ("park", 4, 0, "set_aside"),
        ("block", 4, 2, "deny"),
    ],
)
def test_a_denial_ends_by_the_poison_policy(poison: Poison, attempts: int, age: int, transition: str) -> None:
    handling = Handling(Recorder(), Retry(3, timedelta(days=1)), poison=poison)
    assert after_denial(handling, Circumstances(attempts, timedelta(days=age)), Random(1)).transition == transition


def test_repeated_denials_come_ever_more_slowly() -> None:
    pauses = [after_denial(Handling(Recorder()), Circumstances(1, timedelta(0), failures=n), Random(1)) for n in (1, 9)]
    assert pauses[0].delay_seconds == 0
    assert (pauses[1].delay_seconds or 0) > 10


async def test_a_defect_is_no_outage_for_which_to_wait(world: World) -> None:
    await world.enqueue(world.effects(2))
    await world.driver.write(move(world.driver.dialect, [Move("trip", NAME, pause=0)]))
    await world.running(Recorder(lambda _row: TypeError("no such argument")))
    await world.until_all("dead", seconds=20)
    assert await world.rows("attempt") == [3, 3]


async def test_an_age_without_end_fits_the_database(world: World) -> None:
    await world.enqueue()
    await world.claim(lease=0.0, worker="gone")
    await world.running({NAME: Handling(Recorder(), Retry(max_age=timedelta.max))})
    await world.until_all("done")


async def test_an_instant_in_the_past_is_now(world: World) -> None:
    [effect] = world.effects(1)
    await world.enqueue([msgspec.structs.replace(effect, due_at=1)])
    seen = Recorder(lambda row: RuntimeError("once") if row.attempt == 1 else None)
    await world.running(seen)
    await world.until_all("done")
    assert await world.rows("attempt") == [2]


async def test_an_order_key_of_any_length(world: World) -> None:
    long = "".join(random.Random(1).choices(string.ascii_letters, k=20_000))
    assert order_key_of(NAME, long) != order_key_of(NAME, long + "x")
    assert order_key_of("a", long) != order_key_of("b", long)
    seen = Recorder()
    await world.enqueue([*world.effects(2, order=long), *world.effects(1, order="short")])
    await world.running({NAME: Handling(seen, ordered=True)})
    await world.until_all("done")
    assert [number for number in seen.numbers if number != 3] == [1, 2]


async def test_a_probe_that_calls_nobody_makes_room_for_another(world: World) -> None:
    async def nobody(_row: EffectRow) -> Any:
        raise Unavailable("down")

    await world.enqueue(world.effects(1))
    await world.set("doubt = 1, state = 'unknown', first_sent_at = 1")
    await world.driver.write(move(world.driver.dialect, [Move("trip", NAME, pause=0)]))
    await world.running({NAME: Handling(nobody, key_ttl=timedelta(hours=1))})

    async def set_aside() -> bool:
        rows = await world.driver.read(query("SELECT breaker_state FROM ensue_effect_target"))
        return await world.rows("available_at") == [NEVER] and rows == [("open",)]

    await world.until(set_aside)
