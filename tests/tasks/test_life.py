"""The life of a task, from its creation to its end, whoever brings the end and however badly it goes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from ensue import InvalidValue, Rejected, Submitted, TaskEvent, TaskUpdate, Throttled, Unavailable, UsageError
from ensue.engine.audit import audit, format_report
from ensue.store.statement import Run, Statement, Work
from tests.tasks.shop import BatchShop, KnowingShop, Picture, Shop, User, World, running

DONE = TaskUpdate(status="done", result={"url": "u"})


class HttpBusy(Exception):
    """As an HTTP client raises it for a 429: what it was asked for is in the answer's headers."""

    def __init__(self, seconds: int) -> None:
        super().__init__("429 Too Many Requests")
        self.status_code = 429
        self.headers = {"Retry-After": str(seconds)}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with running(database=database_url) as made:
        yield made


@pytest.fixture
async def lone() -> AsyncIterator[World]:
    """In memory, for what does not depend on the database."""
    async with running() as made:
        yield made


async def test_polled_until_it_ends(world: World) -> None:
    picture = await world.picture()
    assert (picture.status, picture.external_id, picture.attempts, picture.progress) == ("processing", "p1", 1, 0.0)
    assert picture.deadline is not None
    world.shop.answers["p1"] = TaskUpdate(status="waiting", progress=0.25)
    picture = await world.after(3, picture)
    assert (picture.status, picture.progress) == ("processing", 0.25)
    world.shop.answers["p1"] = DONE
    picture = await world.after(4, picture)
    assert (picture.status, picture.progress, picture.result) == ("completed", 1.0, {"url": "u"})
    assert await world.told(picture) == [("processing", "submit"), ("processing", "poll"), ("completed", "poll")]
    await world.after(100, picture)
    assert world.shop.polled == ["p1", "p1"]


async def test_words_of_a_provider_that_no_database_takes_are_escaped(world: World) -> None:
    picture = await world.picture()
    world.shop.answers["p1"] = TaskUpdate(status="broken", error="bad \0 byte \ud800", note="\0")
    picture = await world.after(3, picture)
    assert (picture.status, picture.error) == ("failed", "bad \\0 byte \\ud800")
    end = (await world.harness.store.find(TaskEvent, order_by=[TaskEvent.id.desc()], limit=1))[0]
    assert end.note == "\\0"


class Opaque:
    pass


async def test_a_result_that_no_database_takes_as_it_is_is_kept_in_words(lone: World) -> None:
    odd: Any = {"text": "a\0b \ud800", "list": (float("nan"), 1.5, 2**70), 7: {"bytes": b"x", "key\0": None}}
    lone.shop.on_submit = lambda task, key: TaskUpdate(status="done", result=odd)
    picture = await lone.picture()
    assert picture.status == "completed"
    kept = {"text": "a\\0b \\ud800", "list": ["nan", 1.5, str(2**70)], "7": {"bytes": "eA==", "key\\0": None}}
    assert picture.result == kept
    assert len(lone.shop.submitted) == 1


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"result": {"a": Opaque()}}, "TaskUpdate(result=…) holds what is no JSON"),
        ({"external_id": "p\0"}, "TaskUpdate(external_id=…) holds a NUL character"),
    ],
)
def test_what_can_not_be_kept_is_refused_where_it_is_made(values: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(text)):
        TaskUpdate(status="done", **values)


async def test_answered_at_once_it_goes_the_same_way(lone: World) -> None:
    lone.shop.on_submit = lambda task, key: TaskUpdate(status="done", result={"url": "u"}, cost=2.5)
    picture = await lone.picture()
    assert (picture.status, picture.result, picture.cost, picture.attempts) == ("completed", {"url": "u"}, 2.5, 1)
    assert await lone.told(picture) == [("processing", "submit"), ("completed", "submit")]
    assert await lone.shop.poll_due() == 0


async def test_the_deadline_ends_it_and_tells_the_provider(world: World) -> None:
    picture = await world.after(29 * 60, await world.picture())
    assert picture.status == "processing"
    picture = await world.after(90, picture)
    assert (picture.status, picture.error) == ("failed", "deadline")
    assert world.shop.cancelled == ["p1"]
    await world.callback("done", external_id="p1", result={"url": "late"})
    assert (await world.now(picture)).status == "failed"


async def test_the_deadline_ends_what_could_not_be_submitted(lone: World) -> None:
    lone.shop.on_submit = lambda task, key: Unavailable("down")
    picture = await lone.after(31 * 60, await lone.picture())
    assert (picture.status, picture.error) == ("failed", "deadline")
    lone.shop.on_submit = None
    sent = len(lone.shop.submitted)
    picture = await lone.after(600, picture)
    assert (picture.status, len(lone.shop.submitted)) == ("failed", sent)


