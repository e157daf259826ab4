"""Deletions: what goes together, in circles too, and what side effects are told of it."""

from __future__ import annotations

import pytest

from ensue import App, Count, Effect, Entity, Integration, Many, Maybe, One, Property, Transform, side_effect
from ensue.engine.audit import audit
from ensue.errors import Rejected
from ensue.testing import AppHarness


class Author(Entity):
    name: Property[str] = Property(default="")
    pinned: Maybe[Book] = Maybe(default=None)
    books = Many(lambda: Book, inverse="author")
    book_count = Count(books)


class Book(Entity):
    author: One[Author] = One(on_delete="cascade")
    pinners = Many(lambda: Author, inverse="pinned")
    pin_count = Count(pinners)


class Node(Entity):
    parent: Maybe[Node] = Maybe(default=None, on_delete="cascade")
    top: Maybe[Node] = Maybe(default=None)
    children = Many(lambda: Node, inverse="parent")
    child_count = Count(children)


class Note(Entity):
    node: One[Node] = One(on_delete="cascade")
    about: One[Book]
    author: Maybe[Author] = Maybe(default=None, on_delete="cascade")


ENTITIES = [Author, Book, Node, Note]


async def test_records_that_refer_to_each_other_go_together(database_url: str) -> None:
    async with App(entities=ENTITIES, database=database_url) as app:
        store = app.controller.store
        author, other = await store.create_many([Author(), Author()])
        book = await store.create(Book(author=author))
        await store.update(Author, author.id, pinned=book)
        await store.update(Author, other.id, pinned=book)
        await store.delete(Author, author.id)
        assert await store.count(Book) == 0
        assert [(item.pinned, item.book_count) for item in await store.find(Author)] == [(None, 0)]
        assert (await audit(app.controller.engine)).clean


async def test_a_circle_within_one_record_type_goes_whole(database_url: str) -> None:
    async with App(entities=ENTITIES, database=database_url) as app:
        store = app.controller.store
        first = await store.create(Node())
        second = await store.create(Node(parent=first, top=first))
        await store.update(Node, first.id, parent=second)
        await store.create(Node(parent=second, top=second))
        await store.create(Node(top=second))
        await store.delete(Node, first.id)
        assert [(node.parent, node.top) for node in await store.find(Node)] == [(None, None)]
        assert (await audit(app.controller.engine)).clean


async def test_a_reference_does_not_restrict_when_it_goes_by_another_way(database_url: str) -> None:
    async with App(entities=ENTITIES, database=database_url) as app:
        store = app.controller.store
        author = await store.create(Author())
        book = await store.create(Book(author=author))
        node = await store.create(Node())
        note = await store.create(Note(node=node, about=book, author=author))
        kept = await store.create(Note(node=node, about=book))
        with pytest.raises(Rejected, match=rf"Note.about, first {kept.id}\."):
            await store.delete(Author, author.id)
        await store.delete(Note, kept.id)
        await store.delete(Author, author.id)
        assert await store.count(Note) == 0
        assert note.id < kept.id


class Page(Entity):
    text: Property[str] = Property(default="")


class Summary(Entity, derived=Transform(lambda: Page, lambda p: {"page": p, "text": p.text})):
    page: One[Page]
    text: Property[str]


async def test_a_derived_record_does_not_keep_its_source(database_url: str) -> None:
    async with App(entities=[Page, Summary], database=database_url) as app:
        store = app.controller.store
        page = await store.create(Page(text="a"))
        assert await store.count(Summary) == 1
        await store.delete(Page, page.id)
        assert (await store.count(Page), await store.count(Summary)) == (0, 0)
        assert (await audit(app.controller.engine)).clean


async def test_an_effect_on_what_goes_along_has_the_fields_that_it_asked_for() -> None:
    told: list[str] = []

    class Shop(Entity):
        name: Property[str]

    class Ware(Entity):
        shop: One[Shop] = One(on_delete="cascade")

    class Teller(Integration):
        @side_effect(Ware, on="delete", fields=[Ware.shop.name])
        async def tell(self, effect: Effect[Ware]) -> None:
            told.append(effect.record.shop.name)

    async with AppHarness(App(entities=[Shop, Ware], integrations={"teller": Teller()})) as harness:
        shop = await harness.store.create(Shop(name="corner"))
        await harness.store.create(Ware(shop=shop))
        await harness.store.delete(Shop, shop.id)
        await harness.drain()
        assert told == ["corner"]
