"""Who used the processors during a measurement: the process that is measured, its load, its databases, everything else.

Decides what counts as whose, from `/proc`. Invariant: what is told adds up to the processors there are, so that whether
a figure is the limit of the program or that of the machine can be read off; nothing is told where there is no `/proc`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

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
        by_name: dict[str, float] = {}
        by_id: dict[int, float] = {}
        for folder in PROC.iterdir():
            if folder.name.isdigit() and (found := _process(folder)) is not None:
                name, seconds = found
                by_id[int(folder.name)] = seconds
                by_name[name] = by_name.get(name, 0.0) + seconds
        found_now = {name: by_id.get(id_, 0.0) for name, id_ in self._processes.items()}
        for name, commands in SERVERS.items():
            found_now[name] = sum(by_name.get(command, 0.0) for command in commands)
        return {**found_now, "machine": _machine()}


def _process(folder: Path) -> tuple[str, float] | None:
    """The name of a process, and the seconds that it and its children that have ended used."""
    try:
        text = (folder / "stat").read_text()
    except OSError:
        return None
    head, _, tail = text.rpartition(")")
    return head.partition("(")[2], sum(map(int, tail.split()[11:15])) / os.sysconf("SC_CLK_TCK")


def _machine() -> float:
    user, nice, system, _idle, _waiting, *interrupts = map(
        int, (PROC / "stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