async def test_what_delivery_never_came_to_ends_with_the_deadline(world: World) -> None:
    made = await world.harness.store.create(Picture(prompt="x"))
    world.harness.clock.advance(seconds=31 * 60)
    await world.shop.poll_due()
    assert ((await world.now(made)).status, (await world.now(made)).error) == ("failed", "deadline")
    await world.harness.drain()
    assert world.shop.submitted == []


async def test_what_delivery_gave_up_fails_before_the_deadline(world: World) -> None:
    world.shop.on_submit = lambda task, key: Unavailable("down")
    picture = await world.picture()
    await world.harness.run.driver.write(give_up())
    picture = await world.after(20, picture)
    assert picture.status == "failed"
    assert picture.error is not None
    assert picture.error.startswith("could not be submitted (dead: ")


def give_up() -> Work[None]:
    text = "UPDATE ensue_effect SET state = 'dead', settled_at = available_at, lease_token = NULL"
    yield Run(Statement("test.give_up", text), ())


async def test_a_callback_ends_it_and_a_repeat_changes_nothing(lone: World) -> None:
    picture = await lone.picture()
    await lone.callback("done", external_id="p1", result={"url": "u"})
    await lone.callback("done", external_id="p1", result={"url": "another"})
    await lone.callback("broken", external_id="p1", error="no")
    picture = await lone.after(10, picture)
    assert (picture.status, picture.result) == ("completed", {"url": "u"})
    assert lone.shop.polled == []


async def test_a_callback_before_the_answer_is_followed_by_its_id(lone: World) -> None:
    async def answer(task: Any, key: str) -> str:
        await lone.callback("done", external_id="early", result={"url": "u"})
        return "early"

    lone.shop.on_submit = answer
    picture = await lone.picture()
    assert (picture.status, picture.result, picture.external_id) == ("completed", {"url": "u"}, "early")
    assert await lone.told(picture) == [("processing", "submit"), ("completed", "callback")]


async def test_a_callback_before_the_answer_is_followed_by_the_key(world: World) -> None:
    async def answer(task: Any, key: str) -> str:
        await world.callback("done", key=key, result={"url": "u"})
        return "early"

    world.shop.on_submit = answer
    picture = await world.picture()
    assert (picture.status, picture.result, picture.external_id) == ("completed", {"url": "u"}, "early")


async def test_a_callback_kept_while_the_answer_was_written_is_found_by_the_next_visit(lone: World) -> None:
    picture = await lone.picture()
    values: dict[str, Any] = {"task_type": "Picture", "status": "completed", "origin": "callback", "external_id": "p1"}
    await lone.harness.store.create(TaskEvent(**values, result={"url": "u"}))
    picture = await lone.after(5, picture)
    assert (picture.status, picture.result) == ("completed", {"url": "u"})
    assert lone.shop.polled == []


async def test_another_part_of_the_app_may_end_it(lone: World) -> None:
    picture = await lone.picture()
    await lone.harness.store.create("TaskEvent", task_type="Picture", task_id=picture.id, status="completed")
    assert (await lone.after(10, picture)).status == "completed"
    assert lone.shop.polled == []


async def test_cancelled_at_the_provider_too(lone: World) -> None:
    picture = await lone.picture()
    await lone.shop.cancel_task(picture)
    await lone.harness.drain()
    assert ((await lone.now(picture)).status, lone.shop.cancelled) == ("cancelled", ["p1"])
    lone.shop.answers["p1"] = TaskUpdate(status="cancelled")
    assert (await lone.after(10, picture)).status == "cancelled"
    await lone.after(100, picture)
    assert lone.shop.polled == ["p1"]


async def test_a_success_after_cancelling_is_accepted_and_recorded(lone: World) -> None:
    picture = await lone.picture()
    await lone.shop.cancel_task(picture)
    lone.shop.answers["p1"] = DONE
    picture = await lone.after(10, picture)
    assert (picture.status, picture.result) == ("completed", {"url": "u"})
    last = (await lone.harness.store.find(TaskEvent, order_by=[TaskEvent.id.desc()], limit=1))[0]
    assert last.note == "completed after cancel"


async def test_cancelled_before_it_is_sent_it_is_never_sent(lone: World) -> None:
    made = await lone.harness.store.create(Picture(prompt="x"))
    await lone.shop.cancel_task(made)
    picture = await lone.after(10, made)
    assert (picture.status, lone.shop.submitted, lone.shop.cancelled) == ("cancelled", [], [])


async def test_cancelled_while_it_is_sent_the_provider_is_told_once_the_id_is_known(lone: World) -> None:
    async def answer(task: Any, key: str) -> str:
        await lone.shop.cancel_task(task)
        return "p9"

    lone.shop.on_submit = answer
    picture = await lone.picture()
    assert (picture.status, picture.external_id, lone.shop.cancelled) == ("cancelled", "p9", ["p9"])


