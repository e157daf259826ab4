"""How often and after which pauses work that lost a conflict is run again.

Decides the number of attempts, the pauses (full jitter, so that two that collided don't collide again), and from which
attempt on they stand in line, one after the other: where many meet on few records, the losers would only make each other
lose again. Leaves to the caller what is safe to repeat: only whole transactions, never an explicit `transaction()` whose
body it can't call again. Invariant: the number of attempts is bounded, and the last error is raised as it came.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

from ensue.errors import Conflict
from ensue.store.driver import Dialect
from ensue.store.statement import Run, Statement, Work

T = TypeVar("T")

ATTEMPTS_MAX: Final = 10
LOST_BEFORE_LINE: Final = 1
PAUSE_FIRST_SECONDS: Final = 0.005
PAUSE_MAX_SECONDS: Final = 0.5
_LINE_KEY: Final = 7_305_805_512
"""Of the advisory lock on PostgreSQL that whoever is first in line holds until its transaction ends."""
_LINE: Final = Statement("retry.line", "SELECT pg_advisory_xact_lock($1)", rows=True)


def retry_delays(attempts: int = ATTEMPTS_MAX, *, rng: random.Random | None = None) -> Iterator[float]:
    """The pauses in seconds between `attempts` attempts: each uniform in 0 … min(0.5, 0.005 · 2ⁿ).

    >>> len(list(retry_delays(10)))
    9
    """
    uniform = rng.uniform if rng is not None else random.uniform
    for number in range(attempts - 1):
        yield uniform(0, min(PAUSE_MAX_SECONDS, PAUSE_FIRST_SECONDS * 2**number))


async def with_retry(
    operation: Callable[[int], Awaitable[T]],
    *,
    attempts: int = ATTEMPTS_MAX,
    rng: random.Random | None = None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> T:
    """Await `operation(lost)`, again while it raises `Conflict`; `lost` is how often it has.

    That is a deadlock, a serialization failure, or a busy SQLite file in the middle of a transaction.
    """
    lost = 0
    for pause in retry_delays(attempts, rng=rng):
        try:
            return await operation(lost)
        except Conflict:
            lost += 1
            await sleep(pause)
    return await operation(lost)


def stand_in_line(dialect: Dialect, lost: int) -> Work[None]:
    """To be run first in a transaction that has lost `lost` conflicts: from the second attempt on, one at a time goes on.

    It holds no other lock while it waits, so the line itself is part of no deadlock. SQLite's writer is alone anyway.
    """
    if lost >= LOST_BEFORE_LINE and dialect == "postgresql":
        yield Run(_LINE, (_LINE_KEY,))
