"""What must not happen when something goes wrong around a group: that work is done twice, or that the innocent wait for it."""

from __future__ import annotations

import asyncio
import random
from contextvars import ContextVar
from typing import Any

import pytest

from ensue import Rejected
from ensue.engine.callbacks import current
from ensue.engine.grouping import groups, lockstep
from ensue.errors import ConstraintViolated, Unavailable
from ensue.store.statement import Statement
from tests.concurrency.test_groups import Comment, Post, User, say, world

OVERTAKEN_MAX = 200
"""By how many that came later: a few groups of them."""
request: ContextVar[str] = ContextVar("request", default="nobody")


async def _points(run: Any) -> list[int]:
    return sorted(comment.points for comment in await run.controller.store.find(Comment))


async def test_a_listener_that_raises_makes_nothing_happen_again(database_url: str) -> None:
    async with world(database_url) as run:
        told: list[object] = []

        def listen(commit: object) -> None:
            told.append(commit)
            if len(told) in (9, 20):
                raise ValueError("listener")

        run.controller.on_commit(listen)
        calls = (say(run, n % 4 + 1, n % 6 + 1, n) for n in range(40))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [str(result) for result in results if isinstance(result, BaseException)] == ["listener"] * 2
        assert len(told) == 40
        assert await _points(run) == list(range(40))


async def test_listeners_run_in_the_context_of_the_caller(database_url: str) -> None:
    async with world(database_url) as run:
        told: list[tuple[str, int]] = []
        run.controller.on_commit(
            lambda commit: told.extend(
                (request.get(), event.record.points) for event in commit.events() if event.record_name == "Comment"
            )
        )

        async def named(n: int) -> None:
            request.set(f"request {n}")
            await say(run, n % 4 + 1, n % 6 + 1, n)

        await asyncio.gather(*(named(n) for n in range(30)))
        assert sorted(told, key=lambda item: item[1]) == [(f"request {n}", n) for n in range(30)]


async def test_who_was_put_back_by_a_part_of_a_group_goes_once(postgres_url: str) -> None:
    """The first half is committed without one of its members, which goes with the next group, before the second half is."""
    async with world(postgres_url, posts=60) as run:
        rng = random.Random(1)

        async def client(number: int) -> list[int]:
            kept: list[int] = []
            for n in range(8):
                points = -1 if rng.random() < 0.03 else number * 1000 + n
                try:
                    await say(run, rng.randint(1, 60), rng.randint(1, 6), points)
                except Rejected:
                    continue
                kept.append(points)
            return kept

        kept = await asyncio.gather(*(client(number) for number in range(64)))
        assert await _points(run) == sorted(points for some in kept for points in some)


async def test_those_who_hold_up_others_are_not_waited_for(postgres_url: str) -> None:
    """As many as may be under way at once wait for a row; the others of their kind go on."""
    async with world(postgres_url, posts=6) as run:
        loop = asyncio.get_running_loop()

        async def outside(post: int) -> None:
            current.set(None)
            await say(run, post, post)

        async with run.controller.store.transaction():
            await run.controller.store.update(Post, 1, author=User.ref(1))
            held = [loop.create_task(outside(1)) for _ in range(4)]
            await asyncio.sleep(0.05)
            free = [loop.create_task(outside(n % 5 + 2)) for n in range(20)]
            await asyncio.wait_for(asyncio.gather(*free), 20)
            assert not any(task.done() for task in held)
        await asyncio.gather(*held)


async def test_who_wants_a_row_that_many_want_is_not_overtaken_for_ever(postgres_url: str) -> None:
    async with world(postgres_url, posts=60) as run:
        rng = random.Random(2)
        begun = 0
        ended: list[int] = []
        overtaken: list[int] = []

        async def client() -> None:
            nonlocal begun
            for _ in range(24):
                begun += 1
                number = begun
                post = 1 if rng.random() < 0.4 else rng.randint(2, 60)
                await say(run, post, post % 6 + 1, 1)
                overtaken.append(sum(other > number for other in ended))
                ended.append(number)

        await asyncio.gather(*(client() for _ in range(32)))
        assert max(overtaken) < OVERTAKEN_MAX


