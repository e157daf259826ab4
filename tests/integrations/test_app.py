"""The life of an app, with a database: order, undoing, what is refused, and effects on their way out."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ensue import (
    App,
    Context,
    Count,
    DeclarationError,
    Effect,
    Entity,
    Integration,
    Interaction,
    Many,
    One,
    Property,
    Rejected,
    Schema,
    Transform,
    UsageError,
    api,
    env,
    side_effect,
)
from ensue.testing import AppHarness


class User(Entity):
    name: Property[str]


class Post(Entity):
    title: Property[str]
    comments = Many(lambda: Comment, inverse="post")
    comment_count = Count(comments)


class AddComment(Interaction):
    post_id: int
    text: str

    async def allow(self, ctx: Context) -> bool:
        return ctx.user is not None


class Comment(
    Entity, derived=Transform(AddComment, lambda e: {"text": e.text, "post": Post.ref(e.post_id), "author": e.user})
):
    text: Property[str]
    post: One[Post]
    author: One[User]


class Recorder(Integration):
    """Records what happens to it and what it is told."""

    label: str = env("RECORDER_LABEL", default="none")

    def __init__(self, log: list[str] | None = None) -> None:
        self.log: list[str] = [] if log is None else log
        self.controller: Any = None
        self.told: list[tuple[str, str, str]] = []
        self.fail = 0

    @asynccontextmanager
    async def resource(self) -> AsyncIterator[str]:
        self.log.append(f"open {self.namespace}")
        yield "real"
        self.log.append(f"close {self.namespace}")

    async def configure(self, schema: Schema) -> None:
        self.log.append(f"configure {self.namespace}")

    async def setup(self, controller: Any) -> None:
        self.client = await self.enter(self.resource(), name="client")
        self.controller = controller
        self.log.append(f"setup {self.namespace} {await controller.store.count(Post)}")

    async def cleanup(self) -> None:
        # The database is still open: a last word can be written.
        self.log.append(f"cleanup {self.namespace} {await self.controller.store.count(Post)}")

    @side_effect(Comment, on="create", fields=[Comment.author.name])
    async def comment_made(self, effect: Effect[Comment]) -> None:
        if self.fail:
            self.fail -= 1
            raise OSError("down")
        self.told.append((effect.record.text, effect.record.author.name, effect.key))
        if effect.record.text == "chain":
            await self.controller.store.create(
                Comment(text="follows", post=effect.record.post, author=effect.record.author)
            )

    @side_effect(Post, on={"update", "delete"}, of=[Post.comment_count], delivery="after_commit")
    async def counted(self, effect: Effect[Post]) -> None:
        count = effect.record.comment_count
        self.told.append((effect.event.type, f"{count}", effect.key))

    @api()
    async def count_posts(self, ctx: Context) -> int:
        return await ctx.controller.store.count(Post)


def blog(database: str = "sqlite:///:memory:", **integrations: Integration) -> App:
    return App(
        user=User, entities=[Post, Comment], interactions=[AddComment], integrations=integrations, database=database
    )


async def seed(store: Any) -> tuple[User, Post]:
    return await store.create(User(name="Ann")), await store.create(Post(title="Hello"))


async def test_the_phases_come_in_order_and_are_undone_in_reverse(sqlite_url: str) -> None:
    log: list[str] = []
    app = blog(sqlite_url, one=Recorder(log), two=Recorder(log))
    async with app:
        await app.controller.store.create(Post(title="x"))
        assert app.metadata.tables["post"].c.comment_count is not None
        assert "Post" in app.model.records
    assert log == [
        *("configure one", "configure two", "open one", "setup one 0", "open two", "setup two 0"),
        *("cleanup two 1", "close two", "cleanup one 1", "close one"),
    ]
    log.clear()
    async with app:
        assert await app.controller.store.count(Post) == 1
    assert log[-1] == "close one"


async def test_an_app_is_entered_once_at_a_time() -> None:
    app = blog()
    async with app:
        with pytest.raises(UsageError, match="running already"):
            await app.__aenter__()
        with pytest.raises(UsageError, match="running already"):
            await app.freeze()
        assert await app.controller.store.count(Post) == 0
    with pytest.raises(UsageError, match="`async with app:`"):
        _ = app.controller
    assert app.running is None


def test_an_app_is_a_value() -> None:
    app = blog()
    with pytest.raises(UsageError, match="Make another App"):
        app.database = "sqlite:///other.db"
    with pytest.raises(TypeError):
        app.integrations["x"] = Recorder()  # type: ignore[index]
    assert "hunter2" not in repr(blog("postgresql://ann:hunter2@db/x"))
    with pytest.raises(DeclarationError, match="sqlite:///"):
        blog("app.db")


async def test_two_apps_do_not_see_each_other() -> None:
    class Injecting(Integration):
        async def configure(self, schema: Schema) -> None:
            schema.entity(Post).add_property("slug", Property[str | None])

    first, second = blog(one=Injecting()), blog(one=Recorder())
    async with first, second:
        assert "slug" in first.model.records["Post"].fields
        assert "slug" not in second.model.records["Post"].fields


async def test_a_failed_setup_leaves_nothing_behind(sqlite_url: str) -> None:
    class Broken(Integration):
        async def setup(self, controller: Any) -> None:
            raise OSError("no route to host")

    recorder = Recorder()
    app = blog(sqlite_url, good=recorder, broken=Broken())
    for _ in range(2):
        with pytest.raises(OSError, match="no route") as caught:
            await app.__aenter__()
        assert "'broken' (Broken)" in caught.value.__notes__[0]
        assert recorder.log[-2:] == ["cleanup good 0", "close good"]
        assert app.running is None


async def test_a_database_that_cannot_be_opened_is_reported_before_anything_is_set_up(tmp_path: Path) -> None:
    recorder = Recorder()
    app = blog(f"sqlite:///{tmp_path}/none/x.db", one=recorder)
    with pytest.raises(Exception, match=r"none/x\.db"):
        await app.__aenter__()
    assert recorder.log == ["configure one"]
    assert app.running is None


async def test_settings_are_read_from_the_given_environment() -> None:
    class Strict(Integration):
        key: str = env("STRICT_KEY")

    recorder = Recorder()
    app = blog(one=recorder, strict=Strict())
    with pytest.raises(DeclarationError, match=r"strict \(Strict\)\.key is not set"):
        await app.run(env={}).__aenter__()
    async with app.run(env={"STRICT_KEY": "k", "RECORDER_LABEL": "here"}):
        assert recorder.label == "here"


async def test_tools_see_the_schema_without_a_database_or_secrets() -> None:
    class Strict(Integration):
        key: str = env("STRICT_KEY")

    app = blog("sqlite:////nowhere/at/all.db", strict=Strict())
    model = await app.freeze(env={})
    assert "Post" in model.records
    assert app.running is None


async def test_integrations_are_left_alone_when_only_data_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    async with blog(one=recorder).run(setup=False) as run:
        ann, post = await seed(run.controller.store)
        await run.controller.dispatch(AddComment(post_id=post.id, text="hi"), user=ann)
        await asyncio.sleep(0.05)
    assert recorder.log == ["configure one"]
    assert recorder.told == []
    assert "one.counted:Post" in caplog.text
    with pytest.raises(UsageError, match="entered before"):
        await run.__aenter__()


# --- Effects ----------------------------------------------------------------------------------------------------------


async def test_effects_are_delivered_on_drain_and_never_before() -> None:
    async with AppHarness(blog(one=Recorder())) as harness:
        recorder = harness.integration("one")
        ann, post = await seed(harness.store)
        await harness.controller.dispatch(AddComment(post_id=post.id, text="hi"), user=ann)
        await asyncio.sleep(0.05)
        assert [item[0] for item in recorder.told] in ([], ["update"])
        await harness.drain()
        assert ("hi", "Ann") in [item[:2] for item in recorder.told]
        before = list(recorder.told)
        await harness.drain()
        assert recorder.told == before


async def test_drain_delivers_what_is_caused_by_what_it_delivers() -> None:
    async with AppHarness(blog(one=Recorder())) as harness:
        recorder = harness.integration("one")
        ann, post = await seed(harness.store)
        await harness.controller.dispatch(AddComment(post_id=post.id, text="chain"), user=ann)
        await harness.drain()
        assert {item[0] for item in recorder.told} == {"chain", "follows", "update"}
        assert (await harness.store.get(Post, post.id)).comment_count == 2


async def test_a_failed_effect_waits_for_its_time_and_keeps_its_key() -> None:
    async with AppHarness(blog(one=Recorder())) as harness:
        recorder = harness.integration("one")
        ann, post = await seed(harness.store)
        recorder.fail = 1
        await harness.controller.dispatch(AddComment(post_id=post.id, text="hi"), user=ann)
        await harness.drain()
        assert "hi" not in [item[0] for item in recorder.told]
        harness.clock.advance(seconds=60)
        await harness.drain()
        assert [item[0] for item in recorder.told].count("hi") == 1
        recorder.fail = 1
        await harness.controller.dispatch(AddComment(post_id=post.id, text="again"), user=ann)
        await harness.drain()
        await harness.drain(waiting=True)
        assert [item[0] for item in recorder.told].count("again") == 1


async def test_after_commit_effects_run_once_with_what_was_derived() -> None:
    async with AppHarness(blog(one=Recorder())) as harness:
        recorder = harness.integration("one")
        ann, post = await seed(harness.store)
        await harness.controller.dispatch(AddComment(post_id=post.id, text="hi"), user=ann)
        await harness.store.update(Post, post.id, title="Other")
        await harness.drain()
        assert [item[:2] for item in recorder.told if item[0] == "update"] == [("update", "1")]


async def test_a_rejected_interaction_has_no_effects() -> None:
    async with AppHarness(blog(one=Recorder())) as harness:
        _, post = await seed(harness.store)
        with pytest.raises(Rejected):
            await harness.controller.dispatch(AddComment(post_id=post.id, text="hi"))
        await harness.drain()
        assert harness.integration("one").told == []


async def test_a_running_app_delivers_by_itself(sqlite_url: str) -> None:
    recorder = Recorder()
    async with blog(sqlite_url, one=recorder) as app:
        ann, post = await seed(app.controller.store)
        await app.controller.dispatch(AddComment(post_id=post.id, text="hi"), user=ann)
        async with asyncio.timeout(5):
            while len(recorder.told) < 2:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.005)
    assert {item[0] for item in recorder.told} == {"hi", "update"}


async def test_what_one_process_left_another_delivers(sqlite_url: str) -> None:
    left = blog(sqlite_url, one=Recorder())
    async with left.run(deliver=False) as run:
        ann, post = await seed(run.controller.store)
        await run.controller.dispatch(AddComment(post_id=post.id, text="hi"), user=ann)
    recorder = Recorder()
    async with blog(sqlite_url, one=recorder), asyncio.timeout(5):
        while not recorder.told:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.005)
    assert recorder.told[0][:2] == ("hi", "Ann")


# --- What is refused --------------------------------------------------------------------------------------------------


async def test_a_derived_property_cannot_be_written() -> None:
    async with AppHarness(blog(one=Recorder())) as harness:
        _, post = await seed(harness.store)
        with pytest.raises((UsageError, Rejected), match="comment_count"):
            await harness.store.update(Post, post.id, comment_count=3)


async def test_the_schema_is_closed_after_configure() -> None:
    class Late(Integration):
        async def configure(self, schema: Schema) -> None:
            self.schema = schema

        async def setup(self, controller: Any) -> None:
            self.schema.entity(Post).add_property("late", Property[str])

    with pytest.raises(UsageError, match="`configure`, the only time it is open"):
        await AppHarness(blog(one=Late())).__aenter__()


async def test_replacements_must_replace_something() -> None:
    app = blog(one=Recorder())
    with pytest.raises(UsageError, match=r"'ones'.*replaces nothing.*'one'"):
        await AppHarness(app, replace={"ones": Recorder()}).__aenter__()
    with pytest.raises(UsageError, match=r"'one\.clint'.*replaces nothing.*'one\.client'"):
        await AppHarness(app, clients={"one.clint": object()}).__aenter__()
    fake = Recorder()
    async with AppHarness(app, replace={"one": fake}, clients={"one.client": "fake"}) as harness:
        assert harness.integration("one") is fake
        assert fake.client == "fake"
        with pytest.raises(UsageError, match="no integration 'two'"):
            harness.integration("two")


async def test_api_calls_through_the_harness() -> None:
    async with AppHarness(blog(one=Recorder())) as harness:
        ann, _ = await seed(harness.store)
        assert await harness.call("one", "count_posts", user=ann) == 1
        with pytest.raises(UsageError, match="count_posts"):
            await harness.call("one", "count_post", user=ann)


def test_importing_an_app_is_light() -> None:
    program = (
        "import sys, ensue, ensue.app; "
        "print([name for name in ('sqlalchemy', 'starlette', 'apsw', 'asyncpg', 'redis') if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
