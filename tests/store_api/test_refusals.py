"""Calls of the store that nobody can mean: each says what was given, what is expected, and what to write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from ensue import App, Entity, Interaction, Many, One, PlannedError, Property
from ensue.errors import EnsueError, ExpressionError, UsageError
from ensue.testing import AppHarness


class Writer(Entity):
    name: Property[str]
    posts = Many(lambda: Post, inverse="author")


class Post(Entity):
    title: Property[str]
    author: One[Writer]


class Task(Entity, abstract=True):
    status: Property[str]


class Picture(Task):
    prompt: Property[str]


class Write(Interaction):
    text: str


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


@pytest.mark.parametrize("order_by", [Post.id, Post.id.desc(), "-id"])
async def test_an_order_is_a_list(store: Any, order_by: Any) -> None:
    error = await refused(store.find(Post, order_by=order_by))
    assert "`order_by` got" in str(error)
    assert "expected a list, such as `order_by=[Post.at.desc()]`" in str(error)
    with pytest.raises(ExpressionError, match="expected a list"):
        Writer.posts.fields(Post.title, order_by=order_by)


async def test_run_takes_an_async_function(store: Any) -> None:
    for wrong, shown in ((store.count(Post), "coroutine"), (None, "NoneType"), (lambda: 3, "int")):
        error = await refused(store.run(wrong))
        assert str(error).endswith(f"`await store.run(work)`; got {shown}.")
    assert await store.run(lambda: store.count(Post)) == 0


async def test_an_abstract_entity_has_no_records(store: Any) -> None:
    async with AppHarness(App(entities=[Post, Picture])) as harness:
        error = await refused(harness.store.create(Task(status="new")))
    assert "Task is abstract: it has no records of its own" in str(error)


async def test_dispatch_takes_an_interaction_with_its_payload() -> None:
    async with AppHarness(App(entities=[Post], interactions=[Write])) as harness:
        error = await refused(harness.controller.dispatch(Write))  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
        assert str(error) == "Write was given as a class; expected an interaction with its payload: Write(…)."
        error = await refused(harness.controller.dispatch_many(Write(text="x")))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert str(error) == "dispatch_many takes several interactions, and was given one Write. Call `dispatch`."


async def test_select_is_planned(store: Any) -> None:
    with pytest.raises(PlannedError, match="is planned"):
        store.select(Post.title)
