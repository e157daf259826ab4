"""An app with workflows, for processes of their own: `ensue worker tests.integrations.temporal.shop:app`."""

from __future__ import annotations

import os

from ensue import App, Entity, One, Property
from ensue.integrations.temporal import Signal, Temporal, Workflow, WorkflowRun


class Order(Entity):
    number: Property[int]


class Fulfilment(WorkflowRun):
    order: One[Order]


class Step(Entity):
    word: Property[str]
    fulfilment: One[Fulfilment]


def make(database: str) -> App:
    """The app on this database."""
    workflow = Workflow("Fulfil", lambda run: {"order": run.order.number}, fields=[Fulfilment.order.number])
    step = Signal("step", Step, run="fulfilment", argument=lambda step: step.word)
    return App(
        entities=[Order, Fulfilment, Step],
        integrations={"flows": Temporal(workflows={Fulfilment: workflow}, signals=[step])},
        database=database,
    )


app = make(os.environ.get("SHOP_DATABASE", "sqlite:///:memory:"))
