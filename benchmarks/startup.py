"""Print the seconds from an `App` of many entities to a running one: `python -m benchmarks.startup ENTITIES COMPUTATIONS`."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from ensue import Average, Count, Entity, Globals, Many, Max, One, Property, Sum
from ensue.app import App


def make_entities(count: int, computations: int) -> list[Any]:
    """A ring of entities, each the host of the next one's records, with equally many computations each."""
    per_entity = computations // count
    made: list[Any] = []
    for n in range(count):
        follower = f"Item{(n + 1) % count}"
        members: dict[str, Any] = {
            "name": Property[str],
            "value": Property[int],
            "owner": One[f"Item{(n - 1) % count}"],
            "items": Many(follower, inverse="owner"),
        }
        for k in range(per_entity):
            members[f"derived{k}"] = _computation(members["items"], k)
        made.append(Entity.define(f"Item{n}", **members))
    return made


def _computation(items: Any, k: int) -> Any:
    match k % 5:
        case 0:
            return Count(items)
        case 1:
            return Sum(items, lambda item: item.value, where=lambda item: item.value > k)
        case 2:
            return Average(items, lambda item: item.value)
        case 3:
            return Max(items, lambda item: item.value)
        case _:
            return Count(items, where=lambda item: item.name == "x")


async def main(entities: int, computations: int) -> None:
    """Start and stop once."""
    made = make_entities(entities, computations)

    class Totals(Globals):
        first = Count(lambda: made[0])

    started = time.perf_counter()
    async with App(entities=made, globals=[Totals], database="sqlite:///:memory:"):
        print(time.perf_counter() - started)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
