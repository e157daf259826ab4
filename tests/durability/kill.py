"""Kill a process that writes and delivers, again and again, and compare what was told with what was committed.

    python -m tests.durability.kill --kills 200 --effects 20000 --database sqlite:////tmp/kill/x.db

With `--apart` one process writes and is left alone, and the one that delivers is killed. Processes are forked from one that has
everything imported, so a life begins in milliseconds. The figures are printed as JSON; the status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ensue.engine.audit import audit, format_report
from ensue.store.statement import Run, Statement, Work
from tests.durability import verdict
from tests.durability.child import Child, freeze
from tests.durability.ledger import Cause, Life, Place

LIFE_SECONDS = 0.4
SHORT_LIFE_SECONDS = 0.1
STILLBORN = 0.15
"""The share of kills before the process has come to its work."""


@dataclass
class Figures:
    """What came of it; all is well if `wrong` is empty."""

    database: str = ""
    kills: int = 0
    kills_at_start: int = 0
    causes: int = 0
    effects: int = 0
    deliveries: int = 0
    repeated: int = 0
    told_more_than_once: int = 0
    rescued: int = 0
    seconds: float = 0.0
    start_milliseconds: float = 0.0
    wrong: list[str] = field(default_factory=list[str])


def _child(life: Life) -> Child:
    return Child(life.live, life.place.log)


def run(place: Place, kills: int, effects: int, *, apart: bool = False, life_seconds: float = LIFE_SECONDS) -> Figures:
    """Kill `kills` times over at least `effects` effects, then deliver the rest and compare.

    A process is killed within `life_seconds` of coming to its work, half of them within a tenth of a second.
    """
    figures = Figures(place.database.partition(":")[0])
    began = time.monotonic()
    _warm_up(place)
    starts: list[float] = []
    if apart:
        _kill_the_worker(place, figures, starts, kills=kills, effects=effects, life_seconds=life_seconds)
    else:
        _kill_everyone(place, figures, starts, kills=kills, effects=effects, life_seconds=life_seconds)
    if not figures.wrong and (status := _child(Life(place, writes=False, lasts=False)).wait()) != 0:
        figures.wrong.append(f"the last process, which delivers the rest, ended with {status}")
    figures.seconds = round(time.monotonic() - began, 1)
    figures.start_milliseconds = round(1000 * sum(starts) / max(1, len(starts)), 1)
    verdict.note_log(figures.wrong, place.log)
    asyncio.run(compare(place, figures))
    return figures


def _kill_everyone(
    place: Place, figures: Figures, starts: list[float], *, kills: int, effects: int, life_seconds: float
) -> None:
    while figures.kills < kills or _told(place) < effects:
        child = _child(Life(place))
        _let_live(child, figures, starts, life_seconds)
        if not child.kill():
            figures.wrong.append("a process ended before it was killed")
            return
        figures.kills += 1


def _kill_the_worker(
    place: Place, figures: Figures, starts: list[float], *, kills: int, effects: int, life_seconds: float
) -> None:
    # An entry that is created is told twice, any other change once.
    writer = _child(Life(place, delivers=False, causes=effects, lasts=False))
    writer.wait_ready()
    while figures.kills < kills:
        child = _child(Life(place, writes=False))
        _let_live(child, figures, starts, life_seconds)
        if not child.kill():
            figures.wrong.append("a worker ended before it was killed")
            break
        figures.kills += 1
    if (status := writer.wait()) != 0:
        figures.wrong.append(f"the process that only writes ended with {status}")


def _let_live(child: Child, figures: Figures, starts: list[float], life_seconds: float) -> None:
    if random.random() < STILLBORN:
        time.sleep(random.random() * 0.15)
        figures.kills_at_start += 1
        return
    starts.append(child.wait_ready())
    time.sleep(random.uniform(0.002, random.choice((SHORT_LIFE_SECONDS, life_seconds))))


def _told(place: Place) -> int:
    """How many effects were told so far, each counted once."""
    lines = place.sink.read_bytes().splitlines() if place.sink.exists() else []
    return len({line.partition(b"\t")[0] for line in lines})


def _warm_up(place: Place) -> None:
    """Import and compile everything once, so that what is forked from here starts at once."""

    async def once() -> None:
        app, _ = place.app()
        async with app.run(deliver=False, setup=False, database="sqlite:///:memory:"):
            pass

    asyncio.run(once())
    if place.database.startswith("postgresql"):
        import ensue.store.drivers.postgres  # noqa: F401
    freeze()


# --- What must hold ---------------------------------------------------------------------------------------------------


async def compare(place: Place, figures: Figures) -> None:
    """Add to `figures.wrong` whatever was lost, told though it never was, told differently, or derived wrongly."""
    app, _ = place.app()
    async with app.run(deliver=False, setup=False) as running:
        causes = [(cause.kind, cause.token) for cause in await running.controller.store.find(Cause)]
        effects = await running.driver.read(_effects())
        report = await audit(running.controller.engine)
    if not report.clean:
        figures.wrong.append(f"check: {format_report(report)}")
    lines = [line.split("\t") for line in place.sink.read_text().splitlines()]
    figures.causes, figures.effects, figures.deliveries = len(causes), len(effects), len(lines)
    figures.rescued = sum(error_class == "lost" for *_, error_class in effects)
    _compare_causes(causes, lines, figures)
    _compare_effects(effects, lines, figures)


def _effects() -> Work[list[Any]]:
    columns = "key, state, order_key, position, error_class"
    return (yield Run(Statement("all", f"SELECT {columns} FROM ensue_effect ORDER BY id", rows=True)))


def _compare_causes(causes: list[tuple[str, str]], lines: list[list[str]], figures: Figures) -> None:
    expected = {("tell", *cause) for cause in causes}
    expected |= {("tell_in_order", kind, token) for kind, token in causes if kind == "create"}
    told = (((name, kind, token), key) for key, name, kind, token, _ in lines)
    verdict.compare(figures.wrong, expected, told)


def _compare_effects(effects: list[Any], lines: list[list[str]], figures: Figures) -> None:
    told = Counter(line[0] for line in lines)
    figures.repeated = sum(count - 1 for count in told.values())
    figures.told_more_than_once = sum(count > 1 for count in told.values())
    contents: dict[str, set[str]] = {}
    for line in lines:
        contents.setdefault(line[0], set()).add("\t".join(line))
    verdict.note(figures.wrong, "one key, told differently", [key for key, found in contents.items() if len(found) > 1])
    verdict.note(figures.wrong, "not settled", [(key, state) for key, state, *_ in effects if state != "done"])
    verdict.note(figures.wrong, "settled and never told", {key for key, *_ in effects} - told.keys())
    first = {key: n for n, key in reversed(list(enumerate(line[0] for line in lines)))}
    by_order: dict[str, list[tuple[int, int]]] = {}
    for key, _, order_key, position, _ in effects:
        if order_key is not None:
            by_order.setdefault(order_key, []).append((position, first.get(key, -1)))
    for order_key, places in by_order.items():
        places.sort()
        if [position for position, _ in places] != list(range(1, len(places) + 1)):
            figures.wrong.append(f"positions of {order_key} have gaps")
        if [n for _, n in places] != sorted(n for _, n in places):
            figures.wrong.append(f"what is ordered by {order_key} was not told in its order")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--effects", type=int, default=20_000)
    parser.add_argument("--database", help="a URL of an empty database; a new SQLite file by default")
    parser.add_argument("--apart", action="store_true", help="kill only a process that delivers what another commits")
    parser.add_argument("--life", type=float, default=LIFE_SECONDS, help="seconds, the longest that a process lives")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ensue-kill-") as name:
        directory = Path(name)
        database = given.database or f"sqlite:///{directory / 'kill.db'}?synchronous=normal"
        figures = run(
            Place(database, directory), given.kills, given.effects, apart=given.apart, life_seconds=given.life
        )
    print(json.dumps(asdict(figures), indent=2))
    return 1 if figures.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
