"""Workflows for tests, a worker for them on the real server, and a server of each kind."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from ensue.clock import SystemClock
from ensue.integrations.workflows.client import TemporalWorkflows
from ensue.integrations.workflows.server import MemoryWorkflows, Start, Workflows


@workflow.defn(name="Fulfil")
class Fulfil:
    """Waits for signals `step`; the word in the last one says how to end."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    @workflow.run
    async def run(self, given: dict[str, Any]) -> Any:
        await workflow.wait_condition(lambda: bool(self.steps) and self.steps[-1].startswith("end"))
        if self.steps[-1] == "end badly":
            raise ApplicationError("the shelf is empty", non_retryable=True)
        if self.steps[-1] == "end plainly":
            return "done"
        if self.steps[-1] == "end oddly":
            return RawValue(Payload(metadata={"encoding": b"binary/encrypted"}, data=b"..."))
        return {"given": given, "steps": self.steps}

    @workflow.signal(name="step")
    def step(self, word: str) -> None:
        self.steps.append(word)


@asynccontextmanager
async def worker(client: Client, task_queue: str) -> AsyncIterator[Worker]:
    """Runs `Fulfil` while it is open."""
    # One poller each is enough, and quick to stop.
    async with Worker(
        client,
        task_queue=task_queue,
        workflows=[Fulfil],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_concurrent_workflow_task_polls=2,
        graceful_shutdown_timeout=timedelta(0),
    ) as running:
        yield running


async def until(met: Callable[[], Awaitable[Any]], seconds_max: float = 20.0) -> Any:
    """What `met` gives once that is true."""
    async with asyncio.timeout(seconds_max):
        while True:
            if found := await met():
                return found
            await asyncio.sleep(0.03)


@dataclass
class Place:
    """A server, and how a test makes a workflow on it end."""

    server: Workflows
    client: Client | None
    task_queue: str

    def start(self, workflow_id: str, *, request_id: str = "", **more: Any) -> Start:
        return Start(
            workflow_id=workflow_id,
            workflow="Fulfil",
            argument={"n": 1},
            task_queue=self.task_queue,
            request_id=request_id or str(uuid.uuid4()),
            **more,
        )

    async def end(self, workflow_id: str, word: str) -> None:
        if self.client is not None:
            await self.client.get_workflow_handle(workflow_id).signal("step", word)
        elif word == "end badly":
            self.server.fail(workflow_id, "the shelf is empty")  # type: ignore[attr-defined]
        else:
            result = "done" if word == "end plainly" else {"given": {"n": 1}, "steps": [word]}
            self.server.complete(workflow_id, result)  # type: ignore[attr-defined]


@pytest.fixture(params=["memory", "temporal"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """A server of each kind in turn."""
    task_queue = f"queue-{uuid.uuid4().hex[:8]}"
    if request.param == "memory":
        yield Place(MemoryWorkflows(SystemClock()), None, task_queue)
        return
    address: str = request.getfixturevalue("temporal_address")
    client = await Client.connect(address)
    async with worker(client, task_queue):
        yield Place(TemporalWorkflows(client, clock=SystemClock(), identity="tests"), client, task_queue)
