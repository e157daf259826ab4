"""A database whose effect tables are of the first version: refused at the start with the difference, and brought on by adding."""

from __future__ import annotations

import pytest

from ensue import Entity, Property
from ensue.effects.outbox import Gate, Turn, Want, claim, first_after, outcome, settle
from ensue.migrate.additive import apply_additive, plan_additive
from ensue.migrate.catalogue import SchemaMismatch, store_fingerprint
from ensue.migrate.install import prepare_database
from ensue.store.driver import Driver
from tests.migrate.versions import compiled, opened, sql

NEW_COLUMNS = (
    "cause",
    "cause_id",
    "target",
    "priority",
    "due_at",
    "claimed_at",
    "first_sent_at",
    "failures",
    "doubt",
    "provider_id",
    "note",
)
WAITING = "state IN ('pending', 'retry_wait')"


class Item(Entity):
    name: Property[str]


async def made_by_the_first_version(driver: Driver) -> None:
    """The tables as they were, with two effects that wait, and the fingerprint that says so."""
    plan = compiled(driver, (Item,))
    await prepare_database(plan, driver)
    tables = {name: {**table, "columns": dict(table["columns"])} for name, table in plan.fingerprint["tables"].items()}
    for name in ("plain", "keyed", "parked", "claimed", "given_up"):
        await sql(driver, f"DROP INDEX ensue_effect_{name}")
    for column in NEW_COLUMNS:
        await sql(driver, f"ALTER TABLE ensue_effect DROP COLUMN {column}")
        del tables["ensue_effect"]["columns"][column]
    for name in ("ensue_effect_target", "ensue_effect_attempt"):
        await sql(driver, f"DROP TABLE {name}")
        del tables[name]
    await sql(driver, f"CREATE INDEX ensue_effect_due ON ensue_effect (name, available_at, id) WHERE {WAITING}")
    indexes = dict(tables["ensue_effect"]["indexes"])
    for name in ("plain", "keyed", "parked", "claimed", "given_up"):
        del indexes[f"ensue_effect_{name}"]
    tables["ensue_effect"]["indexes"] = {**indexes, "ensue_effect_due": f"(name, available_at, id) where {WAITING}"}
    await driver.write(store_fingerprint(driver.dialect, {**plan.fingerprint, "tables": tables}))
    await sql(
        driver,
        "INSERT INTO ensue_effect (name, key, record, record_id, payload) VALUES ('x.y', 'k1', 'Item', 1, '{}'),"
        " ('x.y', 'k2', 'Item', 2, '{}')",
    )


async def test_what_the_first_version_enqueued_is_delivered(database_url: str) -> None:
    async with opened(database_url) as driver:
        await made_by_the_first_version(driver)
        plan = compiled(driver, (Item,))
        with pytest.raises(SchemaMismatch, match=r"(?s)migrate module:app --additive.*ensue_effect\.target"):
            await prepare_database(plan, driver)
        assert not (await plan_additive(plan, driver)).refused
        await apply_additive(compiled(driver, (Item,)), driver)
        await prepare_database(compiled(driver, (Item,)), driver)
        turn = Turn([Want("x.y", 5, "x.y", after=first_after("x.y"))], [Gate("x.y")], "t", "w", 30_000_000)
        claims = await driver.write(claim(driver.dialect, turn))
        assert [one.row.key for one in claims] == ["k1", "k2"]
        ends = [outcome(one, "succeed") for one in claims]
        assert await driver.write(settle(driver.dialect, ends)) == {one.row.id: "done" for one in claims}
