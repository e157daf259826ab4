"""At start: an empty database is installed once, the same one passes quickly, any other is refused with what differs."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from ensue import App, Count, Entity, Many, Maybe, One, Property
from ensue.errors import DeclarationError
from ensue.migrate.install import prepare_database
from ensue.store.statement import Statement
from tests.migrate.versions import app, compiled, opened, sql


class Note(Entity):
    text: Property[str]


def changed() -> type[Entity]:
    class Note(Entity):
        text: Property[str | None]
        rank: Property[int] = Property(default=0, index=True)

    return Note


async def test_start_on_an_installed_database_costs_two_reads(database_url: str) -> None:
    async with opened(database_url) as driver:
        plan = compiled(driver, (Note,))
        await prepare_database(plan, driver)
        names: list[str] = []
        driver.observers.append(lambda statement, _: names.append(statement.name))
        await prepare_database(plan, driver)
        assert names == ["catalogue.tables", "meta.read"]


async def test_processes_that_start_at_once_agree(database_url: str) -> None:
    async def start() -> None:
        async with opened(database_url) as driver:
            await prepare_database(compiled(driver, (Note,)), driver)

    await asyncio.gather(*(start() for _ in range(5)))
    async with opened(database_url) as driver:
        assert await sql(driver, "SELECT count(*) FROM ensue_meta") == [(1,)]


async def test_another_version_is_refused_with_every_difference(database_url: str) -> None:
    async with opened(database_url) as driver:
        await prepare_database(compiled(driver, (Note,)), driver)
        with pytest.raises(DeclarationError) as caught:
            await prepare_database(compiled(driver, (changed(),)), driver)
    text = str(caught.value)
    assert "ensue migrate module:app --additive" in text
    assert "Column note.rank: new in the app (" in text
    assert "Column note.text: is " in text
    assert "Index ix_note_rank of note: new in the app ((rank))." in text
    assert {problem.code for problem in caught.value.problems} == {"E0170"}


async def test_a_table_that_the_app_lacks_is_a_difference(database_url: str) -> None:
    class Other(Entity):
        name: Property[str]

    async with opened(database_url) as driver:
        await prepare_database(compiled(driver, (Note, Other)), driver)
        with pytest.raises(DeclarationError, match="Table other: the database has, the app not"):
            await prepare_database(compiled(driver, (Note,)), driver)


async def test_a_changed_definition_is_a_difference(database_url: str) -> None:
    def version(positive: bool) -> tuple[type[Any], ...]:
        class Item(Entity):
            amount: Property[int]
            box: One[Box]

        class Box(Entity):
            items = Many(lambda: Item, inverse="box")
            n = Count(items, where=lambda i: i.amount > 0) if positive else Count(items)

        return Item, Box

    async with opened(database_url) as driver:
        await prepare_database(compiled(driver, version(False)), driver)
        with pytest.raises(DeclarationError) as caught:
            await prepare_database(compiled(driver, version(True)), driver)
    assert (
        "Definition box.n: is count over Item by box in the database, count over Item by box where amount > 0"
        in str(caught.value)
    )


async def test_a_database_of_others_is_left_alone(database_url: str) -> None:
    async with opened(database_url) as driver:
        await driver.script([Statement("foreign", "CREATE TABLE invoices (id INTEGER)")])
        with pytest.raises(DeclarationError, match=r"tables that ensue did not make \(invoices\)"):
            await prepare_database(compiled(driver, (Note,)), driver)
        assert await sql(driver, "SELECT count(*) FROM invoices") == [(0,)]


class A(Entity):
    name: Property[str]
    b: Maybe[B] = Maybe(default=None)
    self_: Maybe[A] = Maybe(default=None)


class B(Entity):
    a: One[A]


async def test_tables_that_refer_to_each_other(database_url: str) -> None:
    async with app((A, B), database_url) as running:
        store = running.controller.store
        a = await store.create(A(name="x"))
        b = await store.create(B(a=a))
        await store.update(A, a.id, b=b, self_=a)
        assert (await store.get(A, a.id)).b.id == b.id
        with pytest.raises(Exception, match=r"reference|foreign|does not exist"):
            await store.create(B(a=A.ref(99)))


async def test_an_app_says_which_database_it_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/notes.db"
    async with App(entities=[Note], database=url):
        pass
    with pytest.raises(DeclarationError, match=rf"The database {re.escape(url)}\S* was made for another version"):
        async with App(entities=[changed()], database=url):
            pass
