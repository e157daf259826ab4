"""A record type that is a host in two strata is written once, in the higher one, unless something reads the lower column."""

from __future__ import annotations

from ensue import App, Count, Custom, Entity, Many, One, Property, Sum
from ensue.plan.plan import HostStep
from ensue.store.statement import Statement


class Author(Entity):
    name: Property[str]
    books = Many(lambda: Book, inverse="author")
    book_count = Count(books)  # nothing reads it: it waits for the sum
    words = Sum(books, lambda b: b.page_count)
    shout = Custom[str](compute=lambda author, _: author.name.upper(), uses=lambda a: [a.name])


class Book(Entity):
    title: Property[str]
    author: One[Author]
    pages = Many(lambda: Page, inverse="book")
    page_count = Count(pages)


class Page(Entity):
    book: One[Book]


async def test_a_leaf_is_written_with_the_highest_column_of_its_host(database_url: str) -> None:
    app = App(entities=[Author, Book, Page], database=database_url)
    async with app:
        engine = app.controller.engine
        steps = [step for stratum in engine.plan.strata for step in stratum if isinstance(step, HostStep)]
        assert [step.record for step in steps].count("Author") == 1
        store = app.controller.store
        author = await store.create(Author(name="a"))
        seen: list[str] = []

        def see(statement: Statement, _count: int) -> None:
            seen.append(statement.name)

        engine.driver.observers.append(see)
        async with store.transaction():
            book = await store.create(Book(title="b", author=author))
            await store.create(Page(book=book))
        assert seen.count("author.derive") == 1
        engine.driver.observers.clear()
        found = await store.get(Author, author.id)
        assert (found.book_count, found.words) == (1, 1)


async def test_create_returns_what_a_custom_computed(database_url: str) -> None:
    app = App(entities=[Author, Book, Page], database=database_url)
    async with app:
        store = app.controller.store
        assert (await store.create(Author(name="a"))).shout == "A"
        authors = await store.create_many([Author(name=name) for name in "xy"])
        assert [author.shout for author in authors] == ["X", "Y"]
