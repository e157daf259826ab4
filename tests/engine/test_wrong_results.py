"""A function of the application that gives what can't be used is the application's fault: told in full here, to no client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest

from ensue import (
    App,
    Custom,
    Entity,
    Interaction,
    InvalidValue,
    Property,
    Rejected,
    State,
    StateMachine,
    Transform,
    Transition,
    WrongResult,
)
from ensue.server.answers import answer_to


class Place(Interaction):
    kind: str = "book"


class Order(Entity, derived=Transform(Place, lambda e: GIVEN[e.kind])):
    total: Property[int]
    kind: Property[Literal["book", "game"]]


GIVEN: dict[str, Any] = {
    "number": 3,
    "unknown": {"total": 1, "kind": "book", "totl": 2},
    "missing": {"kind": "book"},
    "value": {"total": 1, "kind": "boat"},
}


async def refused(app: App, call: Callable[[Any], Any]) -> WrongResult:
    """The error of the call, which is none that a client is told of."""
    with pytest.raises(WrongResult) as caught:
        await call(app.controller)
    assert not isinstance(caught.value, Rejected)
    answer = answer_to(caught.value)
    assert (answer.status, answer.code, answer.is_defect) == (500, "internal", True)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("number", "gave 3; expected a mapping of values, a list of them, or None."),
        ("unknown", "gave 'totl'; what it may give of Order is: kind, total."),
        ("missing", "gave no total, which Order needs."),
    ],
)
async def test_a_transform_of_an_interaction(database_url: str, kind: str, told: str) -> None:
    async with App(entities=[Order], interactions=[Place], database=database_url) as app:
        error = await refused(app, lambda controller: controller.dispatch(Place(kind=kind)))
        assert str(error).startswith("The Transform that derives Order (")
        assert str(error).endswith(told)
        assert await app.controller.store.count(Order) == 0


async def test_a_value_may_be_what_the_client_sent(database_url: str) -> None:
    async with App(entities=[Order], interactions=[Place], database=database_url) as app:
        with pytest.raises(InvalidValue, match="kind: got str 'boat'; expected one of 'book', 'game'"):
            await app.controller.dispatch(Place(kind="value"))


class Source(Entity):
    kind: Property[str]


class Copy(Entity, derived=Transform(lambda: Source, compute=lambda s: GIVEN[s.kind])):
    total: Property[int]
    kind: Property[str] = Property(default="x")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("number", "gave 3; expected a mapping of values, a list of them, or None."),
        ("unknown", "gave 'totl', which is no stored property or link of Copy."),
        ("missing", "gave no total, which Copy needs."),
    ],
)
async def test_a_transform_of_records(database_url: str, kind: str, told: str) -> None:
    async with App(entities=[Source, Copy], database=database_url) as app:
        error = await refused(app, lambda controller: controller.store.create(Source(kind=kind)))
        assert str(error).endswith(told)
        assert await app.controller.store.count(Source) == 0


class Finish(Interaction):
    job: int


class Job(Entity):
    status = StateMachine(
        initial="open",
        transitions=[Transition("open", "done", on=Finish, record=lambda e: {1: e.job, 2: "job"}[e.job])],
    )


async def test_the_record_of_a_transition(database_url: str) -> None:
    async with App(entities=[Job], interactions=[Finish], database=database_url) as app:
        error = await refused(app, lambda controller: controller.dispatch(Finish(job=2)))
        assert str(error).endswith("gave str 'job'; expected a Job, its id, several of these, or None.")


OPEN, DONE = State("open", value=lambda last, event: 0), State("done", value=lambda last, event: "x")


class Step(Entity):
    progress = StateMachine[int | None](
        initial=OPEN, states=[OPEN, DONE], transitions=[Transition(OPEN, DONE, on=Finish, record=lambda e: e.job)]
    )


class Measured(Entity):
    text: Property[str]
    length = Custom[int](compute=lambda m, inputs: m.text, uses=lambda m: [m.text])


def not_a_number() -> int:
    return "x"  # type: ignore[return-value]  # the mistake


class Draft(Entity):
    number: Property[int] = Property(default=not_a_number)
    other: Property[int] = Property(default=lambda: int("x"))


async def test_values_made_by_functions(database_url: str) -> None:
    async with App(entities=[Step, Measured, Draft], interactions=[Finish], database=database_url) as app:
        store = app.controller.store
        step = await store.create(Step())
        error = await refused(app, lambda controller: controller.dispatch(Finish(job=step.id)))
        assert str(error).startswith("The value= of state 'done' of Step.progress gave a wrong value: got str 'x'")
        error = await refused(app, lambda controller: controller.store.create(Measured(text="x")))
        assert "The Custom Measured.length (" in str(error)
        error = await refused(app, lambda controller: controller.store.create(Draft(other=1)))
        assert str(error).startswith("The function given as default= of Draft.number (")
        assert str(error).endswith("gave a wrong value: got str 'x'; expected int.")
        error = await refused(app, lambda controller: controller.store.create(Draft(number=1)))
        assert "raised ValueError: invalid literal for int()" in str(error)
