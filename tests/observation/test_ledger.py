"""The page of the ledger: its tables are those of the database, its questions run on both and are answered."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import MetaData

from ensue import (
    App,
    Effect,
    Entity,
    Integration,
    Interaction,
    NewRecord,
    Property,
    Receipt,
    Rejected,
    Throttled,
    Transform,
    side_effect,
)
from ensue.app import AppRun
from ensue.errors import UnknownOutcome
from ensue.store.statement import Run, Statement, Work
from ensue.store.system_tables import define_system_tables
from tests.docs.pages import REFERENCE

PAGE = (REFERENCE / "ledger.md").read_text()
TABLES = ("ensue_effect", "ensue_effect_attempt", "ensue_effect_target", "ensue_inbox", "ensue_task_poll")
NOW = {"(extract(epoch from now()) * 1000000)": "(unixepoch('subsec') * 1000000)"}


class PlaceOrder(Interaction):
    title: str


class Order(Entity, derived=Transform(PlaceOrder, lambda event: {"title": event.title})):
    title: Property[str]


class Bank(Integration):
    @side_effect(Order, on="create")
    async def charge(self, effect: Effect[Order]) -> Receipt:
        title = effect.record.title
        if title == "slippery" and effect.attempt == 1:
            raise RuntimeError("it slipped")
        if title == "refused":
            raise Rejected("refused", "no credit")
        return Receipt(provider_id=f"ch_{effect.record.id}")

    @side_effect(Order, on="create", order_by=lambda order: order.title)
    async def pack(self, effect: Effect[Order]) -> None:
        raise UnknownOutcome("who knows")

    @side_effect(Order, on="create", where=lambda order: order.title == "busy")
    async def tell(self, effect: Effect[Order]) -> None:
        raise Throttled(600)


def work(text: str, *, rows: bool) -> Work[list[Any]]:
    return (yield Run(Statement("test.ledger", text, rows=rows)))


def questions() -> dict[str, str]:
    """The questions of the page, by how they begin."""
    found = re.findall(r"^\*\*(.+?)(?:[.:]\*\*|\*\*).*?\n```sql\n(.*?);\n```", PAGE, re.MULTILINE | re.DOTALL)
    return dict(found)


@pytest_asyncio.fixture
async def asked(database_url: str) -> AsyncIterator[tuple[AppRun, dict[str, list[Any]]]]:
    """A run with something of everything in its tables, and the answers to all questions."""
    app = App(entities=[Order], interactions=[PlaceOrder], integrations={"bank": Bank()}, database=database_url)
    async with app.run(deliver=False) as run:
        for title in ("plain", "slippery", "refused", "busy", "busy"):
            await run.controller.dispatch(PlaceOrder(title=title))
        await run.delivery.drain()
        await run.delivery.drain(waiting=True)
        await run.controller.receive("shop.paid", "m1", NewRecord("Order", {"title": "x"}), body=b"{}")
        await run.delivery.drain()
        for text in STORY:
            await run.driver.write(work(text, rows=False))
        answers: dict[str, list[Any]] = {}
        for question, text in questions().items():
            if run.driver.dialect == "sqlite":
                for postgresql, sqlite in NOW.items():
                    text = text.replace(postgresql, sqlite)
            answers[question] = await run.driver.read(work(text, rows=True))
        yield run, answers


STORY = (
    "UPDATE ensue_inbox SET state = 'failed', error = 'it broke'",
    (
        "UPDATE ensue_effect SET state = 'claimed', lease_token = 't', lease_until = enqueued_at + 99000000000,"
        " claimed_at = enqueued_at, worker = 'w1' WHERE id = (SELECT min(id) FROM ensue_effect WHERE state = 'pending')"
    ),
    "INSERT INTO ensue_effect_target (target, paused, reason) VALUES ('bank.pack', 1, 'maintenance')",
    (
        "INSERT INTO ensue_effect_attempt (effect_id, attempt, worker, outcome, error_class, error)"
        " SELECT id, 1, 'w0', 'lost', 'lost', 'the lease ran out' FROM ensue_effect WHERE provider_id = 'ch_1'"
    ),
    (
        "INSERT INTO ensue_task_poll (task_type, task_id, integration, phase, key, external_id, deadline_at, next_at, failures)"
        " VALUES ('Picture', 1, 'pictures', 'waiting', 'k', 'ch_1', 9, 9, 2)"
    ),
)


async def test_every_question_has_an_answer(asked: tuple[AppRun, dict[str, list[Any]]]) -> None:
    _, answers = asked
    assert len(answers) >= 12
    assert [question for question, rows in answers.items() if not rows] == []


async def test_the_answers_are_right(asked: tuple[AppRun, dict[str, list[Any]]]) -> None:
    _, answers = asked
    found = {question.partition(",")[0]: rows for question, rows in answers.items()}
    waits = {(name, state, why): count for name, state, why, count, _ in found["What waits"]}
    assert waits["bank.pack", "unknown", "paused: maintenance"] == 5
    assert waits["bank.tell", "retry_wait", "its target asked to wait"] == 2
    failures = {row[:3]: row[3] for row in found["Failures by class in the last hour"]}
    assert failures["bank.charge", "transient", "retry"] == 1
    assert failures["bank.charge", "rejected", "bury"] == 1
    line = [
        row[3:] for row in found["A timeline: from a record to what its providers call it"] if row[1] == "bank.charge"
    ]
    assert line == [("enqueued", "PlaceOrder 1"), ("done", "ch_1"), ("lost", "the lease ran out")]
    back = {row[:4] for row in found["Back from a provider's id to what caused it"]}
    assert back == {("PlaceOrder", 1, "Order", 1), (None, None, "Picture", 1)}
    assert {row[0] for row in found["Everything that one dispatch caused"]} == {"bank.charge", "bank.pack"}
    twice = {row[0] for row in found["What may have been done twice"]}
    assert twice == {"bank.charge", "bank.pack"}
    ((worker, *_, lease_left),) = found["Who holds what"]
    assert worker == "w1"
    assert lease_left > 0
    assert sum(row[2] for row in found["Throughput by the minute"]) == 5
    assert [row[6] for row in found["Dead letters"]] == ["rejected"]
    assert all(row[2] == "unknown" for row in found["Keys that wait for their first effect"])
    assert {row[0] for row in found["Targets that are stopped"]} == {"bank.pack", "bank.tell"}
    assert found["Messages from outside that were not handled"][0][:3] == ("shop.paid", "failed", 1)
    assert found["Tasks that are late"][0][:3] == ("pictures", "Picture", 1)


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_described(name: str) -> None:
    metadata = MetaData()
    define_system_tables(metadata)
    section = PAGE.partition(f"## {name}\n")[2].partition("\n## ")[0]
    described = [
        column
        for row in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section, re.MULTILINE)
        for column in re.findall(r"`(\w+)`", row)
    ]
    assert sorted(described) == sorted(metadata.tables[name].columns.keys())
