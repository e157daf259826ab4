"""`python -m examples.fulfilment`: an order starts a workflow on Temporal, a payment is a signal to it, its end comes back.

Takes the server at `TEMPORAL_ADDRESS`, by default the development server (`temporal server start-dev`), and runs the
workflow's worker itself.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Mapping
from typing import Any

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from ensue import App, Effect, Entity, Integration, One, Property, side_effect
from ensue.integrations.temporal import Signal, Temporal, Workflow, WorkflowRun


@workflow.defn(name="FulfilOrder")
class FulfilOrder:
    """Waits for the payment, and ships."""

    def __init__(self) -> None:
        self.paid = 0

    @workflow.run
    async def run(self, given: dict[str, Any]) -> dict[str, Any]:
        await workflow.wait_condition(lambda: self.paid >= given["price"])
        return {"parcel": f"parcel-{given['order']}"}

    @workflow.signal(name="paid")
    def receive(self, amount: int) -> None:
        self.paid += amount


class Order(Entity):
    number: Property[int]
    price: Property[int]


class Fulfilment(WorkflowRun):
    order: One[Order]


class Payment(Entity):
    amount: Property[int]
    fulfilment: One[Fulfilment]


class Told(Integration):
    """Says how far orders are, and sets `ended` at the end of one."""

    async def setup(self, controller: object) -> None:
        self.ended = asyncio.Event()

    @side_effect(Fulfilment, on="update", of=[Fulfilment.status], order_by=lambda run: run.id)
    async def tell(self, effect: Effect[Fulfilment]) -> None:
        run = effect.record
        print(f"{run.status} {run.result or ''}".strip())
        if run.status not in ("starting", "running"):
            self.ended.set()


fulfil = Workflow(
    "FulfilOrder",
    lambda run: {"order": run.order.number, "price": run.order.price},
    fields=[Fulfilment.order.number, Fulfilment.order.price],
)
paid = Signal("paid", Payment, run="fulfilment", argument=lambda payment: payment.amount)
app = App(
    entities=[Order, Fulfilment, Payment],
    integrations={"flows": Temporal(workflows={Fulfilment: fulfil}, signals=[paid]), "told": Told()},
    database="sqlite:///:memory:",
)


async def main(environ: Mapping[str, str] = os.environ) -> None:
    """Order, pay in two parts, and wait for the parcel."""
    queue = f"fulfilment-{uuid.uuid4().hex[:8]}"
    address = environ.get("TEMPORAL_ADDRESS", "localhost:7233")
    client = await Client.connect(address)
    worker = Worker(client, task_queue=queue, workflows=[FulfilOrder], workflow_runner=UnsandboxedWorkflowRunner())
    settings = {"TEMPORAL_ADDRESS": address, "TEMPORAL_TASK_QUEUE": queue}
    async with worker, app.run(env=settings) as run:
        store, told = run.controller.store, run.integrations.members["told"]
        assert isinstance(told, Told)
        order = await store.create(Order(number=7, price=30))
        fulfilment = await store.create(Fulfilment(order=order))
        for amount in (10, 20):
            await store.create(Payment(amount=amount, fulfilment=fulfilment))
        await told.ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
