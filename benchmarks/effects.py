"""What delivery takes: from commit to call, completions a second, idle queries, and rescue after a death.

Decides the loads and what is measured. Leaves comparing with other queues to others. Invariant: every measure checks that what it
enqueued was delivered, each effect once.

    python -m benchmarks.effects --database postgresql://… [--only latency,blind,throughput,idle,rescue] [--tuned]
    python -m benchmarks.effects --only pinned --pinned-seconds 1800
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

from ensue.effects.deliver import Delivery
from ensue.effects.heartbeat import Rhythm
from ensue.effects.outbox import Gate, Turn, Want, claim, first_after, micros
from ensue.effects.target import EffectRow, Handling
from ensue.schema.delivery import Rate, Target
from ensue.store.driver import Driver
from ensue.store.effect_table import NewEffect, enqueue_params, enqueue_statement, order_key_of
from ensue.store.statement import Run, Statement, Work
from ensue.store.url import open_driver
from tests.effects.world import ddl
from tests.effects.world import enqueue as enqueue_in_order
from tests.services import PostgresServer

NAME = "bench.call"
PINNED_PER_SECOND = 1_000
ORDER_KEYS = 1_000


async def deaf(_callback: Callable[[str], None]) -> None:
    """A `watch` whose notifications all get lost."""


class Bench:
    """One database and the workers on it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stack = AsyncExitStack()
        self.made = 0

    async def driver(self) -> Driver:
        found = open_driver(self.url)
        await found.open()
        self.stack.push_async_callback(found.close)
        return found

    async def empty(self, driver: Driver) -> None:
        for table in ("ensue_effect", "ensue_effect_target", "ensue_effect_attempt"):
            await driver.write(_run(Statement("empty", f"DELETE FROM {table} WHERE true")))

    def effects(self, count: int, *, keys: int = 0) -> list[NewEffect]:
        start = self.made
        self.made += count
        return [
            NewEffect(
                name=NAME,
                key=f"{NAME}:{n}:{time.time_ns()}",
                record="M",
                record_id=n,
                payload='{"v":1}',
                order_key=order_key_of(NAME, n % keys) if keys else None,
                position=0 if keys else None,
            )
            for n in range(start, start + count)
        ]

    async def worker(self, handling: Handling, **options: Any) -> Delivery:
        delivery = Delivery(await self.driver(), {NAME: handling}, **options)
        await delivery.start()
        self.stack.push_async_callback(delivery.stop, 1.0)
        return delivery


def _run(statement: Statement, params: tuple[Any, ...] = ()) -> Work[list[Any]]:
    return (yield Run(statement, params))


def enqueue(driver: Driver, effects: list[NewEffect]) -> Work[None]:
    yield Run(enqueue_statement(driver.dialect), enqueue_params(effects))


async def latency(bench: Bench, *, blind: bool, per_second: float, seconds: float) -> str:
    """Commit to call: the committing process wakes its own delivery; with `blind` another process has only its polls."""
    committed: dict[int, float] = {}
    called: dict[int, float] = {}

    async def handler(row: EffectRow) -> None:
        called.setdefault(row.record_id, time.perf_counter())

    writer = await bench.driver()
    worker = await bench.worker(Handling(handler, concurrency=64), **({"watch": deaf} if blind else {}))
    await asyncio.sleep(3 if blind else 1)
    start, count = time.perf_counter(), int(per_second * seconds)

    async def one() -> None:
        [effect] = bench.effects(1)
        await writer.write(enqueue(writer, [effect]))
        committed[effect.record_id] = time.perf_counter()
        if not blind:
            worker.wake()

    tasks: list[asyncio.Task[None]] = []
    for n in range(count):
        await asyncio.sleep(max(0.0, start + n / per_second - time.perf_counter()))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    while len(called) < count:  # noqa: ASYNC110 - a poll costs nothing here
        await asyncio.sleep(0.05)
    waits = sorted((called[n] - committed[n]) * 1000 for n in committed)
    what = "notifications cut" if blind else "woken"
    shown = ", ".join(
        f"{label} {waits[int(len(waits) * share) - 1]:.2f} ms" for label, share in (("p50", 0.5), ("p99", 0.99))
    )
    return f"commit to call, {what}, {per_second:g}/s: {shown}, max {waits[-1]:.1f} ms"


