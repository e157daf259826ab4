"""Many tasks, several workers, one of them killed: all are settled, and none is asked after by two at a time.

    python -m tests.tasks.many --tasks 10000 --workers 4 --failing 0.01 --database postgresql://…

The provider lives in this process, so that it sees every call of every worker. The figures are printed as JSON; the
status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from ensue import App, TaskEvent
from ensue.integrations.tasks.states import FINAL
from tests.services import PostgresServer
from tests.tasks.many_app import Job, make_app

POLL_SECONDS = 0.01
PAGE = 1000


@dataclass
class Figures:
    """What came of it; all is well if `wrong` is empty."""

    database: str = ""
    tasks: int = 0
    workers: int = 0
    killed_at: int = 0
    completed: int = 0
    failed: int = 0
    submits: int = 0
    submits_folded: int = 0
    polls: int = 0
    polls_by_two: int = 0
    polls_after_the_end: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list[str])


class Provider:
    """Takes jobs, folds repeats of a key, lets each take a while, and notices when two ask after one at a time."""

    def __init__(self, *, failing: float) -> None:
        self._failing = failing
        self._rng = random.Random(1)
        self.ids: dict[str, str] = {}
        self.needed: dict[str, int] = {}
        self.broken: set[str] = set()
        self.ended: set[str] = set()
        self.asking: Counter[str] = Counter()
        self.figures = Figures()
        self.by_worker: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            said = (await reader.readline()).decode().split()
            if len(said) == 3:  # else the worker was killed before it had said anything
                worker, verb, what = said
                answer = await (self._submit(what) if verb == "submit" else self._poll(worker, what))
                writer.write(f"{answer}\n".encode())
                await writer.drain()
        writer.close()

    async def _submit(self, key: str) -> str:
        self.figures.submits += 1
        if key in self.ids:
            self.figures.submits_folded += 1
            return self.ids[key]
        id_ = self.ids[key] = f"job-{len(self.ids) + 1}"
        self.needed[id_] = self._rng.randint(1, 3)
        if self._rng.random() < self._failing:
            self.broken.add(id_)
        return id_

    async def _poll(self, worker: str, id_: str) -> str:
        self.figures.polls += 1
        self.figures.polls_after_the_end += id_ in self.ended
        self.by_worker[worker] += 1
        self.asking[id_] += 1
        self.figures.polls_by_two += self.asking[id_] > 1
        try:
            await asyncio.sleep(self._rng.uniform(0.0, 0.03))
        finally:
            self.asking[id_] -= 1
        self.needed[id_] -= 1
        if self.needed[id_] > 0:
            return "working"
        self.ended.add(id_)
        return "broken" if id_ in self.broken else "done"


def run(given: argparse.Namespace) -> Figures:
    """Create the tasks, start the workers, kill one on the way, and count."""
    provider = Provider(failing=given.failing)
    figures = provider.figures
    figures.database, figures.tasks, figures.workers = given.database.partition(":")[0], given.tasks, given.workers
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        app = make_app(given.database, address, lease_seconds=given.lease)
        asyncio.run(_create(app, given.tasks))
        # Forked, as everything is imported here, and while there is neither a loop nor a thread.
        workers = [_fork(app) for _ in range(given.workers)]
        began = time.monotonic()
        try:
            asyncio.run(_watch(provider, app, workers, given=given, listening=listening))
        finally:
            for pid in workers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
        figures.seconds = round(time.monotonic() - began, 1)
    return figures


def _fork(app: App) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(_work(app))
        finally:
            os._exit(0)
    return pid


async def _work(app: App) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with app.run(worker_name="worker", grace_seconds=2):
        await stopping.wait()


async def _create(app: App, tasks: int) -> None:
    async with app.run(deliver=False):
        for first in range(0, tasks, PAGE):
            numbers = range(first, min(first + PAGE, tasks))
            await app.controller.store.create_many([Job(number=number) for number in numbers])


async def _watch(
    provider: Provider, app: App, workers: list[int], *, given: argparse.Namespace, listening: socket.socket
) -> None:
    server = await asyncio.start_server(provider.serve, sock=listening)
    async with app.run(deliver=False):
        store = app.controller.store
        try:
            async with asyncio.timeout(given.seconds_max):
                provider.figures.killed_at = await _kill_one(provider, workers[0], given)
                while await _settled(store) < given.tasks:  # noqa: ASYNC110 - it is other processes that do it
                    await asyncio.sleep(0.1)
        except TimeoutError:
            provider.figures.wrong.append(f"not settled within {given.seconds_max:g} s")
        await _count(store, provider)
    server.close()


async def _kill_one(provider: Provider, victim: int, given: argparse.Namespace) -> int:
    """Kill a worker that is polling, once a good part has ended; how many had."""
    while True:
        ended = len(provider.ended)
        submitted = len(provider.ids) == given.tasks or not given.after_submits
        if submitted and provider.by_worker[str(victim)] and ended >= given.tasks * 0.3:
            os.kill(victim, signal.SIGKILL)
            return ended
        await asyncio.sleep(POLL_SECONDS)


async def _settled(store: Any) -> int:
    return await store.count(Job, Job.status.in_(list(FINAL)))


async def _count(store: Any, provider: Provider) -> None:
    figures = provider.figures
    figures.completed = await store.count(Job, Job.status == "completed")
    figures.failed = await store.count(Job, Job.status == "failed")
    ends = await store.count(TaskEvent, TaskEvent.status.in_(list(FINAL)))
    expected = {
        "tasks settled": (figures.completed + figures.failed, figures.tasks),
        "jobs at the provider": (len(provider.ids), figures.tasks),
        "failed": (figures.failed, len(provider.broken)),
        "ends told": (ends, figures.tasks),
        "polled by two at a time": (figures.polls_by_two, 0),
    }
    for what, (found, wanted) in expected.items():
        if found != wanted:
            figures.wrong.append(f"{what}: {found}, expected {wanted}")


def _folder(stack: ExitStack) -> str:
    return stack.enter_context(tempfile.TemporaryDirectory(prefix="ensue-many-"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--failing", type=float, default=0.01, help="the share of jobs that fail")
    parser.add_argument("--lease", type=float, default=30.0, help="of a poll, in seconds")
    parser.add_argument("--after-submits", action="store_true", help="kill only once everything was submitted")
    parser.add_argument("--seconds-max", type=float, default=900.0)
    parser.add_argument("--database", default="", help="a URL, or postgresql for a server of its own (default: SQLite)")
    given = parser.parse_args(arguments)
    with ExitStack() as stack:
        given.database = given.database or f"sqlite:///{_folder(stack)}/many.db?synchronous=normal"
        if given.database == "postgresql":
            server = stack.enter_context(PostgresServer())
            given.database = stack.enter_context(server.database())
        figures = run(given)
    print(json.dumps(asdict(figures), indent=1))
    return 1 if figures.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
