"""Tasks in the background are ended, also where a cancellation is lost, and within a bound where one is given."""

from __future__ import annotations

import asyncio

import pytest

from ensue import background
from ensue.background import Background, end_tasks


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "AGAIN_SECONDS", 0.02)


async def started(*works: asyncio.Task[None]) -> None:
    await asyncio.sleep(0)
    assert not any(work.done() for work in works)


async def test_a_cancellation_that_is_lost_is_repeated() -> None:
    lost = 0

    async def stubborn() -> None:
        nonlocal lost
        while lost < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
        await asyncio.Event().wait()

    async def prompt() -> None:
        await asyncio.Event().wait()

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(prompt())]
    await started(*tasks)
    assert await end_tasks(*tasks, None)
    assert (lost, [task.cancelled() for task in tasks]) == (2, [True, True])


async def test_one_that_has_ended_or_failed_is_left_alone() -> None:
    async def fail() -> None:
        raise LookupError("gone")

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    assert await end_tasks(task)
    assert isinstance(task.exception(), LookupError)


async def test_the_bound_holds_for_one_that_never_ends() -> None:
    over = asyncio.Event()

    async def deaf() -> None:
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(deaf())
    await started(task)
    assert not await end_tasks(task, within_seconds=0.1)
    assert not task.done()
    over.set()
    await task


async def test_a_task_lasts_as_long_as_its_context() -> None:
    class Works(Background):
        task_name = "ensue.test"

        def __init__(self) -> None:
            self.seen: list[str] = []

        async def _run(self) -> None:
            task = asyncio.current_task()
            self.seen.append(task.get_name() if task is not None else "")
            try:
                await asyncio.Event().wait()
            finally:
                self.seen.append("ended")

    async with Works() as works:
        await asyncio.sleep(0)
        assert works.seen == ["ensue.test"]
    assert works.seen == ["ensue.test", "ended"]
    with pytest.raises(NotImplementedError, match="Background does nothing"):
        await Background()._run()


async def test_one_that_ends_by_an_error_of_its_own_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Background):
        task_name = "ensue.broken"

        async def _run(self) -> None:
            raise RuntimeError("out of paper")

    async with Broken():
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert "ensue.broken has ended by an error" in caplog.text
        assert "out of paper" in caplog.text
