"""A record that is given where an id is meant has to be of that type: ids of other types are small numbers too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from ensue import (
    App,
    Entity,
    Interaction,
    Many,
    Property,
    Ref,
    StateMachine,
    Store,
    Transition,
    UsageError,
    WrongResult,
)


class Tag(Entity):
    name: Property[str]
    posts = Many(lambda: Post, inverse="tags")


class Close(Interaction):
    tag: Ref[Tag]


class Post(Entity):
    title: Property[str]
    tags = Many(lambda: Tag, inverse="posts")
    state = StateMachine(initial="open", transitions=[Transition("open", "closed", on=Close, record=lambda e: e.tag)])


@pytest_asyncio.fixture
async def app(database_url: str) -> AsyncIterator[App]:
    async with App(entities=[Post], interactions=[Close], database=database_url) as app:
        yield app


@pytest.fixture
def store(app: App) -> Store:
    return app.controller.store


async def test_a_record_of_another_type_is_no_id(store: Store) -> None:
    post, tag = await store.create(Post(title="p")), await store.create(Tag(name="t"))
    wrong: Any = tag
    for refused in (
        lambda: store.delete(Post, wrong),
        lambda: store.update(Post, wrong, title="q"),
        lambda: store.link(Post.tags, wrong, tag),
        lambda: store.link(Tag.posts, post, tag),  # type: ignore[arg-type]
        lambda: store.unlink(Post.tags, post, post),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match=r"Got (Tag|Post)\(.*; expected a (Tag|Post) or its id"):
            await refused()
    await store.link(Post.tags, post, tag)
    await store.unlink(Tag.posts, tag, post)
    assert await store.count(Post, Post.title == "p") == 1


async def test_a_transition_moves_no_record_of_another_type(app: App) -> None:
    store = app.controller.store
    post, tag = await store.create(Post(title="p")), await store.create(Tag(name="t"))
    assert post.id == tag.id
    with pytest.raises(WrongResult, match=r"gave Tag .*; expected a Post, its id"):
        await app.controller.dispatch(Close(tag=tag))
    assert (await store.get(Post, post.id)).state == "open"


async def test_nothing_is_no_condition(store: Store) -> None:
    post = await store.create(Post(title="p"))
    nothing: Any = None
    with pytest.raises(UsageError, match=r"delete_many\(Post, None\) would change every Post"):
        await store.delete_many(Post, nothing)
    with pytest.raises(UsageError, match=r"update_many\(Post, None\)"):
        await store.update_many(Post, nothing, title="q")
    assert await store.update_many(Post, Post.id > 0, title="q") == 1
    assert (await store.get(Post, post.id)).title == "q"
