"""What an integration holds open, closed in reverse order whatever happens.

Decides the order and the time that closing may take; leaves connecting to the resources themselves. Invariant: every
resource that was entered is closed once, in the task that entered it, and none can keep the ones before it from being
closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

CLOSE_SECONDS_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that went wrong while closing: `what` was closed, and the error."""

    what: str
    error: BaseException


class Resources:
    """A stack of entered context managers with a bound on each closing.

    >>> resources = Resources()
    >>> asyncio.run(resources.close())
    []
    """

    def __init__(self, *, seconds_max: float = CLOSE_SECONDS_MAX) -> None:
        self._seconds_max = seconds_max
        self._open: list[tuple[str, AbstractAsyncContextManager[Any]]] = []

    async def enter(self, resource: AbstractAsyncContextManager[T], *, name: str) -> T:
        """Enter `resource` and give what it gives; `name` is for messages."""
        value = await resource.__aenter__()
        self._open.append((name, resource))
        return value

    async def close(self) -> list[Failure]:
        """Close all, the last entered first.

        Gives what failed or took too long; nothing is raised but a cancellation.
        """
        failures: list[Failure] = []
        cancelled: BaseException | None = None
        while self._open:
            name, resource = self._open.pop()
            failure = await bounded(
                f"closing {name}", lambda it=resource: it.__aexit__(None, None, None), self._seconds_max
            )
            if failure is not None:
                failures.append(failure)
                cancelled = _cancellation(failure) or cancelled
        if cancelled is not None:
            raise cancelled
        return failures


async def bounded(what: str, work: Callable[[], Awaitable[Any]], seconds_max: float) -> Failure | None:
    """Await `work()` for at most `seconds_max`; gives the failure, a cancellation from outside included, or None."""
    limit = asyncio.timeout(seconds_max)
    try:
        async with limit:
            await work()
    except TimeoutError as error:
        if not limit.expired():
            return Failure(what, error)
        return Failure(what, TimeoutError(f"{what} took longer than {seconds_max:g} s and was cancelled."))
    except BaseException as error:  # noqa: BLE001 - handed to the caller, who goes on with what is left and then raises
        return Failure(what, error)
    return None


def _cancellation(failure: Failure) -> BaseException | None:
    return None if isinstance(failure.error, Exception) else failure.error
