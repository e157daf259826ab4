"""Outcomes that nobody knows, batches, poison, superseding and delays, on both databases (pitfalls P8, P18, P24, P30, P31)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from ensue.effects.observe import DeliveryEvent
from ensue.effects.operate import replay_effects
from ensue.effects.target import EffectRow, Handling
from ensue.errors import Rejected, UnknownOutcome
from ensue.schema.delivery import Receipt, Retry
from ensue.store.effect_table import NEVER, supersede_params, supersede_statements
from ensue.store.statement import Run, Work
from tests.effects.world import NAME, QUICK, Recorder, World

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(("answer", "calls"), [(True, 1), (Receipt("p-1"), 1), (False, 2)])
async def test_a_lost_answer_is_asked_about_before_a_second_call(world: World, answer: Any, calls: int) -> None:
    seen = Recorder(lambda row: ConnectionResetError("accepted, then reset") if len(seen.rows) == 1 else None)
    asked = 0

    async def verify(_row: EffectRow) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise OSError("still down")
        return answer

    await world.enqueue()
    await world.running({NAME: Handling(seen, verify=verify)})
    for _ in range(400):
        await world.set("available_at = 0")
        if await world.rows() == ["done"]:
            break
        await asyncio.sleep(0.01)
    assert await world.rows("state, doubt") == [("done", 0)]
    assert (len(seen.rows), asked) == (calls, 2)
    assert await world.rows("provider_id") == ["p-1" if isinstance(answer, Receipt) else None]


@pytest.mark.parametrize(
    ("answer", "told"), [("ch_1", "verify gave str; expected True or a Receipt, False, or None"), (None, "be said yet")]
)
async def test_what_is_no_answer_is_told_with_the_effect_that_goes_on_being_asked_about(
    world: World, answer: Any, told: str
) -> None:
    async def verify(_row: EffectRow) -> Any:
        return answer

    await world.enqueue()
    await world.running({NAME: Handling(Recorder(lambda _row: UnknownOutcome("lost")), verify=verify)})
    for _ in range(400):
        await world.set("available_at = 0")
        [(state, error)] = await world.rows("state, error")
        if told in (error or ""):
            break
        await asyncio.sleep(0.01)
    assert told in error
    assert state in ("unknown", "claimed")


async def test_without_a_way_to_ask_an_unknown_outcome_waits_for_an_operator(world: World) -> None:
    seen = Recorder(lambda _row: UnknownOutcome("no answer"))
    await world.enqueue()
    await world.running(seen)
    await world.until_all("unknown")
    assert await world.rows("available_at") == [NEVER]


async def test_a_key_that_is_forgotten_by_the_other_side_is_not_sent_again(world: World) -> None:
    seen = Recorder(lambda row: ConnectionResetError("reset") if len(seen.rows) == 1 else None)
    await world.enqueue(world.effects(2))
    await world.running({NAME: Handling(seen, key_ttl=HOUR, concurrency=1)})
    await world.until(lambda: len(seen.rows) == 2)
    await world.set("first_sent_at = 0, available_at = 0")

    async def waits() -> bool:
        return (await world.rows("state, doubt"))[0] == ("unknown", 1)

    await world.until(waits)
    assert len(seen.rows) == 2


async def test_within_the_time_of_the_key_it_is_sent_again(world: World) -> None:
    seen = Recorder(lambda row: ConnectionResetError("reset") if len(seen.rows) == 1 else None)
    await world.enqueue()
    await world.running({NAME: Handling(seen, key_ttl=HOUR)})
    await world.until_all("done")
    assert len({row.key for row in seen.rows}) == 1


async def test_a_lost_worker_leaves_a_doubt_where_a_repeat_would_cost(world: World) -> None:
    seen = Recorder()
    asked: list[int] = []

    async def verify(row: EffectRow) -> bool:
        asked.append(row.id)
        return True

    await world.enqueue()
    await world.claim(worker="dead", lease=-1)
    await world.running({NAME: Handling(seen, verify=verify)})
    await world.until_all("done")
    assert (seen.rows, len(asked)) == ([], 1)


async def test_a_batch_is_one_call(world: World) -> None:
    calls: list[int] = []

    async def handler(rows: list[EffectRow]) -> list[Receipt]:
        calls.append(len(rows))
        return [Receipt(f"p-{row.id}") for row in rows]

    await world.enqueue(world.effects(25))
    await world.running({NAME: Handling(handler, batch=10, concurrency=3)})
    await world.until_all("done")
    assert calls == [10, 10, 5]
    assert await world.rows("provider_id") == [f"p-{id_}" for id_ in await world.rows("id")]


@pytest.mark.parametrize("place", range(3))
async def test_a_poison_item_of_a_batch_strands_nobody(world: World, place: int) -> None:
    async def handler(rows: list[EffectRow]) -> None:
        if any(row.record_id == place + 1 for row in rows):
            raise ValueError("bad item")

    await world.enqueue(world.effects(3))
    await world.running({NAME: Handling(handler, Retry(max_attempts=1), batch=10)})

    async def over() -> bool:
        return await world.rows() == ["dead" if n == place else "done" for n in range(3)]

    await world.until(over)


@pytest.mark.parametrize(("poison", "state", "next_goes"), [("skip", "dead", True), ("park", "parked", False)])
async def test_what_becomes_of_a_head_that_fails_for_good(
    world: World, poison: Any, state: str, next_goes: bool
) -> None:
    seen = Recorder(lambda row: Rejected("no") if row.record_id == 1 else None)
    events: list[DeliveryEvent] = []
    await world.enqueue(world.effects(2, order="a"))
    worker = await world.worker({NAME: Handling(seen, ordered=True, poison=poison)})
    worker.observers.append(events.append)
    await worker.drain()
    assert await world.rows() == [state, "done" if next_goes else "pending"]
    assert next(event.state for event in events if event.kind == "ended") == state


async def test_a_blocking_head_is_tried_on(world: World) -> None:
    seen = Recorder(lambda row: Rejected("no") if len(seen.rows) < 3 else None)
    await world.enqueue(world.effects(2, order="a"))
    await world.running({NAME: Handling(seen, Retry(max_attempts=1), ordered=True, poison="block")})
    for _ in range(400):
        await world.set("available_at = 0")
        if set(await world.rows()) == {"done"}:
            break
        await asyncio.sleep(0.01)
    assert seen.numbers == [1, 1, 1, 2]


def supersede(world: World, newest: int) -> Work[None]:
    for statement in supersede_statements(world.driver.dialect):
        yield Run(statement, supersede_params({f"{NAME}|a": newest}))


async def test_the_newest_of_a_coalescing_key_is_due_when_the_first_was(world: World) -> None:
    due: list[int] = []
    for number in range(1, 5):
        [effect] = world.effects(1, order="a")
        # Each is to wait longer from its own change on, but the last, which wants to be earlier.
        await world.enqueue([structs.replace(effect, delay=3_600_000_000 * number if number < 4 else 60_000_000)])
        await world.driver.write(supersede(world, number))
        [(at, counted)] = (await world.rows("available_at, due_at"))[number - 1 :]
        assert abs(at - counted) < 1000
        due.append(at)
    assert due[0] == due[1] == due[2]
    assert due[3] < due[0]
    assert await world.rows() == ["cancelled"] * 3 + ["pending"]


async def test_the_newest_of_a_coalescing_key_keeps_the_place_in_line(world: World) -> None:
    await world.enqueue(world.effects(1, order="a"))
    await world.set("available_at = 5")
    await world.enqueue(world.effects(1, order="a"))
    await world.driver.write(supersede(world, 2))
    assert await world.rows("state, available_at, due_at") == [("cancelled", 5, None), ("pending", 5, None)]


async def test_of_a_coalescing_key_only_the_newest_goes(world: World) -> None:
    await world.enqueue(world.effects(3, order="a"))
    await world.driver.write(supersede(world, 3))
    seen = Recorder()
    await (await world.worker({NAME: Handling(seen, ordered=True, coalesce=True)})).drain()
    assert seen.numbers == [3]
    assert await world.rows("state, error_class") == [("cancelled", "superseded")] * 2 + [("done", None)]


async def test_a_failed_effect_gives_way_to_a_newer_one(world: World) -> None:
    seen = Recorder(lambda row: RuntimeError("down") if row.record_id == 1 else None)
    await world.enqueue(world.effects(2, order="a"))
    await (await world.worker({NAME: Handling(seen, ordered=True, coalesce=True)})).drain()
    assert seen.numbers == [1, 2]
    assert await world.rows() == ["cancelled", "done"]


async def test_every_attempt_that_did_not_succeed_at_once_is_in_the_ledger(world: World) -> None:
    from tests.effects.world import query

    seen = Recorder(lambda row: RuntimeError("down") if len(seen.rows) == 1 else None)
    await world.enqueue()
    worker = await world.worker(seen, rhythm=QUICK)
    await worker.drain()
    await worker.drain(waiting=True)
    await world.enqueue()
    await worker.drain()
    rows = await world.driver.read(
        query(
            "SELECT effect_id, attempt, outcome, error_class, started_at <= ended_at FROM ensue_effect_attempt ORDER BY id"
        )
    )
    assert [(*row[:4], bool(row[4])) for row in rows] == [
        (1, 1, "retry", "transient", True),
        (1, 2, "succeed", None, True),
    ]


class _Unreadable(Exception):
    """As libraries have them: its text can't be made, and an attribute that others have raises."""

    def __str__(self) -> str:
        raise RuntimeError("not formatted")

    @property
    def response(self) -> object:
        raise RuntimeError("there was no response")


