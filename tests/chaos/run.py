"""Ten minutes of everything going wrong at once, and then a comparison of what was told with what was committed.

    python -m tests.chaos.run --seconds 600 --kills 1000 --effects 100000

Servers (which write and deliver) and workers (which deliver) are killed with SIGKILL at random moments and started again;
PostgreSQL is restarted and crashed, its connections are cut, Redis is restarted, and the outside service is out, busy, failing
or forgets to answer what it accepted. At the end the rest is delivered in peace. Printed as JSON: what happened, what was
counted, and `wrong`, which must be empty; the status is 1 if it is not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.app import SHELVES, STREAM, Place, live
from tests.durability import verdict
from tests.durability.child import Child, freeze
from tests.durability.ledger import Cause, Shelf
from tests.services import PostgresServer, RedisServer, run_sql

SERVERS, WORKERS = 3, 3
REST_SECONDS_MAX = 900.0
OUTAGE_SHARE = 0.25
"""The share of the run during which the service is out in one piece."""


@dataclass
class Figures:
    """What happened, and what came of it; all is well if `wrong` is empty."""

    seconds: float = 0.0
    kills: int = 0
    in_flight_at_kills: int = 0
    database_restarts: int = 0
    database_crashes: int = 0
    connections_cut: int = 0
    redis_restarts: int = 0
    moods: dict[str, float] = field(default_factory=dict[str, float])
    answers_dropped: int = 0
    causes: int = 0
    effects: int = 0
    deliveries: int = 0
    repeats: dict[str, int] = field(default_factory=dict[str, int])
    lost: int = 0
    dead: int = 0
    inversions: int = 0
    rest_seconds: float = 0.0
    wrong: list[str] = field(default_factory=list[str])


class Process:
    """A process of one role, started again under a new name whenever it is killed."""

    def __init__(self, place: Place, role: str, number: int) -> None:
        self._place, self._role, self._number = place, role, number
        self._lives = 0
        self._child: Child

    def start(self, *, until_done: bool = False) -> None:
        self._lives += 1
        name, writes = f"{self._role}{self._number}x{self._lives}", self._role == "server"
        work = partial(live, self._place, name=name, writes=writes, until_done=until_done)
        self._child = Child(lambda ready: work(ready=ready), self._place.log, name)

    def kill(self) -> None:
        """Raises RuntimeError if it had ended by itself, which it must not."""
        if not self._child.kill():
            raise RuntimeError(f"{self._child.name} ended by itself; see the log")

    def wait(self, seconds: float) -> int:
        """Its status; -1 if it had to be killed after so many seconds."""
        return self._child.wait(seconds)


class Service:
    """The outside service, in a process that nobody kills."""

    def __init__(self, log: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.provider", str(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"
        self.mood = "well"
        self.since = time.monotonic()
        self.dropped = 0

    def change(self, mood: str, figures: Figures) -> None:
        """Be in another mood, and note how long the one before lasted."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        now = time.monotonic()
        figures.moods[self.mood] = round(figures.moods.get(self.mood, 0.0) + now - self.since, 1)
        self.mood, self.since = mood, now
        self.process.stdin.write(f"{mood}\n")
        self.process.stdin.flush()
        self.dropped = int(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


@dataclass
class Chaos:
    """One run: the servers it breaks, the processes it kills."""

    postgres: PostgresServer
    redis: RedisServer
    service: Service
    place: Place
    database: str
    figures: Figures
    seconds: float
    kills: int
    effects: int
    chance: random.Random
    _looked_at: float = 0.0
    _seen: int = 0

    def run(self) -> None:
        """Break things until the time is over and there were enough kills."""
        roles = [("server", SERVERS), ("worker", WORKERS)]
        processes = [Process(self.place, role, n) for role, count in roles for n in range(count)]
        for process in processes:
            process.start()
        began = time.monotonic()
        troubles = iter(self._troubles(began))
        following = next(troubles)
        # Kills are spread evenly; a process that is still starting may be hit too.
        every = self.seconds / max(1, self.kills)
        next_kill = began + every
        while (now := time.monotonic()) < began + self.seconds or self.figures.kills < self.kills or self._few(now):
            if following is not None and now >= following[0]:
                following[1]()
                following = next(troubles, None)
            if now >= next_kill:
                self._kill(self.chance.choice(processes))
                next_kill = max(next_kill + every, time.monotonic() - 5 * every)
            time.sleep(max(0.0, min(0.02, next_kill - time.monotonic())))
        self.figures.seconds = round(time.monotonic() - began, 1)
        for process in processes:
            self._kill(process, again=False)
        if self.service.mood != "well":
            self.service.change("well", self.figures)
        self._rest(processes)

    def _few(self, now: float) -> bool:
        """Whether there are not enough effects yet; looked at every few seconds."""
        if now >= self._looked_at + 5.0:
            self._looked_at = now
            self._seen = asyncio.run(_sql(self.place, "SELECT count(*) FROM ensue_effect"))[0][0]
        return self._seen < self.effects

    def _kill(self, process: Process, *, again: bool = True) -> None:
        process.kill()
        self.figures.kills += 1
        if again:
            process.start()

    def count_in_flight(self) -> None:
        """How many effects the killed held, by the ledger: claims whose worker is gone, and those rescued from it."""
        rows = asyncio.run(_sql(self.place, "SELECT count(*) FROM ensue_effect_attempt WHERE error_class = 'lost'"))
        self.figures.in_flight_at_kills = rows[0][0]

    def _rest(self, processes: list[Process]) -> None:
        began = time.monotonic()
        for process in processes[-WORKERS:]:
            process.start(until_done=True)
        for process in processes[-WORKERS:]:
            status = process.wait(max(1.0, began + REST_SECONDS_MAX - time.monotonic()))
            if status != 0:
                self.figures.wrong.append(f"a last worker, which delivers the rest, ended with {status}")
        self.figures.rest_seconds = round(time.monotonic() - began, 1)

    def _troubles(self, began: float) -> Iterator[tuple[float, Callable[[], None]]]:
        """What else happens, and when; moods come one after the other, the long outage in the middle."""
        part = self.seconds / 20
        outage = self.seconds * OUTAGE_SHARE
        plan: list[tuple[float, Callable[[], None]]] = []
        at = 0.0
        for mood in (
            "busy",
            "forgetful",
            "failing",
            "well",
            "out",
            "well",
            "forgetful",
            "busy",
            "failing",
            "forgetful",
        ):
            at += part
            plan.append((at, lambda mood=mood: self.service.change(mood, self.figures)))
            at += outage if mood == "out" else part / 2
            plan.append((at, lambda: self.service.change("well", self.figures)))
        for n in range(int(self.seconds // 60) + 1):
            plan.append((self.chance.uniform(0.05, 0.95) * self.seconds, self._crash if n % 2 else self._restart))
            plan.append((self.chance.uniform(0.05, 0.95) * self.seconds, self._restart_redis))
        for _ in range(int(self.seconds // 20) + 1):
            plan.append((self.chance.uniform(0.02, 0.98) * self.seconds, self._cut))
        return iter(sorted(((began + when, what) for when, what in plan), key=lambda item: item[0]))

    def _restart(self) -> None:
        self.postgres.stop()
        time.sleep(self.chance.random() * 2)
        self.postgres.start()
        self.figures.database_restarts += 1

    def _crash(self) -> None:
        self.postgres.kill()
        time.sleep(self.chance.random() * 2)
        self.postgres.start()
        self.figures.database_crashes += 1

    def _restart_redis(self) -> None:
        self.chance.choice((self.redis.stop, self.redis.kill))()
        time.sleep(self.chance.random() * 2)
        self.redis.start()
        self.figures.redis_restarts += 1

    def _cut(self) -> None:
        run_sql(
            self.database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database() AND random() < 0.7",
        )
        self.figures.connections_cut += 1


# --- What must hold ---------------------------------------------------------------------------------------------------


async def _sql(place: Place, text: str) -> list[Any]:
    import asyncpg

    connection = await asyncpg.connect(place.database)
    try:
        return [tuple(row) for row in await connection.fetch(text)]
    finally:
        await connection.close()


async def _first_rows(place: Place) -> None:
    async with place.app().run(deliver=False) as run:
        await run.controller.store.create_many([Shelf() for _ in range(SHELVES)])


async def _check(place: Place) -> tuple[list[tuple[str, str]], str]:
    from ensue.engine.audit import audit, format_report

    async with place.app().run(deliver=False) as run:
        causes = [(cause.kind, cause.token) for cause in await run.controller.store.find(Cause)]
        report = await audit(run.controller.engine)
    return causes, "" if report.clean else format_report(report)


def _pushed(redis_url: str) -> list[tuple[str, str]]:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        lines: Any = client.lrange(STREAM, 0, -1)
        pairs = (line.decode().split("\t") for line in lines)
        return [(key, token) for key, token in pairs]


def compare(place: Place, log: Path, figures: Figures) -> None:
    """Fill in what was counted, and add to `figures.wrong` whatever must not be."""
    causes, unclean = asyncio.run(_check(place))
    if unclean:
        figures.wrong.append(f"check: {unclean}")
    effects = asyncio.run(_sql(place, "SELECT name, key, state, order_key, position, payload FROM ensue_effect"))
    lines = [line.split("\t") for line in log.read_text().splitlines()]
    told = {
        sink: [(key, order, token) for name, key, order, _, token in lines if name == sink]
        for sink in ("plain", "keyed", "ordered")
    }
    told["push"] = [(key, "", token) for key, token in _pushed(place.redis_url)]
    figures.causes, figures.effects = len(causes), len(effects)
    figures.deliveries = sum(map(len, told.values()))
    figures.dead = sum(state == "dead" for _, _, state, *_ in effects)
    verdict.note(figures.wrong, "not settled", [(key, state) for _, key, state, *_ in effects if state != "done"])
    tokens = {token for _, token in causes}
    for sink, found in told.items():
        told_here = ((token, key) for key, _, token in found)
        figures.lost += verdict.compare(figures.wrong, tokens, told_here, to=sink)
        figures.repeats[sink] = len(found) - len({key for key, _, _ in found})
    if figures.repeats["keyed"]:
        figures.wrong.append(f"{figures.repeats['keyed']} repeats reached what knows keys")
    _compare_order(effects, told["ordered"], figures)
    _compare_repeats(figures)


def _compare_order(effects: list[Any], told: list[tuple[str, str, str]], figures: Figures) -> None:
    position = {key: (order_key, place) for name, key, _, order_key, place, _ in effects if name.endswith(".ordered")}
    highest: Counter[str] = Counter()
    seen: set[str] = set()
    for key, *_ in told:
        order_key, place = position[key]
        if key not in seen and place < highest[order_key]:
            figures.inversions += 1
        seen.add(key)
        highest[order_key] = max(highest[order_key], place)
    if figures.inversions:
        figures.wrong.append(f"{figures.inversions} were told after what came later under their key")


def _compare_repeats(figures: Figures) -> None:
    """A repeat has a cause: an answer that was dropped, or an attempt whose end was never written."""
    repeats = sum(figures.repeats.values())
    allowed = figures.answers_dropped + figures.in_flight_at_kills
    if repeats > allowed:
        figures.wrong.append(f"{repeats} repeats, and only {allowed} answers dropped or attempts lost")


# --- The command ------------------------------------------------------------------------------------------------------


def chaos(directory: Path, *, seconds: float, kills: int, effects: int, seed: int) -> Figures:
    """One run with servers of its own."""
    figures = Figures()
    service = Service(directory / "told")
    with (
        PostgresServer(settings={"max_connections": "200"}) as postgres,
        RedisServer(persistent=True) as redis,
        postgres.database() as database,
    ):
        place = Place(database, service.url, redis.url, directory / "log")
        asyncio.run(_first_rows(place))
        freeze()
        run = Chaos(postgres, redis, service, place, database, figures, seconds, kills, effects, random.Random(seed))
        run.run()
        figures.answers_dropped = service.dropped
        run.count_in_flight()
        verdict.note_log(figures.wrong, place.log)
        compare(place, directory / "told", figures)
    service.close()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--effects", type=int, default=0, help="go on until there were so many")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ensue-chaos-") as name:
        figures = chaos(Path(name), seconds=given.seconds, kills=given.kills, effects=given.effects, seed=given.seed)
    print(json.dumps(asdict(figures), indent=2))
    return 1 if figures.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
