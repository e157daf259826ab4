"""Alternate contenders in rounds, and take medians of the rounds' ratios, so that a noisy machine weighs on all alike.

Decides how long a slot lasts and in which order slots come; leaves what is done in them to `workloads`. Invariant: inputs
are prepared outside of the measured time, and within a round every contender does the same number of operations.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from benchmarks.sides import Side, Sizes

TRIAL = 12
COUNT_MAX = 4_000


@dataclass(frozen=True, slots=True)
class Contender:
    """One side of a comparison. `prepare(side, n)` gives n inputs; `operate(side, input)` is what is measured."""

    side: Side
    operate: Callable[[Side, Any], Awaitable[object]]
    prepare: Callable[[Side, int], Awaitable[list[Any]]]
    workers: int = 1


@dataclass(slots=True)
class Series:
    """The seconds per operation of each contender, by round, elapsed and of the processor; and the statements of one."""

    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    processor: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    statements: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])

    def rate(self, name: str) -> float:
        """Operations per second: of the median round."""
        return 1 / median(self.seconds[name])

    def ratio(self, name: str, to: str, *, of: Literal["seconds", "processor"] = "seconds") -> float:
        """The throughput of one contender as a share of another's: the median over rounds."""
        taken = self.seconds if of == "seconds" else self.processor
        return median(other / own for own, other in zip(taken[name], taken[to], strict=True))


async def compare(contenders: Mapping[str, Contender], sizes: Sizes, *, count: int | None = None) -> Series:
    """Measure contenders against each other; `count` fixes the operations per slot."""
    series = Series({name: [] for name in contenders}, {name: [] for name in contenders})
    for name, contender in contenders.items():
        series.statements[name] = await _statements(contender)
    if count is None:
        slowest = max([(await _slot(contender, TRIAL))[0] for contender in contenders.values()])
        count = max(TRIAL, min(COUNT_MAX, int(sizes.seconds / slowest)))
    names = list(contenders)
    for turn in range(sizes.rounds):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for name in order:
            elapsed, processor = await _slot(contenders[name], count)
            series.seconds[name].append(elapsed)
            series.processor[name].append(processor)
    return series


async def _statements(contender: Contender, count: int = 4) -> dict[str, float]:
    """How often each statement runs per operation, after a first one that fetched ids and made statements."""
    inputs = await contender.prepare(contender.side, count + 1)
    await contender.operate(contender.side, inputs[0])
    async with contender.side.counting() as found:
        for item in inputs[1:]:
            await contender.operate(contender.side, item)
    return {name: n / count for name, n in found.items() if name not in ("effect.notify",)}


async def _slot(contender: Contender, count: int) -> tuple[float, float]:
    """Seconds per operation over `count` of them: elapsed, and of the processor in all our threads."""
    side, operate = contender.side, contender.operate
    inputs = await contender.prepare(side, count)
    gc.collect()
    started, processor = time.perf_counter(), time.process_time()
    if contender.workers == 1:
        for item in inputs:
            await operate(side, item)
    else:
        following = iter(inputs)
        await asyncio.gather(*(_worker(side, operate, following) for _ in range(contender.workers)))
    return (time.perf_counter() - started) / count, (time.process_time() - processor) / count


async def _worker(side: Side, operate: Callable[[Side, Any], Awaitable[object]], following: Any) -> None:
    for item in following:
        await operate(side, item)