class _Escape(BaseException):
    """Not an `Exception`, so that `except Exception` lets it pass."""


@pytest.mark.parametrize("error", [_Unreadable(), _Escape(), BaseExceptionGroup("several", [_Escape()])])
@pytest.mark.parametrize("batch", [None, 2])
async def test_whatever_is_raised_is_an_end(world: World, error: BaseException, batch: int | None) -> None:
    async def handler(_: Any) -> None:
        raise error

    await world.enqueue(world.effects(2))
    await world.running({NAME: Handling(handler, batch=batch)})

    async def ended() -> bool:
        return set(await world.rows("error_class")) == {"transient"}

    await world.until(ended)
    assert all(type(error).__name__ in text for text in await world.rows("error"))


async def test_a_classification_that_fails_decides_nothing(world: World) -> None:
    def classify(_: BaseException) -> None:
        raise KeyError("unheard of")

    await world.enqueue()
    worker = await world.worker({NAME: Handling(Recorder(lambda _: RuntimeError("down")), classify=classify)})
    await worker.drain()
    assert await world.rows("state, error_class") == [("retry_wait", "transient")]


async def test_a_receipt_that_no_database_takes_is_written_all_the_same(world: World) -> None:
    seen = Recorder()

    async def handler(row: EffectRow) -> Receipt:
        await seen(row)
        return Receipt(provider_id="p\0-1", note="\ud800" + "x" * 5000)

    await world.enqueue(world.effects(3))
    worker = await world.worker({NAME: Handling(handler)})
    await worker.drain()
    assert await world.rows("state, provider_id") == [("done", "p\\0-1")] * 3
    assert len(seen.rows) == 3
    assert all(len(note) <= 2000 for note in await world.rows("note"))


async def test_what_is_sent_once_more_supersedes_nothing(world: World) -> None:
    seen = Recorder(lambda row: RuntimeError("down") if row.record_id == 2 and len(seen.rows) < 4 else None)
    worker = await world.worker({NAME: Handling(seen, ordered=True, coalesce=True)})
    await world.enqueue(world.effects(1, order="a"))
    await worker.drain()
    await world.enqueue(world.effects(1, order="a"))
    await worker.drain()
    assert await replay_effects(world.driver, [1]) == [1]
    for _ in range(3):
        await worker.drain(waiting=True)
    assert await world.rows() == ["done", "done", "done"]