async def throughput(bench: Bench, *, count: int, target: Target | None = None) -> str:
    """Fenced completions a second of one process."""
    done = 0

    async def handler(_row: EffectRow) -> None:
        nonlocal done
        done += 1

    writer = await bench.driver()
    for _ in range(count // 1000):
        await writer.write(enqueue(writer, bench.effects(1000)))
    start = time.perf_counter()
    await bench.worker(Handling(handler, concurrency=400, target=target))
    settled = Statement("settled", "SELECT count(*) FROM ensue_effect WHERE state <> 'done'", rows=True)
    while (await writer.read(_run(settled)))[0][0]:  # noqa: ASYNC110 - it is the table that says so
        await asyncio.sleep(0.05)
    seconds = time.perf_counter() - start
    assert done == count, f"{done} calls for {count} effects"
    return f"completions{' with a rate limit' if target else ''}: {count / seconds:.0f}/s"


async def pinned(bench: Bench, *, count: int, seconds: float, keys: int) -> str:
    """What a snapshot that somebody keeps open costs: `count` effects at once before it and after `seconds` of load under it.

    With `keys` each effect has one of so many order keys.
    """
    writer = await bench.driver()
    committed: dict[int, float] = {}
    called: dict[int, float] = {}

    async def handler(row: EffectRow) -> None:
        called[row.record_id] = time.perf_counter()

    async def commit(number: int) -> None:
        effects = bench.effects(number, keys=keys)
        await writer.write(enqueue_in_order(writer, effects))
        committed.update(dict.fromkeys((effect.record_id for effect in effects), time.perf_counter()))

    async def all_called() -> None:
        while len(called) < bench.made:  # noqa: ASYNC110 - a poll costs nothing here
            await asyncio.sleep(0.005)

    async def burst() -> float:
        for _ in range(count // 1000):
            await commit(1000)
        start = time.perf_counter()
        worker = await bench.worker(Handling(handler, concurrency=400))
        await all_called()
        rate = count / (time.perf_counter() - start)
        await worker.stop(5.0)
        return rate

    before = await burst()
    holder = await bench.driver()
    async with holder.transaction() as session:
        await session.run(_run(Statement("pin", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")))
        await session.run(_run(Statement("pin", "SELECT count(*) FROM ensue_effect", rows=True)))
        worker, first = await bench.worker(Handling(handler, concurrency=64)), bench.made
        start = time.perf_counter()
        for tick in range(int(seconds * 50)):
            await asyncio.sleep(max(0.0, start + tick / 50 - time.perf_counter()))
            await commit(PINNED_PER_SECOND // 50)
            worker.wake()
        await all_called()
        await worker.stop(5.0)
        last = bench.made
        after = await burst()
    assert len(called) == bench.made
    tenth = (last - first) // 10
    early, late = (
        _percentiles(committed, called, first, first + tenth),
        _percentiles(committed, called, last - tenth, last),
    )
    how = f"in order by {keys} keys" if keys else "unordered"
    return (
        f"a snapshot kept for {seconds:g} s at {PINNED_PER_SECOND}/s, {how}: {before:.0f}/s before, {after:.0f}/s under it "
        f"({after / before:.2f}); commit to call in its first tenth {early}, in its last {late}"
    )


def _percentiles(committed: dict[int, float], called: dict[int, float], start: int, end: int) -> str:
    waits = sorted((called[n] - committed[n]) * 1000 for n in range(start, end))
    return ", ".join(f"p{share} {waits[len(waits) * share // 100]:.1f} ms" for share in (50, 99))


async def idle(bench: Bench) -> str:
    """Statements a second of a process that has nothing to do."""
    worker = await bench.worker(Handling(_nothing))
    await asyncio.sleep(3)
    asked: list[str] = []
    worker._driver.observers.append(lambda statement, _n: asked.append(statement.name))  # pyright: ignore[reportPrivateUsage]
    await asyncio.sleep(5)
    return f"idle: {len(asked) / 5:.1f} statements/s"


async def rescue(bench: Bench, *, rhythm: Rhythm) -> str:
    """From a worker's death, right after its claim, to the call elsewhere."""
    writer, called = await bench.driver(), asyncio.Event()

    async def handler(_row: EffectRow) -> None:
        called.set()

    await writer.write(enqueue(writer, bench.effects(1)))
    turn = Turn(
        [Want(NAME, 1, NAME, after=first_after(NAME))],
        [Gate(NAME)],
        "dead",
        "dead",
        micros(rhythm.lease_seconds),
    )
    await writer.write(claim(writer.dialect, turn))
    start = time.perf_counter()
    await bench.worker(Handling(handler), rhythm=rhythm)
    await called.wait()
    return f"death to call elsewhere, lease {rhythm.lease_seconds:g} s: {time.perf_counter() - start:.1f} s"


async def _nothing(_row: EffectRow) -> None:
    return


async def main(given: argparse.Namespace) -> None:
    """Run what was asked for, each on empty tables."""
    chosen = set(given.only.split(","))
    notifies = not given.database.startswith("sqlite")
    measures: dict[str, Callable[[Bench], Any]] = {
        "latency": lambda bench: latency(bench, blind=False, per_second=300, seconds=given.seconds),
        "blind": lambda bench: latency(bench, blind=True, per_second=20, seconds=given.seconds),
        "throughput": lambda bench: throughput(bench, count=given.count),
        "limited": lambda bench: throughput(bench, count=given.count, target=Target("x", rate=Rate(1_000_000, 1))),
        "idle": idle,
        "pinned": lambda bench: pinned(bench, count=given.count, seconds=given.pinned_seconds, keys=0),
        "pinned_keys": lambda bench: pinned(bench, count=given.count, seconds=given.pinned_seconds, keys=ORDER_KEYS),
        "rescue": lambda bench: rescue(bench, rhythm=Rhythm(5.0, 1.5) if given.tuned else Rhythm()),
    }
    installer = open_driver(given.database)
    await installer.open()
    await installer.script(ddl(installer.dialect))
    for name, measure in measures.items():
        if name in chosen and (notifies or name not in ("blind", "pinned", "pinned_keys")):
            bench = Bench(given.database)
            async with bench.stack:
                await bench.empty(installer)
                print(await measure(bench), flush=True)
    await installer.close()


@contextlib.contextmanager
def databases(given: str | None) -> Iterator[list[str]]:
    """The database that was given, or one of each kind."""
    if given is not None:
        yield [given]
        return
    with PostgresServer() as server, server.database() as url, tempfile.TemporaryDirectory() as directory:
        yield [url, f"sqlite:///{directory}/effects.db"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--database", help="of an empty database; by default a PostgreSQL of its own, then a SQLite file"
    )
    parser.add_argument("--only", default="latency,blind,throughput,limited,idle,rescue")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--pinned-seconds", type=float, default=60.0, help="how long a snapshot is kept open")
    parser.add_argument("--tuned", action="store_true", help="measure rescue with a lease of 5 s")
    arguments = parser.parse_args()
    with databases(arguments.database) as urls:
        for url in urls:
            print(f"# {url.partition(':')[0]}", flush=True)
            asyncio.run(main(argparse.Namespace(**{**vars(arguments), "database": url})))