class _LosesCommit:
    """The driver of a run, which once says of a group that its COMMIT was lost, though it was not."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.lost = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def write(self, work: Any) -> Any:
        result = await self._driver.write(work)
        if result is None and not self.lost:
            self.lost += 1
            raise Unavailable("Whether it was committed is not known.", retryable=False)
        return result


async def test_a_commit_of_unknown_outcome_is_not_done_again(postgres_url: str) -> None:
    async with world(postgres_url) as run:
        driver = run.controller.engine.driver = _LosesCommit(run.driver)
        calls = (say(run, n % 4 + 1, n % 6 + 1, n) for n in range(40))
        results = await asyncio.gather(*calls, return_exceptions=True)
        lost = [result for result in results if isinstance(result, BaseException)]
        assert driver.lost == 1
        assert lost
        assert all(isinstance(error, Unavailable) and not error.retryable for error in lost)
        assert len({id(error) for error in lost}) == len(lost)
        assert await _points(run) == list(range(40))
        run.controller.engine.driver = run.driver


async def test_who_can_not_begin_is_told_so_once(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(database_url) as run:
        begun = 0

        async def write(work: Any) -> Any:
            nonlocal begun
            work.close()
            begun += 1
            await asyncio.sleep(0)
            raise Unavailable("nobody is there")

        monkeypatch.setattr(run.driver, "write", write)
        calls = (say(run, n % 4 + 1, n % 6 + 1, n) for n in range(40))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(type(result) is Unavailable for result in results)
        assert begun < 10
        monkeypatch.undo()


async def test_ids_of_what_was_rolled_back_are_not_given_to_the_next(sqlite_url: str) -> None:
    """SQLite's writer begins the next transaction before anybody learns that the one before it was rolled back."""
    async with world(sqlite_url) as run:
        store = run.controller.store

        def some(count: int, post: int = 1) -> list[Comment]:
            return [Comment(points=1, caller="", post=Post.ref(post), author=User.ref(1)) for _ in range(count)]

        for _ in range(60):
            lost, *_ = await asyncio.gather(
                store.create_many([*some(10), *some(1, post=999)]),
                store.create_many(some(1)),
                store.create_many(some(1)),
                return_exceptions=True,
            )
            assert isinstance(lost, ConstraintViolated)
            begun = run.begun["begin"]
            await store.create_many(some(30))
            assert run.begun["begin"] == begun + 1


async def test_ids_in_use_are_passed_over(database_url: str) -> None:
    """Rows were put into the table past ensue: more than one block, in the middle of what is to be inserted."""
    async with world(database_url) as run:
        store = run.controller.store
        first = await store.create(Comment(points=1, caller="", post=Post.ref(1), author=User.ref(1)))
        await run.driver.script(
            [
                Statement(
                    "past",
                    "INSERT INTO comment (id, points, caller, post_id, author_id)"
                    f" VALUES ({first.id + 20}, 0, '', 2, 2), ({first.id + 700}, 0, '', 2, 2)",
                )
            ]
        )
        made = await store.create_many(
            [Comment(points=1, caller="", post=Post.ref(1), author=User.ref(1)) for _ in range(900)]
        )
        assert len({comment.id for comment in made}) == 900
        await store.create_many([Comment(points=1, caller="", post=Post.ref(1), author=User.ref(1)) for _ in range(9)])
        await run.driver.script([Statement("past", "DELETE FROM comment WHERE points = 0")])


def test_an_overdue_run_is_not_waited_for_longer_than_a_group_waits_for_a_row() -> None:
    assert f"{groups.OVERDUE_SECONDS * 1000:.0f}ms" in lockstep.PATIENCE.text
