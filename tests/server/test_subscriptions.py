"""Subscriptions on their own: who is read again when, and what becomes of reads that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from ensue import NotFound, Rejected, Unavailable
from ensue.server.live.subscriptions import NOTHING, Subscriptions, Watched


class Readable:
    """A source whose data and failures a test decides."""

    def __init__(self, key: str = "k", **watched: Any) -> None:
        self.key = key
        self.watched = Watched(**watched)
        self.data = b"0"
        self.reads = 0
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def read(self) -> bytes:
        self.reads += 1
        data, failure = self.data, self.failure
        if self.gate is not None:
            await self.gate.wait()
        if failure is not None:
            raise failure
        return data


class Heard:
    """A subscriber that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.refusal: Exception | None = None

    async def begin(self, data: bytes) -> None:
        self.told.append(("begin", data))

    async def push(self, data: bytes) -> None:
        self.told.append(("push", data))

    async def end(self, error: Exception) -> None:
        self.told.append(("end", type(error)))

    async def check(self) -> None:
        if self.refusal is not None:
            raise self.refusal


@pytest_asyncio.fixture
async def all_of_them() -> AsyncIterator[Subscriptions]:
    subscriptions = Subscriptions()
    yield subscriptions
    await subscriptions.close()


async def settled(check: Callable[[], bool] = lambda: True) -> None:
    """Let what is to happen now happen."""
    async with asyncio.timeout(5):
        for _ in range(20):
            await asyncio.sleep(0)
        while not check():  # noqa: ASYNC110  # a list has no event to wait on
            await asyncio.sleep(0.01)


async def test_only_what_a_commit_touches_is_read_again(all_of_them: Subscriptions) -> None:
    sources = {
        "one": Readable("one", record=("Post", 1)),
        "two": Readable("two", record=("Post", 2), types=frozenset({"User"})),
        "type": Readable("type", types=frozenset({"Post"})),
        "anything": Readable("anything", types=None),
    }
    for source in sources.values():
        all_of_them.add(source, Heard())
    await settled()

    async def read_after(touched: dict[str, list[int]]) -> set[str]:
        before = {name: source.reads for name, source in sources.items()}
        all_of_them.touched(touched)
        await settled()
        return {name for name, source in sources.items() if source.reads > before[name]}

    assert await read_after({"Post": [1]}) == {"one", "type", "anything"}
    assert await read_after({"Post": [3]}) == {"type", "anything"}
    assert await read_after({"User": [9]}) == {"two", "anything"}
    assert await read_after({"Other": [1]}) == {"anything"}
    assert await read_after({}) == set()


async def test_equal_subscriptions_are_read_once(all_of_them: Subscriptions) -> None:
    source, hearers = Readable(record=("Post", 1)), [Heard() for _ in range(50)]
    for hearer in hearers:
        all_of_them.add(source, hearer)
    await settled()
    reads, source.data = source.reads, b"1"
    all_of_them.touched({"Post": [1]})
    await settled()
    assert source.reads == reads + 1
    assert all(hearer.told == [("begin", b"0"), ("push", b"1")] for hearer in hearers)


async def test_changes_during_a_read_are_read_again_and_bundled(all_of_them: Subscriptions) -> None:
    source, hearer = Readable(record=("Post", 1)), Heard()
    source.gate = asyncio.Event()
    all_of_them.add(source, hearer)
    await settled()
    source.data = b"1"
    for _ in range(10):
        all_of_them.touched({"Post": [1]})
    late = Heard()
    all_of_them.add(source, late)
    source.gate.set()
    await settled()
    assert hearer.told == [("begin", b"0"), ("push", b"1")]
    # Whoever comes during a read is answered from one that began afterwards.
    assert late.told == [("begin", b"1")]
    assert source.reads == 2


async def test_what_does_not_exist_can_not_be_subscribed_to(all_of_them: Subscriptions) -> None:
    source, hearer = Readable(record=("Post", 1)), Heard()
    source.data = NOTHING
    all_of_them.add(source, hearer)
    await settled()
    assert hearer.told == [("end", NotFound)]
    assert len(all_of_them) == 0


async def test_a_subscriber_that_may_no_longer_is_not_shown_the_change(all_of_them: Subscriptions) -> None:
    source, allowed, refused = Readable(record=("Post", 1)), Heard(), Heard()
    all_of_them.add(source, allowed)
    all_of_them.add(source, refused)
    await settled()
    refused.refusal, source.data = Rejected("not_allowed"), b"1"
    all_of_them.touched({"Post": [1]})
    await settled()
    assert refused.told == [("begin", b"0"), ("end", Rejected)]
    assert allowed.told == [("begin", b"0"), ("push", b"1")]


@pytest.mark.parametrize("error", [Rejected("not_allowed"), RuntimeError("a defect")])
async def test_a_read_that_fails_ends_the_subscriptions(all_of_them: Subscriptions, error: Exception) -> None:
    source, hearer = Readable(record=("Post", 1)), Heard()
    all_of_them.add(source, hearer)
    await settled()
    source.failure = error
    all_of_them.touched({"Post": [1]})
    await settled()
    assert hearer.told == [("begin", b"0"), ("end", type(error))]
    assert len(all_of_them) == 0
    source.failure = None
    again = Heard()
    all_of_them.add(source, again)
    await settled()
    assert again.told == [("begin", b"0")]


async def test_a_database_that_is_away_for_a_moment_is_asked_again(all_of_them: Subscriptions) -> None:
    source, hearer, newcomer = Readable(record=("Post", 1)), Heard(), Heard()
    all_of_them.add(source, hearer)
    await settled()
    source.failure, source.data = Unavailable("away"), b"1"
    all_of_them.touched({"Post": [1]})
    await settled()
    all_of_them.add(source, newcomer)
    source.failure = None
    await settled(lambda: len(hearer.told) == 2)
    assert hearer.told == [("begin", b"0"), ("push", b"1")]


async def test_hints_read_what_they_name_or_everything(all_of_them: Subscriptions) -> None:
    one, two = Readable("1", record=("Post", 1)), Readable("2", record=("Post", 2))
    for source in (one, two):
        all_of_them.add(source, Heard())
    await settled()
    all_of_them.hinted('{"Post": [2]}')
    await settled()
    assert (one.reads, two.reads) == (1, 2)
    for _ in range(5):
        all_of_them.hinted("")
    await settled(lambda: two.reads == 3)
    assert (one.reads, two.reads) == (2, 3)


async def test_nothing_is_kept_of_what_is_gone(all_of_them: Subscriptions) -> None:
    source, hearer = Readable(record=("Post", 1), types=frozenset({"User"})), Heard()
    all_of_them.add(source, hearer)
    all_of_them.remove(source, hearer)
    all_of_them.remove(source, hearer)
    await settled()
    assert len(all_of_them) == 0
    reads = source.reads
    all_of_them.touched({"Post": [1], "User": [1]})
    await settled()
    assert source.reads == reads
    assert hearer.told == []
