"""The rows of tasks on each database: claimed by one at a time, changed only by who holds the lease, sent once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ensue import App
from ensue.integrations.tasks import poll_table
from ensue.integrations.tasks.poll_table import Begun, Claim, Intent, Outcome
from ensue.store.driver import Driver
from tests.tasks.shop import Picture, Shop

HOUR = 3_600_000_000


@pytest.fixture
async def driver(database_url: str) -> AsyncIterator[Driver]:
    app = App(entities=[Picture], integrations={"shop": Shop()}, database=database_url)
    async with app.run(setup=False) as run:
        yield run.driver


async def begin(driver: Driver, number: int, key: str, **options: Any) -> Begun:
    intent = Intent(("Picture", number), "shop", key, deadline_micros=HOUR, **options)
    return await driver.write(poll_table.begin(driver.dialect, intent))


async def claim(driver: Driver, token: str, *, at_most: int = 100, lease_micros: int = HOUR) -> list[Claim]:
    return await driver.write(
        poll_table.claim(driver.dialect, "shop", at_most=at_most, token=token, lease_micros=lease_micros, worker="w")
    )


async def record(driver: Driver, *outcomes: Outcome) -> frozenset[tuple[str, int]]:
    return await driver.write(poll_table.record(driver.dialect, outcomes))


def accepted(number: int, key: str, *, delay: int = 0) -> Outcome:
    return Outcome(
        task_type="Picture",
        task_id=number,
        key=key,
        was="sending",
        phase="waiting",
        external_id=f"e{number}",
        delay=delay,
    )


async def waiting(driver: Driver, *numbers: int) -> None:
    """Rows of tasks that are due."""
    for number in numbers:
        await begin(driver, number, f"k{number}")
    await record(driver, *(accepted(number, f"k{number}") for number in numbers))


async def test_a_submission_is_begun_once(driver: Driver) -> None:
    assert (await begin(driver, 1, "a")).find == "send"
    assert (await begin(driver, 1, "a")).find == "unknown"
    assert (await begin(driver, 1, "a", resend_micros=HOUR)).submits == 2
    assert await record(driver, accepted(1, "a", delay=HOUR)) == {("Picture", 1)}
    assert (await begin(driver, 1, "a")).find == "done"
    assert await record(driver, accepted(1, "a")) == frozenset()


async def test_an_old_key_is_never_sent_after_a_new_one(driver: Driver) -> None:
    await begin(driver, 1, "a")
    await record(driver, accepted(1, "a", delay=HOUR))
    again = await begin(driver, 1, "b")
    assert (again.find, again.submits) == ("send", 2)
    assert (await begin(driver, 1, "a")).find == "done"


async def test_two_never_claim_one(driver: Driver) -> None:
    numbers = range(1, 61)
    await waiting(driver, *numbers)
    found = await asyncio.gather(*(claim(driver, f"t{worker}", at_most=20) for worker in range(6)))
    held = Counter(one.ref for claims in found for one in claims)
    assert set(held.values()) == {1}
    while more := await claim(driver, "t9"):
        held.update(one.ref for one in more)
    assert held == Counter({("Picture", number): 1 for number in numbers})


async def test_who_lost_the_lease_changes_nothing(driver: Driver) -> None:
    await waiting(driver, 1)
    (lost,) = await claim(driver, "first", lease_micros=0)
    (held,) = await claim(driver, "second")
    assert await record(driver, lost.outcome("settled")) == frozenset()
    assert await record(driver, held.outcome("waiting", delay=0)) == {("Picture", 1)}
    assert await record(driver, held.outcome("settled")) == frozenset()
    (again,) = await claim(driver, "third")
    assert again.polls == 1
    assert await record(driver, again.outcome("settled")) == {("Picture", 1)}
    assert await claim(driver, "fourth") == []


async def test_what_is_given_back_is_due_at_once(driver: Driver) -> None:
    await waiting(driver, 1, 2)
    assert len(await claim(driver, "first")) == 2
    assert await claim(driver, "second") == []
    await driver.write(poll_table.release(driver.dialect, "shop", "first"))
    assert len(await claim(driver, "second")) == 2


async def test_the_next_visit_is_never_after_the_deadline(driver: Driver) -> None:
    await begin(driver, 1, "a")
    await record(driver, accepted(1, "a", delay=10 * HOUR))
    due = await driver.read(poll_table.due_in(driver.dialect, "shop"))
    assert due is not None
    assert 0 < due <= HOUR


async def test_forgotten_when_it_ended_long_ago(driver: Driver) -> None:
    await waiting(driver, 1, 2)
    held = await claim(driver, "first")
    await record(driver, held[0].outcome("settled"))
    assert await driver.write(poll_table.prune(driver.dialect, "shop", HOUR)) == 0
    assert await driver.write(poll_table.prune(driver.dialect, "shop", -HOUR)) == 1
