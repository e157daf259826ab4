"""What derives is computed after everything that it reads, whichever way leads there, and whatever was read before."""

from __future__ import annotations

from ensue import (
    App,
    Computed,
    Count,
    Entity,
    Many,
    Max,
    Maybe,
    Mutation,
    One,
    Property,
    StateMachine,
    Through,
    Transform,
    Transition,
)
from ensue.engine.audit import audit


class Draft(Entity):
    shelf: One[Shelf]
    pages: Property[int] = Property(default=1)


class Shelf(Entity):
    books = Many(lambda: Book, inverse="shelf")
    readers = Through(books, lambda b: b.readers)
    reader_count = Count(readers)


class Book(Entity, derived=Transform(lambda: Draft, lambda d: {"shelf": d.shelf})):
    shelf: One[Shelf] = One(on_delete="cascade")
    readers = Many(lambda: Reader, inverse="book")


class Reader(Entity):
    book: Maybe[Book] = Maybe(default=None)


class Print(Entity, derived=Transform(lambda: Draft, compute=lambda d: {"sheets": d.pages})):
    sheets: Property[int]
    sides = Computed[int](lambda p: p.sheets * 2)


class Copy(Entity):
    of: One[Print]
    sheets = Computed[int](lambda c: c.of.sheets + c.of.sides)


async def test_an_edge_that_finds_its_host_over_a_derived_record_follows_it(database_url: str) -> None:
    async with App(entities=[Draft, Shelf, Book, Reader], database=database_url) as app:
        store = app.controller.store
        low, high = await store.create_many([Shelf(), Shelf()])
        draft = await store.create(Draft(shelf=low))
        (book,) = await store.find(Book)
        await store.create(Reader(book=book))
        await store.update(Draft, draft.id, shelf=high)
        assert [shelf.reader_count for shelf in await store.find(Shelf)] == [0, 1]
        await store.delete(Draft, draft.id)
        assert [shelf.reader_count for shelf in await store.find(Shelf)] == [0, 0]
        assert (await audit(app.controller.engine)).clean


async def test_what_reads_the_output_of_a_function_is_computed_after_it(database_url: str) -> None:
    async with App(entities=[Draft, Shelf, Book, Reader, Print, Copy], database=database_url) as app:
        store = app.controller.store
        draft = await store.create(Draft(shelf=await store.create(Shelf())))
        (print_,) = await store.find(Print)
        copy = await store.create(Copy(of=print_))
        await store.update(Draft, draft.id, pages=5)
        assert (await store.get(Copy, copy.id)).sheets == 15
        assert (await audit(app.controller.engine)).clean


class Room(Entity):
    title: Property[str] = Property(default="")
    size: Property[int] = Property(default=0)
    guests = Many(lambda: Guest, inverse="room")
    guest_count = Count(guests)
    crowd = StateMachine(
        initial="few",
        transitions=[
            Transition(
                "few",
                "many",
                on=Mutation(lambda: Guest, "create", where=lambda g: g.room.guest_count >= 1),
                record=lambda e: e.record.room,
            ),
            Transition(
                "*",
                "named",
                on=Mutation(lambda: Room, "update", where=lambda r: r.guest_count >= 1, of=["title"]),
                record=lambda e: e.record.id,
            ),
        ],
    )


class Guest(Entity):
    room: One[Room]


async def test_a_read_in_between_does_not_change_what_a_state_machine_sees(database_url: str) -> None:
    async with App(entities=[Room, Guest], database=database_url) as app:
        store = app.controller.store
        found: list[tuple[str, str]] = []
        for reading in (False, True):
            first, second = await store.create_many([Room(), Room()])
            async with store.transaction():
                await store.create_many([Guest(room=first), Guest(room=second)])
                if reading:
                    await store.find(Room)
                await store.create(Guest(room=first))
                await store.update(Room, second.id, title="x")
            found.append(((await store.get(Room, first.id)).crowd, (await store.get(Room, second.id)).crowd))
        assert found == [("many", "named"), ("many", "named")]


async def test_an_update_by_expression_sees_what_derives_from_earlier_writes(database_url: str) -> None:
    async with App(entities=[Room, Guest], database=database_url) as app:
        store = app.controller.store
        room = await store.create(Room())
        async with store.transaction():
            await store.create(Guest(room=room))
            await store.update(Room, room.id, size=Room.guest_count)
        assert (await store.get(Room, room.id)).size == 1


class D(Entity):
    s1: Property[int] = Property(default=0)
    rows: Property[int] = Property(default=0)
    items = Many(lambda: W, inverse="d")
    n = Count(items)
    most = Max(items, lambda w: w.s0)


class W(Entity):
    d: One[D]
    s0: Property[int] = Property(default=0)


async def test_names_of_records_and_properties_do_not_meet_those_in_the_statements(database_url: str) -> None:
    async with App(entities=[D, W], database=database_url) as app:
        store = app.controller.store
        one, two = await store.create_many([D(), D()])
        await store.create_many([W(d=one, s0=3), W(d=two, s0=4)])
        await store.create(W(d=one, s0=2))
        await store.update_many(D, D.id > 0, s1=5, rows=D.s1 - 1)
        await store.update_many(W, W.id > 0, s0=W.s0 - 5)
        assert [(d.n, d.most, d.s1, d.rows) for d in await store.find(D)] == [(2, -2, 5, -1), (1, -1, 5, -1)]
        assert (await audit(app.controller.engine, repair=True)).clean
