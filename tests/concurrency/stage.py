"""Schedules of several sessions that happen the same way every time.

An actor is a task of its own, started with the statement that it stops before or after; the next step of the test runs while
it stands there. That another actor waits for a lock is asked of PostgreSQL. Stops are put into the engine's own work as
callbacks, so that the driver under test is the real one.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import asyncpg

from ensue.engine.engine import Engine
from ensue.store.statement import Call, Run, Work

T = TypeVar("T")

PATIENCE_SECONDS = 20.0
END = "commit"
"""As the name of a statement: the end of the work, with only COMMIT to come."""


class Stop:
    """A place in the work of one actor: `before("post.derive")`, `after("comment.insert")`, `before(END)`."""

    def __init__(self, name: str, *, after: bool = False) -> None:
        self.name = name
        self.after = after
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def arrive(self, _session: object) -> None:
        self.reached.set()
        await self.opened.wait()

    def matches(self, name: str, *, after: bool) -> bool:
        return not self.reached.is_set() and self.after is after and re.fullmatch(self.name, name) is not None

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} {self.name}"


def before(name: str) -> Stop:
    """The actor stops before the first statement of that name (a regular expression)."""
    return Stop(name)


def after(name: str) -> Stop:
    """The actor stops after the first statement of that name."""
    return Stop(name, after=True)


_stops: ContextVar[tuple[Stop, ...]] = ContextVar("stops", default=())
_attempts: ContextVar[list[int] | None] = ContextVar("attempts", default=None)


def _with_stops(work: Work[T], *, ends: bool) -> Work[T]:
    """`work`, with a callback wherever the running actor is to stop."""
    stops = _stops.get()
    answer: Any = None
    error: BaseException | None = None
    try:
        while True:
            try:
                request = work.send(answer) if error is None else work.throw(error)
            except StopIteration as end:
                if ends:
                    yield from _pause(stops, END, after=False)
                return end.value
            name = request.statement.name if isinstance(request, Run) else ""
            yield from _pause(stops, name, after=False)
            try:
                answer, error = (yield request), None
            except GeneratorExit:
                raise
            except BaseException as failure:  # noqa: BLE001 - goes on into the work, whatever it is
                error = failure
            else:
                yield from _pause(stops, name, after=True)
    finally:
        work.close()


def _pause(stops: tuple[Stop, ...], name: str, *, after: bool) -> Generator[Call, Any, None]:
    for stop in stops:
        if stop.matches(name, after=after):
            yield Call(stop.arrive)


class _StoppingSession:
    def __init__(self, session: Any) -> None:
        self._session = session

    async def run(self, work: Work[T]) -> T:
        return await self._session.run(_with_stops(work, ends=False))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class StoppingDriver:
    """A driver whose transactions stop where the running actor is told to, and are counted."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    async def write(self, work: Work[T]) -> T:
        _count_attempt()
        return await self._driver.write(_with_stops(work, ends=True))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        _count_attempt()
        async with self._driver.transaction() as session:
            yield _StoppingSession(session)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)


def _count_attempt() -> None:
    counter = _attempts.get()
    if counter is not None:
        counter[0] += 1


class Actor:
    """One session: a task that runs a call, and where it stops."""

    def __init__(self, name: str, call: Callable[[], Awaitable[Any]], stops: tuple[Stop, ...]) -> None:
        self.name = name
        self._stops = stops
        self._counter = [0]
        _stops_token, _attempts_token = _stops.set(stops), _attempts.set(self._counter)
        try:
            self.task = asyncio.ensure_future(call())
            self.task.set_name(name)
        finally:
            _stops.reset(_stops_token)
            _attempts.reset(_attempts_token)

    @property
    def attempts(self) -> int:
        """How many transactions it took."""
        return self._counter[0]

    async def stopped(self, n: int = 0) -> None:
        """Wait until it stands at its nth stop."""
        reached = asyncio.ensure_future(self._stops[n].reached.wait())
        done, _ = await asyncio.wait(
            {reached, self.task}, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if reached in done:
            return
        reached.cancel()
        assert self.task in done, f"{self.name} did not come to {self._stops[n]} in time"
        raise AssertionError(f"{self.name} ended without coming to {self._stops[n]}: {self.task!r}")

    async def goes_on(self) -> Any:
        """Open every stop and wait for the end; answers the result of the call."""
        self.opens()
        return await asyncio.wait_for(self.task, PATIENCE_SECONDS)

    def opens(self) -> None:
        """Open every stop."""
        for stop in self._stops:
            stop.opened.set()


class Stage:
    """The actors of one test on one PostgreSQL database."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        self._actors: list[Actor] = []

    def attach(self, engine: Engine) -> None:
        """From now on this engine's transactions stop where their actor is told to."""
        engine.driver = StoppingDriver(engine.driver)

    def start(self, name: str, call: Callable[[], Awaitable[Any]], *stops: Stop) -> Actor:
        """Begin a call as an actor of its own."""
        actor = Actor(name, call, stops)
        self._actors.append(actor)
        return actor

    async def waits(self, actor: Actor, sessions: int = 1) -> None:
        """Wait until `actor` stands at a lock of another session (and so do `sessions` in all)."""
        end = time.monotonic() + PATIENCE_SECONDS
        while await self._connection.fetchval(_WAITING) < sessions:
            assert not actor.task.done(), f"{actor.name} did not wait for anyone: {actor.task!r}"
            assert time.monotonic() < end, f"{actor.name} neither waits for a lock nor ends"
            await asyncio.sleep(0.002)

    async def clear(self) -> None:
        """Let whoever is left go on, so that a failed test ends."""
        for actor in self._actors:
            actor.opens()
        await asyncio.wait_for(
            asyncio.gather(*(actor.task for actor in self._actors), return_exceptions=True), PATIENCE_SECONDS
        )


_WAITING = (
    "SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
    " WHERE NOT l.granted AND a.datname = current_database()"
)


@asynccontextmanager
async def open_stage(url: str) -> AsyncIterator[Stage]:
    """A stage on the PostgreSQL database at `url`."""
    connection = await asyncpg.connect(url)
    try:
        stage = Stage(connection)
        try:
            yield stage
        finally:
            await stage.clear()
    finally:
        await connection.close()
