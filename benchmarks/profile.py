"""Where the time goes: `python -m benchmarks.profile [W1|W1-dispatch|W2|W3|W4|W5|W6|W7|W8] [OPERATIONS]`.

The writer's thread is profiled together with the event loop's, on SQLite in memory, and the functions are listed by their own
time. A profile makes Python slower and leaves SQLite as it is: compare functions with each other, not with a clock.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import sys
import threading
import time

from benchmarks import blog
from benchmarks import operations as ops
from benchmarks.sides import QUICK, Databases, Side

ENTRIES = 45
CHOICES: dict[str, tuple[ops.Operate, ops.Prepare]] = {
    "W1": (ops.comment_store, ops.comment_inputs),
    "W1-dispatch": (ops.comment_dispatch, ops.comment_inputs),
    "W2": (ops.like_store, ops.like_inputs),
    "W3": (ops.score_store, ops.score_inputs),
    "W4": (ops.delete_store, ops.delete_inputs),
    "W5": (ops.order_store, ops.order_inputs),
    "W5-dispatch": (ops.order_dispatch, ops.order_inputs),
    "W6": (ops.bulk_store, ops.bulk_records(10_000)),
    "W7": (ops.page_store, ops.page_inputs),
    "W8": (ops.comment_store, ops.comment_inputs),
}


async def main(name: str, count: int) -> None:
    """Profile `count` operations of one workload."""
    profiles: list[cProfile.Profile] = []
    _follow_threads(profiles)
    operate, prepare = CHOICES[name]
    with Databases("memory") as databases:
        given = {"publisher": blog.Publisher()} if name == "W8" else {}
        async with databases.side(QUICK, integrations=lambda: given) as side:
            inputs = await prepare(side, count)
            for item in (await prepare(side, 5))[:5]:
                await operate(side, item)
            await _measured(side, operate, inputs)
            main_profile = cProfile.Profile()
            inputs = await prepare(side, count)
            for profile in profiles:
                profile.clear()
            main_profile.enable()
            for item in inputs:
                await operate(side, item)
            main_profile.disable()
    statistics = pstats.Stats(main_profile, *profiles)
    statistics.sort_stats("tottime").print_stats(ENTRIES)


def _follow_threads(profiles: list[cProfile.Profile]) -> None:
    """Every thread started from now on is profiled by itself: a profile sees the thread that enables it."""
    start = threading.Thread.start

    def start_profiled(self: threading.Thread) -> None:
        profile, run = cProfile.Profile(), self.run
        profiles.append(profile)
        self.run = lambda: profile.runcall(run)
        start(self)

    threading.Thread.start = start_profiled


async def _measured(side: Side, operate: ops.Operate, inputs: list[object]) -> None:
    started = time.perf_counter()
    for item in inputs:
        await operate(side, item)
    taken = (time.perf_counter() - started) / len(inputs)
    print(f"{taken * 1e6:,.0f} us per operation, unprofiled loop, profiled writer")


if __name__ == "__main__":
    arguments = sys.argv[1:] or ["W1"]
    asyncio.run(main(arguments[0], int(arguments[1]) if len(arguments) > 1 else 1 if arguments[0] == "W6" else 2_000))