async def test_lost_at_the_provider_it_is_submitted_again_under_another_key(world: World) -> None:
    world.shop.answers["p1"] = TaskUpdate(status="gone", cost=1.0)
    world.shop.answers["p2"] = TaskUpdate(status="done", result={"url": "u"}, cost=2.0)
    picture = await world.after(5, await world.picture())
    assert (picture.status, picture.external_id, picture.attempts) == ("processing", "p2", 2)
    picture = await world.after(5, picture)
    assert (picture.status, picture.cost) == ("completed", 3.0)
    assert len(set(world.shop.submitted)) == 2


async def test_refused_it_fails_and_is_not_sent_again(lone: World) -> None:
    lone.shop.on_submit = lambda task, key: Rejected("bad_prompt", "Not that.")
    picture = await lone.after(60, await lone.picture())
    assert (picture.status, len(lone.shop.submitted)) == ("failed", 1)
    assert picture.error == "Rejected: bad_prompt: Not that."


async def test_not_taken_now_it_is_sent_again_under_the_same_key(lone: World) -> None:
    answers = iter([Unavailable("down"), ConnectionRefusedError(), Throttled(3), None])
    lone.shop.on_submit = lambda task, key: next(answers)
    picture = await lone.picture()
    for _ in range(10):
        picture = await lone.after(10, picture)
    assert picture.status == "processing"
    assert len(lone.shop.submitted) == 4
    assert len(set(lone.shop.submitted)) == 1


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), KeyError("task_id")])
async def test_an_unknown_outcome_fails_for_an_operator(lone: World, error: BaseException) -> None:
    lone.shop.on_submit = lambda task, key: error
    picture = await lone.after(60, await lone.picture())
    assert (picture.status, len(lone.shop.submitted)) == ("failed", 1)
    assert picture.error is not None
    assert picture.error.startswith("unknown outcome")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (7, "submit() gave int 7; expected the provider's id of the task as str"),
        ({"id": "p1"}, "submit() gave dict; expected"),
        ("", "Submitted(external_id=…) was given str; expected text that is not empty"),
        (TaskUpdate(status="odd"), "the status 'odd' is none of"),
    ],
)
async def test_a_submission_whose_answer_makes_no_sense_says_so(lone: World, answer: Any, why: str) -> None:
    lone.shop.on_submit = lambda task, key: answer
    picture = await lone.after(60, await lone.picture())
    assert (picture.status, len(lone.shop.submitted)) == ("failed", 1)
    assert picture.error is not None
    assert picture.error.startswith("unknown outcome")
    assert why in picture.error


