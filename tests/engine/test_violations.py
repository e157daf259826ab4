"""A database's refusal in the words of the schema, on both databases."""

from __future__ import annotations

import pytest

from ensue import App, Entity, Many, One, Property, Rejected
from ensue.errors import ConstraintViolated, InvalidValue


class Shelf(Entity):
    name: Property[str]
    books = Many(lambda: Book, inverse="shelf")


class Book(Entity, unique=[("shelf", "place")]):
    title: Property[str] = Property(unique=True)
    place: Property[int] = Property(check=lambda place: place > 0)
    shelf: One[Shelf]
    labels = Many(lambda: Label, inverse="books")


class Label(Entity):
    name: Property[str]
    books = Many(lambda: Book, inverse="labels")


@pytest.fixture
def app(database_url: str) -> App:
    return App(entities=[Shelf, Book, Label], database=database_url)


async def test_a_unique_violation_names_the_members(app: App) -> None:
    async with app:
        store = app.controller.store
        shelf = await store.create(Shelf(name="a"))
        await store.create(Book(title="x", place=1, shelf=shelf))
        with pytest.raises(ConstraintViolated, match="There is another Book with the same title") as caught:
            await store.create(Book(title="x", place=2, shelf=shelf))
        assert (caught.value.code, caught.value.fields) == ("unique", {"title": "is already taken"})
        with pytest.raises(ConstraintViolated, match="the same shelf and place"):
            await store.create(Book(title="y", place=1, shelf=shelf))


async def test_a_failed_check_names_the_property(app: App) -> None:
    async with app:
        store = app.controller.store
        shelf = await store.create(Shelf(name="a"))
        book = await store.create(Book(title="x", place=1, shelf=shelf))
        with pytest.raises(ConstraintViolated, match=r"Book\.place does not satisfy its check") as caught:
            await store.update(Book, book.id, place=0)
        assert caught.value.fields == {"place": "does not satisfy its check"}
        assert __file__ not in caught.value.message  # which clients see
        assert any(f"declared at {__file__}:" in note for note in caught.value.__notes__)


async def test_a_reference_to_nothing_names_what_was_given(app: App) -> None:
    async with app:
        with pytest.raises(Rejected, match="Book refers to a record that does not exist; given: shelf=77"):
            await app.controller.store.create(Book(title="x", place=1, shelf=77))  # type: ignore[arg-type]


async def test_an_update_to_a_reference_to_nothing_names_what_was_given(app: App) -> None:
    async with app:
        store = app.controller.store
        shelf = await store.create(Shelf(name="a"))
        books = await store.create_many([Book(title=str(n), place=n + 1, shelf=shelf) for n in range(8)])
        told = "Book refers to a record that does not exist; given: shelf=77"
        with pytest.raises(ConstraintViolated, match=told) as caught:
            await store.update(Book, books[0].id, shelf=77)
        assert caught.value.fields == {"shelf": "is there a Shelf with id 77?"}
        with pytest.raises(ConstraintViolated, match=told):
            await store.update_many(Book, Book.place == 3, shelf=77, place=Book.place + 1)
        with pytest.raises(ConstraintViolated, match=f"given: shelf={shelf.id}, 77 or 78"):
            await store.create_many(
                [Book(title=f"n{n}", place=9, shelf=n) for n in (shelf.id, 78, 77)]  # type: ignore[arg-type]
            )
        with pytest.raises(ConstraintViolated, match=r"given: shelf=101, 102, 103, 104, 105 or 2 more\."):
            await store.create_many([Book(title=f"n{n}", place=9, shelf=n) for n in range(101, 108)])  # type: ignore[arg-type]


async def test_a_link_to_nothing_names_what_was_given(app: App) -> None:
    async with app:
        store = app.controller.store
        label = await store.create(Label(name="red"))
        with pytest.raises(
            ConstraintViolated, match="Book_labels refers to a record that does not exist; given: source=88"
        ):
            await store.link(Label.books, label, 88)


async def test_an_expression_out_of_range_says_so_once(app: App) -> None:
    async with app:
        store = app.controller.store
        shelf = await store.create(Shelf(name="a"))
        book = await store.create(Book(title="x", place=2**62, shelf=shelf))
        with pytest.raises(InvalidValue) as caught:
            await store.update(Book, book.id, place=Book.place * 4)
        assert caught.value.message == "Book does not accept: place: An integer (64-bit) is out of range."
        assert caught.value.fields == {"place": "An integer (64-bit) is out of range"}
