"""What every contestant does, and how it is timed.

A contestant makes a producer: an object with `prepare()` (tables), `produce(n)` (one business row and one effect, in one
transaction of its own) and `close()`; and runs a worker, whose handler calls `seen(n)`. A worker writes, for each effect, its
number and the instant at which the handler began, on the clock that all processes of a machine share. Invariant: nobody is
timed by its own bookkeeping; what counts is what the handlers wrote.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

CONCURRENCY = 100
"""Handlers at a time in one worker, for everybody."""


class Producer(Protocol):
    """The side that commits causes with their effects."""

    async def prepare(self) -> None: ...

    async def produce(self, number: int) -> None: ...

    async def close(self) -> None: ...


class Contestant(Protocol):
    """One way to deliver effects. `guarantees` is a line for the table."""

    name: str
    guarantees: str

    def producer(self, database: str) -> Producer: ...

    async def work(self, database: str, seen: Seen, ready: Callable[[], None]) -> None: ...


class Seen:
    """The record of one worker: a line for every effect that reached its handler."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __call__(self, number: int) -> None:
        os.write(self._file, b"%d\t%d\n" % (number, time.monotonic_ns()))


@dataclass
class Times:
    """When each cause was committed and when its handler began, in ns of the machine's monotonic clock."""

    committed: dict[int, int] = field(default_factory=dict[int, int])
    begun: dict[int, list[int]] = field(default_factory=dict[int, list[int]])

    def read(self, directory: Path) -> None:
        """Take in what the workers wrote so far."""
        self.begun = {}
        for path in directory.glob("seen-*"):
            for line in path.read_bytes().splitlines():
                number, _, at = line.partition(b"\t")
                self.begun.setdefault(int(number), []).append(int(at))

    def milliseconds(self, numbers: range) -> list[float]:
        """From the return of the commit to the handler, sorted. A handler can begin before the producer has heard of it."""
        return sorted((min(self.begun[n]) - self.committed[n]) / 1e6 for n in numbers)


async def commit_all(producer: Producer, times: Times, numbers: range, *, clients: int) -> float:
    """Commit every number, by so many clients at a time; answers the seconds that took."""
    began = time.monotonic()
    rest = iter(numbers)

    async def client() -> None:
        for number in rest:
            await producer.produce(number)
            times.committed[number] = time.monotonic_ns()

    await asyncio.gather(*(client() for _ in range(clients)))
    return time.monotonic() - began


async def commit_steadily(producer: Producer, times: Times, numbers: range, *, per_second: float) -> None:
    """Commit every number at its instant, whatever became of the ones before."""
    began = time.monotonic()
    tasks: list[asyncio.Task[None]] = []

    async def one(number: int) -> None:
        await producer.produce(number)
        times.committed[number] = time.monotonic_ns()

    for n, number in enumerate(numbers):
        await asyncio.sleep(max(0.0, began + n / per_second - time.monotonic()))
        tasks.append(asyncio.create_task(one(number)))
    await asyncio.gather(*tasks)


async def wait_for(times: Times, directory: Path, numbers: range, *, seconds: float) -> bool:
    """Whether every number reached a handler in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        times.read(directory)
        if all(number in times.begun for number in numbers):
            return True
        await asyncio.sleep(0.25)
    return False
