"""Who used the processors during a measurement: the process that is measured, its load, its databases, everything else.

Decides what counts as whose, from `/proc`; databases only if they were started here. Invariant: what is told adds up to
the processors there are, so that whether a figure is the limit of the program or that of the machine can be read off;
nothing is told where there is no `/proc`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
SERVERS: Mapping[str, tuple[str, ...]] = {
    "PostgreSQL": ("postgres",),
    "Redis": ("redis-server", "valkey-server"),
    "NATS": ("nats-server",),
}


class Meter:
    """Counts from its making on; `processes` are ids of processes by what to call them.

    >>> meter = Meter(server=os.getpid())
    >>> meter.text().startswith("processors") or not PROC.exists()
    True
    """

    def __init__(self, **processes: int) -> None:
        self._processes = processes
        self._before = self._now() if PROC.exists() else None
        self._began = time.perf_counter()

    def text(self) -> str:
        """Seconds of the processors by who used them; empty where they can't be known."""
        if self._before is None:
            return ""
        now, seconds = self._now(), time.perf_counter() - self._began
        used = {name: now[name] - before for name, before in self._before.items()}
        used["others"] = max(0.0, used.pop("machine") - sum(used.values()))
        there = (os.cpu_count() or 1) * seconds
        used["idle"] = max(0.0, there - sum(used.values()))
        shares = ", ".join(f"{name} {part / there:.0%}" for name, part in used.items() if part / there >= 0.005)
        return f"processors ({there:.1f} s of them): {shares}"

    def _now(self) -> dict[str, float]:
        folders = [folder for folder in PROC.iterdir() if folder.name.isdigit()]
        processes = {int(folder.name): found for folder in folders if (found := _process(folder)) is not None}
        used = {name: processes[id_].seconds if id_ in processes else 0.0 for name, id_ in self._processes.items()}
        for name, commands in SERVERS.items():
            ours = (item for item in processes.values() if item.name in commands and _is_ours(item, processes))
            used[name] = sum(item.seconds for item in ours)
        return {**used, "machine": _machine()}


class _Process(NamedTuple):
    name: str
    parent: int
    seconds: float


def _is_ours(process: _Process, processes: Mapping[int, _Process]) -> bool:
    """Whether it was started here, at whatever remove: others on this machine may have servers of their own."""
    parent: int | None = process.parent
    while parent is not None and parent != os.getpid():
        parent = processes[parent].parent if parent in processes else None
    return parent is not None


def _process(folder: Path) -> _Process | None:
    """The seconds are those of the process and of its children that have ended."""
    try:
        text = (folder / "stat").read_text()
    except OSError:
        return None
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    seconds = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return _Process(head.partition("(")[2], int(fields[1]), seconds)


def _machine() -> float:
    user, nice, system, _idle, _waiting, *interrupts = map(
        int, (PROC / "stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
