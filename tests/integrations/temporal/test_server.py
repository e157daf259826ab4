"""What every workflow server must do: one contract, for the double and for a real Temporal server."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from temporalio.client import Client

from ensue import Rejected
from ensue.clock import SystemClock
from ensue.integrations.workflows import client as client_module
from ensue.integrations.workflows.client import TemporalWorkflows
from ensue.integrations.workflows.server import Message, TemporalUnavailable
from ensue.testing import FaultProxy
from tests.integrations.temporal.conftest import Place, until, worker

# All in one process: its server takes seconds to start.
pytestmark = pytest.mark.xdist_group("temporal")


def unique() -> str:
    return f"fulfil-{uuid.uuid4().hex[:10]}"


async def test_a_start_that_is_repeated_is_the_same_start_also_after_the_end(place: Place) -> None:
    start = place.start(unique())
    run_id = await place.server.start(start)
    assert await place.server.start(start) == run_id
    assert await place.server.end_of(start.workflow_id) is None
    await place.end(start.workflow_id, "end")
    end = await until(lambda: place.server.end_of(start.workflow_id))
    assert (end.run_id, end.status, end.error) == (run_id, "completed", None)
    assert end.result == {"given": {"n": 1}, "steps": ["end"]}
    assert await place.server.start(start) == run_id
    with pytest.raises(Rejected, match="workflow_exists"):
        await place.server.start(place.start(start.workflow_id))


async def test_a_signal_that_is_repeated_arrives_once_and_none_after_the_end(place: Place) -> None:
    start = place.start(unique())
    message = Message(workflow_id=start.workflow_id, name="step", argument="one", request_id=str(uuid.uuid4()))
    assert not await place.server.signal(message)
    await place.server.start(start)
    assert await place.server.signal(message)
    assert await place.server.signal(message)
    if place.client is not None:
        await place.end(start.workflow_id, "end")
        end = await until(lambda: place.server.end_of(start.workflow_id))
        assert end.result["steps"] == ["one", "end"]
    else:
        assert place.server.signals == [message]  # type: ignore[attr-defined]
        await place.end(start.workflow_id, "end")
    late = Message(workflow_id=start.workflow_id, name="step", argument="late", request_id=str(uuid.uuid4()))
    assert not await place.server.signal(late)


async def test_ends_of_all_kinds_are_known(place: Place) -> None:
    badly, plainly, stopped = (place.start(unique()) for _ in range(3))
    for start in (badly, plainly, stopped):
        await place.server.start(start)
    await place.end(badly.workflow_id, "end badly")
    await place.end(plainly.workflow_id, "end plainly")
    end = await until(lambda: place.server.end_of(badly.workflow_id))
    assert (end.status, end.result) == ("failed", None)
    assert "the shelf is empty" in end.error
    assert (await until(lambda: place.server.end_of(plainly.workflow_id))).result == {"value": "done"}

    request_id = str(uuid.uuid4())
    assert await place.server.cancel(stopped.workflow_id, request_id=request_id)
    assert await place.server.cancel(stopped.workflow_id, request_id=request_id)
    if place.client is not None:
        assert (await until(lambda: place.server.end_of(stopped.workflow_id))).status == "cancelled"
        assert await place.server.cancel(stopped.workflow_id, request_id=str(uuid.uuid4()))
    assert not await place.server.cancel(unique(), request_id=request_id)
    lost = await place.server.end_of(unique())
    assert lost is not None
    assert lost.status == "failed"


async def test_ends_are_listed(place: Place) -> None:
    began = SystemClock().now() - timedelta(seconds=5)
    start, other = place.start(unique()), place.start(unique())
    run_id = await place.server.start(start)
    await place.server.start(other)
    await place.end(start.workflow_id, "end")

    async def listed() -> bool:
        return (start.workflow_id, run_id) in await place.server.ended_since({"Fulfil", "It's another"}, began)

    assert await until(listed)
    assert other.workflow_id not in {found[0] for found in await place.server.ended_since({"Fulfil"}, began)}
    assert list(await place.server.ended_since({"Another"}, began)) == []
    await place.end(other.workflow_id, "end")


async def test_a_result_that_can_not_be_decoded_is_an_end_and_no_outage(temporal_address: str) -> None:
    client = await Client.connect(temporal_address)
    task_queue = unique()
    place = Place(TemporalWorkflows(client, clock=SystemClock(), identity="tests"), client, task_queue)
    async with worker(client, task_queue):
        start = place.start(unique())
        await place.server.start(start)
        await place.end(start.workflow_id, "end oddly")
        end = await until(lambda: place.server.end_of(start.workflow_id))
    assert (end.status, end.result) == ("completed", None)
    assert "can't be read: 'Unknown payload encoding binary/encrypted'" in end.error
    assert place.server.health().up


async def test_timeouts_and_terminations_are_ends_too(temporal_address: str) -> None:
    client = await Client.connect(temporal_address)
    server = TemporalWorkflows(client, clock=SystemClock(), identity="tests")
    # Nobody works on this queue.
    nobody = Place(server, client, f"nobody-{uuid.uuid4().hex[:6]}")
    slow, stopped = nobody.start(unique(), execution_timeout=timedelta(seconds=1)), nobody.start(unique())
    await server.start(slow)
    await server.start(stopped)
    await client.get_workflow_handle(stopped.workflow_id).terminate(reason="enough")
    end = await until(lambda: server.end_of(stopped.workflow_id))
    assert end.status == "terminated"
    assert "enough" in end.error
    assert (await until(lambda: server.end_of(slow.workflow_id))).status == "timed_out"


async def test_a_dead_server_is_a_bounded_failure_and_shows_in_health(
    temporal_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CALL_SECONDS_MAX", 1.0)
    async with FaultProxy(f"http://{temporal_address}") as proxy:
        client = await Client.connect(proxy.address, lazy=True)
        server = TemporalWorkflows(client, clock=SystemClock(), identity="tests")
        place = Place(server, client, "nobody")
        proxy.black_hole()
        async with asyncio.timeout(10):
            with pytest.raises(TemporalUnavailable):
                await server.start(place.start(unique()))
        assert not server.health().up
        proxy.heal()
        proxy.reset()
        start = place.start(unique())

        async def started() -> str | None:
            try:
                return await server.start(start)
            except TemporalUnavailable:
                return None

        run_id = await until(started)
        assert server.health().up
        # Taken by the server, with the answer lost on its way: asked again, it is the same one.
        proxy.drop_response_after_request()
        again = place.start(unique())
        with pytest.raises(TemporalUnavailable):
            await server.start(again)
        proxy.heal()
        first = await until(lambda: _started(server, again))
        assert await server.start(again) == first != run_id
        await client.get_workflow_handle(start.workflow_id).terminate()
        await client.get_workflow_handle(again.workflow_id).terminate()


async def _started(server: TemporalWorkflows, start: object) -> str | None:
    try:
        return await server.start(start)  # type: ignore[arg-type]
    except TemporalUnavailable:
        return None


async def test_what_is_wrong_with_a_request_is_no_outage_and_a_wrong_namespace_is_no_end(temporal_address: str) -> None:
    client = await Client.connect(temporal_address)
    server = TemporalWorkflows(client, clock=SystemClock(), identity="tests")
    with pytest.raises(Rejected, match="workflow_refused"):
        await server.start(Place(server, client, "").start(unique()))
    big = replace(Place(server, client, "nobody").start(unique()), argument="x" * 2_200_000)
    with pytest.raises(Rejected, match="workflow_refused"):
        await server.start(big)
    assert server.health().up
    elsewhere = await Client.connect(temporal_address, namespace="nowhere", lazy=True)
    server = TemporalWorkflows(elsewhere, clock=SystemClock(), identity="tests")
    message = Message(workflow_id="x", name="step", argument=1, request_id=str(uuid.uuid4()))
    for call in (server.end_of("x"), server.cancel("x", request_id="r"), server.signal(message)):
        with pytest.raises(TemporalUnavailable, match="nowhere"):
            await call
    assert not server.health().up
