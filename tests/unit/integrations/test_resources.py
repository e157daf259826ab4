"""What is entered is closed, in reverse order and in time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ensue.integrations.running.resources import Resources, bounded


@asynccontextmanager
async def resource(name: str, *, log: list[str], fails: bool = False, hangs: bool = False) -> AsyncIterator[str]:
    yield name
    log.append(name)
    if fails:
        raise OSError(name)
    if hangs:
        await asyncio.Event().wait()


async def test_resources_close_in_reverse_order_whatever_fails() -> None:
    log: list[str] = []
    resources = Resources(seconds_max=0.05)
    assert await resources.enter(resource("one", log=log), name="one") == "one"
    await resources.enter(resource("two", log=log, fails=True), name="two")
    await resources.enter(resource("three", log=log, hangs=True), name="three")
    failures = await resources.close()
    assert log == ["three", "two", "one"]
    assert [failure.what for failure in failures] == ["closing three", "closing two"]
    assert "took longer than 0.05 s" in str(failures[0].error)
    assert isinstance(failures[1].error, OSError)
    assert await resources.close() == []


async def test_a_resource_that_cannot_be_entered_is_not_closed() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        raise OSError("no")
        yield

    resources = Resources()
    with pytest.raises(OSError, match="no"):
        await resources.enter(broken(), name="broken")
    assert await resources.close() == []


async def test_a_cancellation_closes_the_rest_and_is_raised_then() -> None:
    log: list[str] = []
    resources = Resources()
    await resources.enter(resource("one", log=log), name="one")
    await resources.enter(resource("two", log=log, hangs=True), name="two")
    closing = asyncio.create_task(resources.close())
    await asyncio.sleep(0.01)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert log == ["two", "one"]


async def test_an_own_timeout_of_the_work_is_no_overrun() -> None:
    async def work() -> None:
        raise TimeoutError("theirs")

    failure = await bounded("work", work, 5)
    assert failure is not None
    assert str(failure.error) == "theirs"
