"""`python -m benchmarks.queues`: one run, a table.

Everybody gets the same: a fresh database on one PostgreSQL, two worker processes with 100 handlers at a time, a producer with
ten connections. First `--steady` effects are committed at `--rate` a second, for the latency from commit to handler; then
`--effects` are committed by 16 clients as fast as they can, while the workers deliver. The competitors are in the extra
`contest`, which nothing else needs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.queues.contest import Seen, Times, commit_all, commit_steadily, wait_for
from tests.services import PostgresServer

MODULES = ("by_ensue", "by_dbos", "by_procrastinate", "by_pgqueuer")
WORKERS = 2
CLIENTS = 16
READY_SECONDS_MAX = 60.0
DELIVER_SECONDS_MAX = 300.0


def contestant(module: str) -> Any:
    return importlib.import_module(f"benchmarks.queues.{module}")


@contextlib.contextmanager
def workers(module: str, database: str, directory: Path) -> Iterator[None]:
    """Worker processes, once they are ready."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.queues", "--work", module, database, str(directory), str(n)],
            stderr=(directory / f"errors-{n}").open("w"),
        )
        for n in range(WORKERS)
    ]
    try:
        end = time.monotonic() + READY_SECONDS_MAX
        while not all((directory / f"ready-{n}").exists() for n in range(WORKERS)):
            if time.monotonic() > end or any(worker.poll() is not None for worker in running):
                shown = "\n".join((directory / f"errors-{n}").read_text() for n in range(WORKERS))
                raise RuntimeError(f"the workers of {module} did not start: {shown[-3000:]}")
            time.sleep(0.05)
        time.sleep(1.0)
        yield
    finally:
        for worker in running:
            worker.kill()
            worker.wait()


async def measure(module: str, database: str, directory: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of one contestant."""
    found = contestant(module)
    producer = found.producer(database)
    await producer.prepare()
    times = Times()
    steady = range(given.steady)
    flood = range(given.steady, given.steady + given.effects)
    with workers(module, database, directory):
        await commit_steadily(producer, times, steady, per_second=given.rate)
        complete = await wait_for(times, directory, steady, seconds=DELIVER_SECONDS_MAX)
        began = time.monotonic_ns()
        commit_seconds = await commit_all(producer, times, flood, clients=CLIENTS)
        complete = await wait_for(times, directory, flood, seconds=DELIVER_SECONDS_MAX) and complete
    await producer.close()
    if not complete:
        missing = sum(number not in times.begun for number in (*steady, *flood))
        return {"name": found.name, "guarantees": found.guarantees, "missing": missing}
    last = max(min(times.begun[number]) for number in flood)
    waited = times.milliseconds(steady)
    return {
        "name": found.name,
        "guarantees": found.guarantees,
        "commits_per_second": round(given.effects / commit_seconds),
        "delivered_per_second": round(given.effects / ((last - began) / 1e9)),
        "p50_ms": round(waited[len(waited) // 2], 1),
        "p99_ms": round(waited[int(len(waited) * 0.99)], 1),
        "repeats": sum(len(at) - 1 for at in times.begun.values()),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    titles = ("", "commits/s", "delivered/s", "commit → handler p50", "p99", "what it guarantees")
    lines = [titles, ("---",) * len(titles)]
    for row in rows:
        if "missing" in row:
            figures = ("-", f"{row['missing']} not delivered in time", "-", "-")
        else:
            waits = (f"{row['p50_ms']} ms", f"{row['p99_ms']} ms")
            figures = (str(row["commits_per_second"]), str(row["delivered_per_second"]), *waits)
        lines.append((row["name"], *figures, row["guarantees"]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    if sys.argv[1:2] == ["--work"]:
        _, _, module, database, directory, number = sys.argv
        seen = Seen(Path(directory) / f"seen-{number}")
        asyncio.run(contestant(module).work(database, seen, (Path(directory) / f"ready-{number}").touch))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--effects", type=int, default=20_000)
    parser.add_argument("--steady", type=int, default=2_000)
    parser.add_argument("--rate", type=float, default=200.0, help="commits a second of the steady part")
    parser.add_argument("--only", choices=MODULES, action="append")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for module in given.only or MODULES:
        with (
            PostgresServer(settings={"max_connections": "200"}) as postgres,
            postgres.database() as database,
            tempfile.TemporaryDirectory(prefix="ensue-queues-") as directory,
        ):
            rows.append(asyncio.run(measure(module, database, Path(directory), given)))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
