"""`python -m benchmarks`: run the workloads, print a table, and optionally write it as JSON."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
from pathlib import Path

from benchmarks.footprint import footprint
from benchmarks.report import Line, heading, statement_lines, write_json
from benchmarks.sides import QUICK, Databases, Sizes
from benchmarks.workloads import ONLY_ON, WORKLOADS

FOOTPRINT = "footprint"
DATABASES = ("sqlite", "memory", "postgresql")


def main() -> int:
    """Parse the arguments and run."""
    given = _arguments()
    sizes = QUICK if given.quick else Sizes()
    chosen = given.only.split(",") if given.only else [*WORKLOADS, FOOTPRINT]
    unknown = set(chosen) - {*WORKLOADS, FOOTPRINT}
    if unknown:
        print(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)} and {FOOTPRINT}.")
        return 2
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, load {_load()}")
    print(heading(), flush=True)
    lines = asyncio.run(_run(given.database or DATABASES, chosen, sizes))
    if FOOTPRINT in chosen:
        lines += [_shown(line) for line in footprint(quick=given.quick)]
    print("\nStatements per operation (BEGIN and COMMIT included)")
    for text in statement_lines(lines):
        print(text)
    if given.json is not None:
        write_json(lines, given.json)
    below = [line for line in lines if line.verdict == "below"]
    print(f"\n{len(lines)} comparisons, {len(below)} below their target, load {_load()}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=sys.modules["benchmarks"].__doc__)
    parser.add_argument("--quick", action="store_true", help="few and short rounds: to see that everything runs")
    parser.add_argument("--only", help="some workloads, such as W1,W6, or footprint")
    parser.add_argument(
        "--database", action="append", choices=DATABASES, help="sqlite is a file, memory is without one"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the lines there too")
    return parser.parse_args()


async def _run(databases: list[str], chosen: list[str], sizes: Sizes) -> list[Line]:
    lines: list[Line] = []
    for kind in databases:
        with Databases(kind) as source:
            for name in chosen:
                if name not in WORKLOADS or kind not in ONLY_ON.get(name, DATABASES):
                    continue
                async for line in WORKLOADS[name](source, sizes):
                    lines.append(_shown(line))
    return lines


def _shown(line: Line) -> Line:
    print(line.text(), flush=True)
    return line


def _load() -> str:
    return ", ".join(f"{value:.1f}" for value in os.getloadavg())


if __name__ == "__main__":
    raise SystemExit(main())
