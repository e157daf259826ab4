"""Retrying: bounded, jittered, and for conflicts only."""

import random

import pytest

from ensue.errors import Conflict, Unavailable
from ensue.store.retry import PAUSE_MAX_SECONDS, retry_delays, with_retry


def test_delays_are_bounded_and_grow() -> None:
    delays = [list(retry_delays(12, rng=random.Random(seed))) for seed in range(200)]
    for number, column in enumerate(zip(*delays, strict=True)):
        limit = min(PAUSE_MAX_SECONDS, 0.005 * 2**number)
        assert 0 <= min(column) < limit / 4
        assert limit * 3 / 4 < max(column) <= limit


@pytest.mark.parametrize(("conflicts", "succeeds"), [(0, True), (9, True), (10, False)])
async def test_conflicts_are_retried(conflicts: int, succeeds: bool) -> None:
    calls, pauses = 0, []

    async def operation(lost: int) -> str:
        nonlocal calls
        assert lost == calls
        calls += 1
        if calls <= conflicts:
            raise Conflict(f"number {calls}")
        return "done"

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    if succeeds:
        assert await with_retry(operation, sleep=sleep) == "done"
    else:
        with pytest.raises(Conflict, match="number 10"):
            await with_retry(operation, sleep=sleep)
    assert len(pauses) == min(conflicts, 9)


async def test_other_errors_are_not() -> None:
    calls = 0

    async def operation(_: int) -> None:
        nonlocal calls
        calls += 1
        raise Unavailable("no")

    with pytest.raises(Unavailable):
        await with_retry(operation)
    assert calls == 1
