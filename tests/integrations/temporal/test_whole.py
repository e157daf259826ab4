"""The whole way on a real server: restarts of it, a killed worker, an answer that was lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from typing import Any

import pytest
from temporalio.client import Client

from ensue.clock import SystemClock
from ensue.integrations.temporal import WorkflowEvent
from ensue.integrations.workflows.records import WorkflowWatch
from ensue.testing import FaultProxy
from tests.integrations.temporal.conftest import until, worker
from tests.integrations.temporal.shop import Fulfilment, Order, Step, make
from tests.services_temporal import TemporalServer

# All in one process: its server takes seconds to start.
pytestmark = pytest.mark.xdist_group("temporal")

WORKER = "import sys; from ensue.cli import main; sys.exit(main(['worker', 'tests.integrations.temporal.shop:app']))"


def environment(address: str, queue: str) -> dict[str, str]:
    return {
        "TEMPORAL_ADDRESS": address,
        "TEMPORAL_TASK_QUEUE": queue,
        "TEMPORAL_ID_PREFIX": f"{queue}-",
        "TEMPORAL_WATCH_SECONDS": "0.05",
        "TEMPORAL_RECONCILE_SECONDS": "2",
        "TEMPORAL_LEASE": "1.5s",
    }


def _start_worker(settings: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER], env={**os.environ, **settings})


async def has(store: Any, run: Any, status: str) -> bool:
    return bool((await store.get(Fulfilment, run.id)).status == status)


async def events(store: Any, run: Any) -> list[str]:
    found = await store.find(WorkflowEvent, WorkflowEvent.record_id == run.id, order_by=[WorkflowEvent.id])
    return [event.status for event in found]


async def ordered(store: Any) -> Any:
    return await store.create(Fulfilment(order=await store.create(Order(number=7))))


async def test_workflows_go_on_over_a_crash_of_the_server(temporal_server: TemporalServer, sqlite_url: str) -> None:
    queue = f"shop-{uuid.uuid4().hex[:8]}"
    async with make(sqlite_url).run(env=environment(temporal_server.url, queue)) as run:
        store = run.controller.store
        before = await ordered(store)
        await until(lambda: has(store, before, "running"))
        temporal_server.kill()
        during = await ordered(store)
        flows = run.integrations.members["flows"]

        async def down() -> bool:
            return not (await flows.health()).up

        await until(down)
        await store.create(Step(word="end", fulfilment=before))
        temporal_server.start()
        async with worker(await Client.connect(temporal_server.url), queue):
            await until(lambda: has(store, before, "completed"), 40)
            await until(lambda: has(store, during, "running"), 40)
            await store.create(Step(word="end badly", fulfilment=during))
            await until(lambda: has(store, during, "failed"), 40)
        assert (await store.get(Fulfilment, before.id)).result == {"given": {"order": 7}, "steps": ["end"]}
        assert "the shelf is empty" in (await store.get(Fulfilment, during.id)).error
        assert await events(store, before) == ["running", "completed"]
        assert await events(store, during) == ["running", "failed"]


async def test_another_process_hears_the_end_when_the_one_that_looked_is_killed(
    temporal_address: str, sqlite_url: str
) -> None:
    queue = f"shop-{uuid.uuid4().hex[:8]}"
    settings = environment(temporal_address, queue)
    client = await Client.connect(temporal_address)
    async with (
        make(sqlite_url).run(env={**settings, "TEMPORAL_ADDRESS": "memory://"}, deliver=False) as run,
        worker(client, queue),
    ):
        store = run.controller.store
        process = _start_worker({**settings, "SHOP_DATABASE": sqlite_url})
        try:
            item = await ordered(store)
            await until(lambda: has(store, item, "running"), 60)

            async def led() -> bool:
                return bool(await store.count(WorkflowWatch, WorkflowWatch.until > SystemClock().now()))

            await until(led)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        await client.get_workflow_handle(item.workflow_id).signal("step", "end")
        async with make(sqlite_url).run(env=settings):
            await until(lambda: has(store, item, "completed"), 60)
        assert await events(store, item) == ["running", "completed"]


async def test_an_answer_that_was_lost_starts_and_signals_nothing_twice(temporal_address: str, sqlite_url: str) -> None:
    queue = f"shop-{uuid.uuid4().hex[:8]}"
    client = await Client.connect(temporal_address)
    async with (
        FaultProxy(f"http://{temporal_address}") as proxy,
        worker(client, queue),
        make(sqlite_url).run(env=environment(proxy.address, queue)) as run,
    ):
        store = run.controller.store
        proxy.drop_response_after_request(times=3)
        item = await ordered(store)
        await until(lambda: has(store, item, "running"), 60)
        proxy.drop_response_after_request(times=3)
        for word in ("one", "two", "end"):
            await store.create(Step(word=word, fulfilment=item))
        await until(lambda: has(store, item, "completed"), 60)
        result = (await store.get(Fulfilment, item.id)).result
        assert result == {"given": {"order": 7}, "steps": ["one", "two", "end"]}
        assert await events(store, item) == ["running", "completed"]
        assert proxy.counts.answers_lost > 0
