"""How often and after which pauses work that lost a conflict is run again.

Decides the number of attempts and the pauses (full jitter, so that two that collided don't collide again). Leaves to
the caller what is safe to repeat: only whole transactions, never an explicit `transaction()` whose body it can't call
again. Invariant: the number of attempts is bounded, and the last error is raised as it came.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from ensue.errors import Conflict

T = TypeVar("T")

ATTEMPTS_MAX = 6
PAUSE_FIRST_SECONDS = 0.005
PAUSE_MAX_SECONDS = 0.5


def retry_delays(attempts: int = ATTEMPTS_MAX, *, rng: random.Random | None = None) -> Iterator[float]:
    """The pauses in seconds between `attempts` attempts: each uniform in 0 … min(0.5, 0.005 · 2ⁿ).

    >>> len(list(retry_delays(6)))
    5
    """
    uniform = rng.uniform if rng is not None else random.uniform
    for number in range(attempts - 1):
        yield uniform(0, min(PAUSE_MAX_SECONDS, PAUSE_FIRST_SECONDS * 2**number))


async def with_retry(
    operation: Callable[[], Awaitable[T]],
    *,
    attempts: int = ATTEMPTS_MAX,
    rng: random.Random | None = None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> T:
    """Await `operation()`, again while it raises `Conflict`.

    That is a deadlock, a serialization failure, or a busy SQLite file in the middle of a transaction.
    """
    for pause in retry_delays(attempts, rng=rng):
        try:
            return await operation()
        except Conflict:
            await sleep(pause)
    return await operation()
