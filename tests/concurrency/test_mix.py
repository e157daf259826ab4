"""Random mixes of writers on the same few records end right with no error surfaced, in one process and in several."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from tests.concurrency.board import assert_true, running
from tests.concurrency.mix import Tally, furnish, total, write_at_once

WRITERS = 8
CALLS = 25


def assert_few_conflicts(tally: Tally, url: str) -> None:
    """Single calls take their locks in an order in which few start again, even where all meet on three posts; on SQLite none."""
    allowed = 0 if url.startswith("sqlite") else tally.calls // 5
    assert tally.conflicts <= allowed, tally


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_writers_of_one_process(database_url: str, seed: int) -> None:
    async with running(database_url) as run:
        await furnish(run)
        tally = await write_at_once(run, writers=WRITERS, calls=CALLS, seed=seed)
        assert tally.calls == WRITERS * CALLS
        assert_few_conflicts(tally, database_url)
        await assert_true(run)


@pytest.mark.slow
async def test_writers_with_transactions_of_several_calls(database_url: str) -> None:
    """Their locks come in the order of their calls: some start again, as a whole, and nobody notices."""
    async with running(database_url) as run:
        await furnish(run)
        tally = await write_at_once(run, writers=WRITERS, calls=10, seed=1, several=3)
        assert tally.conflicts <= tally.calls // 2, tally
        await assert_true(run)


@pytest.mark.slow
async def test_writers_of_two_apps_on_one_database(database_url: str) -> None:
    """Two pools, two sets of id blocks, two plans: nothing is shared but the database."""
    async with running(database_url) as one, running(database_url) as other:
        await furnish(one)
        tallies = await asyncio.gather(
            *(write_at_once(run, writers=4, calls=CALLS, seed=n) for n, run in enumerate((one, other)))
        )
        assert_few_conflicts(total(tallies), database_url)
        await assert_true(one)
        await assert_true(other)


@pytest.mark.slow
async def test_writers_of_two_processes(database_url: str) -> None:
    async with running(database_url) as run:
        await furnish(run)
        tallies = await asyncio.gather(*(_process(database_url, seed) for seed in (1, 2)))
        assert_few_conflicts(total(tallies), database_url)
        await assert_true(run)


async def _process(url: str, seed: int) -> Tally:
    arguments = ["--database", url, "--writers", "4", "--calls", str(CALLS), "--seed", str(seed)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.concurrency.mix",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return Tally(**json.loads(printed))
