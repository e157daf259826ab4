"""Several workers and one killed: every task is settled, each end is told once, and none is asked after by two at a time.

`make tasks` does it with 10,000. Each run is a program of its own, as what forks must not have threads.
"""

from __future__ import annotations

import asyncio
import json
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_all_are_settled_by_several_workers_of_which_one_is_killed(database_url: str) -> None:
    size = ("--tasks", "150", "--workers", "4", "--failing", "0.02", "--lease", "2.5", "--after-submits")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.tasks.many",
        "--database",
        database_url,
        "--seconds-max",
        "90",
        *size,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, errors = await process.communicate()
    assert printed, errors.decode()
    figures = json.loads(printed)
    assert figures["wrong"] == [], errors.decode()[-3000:]
    assert figures["completed"] + figures["failed"] == 150
    assert figures["polls_by_two"] == 0
