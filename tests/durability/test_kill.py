"""kill -9, again and again: nothing that was committed is lost, and nothing is told that was not.

The long version is `make kill`. Each run is a program of its own, as what forks must not have threads.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest


async def kill(database: str, *arguments: str) -> dict[str, Any]:
    """The figures of one run of `tests.durability.kill`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.durability.kill",
        "--database",
        database,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, errors = await process.communicate()
    assert printed, errors.decode()
    found: dict[str, Any] = json.loads(printed)
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_nothing_is_lost_when_the_process_is_killed(database_url: str) -> None:
    figures = await kill(database_url, "--kills", "20", "--effects", "800", "--life", "0.6")
    assert figures["wrong"] == []
    assert figures["kills"] >= 20
    assert figures["effects"] >= 800


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_nothing_is_lost_when_a_worker_is_killed_while_another_process_commits(database_url: str) -> None:
    figures = await kill(database_url, "--apart", "--kills", "10", "--effects", "500")
    assert figures["wrong"] == []
    assert figures["kills"] >= 10
