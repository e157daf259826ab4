"""Temporal as any integration: its life, outages, repeats and poison, on a real server behind a proxy."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.service import RPCError

from ensue import App, Controller, Property
from ensue.integrations.temporal import Temporal, Workflow, WorkflowRun
from ensue.testing import FaultProxy, IntegrationConformance

# All in one process: its server takes seconds to start.
pytestmark = pytest.mark.xdist_group("temporal")

KEY = "a-key-that-nobody-sees"


class Job(WorkflowRun):
    word: Property[str]


def argument(job: Any) -> object:
    """What the workflow is given; of poison nothing can be made."""
    return {"word": job.word} if job.word != "poison" else 1 / 0


class TestTemporal(IntegrationConformance[FaultProxy]):
    """What is caused is the start of a workflow that nobody works on; the work is the runs that there are."""

    @pytest.fixture(autouse=True)
    def server(self, temporal_address: str) -> None:
        self.address = temporal_address
        self.queues: dict[FaultProxy, str] = {}
        self.ids: dict[str, list[str]] = {}

    @asynccontextmanager
    async def _peer(self) -> AsyncIterator[FaultProxy]:
        async with FaultProxy(f"http://{self.address}") as proxy:
            self.queues[proxy] = f"queue-{uuid.uuid4().hex[:10]}"
            self.ids[self.queues[proxy]] = []
            yield proxy

    def peer(self) -> AbstractAsyncContextManager[FaultProxy]:
        return self._peer()

    def integration(self, peer: FaultProxy) -> Temporal:
        return Temporal(workflows={Job: Workflow("Job", argument)}, api_key=KEY, tls=False, watch_seconds=0.1)

    def app(self, integration: Temporal) -> App:
        return App(entities=[Job], integrations={"flows": integration})

    def environment(self, peer: FaultProxy) -> Mapping[str, str]:
        return {"TEMPORAL_ADDRESS": peer.address, "TEMPORAL_TASK_QUEUE": self.queues[peer]}

    async def cause(self, controller: Controller) -> None:
        # Whose app this is: the integration is what its effects belong to.
        job = await controller.store.create(Job(word="hello"))
        self.ids[self._queue_of(controller)].append(job.workflow_id)

    async def cause_poison(self, controller: Controller) -> None:
        await controller.store.create(Job(word="poison"))

    async def work(self, peer: FaultProxy) -> object:
        client = await Client.connect(self.address)
        found: list[str] = []
        for workflow_id in self.ids[self.queues[peer]]:
            try:
                found.append((await client.get_workflow_handle(workflow_id).describe()).run_id)
            except RPCError:
                continue
        return sorted(found)

    def _queue_of(self, controller: Controller) -> str:
        content: Any = controller.model.effects["flows.start_Job"].content
        (integration,) = [
            cell.cell_contents for cell in content.__closure__ if isinstance(cell.cell_contents, Temporal)
        ]
        return str(integration.task_queue)
