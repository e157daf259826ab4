"""What ensue takes before and beside the work: time to import, to start, and memory. Each is measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.report import Line

REPEATS = 5
_HELP = "import sys; from ensue.cli import main; sys.argv = ['ensue', '--help']; main()"


def footprint(*, quick: bool) -> Iterator[Line]:
    """Import, command line, start-up and memory."""
    repeats = 3 if quick else REPEATS
    bare = _wall(["-c", "pass"], repeats)
    yield _line("import ensue", (_wall(["-c", "import ensue"], repeats) - bare) * 1000, "ms", "over a bare interpreter")
    yield _line("ensue --help", _wall(["-c", _HELP], repeats) * 1000, "ms", "whole process")
    entities, computations = (50, 250) if quick else (200, 1_000)
    seconds = _printed("benchmarks.startup", str(entities), str(computations))
    yield _line(
        "start-up", seconds * 1000, "ms", f"{entities} entities, {computations:,} computations, tables included"
    )
    rows = 20_000 if quick else 100_000
    before, after = _printed("benchmarks.memory", "0"), _printed("benchmarks.memory", str(rows))
    yield _line("memory", after, "MB", f"peak of create_many of {rows:,} comments; {before:.0f} MB before it")


def _line(what: str, value: float, unit: str, note: str) -> Line:
    return Line("", "-", what, unit, value, None, None, note=note)


def _wall(arguments: list[str], repeats: int) -> float:
    """Median seconds that a Python process takes."""
    taken: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        taken.append(time.perf_counter() - started)
    return median(taken)


def _printed(module: str, *arguments: str) -> float:
    """The number that a module prints."""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], check=True, capture_output=True, text=True, cwd=root
    )
    return float(done.stdout)
