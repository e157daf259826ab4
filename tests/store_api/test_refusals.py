"""Calls of the store that nobody can mean: each says what was given, what is expected, and what to write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from ensue import App, Entity, Many, One, Property
from ensue.errors import EnsueError, ExpressionError, UsageError
from ensue.testing import AppHarness


class Writer(Entity):
    name: Property[str]
    posts = Many(lambda: Post, inverse="author")


class Post(Entity):
    title: Property[str]
    author: One[Writer]


@pytest_asyncio.fixture
async def store() -> AsyncIterator[Any]:
    async with AppHarness(App(entities=[Post])) as harness:
        yield harness.store


async def refused(awaitable: Any) -> EnsueError:
    with pytest.raises(EnsueError) as caught:
        await awaitable
    return caught.value


async def test_a_record_that_exists_is_not_created_again(store: Any) -> None:
    writer = await store.create(Writer(name="ann"))
    error = await refused(store.create(writer))
    assert isinstance(error, UsageError)
    assert "was loaded from the store and exists. To change it call `store.update(Writer, id, …)`" in str(error)


async def test_create_many_takes_several(store: Any) -> None:
    error = await refused(store.create_many(Writer(name="ann")))
    assert "create_many takes several records, and was given one Writer. Call `store.create(record)`." in str(error)


async def test_get_takes_an_id(store: Any) -> None:
    error = await refused(store.get(Writer, "ann"))
    assert "store.get(…, 'ann'): expected an id, which is a number." in str(error)


def test_one_text_is_not_several_values() -> None:
    with pytest.raises(ExpressionError, match=r"Post\.title\.in_\('abc'\) was given one text"):
        Post.title.in_("abc")


async def test_link_names_the_reference_to_set_instead(store: Any) -> None:
    writer = await store.create(Writer(name="ann"))
    post = await store.create(Post(title="x", author=writer))
    error = await refused(store.link(Writer.posts, writer, post))
    assert "`await store.update(Post, id, author=Writer.ref(…))`" in str(error)