@pytest.mark.parametrize("shop", [Shop, BatchShop])
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "gave None for a task; expected a TaskUpdate"),
        ("done", "gave str for a task; expected a TaskUpdate"),
        (TaskUpdate(status="odd"), "the status 'odd' is none of"),
    ],
)
async def test_an_answer_that_makes_no_sense_is_told_and_asked_for_again(
    shop: type[Shop], answer: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(shop()) as world:
        picture = await world.picture()
        world.shop.answers["p1"] = answer
        picture = await world.after(10, picture)
        assert picture.status == "processing"
        assert why in caplog.text
        world.shop.answers["p1"] = DONE
        assert (await world.after(30, picture)).status == "completed"


async def interrupted(world: World) -> Picture:
    """A picture whose first submission was begun by a worker that died: the row says so, the effect comes again."""
    made = await world.harness.store.create(Picture(prompt="x"))
    sending = asyncio.Event()

    async def hang(task: Any, key: str) -> str:
        sending.set()
        await asyncio.Event().wait()
        raise AssertionError

    world.shop.on_submit = hang
    delivering = asyncio.create_task(world.harness.run.delivery.drain())
    await sending.wait()
    world.shop.on_submit = None
    world.harness.run.delivery._flights.cancel()
    await delivering
    return await world.now(made)


async def test_interrupted_while_it_was_sent_it_is_not_sent_again(world: World) -> None:
    picture = await world.after(60, await interrupted(world))
    assert (picture.status, len(world.shop.submitted)) == ("failed", 1)
    assert picture.error is not None
    assert "interrupted" in picture.error


async def test_interrupted_it_is_sent_again_where_the_provider_folds_repeats() -> None:
    async with running(Shop(key_ttl=timedelta(hours=1))) as world:
        picture = await world.after(60, await interrupted(world))
        assert (picture.status, picture.attempts, len(set(world.shop.submitted))) == ("processing", 2, 1)


async def test_past_the_time_of_the_key_nothing_is_sent_blindly() -> None:
    async with running(Shop(key_ttl=timedelta(minutes=1))) as world:
        made = await world.harness.store.create(Picture(prompt="x"))
        world.shop.on_submit = lambda task, key: ConnectionResetError()
        picture = await world.after(20 * 60, made)
        assert picture.status == "failed"
        assert picture.error is not None
        assert picture.error.startswith("unknown outcome")


@pytest.mark.parametrize(("knows", "status", "sends"), [("p7", "processing", 1), (False, "processing", 2)])
async def test_what_can_be_looked_up_is_looked_up(database_url: str, knows: Any, status: str, sends: int) -> None:
    async with running(KnowingShop(), database=database_url) as world:
        answers = iter([ConnectionResetError(), None])
        world.shop.on_submit = lambda task, key: next(answers)
        picture = await world.picture()
        assert (picture.status, len(world.shop.submitted)) == ("queued", 1)
        picture = await world.after(60, picture)
        assert picture.status == "queued"  # it could not be said yet
        world.shop.knows = knows
        picture = await world.after(600, picture)
        assert (picture.status, len(world.shop.submitted)) == (status, sends)
        assert picture.external_id == ("p7" if knows else "p2")
        assert set(world.shop.asked) == set(world.shop.submitted)


async def test_several_are_asked_after_in_one_call() -> None:
    async with running(BatchShop()) as world:
        pictures = [await world.picture() for _ in range(3)]
        world.shop.answers |= {"p1": DONE, "p2": ConnectionError("no")}
        await world.after(3, pictures[0])
        found = [(await world.now(one)).status for one in pictures]
        assert found == ["completed", "processing", "processing"]
        assert world.shop.polled == ["p1,p2,p3"]


async def test_the_provider_says_when_to_ask(lone: World) -> None:
    lone.shop.on_submit = lambda task, key: Submitted("p1", expected_seconds=60)
    picture = await lone.after(40, await lone.picture())
    assert lone.shop.polled == []
    lone.shop.answers["p1"] = Throttled(200)
    picture = await lone.after(40, picture)
    picture = await lone.after(150, picture)
    assert lone.shop.polled == ["p1"]
    lone.shop.answers["p1"] = DONE
    picture = await lone.after(120, picture)
    assert picture.status == "completed"


async def test_a_status_of_http_says_when_to_ask_as_well(lone: World) -> None:
    picture = await lone.picture()
    lone.shop.answers["p1"] = HttpBusy(200)
    picture = await lone.after(40, picture)
    picture = await lone.after(150, picture)
    assert lone.shop.polled == ["p1"]


async def test_clients_see_and_cancel_what_they_may(lone: World) -> None:
    harness = lone.harness
    ann = await harness.store.create(User(name="ann"))
    picture = await lone.picture()
    shown = await harness.call("shop", "query_status", user=ann, task_id=picture.id)
    assert (shown["status"], shown["external_id"], shown["attempts"]) == ("processing", "p1", 1)
    lone.shop.answers["p1"] = TaskUpdate(status="waiting", progress=0.5)
    await harness.call("shop", "query_status", user=ann, task_id=picture.id, refresh=True)
    await lone.shop.poll_due()
    assert (await lone.now(picture)).progress == 0.5
    shown = await harness.call("shop", "cancel", user=ann, task_id=picture.id)
    assert shown["status"] == "cancelled"
    private = await lone.picture("private")
    for task_id in (private.id, 999):
        with pytest.raises(Rejected, match="not_found"):
            await harness.call("shop", "query_status", user=ann, task_id=task_id)
    with pytest.raises(Rejected, match="not_authenticated"):
        await harness.call("shop", "query_status", task_id=picture.id)
    with pytest.raises(InvalidValue, match="Picture"):
        await harness.call("shop", "cancel", user=ann, task_id=1, task_type="Video")


async def test_no_column_is_written_directly(lone: World) -> None:
    picture = await lone.picture()
    for column in ("status", "external_id", "result", "error", "attempts", "progress", "deadline", "cost"):
        with pytest.raises(InvalidValue, match="StateMachine"):
            await lone.harness.store.update(Picture, picture.id, **{column: None})


async def test_an_answer_outlives_an_outage_of_the_database(lone: World, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = lone.shop._desk.recorder
    record, failures = recorder.record, iter([Unavailable("restarting"), Unavailable("restarting")])

    async def failing_at_first(change: Any) -> bool:
        error = next(failures, None)
        if error is not None:
            raise error
        return await record(change)

    monkeypatch.setattr(recorder, "record", failing_at_first)
    picture = await lone.picture()
    assert (picture.status, picture.external_id, len(lone.shop.submitted)) == ("processing", "p1", 1)


async def test_what_is_stored_agrees_with_its_definitions(lone: World) -> None:
    picture = await lone.picture()
    lone.shop.answers["p1"] = DONE
    await lone.after(5, picture)
    report = await audit(lone.harness.run.plan, lone.harness.run.driver)
    assert report.clean, format_report(report)
