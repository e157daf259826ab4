"""Print the peak memory, in MB, of one call that creates many comments: `python -m benchmarks.memory ROWS`."""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

from benchmarks import blog
from ensue.app import App


async def main(rows: int) -> None:
    """Create `rows` comments on one app."""
    async with App(**blog.PARTS, database="sqlite:///:memory:").run(deliver=False) as run:
        store = run.controller.store
        user = await store.create(blog.User(name="ann", email="ann@blog.example"))
        posts = await store.create_many([blog.Post(title=f"{n}", author=user) for n in range(100)])
        if rows:
            await store.create_many(
                [blog.Comment(text=f"{n}", score=n % 10, post=posts[n % 100], author=user) for n in range(rows)]
            )
    print(peak_megabytes())


def peak_megabytes() -> float:
    """The most memory that this process held: of Linux's status, as `getrusage` inherits the peak of who started it."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
