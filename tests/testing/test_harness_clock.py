"""Time in a harness: it stands still, moves when told, and both databases believe it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from ensue import (
    App,
    AsyncTask,
    Effect,
    Entity,
    Integration,
    Property,
    Rate,
    Retry,
    Target,
    TaskIntegration,
    TaskUpdate,
    side_effect,
)
from ensue.clock import ManualClock, to_micros
from ensue.effects import ledger
from ensue.store.statement import Run, Statement, Work
from ensue.testing import AppHarness


class Busy(RuntimeError):
    """Not to be tried again for a minute."""

    retry_after_seconds = 60.0


class Letter(Entity):
    text: Property[str]


class Post(Integration):
    """Fails as often as it is told, and notes when it was called."""

    failures: int = 0

    def __init__(self, **given: object) -> None:
        super().__init__(**given)
        self.calls: list[tuple[datetime, str]] = []
        self.left = self.failures

    @side_effect(Letter, on="create", retry=Retry(max_attempts=6))
    async def send(self, effect: Effect[Letter]) -> None:
        self.calls.append((self.clock.now(), effect.record.text))
        if self.left:
            self.left -= 1
            raise Busy("later") if effect.record.text == "busy" else RuntimeError("not now")


def app(failures: int = 0) -> App:
    return App(entities=[Letter], integrations={"post": Post(failures=failures)})


@pytest.fixture(params=["sqlite", "file", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "sqlite":
        yield "sqlite:///:memory:"
    elif request.param == "file":
        yield request.getfixturevalue("sqlite_url")
    else:
        yield request.getfixturevalue("postgres_url")


async def test_nothing_that_failed_is_due_until_time_moves(database: str) -> None:
    async with AppHarness(app(failures=1), database=database) as harness:
        post = harness.integration("post")
        await harness.store.create(Letter(text="busy"))
        await harness.drain()
        await harness.drain()
        assert len(post.calls) == 1
        harness.clock.advance(seconds=59)
        await harness.drain()
        assert len(post.calls) == 1
        # Chance may add a tenth to what was asked for.
        harness.clock.advance(seconds=10)
        await harness.drain()
        assert len(post.calls) == 2


async def test_what_becomes_due_is_delivered_on_the_way_each_at_its_instant(database: str) -> None:
    async with AppHarness(app(failures=4), database=database) as harness:
        post, began = harness.integration("post"), harness.clock.now()
        await harness.store.create(Letter(text="a"))
        await harness.advance(3600)
        assert harness.clock.now() == began + timedelta(hours=1)
        assert len(post.calls) == 5
        instants = [at for at, _ in post.calls]
        assert instants == sorted(instants)
        # 1 + 2 + 4 + 8 seconds at most: not all at the end of the hour.
        assert instants[-1] - began <= timedelta(seconds=16)


async def test_attempts_end_and_retention_comes_in_the_same_time(database: str) -> None:
    async with AppHarness(app(failures=99), database=database) as harness:
        await harness.store.create(Letter(text="a"))
        await harness.advance(3600)
        [entry] = await ledger.list_effects(harness.run.driver)
        assert (entry.state, entry.attempt) == ("dead", 6)
        harness.integration("post").left = 0
        await harness.store.create(Letter(text="b"))
        await harness.drain()
        week = timedelta(days=7)
        assert await ledger.prune_effects(harness.run.driver, older_than=week) == 0
        await harness.advance(week.total_seconds() + 60)
        assert await ledger.prune_effects(harness.run.driver, older_than=week) == 1


async def test_the_databases_clock_is_the_harnesses(database: str) -> None:
    async with AppHarness(app(), database=database) as harness:
        harness.clock.advance(seconds=1.234567)
        await harness.store.create(Letter(text="a"))
        [entry] = await ledger.list_effects(harness.run.driver)
        assert entry.enqueued_at == harness.clock.now()
        harness.clock.advance(seconds=2.5)
        await harness.drain()
        [entry] = await ledger.list_effects(harness.run.driver)
        assert entry.settled_at == harness.clock.now()


async def test_what_was_caused_is_due_at_once(database: str) -> None:
    async with AppHarness(app(), database=database) as harness:
        for text in ("first", "second"):
            await harness.store.create(Letter(text=text))
            await harness.drain()
            assert harness.integration("post").calls[-1] == (harness.clock.now(), text)


async def test_no_table_of_a_used_harness_learns_of_real_time(database: str) -> None:
    clock = ManualClock(datetime(2040, 1, 1, tzinfo=UTC))
    async with AppHarness(app(failures=1), database=database, clock=clock) as harness:
        await harness.store.create(Letter(text="a"))
        await harness.advance(60)
        driver, tables = harness.run.driver, harness.run.plan.metadata.tables
        columns = [
            (table.name, column.name)
            for table in tables.values()
            for column in table.columns
            if table.name.startswith("ensue_") and column.name.endswith(("_at", "_until"))
        ]
        for table, column in columns:
            [[earliest]] = await driver.read(_rows(f"SELECT min({column}) FROM {table}"))
            assert earliest is None or earliest >= to_micros(clock.now() - timedelta(seconds=60)), (table, column)


def _rows(text: str) -> Work[Any]:
    return (yield Run(Statement("test.instants", text, rows=True), ()))


class Drawing(AsyncTask):
    prompt: Property[str]


class Drawings(TaskIntegration):
    """Is asked three times before it is done."""

    tasks = Drawing
    expected_seconds = 10.0

    async def submit(self, task: Drawing, key: str) -> str:
        self.asked: list[datetime] = []
        return "d1"

    async def poll(self, external_id: str) -> TaskUpdate:
        self.asked.append(self.clock.now())
        return TaskUpdate(status="completed" if len(self.asked) == 3 else "processing")


async def test_tasks_are_asked_after_on_the_way(database: str) -> None:
    drawings = App(entities=[Drawing], integrations={"drawings": Drawings()})
    async with AppHarness(drawings, database=database) as harness:
        began = harness.clock.now()
        drawing = await harness.store.create(Drawing(prompt="a hat"))
        await harness.advance(5)
        assert harness.integration("drawings").asked == []
        await harness.advance(595, polls=False)
        assert harness.integration("drawings").asked == []
        await harness.advance(600)
        asked = harness.integration("drawings").asked
        assert [at >= began + timedelta(seconds=600) for at in asked] == [True] * 3
        assert asked == sorted(set(asked))
        assert (await harness.store.get(Drawing, drawing.id)).status == "completed"


class Slowly(Integration):
    """Goes to somebody who takes one a minute."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[datetime] = []

    @side_effect(Letter, on="create", target=Target("slow", rate=Rate(1, per_seconds=60)))
    async def send(self, effect: Effect[Letter]) -> None:
        self.calls.append(self.clock.now())


async def test_what_a_rate_holds_back_goes_at_its_pace(database_url: str) -> None:
    async with AppHarness(App(entities=[Letter], integrations={"slowly": Slowly()}), database=database_url) as harness:
        await harness.store.create_many([Letter(text=str(number)) for number in range(20)])
        await harness.advance(601)
        calls = harness.integration("slowly").calls
        assert len(calls) == 11
        assert {round((late - early).total_seconds()) for early, late in pairwise(calls)} == {60}
