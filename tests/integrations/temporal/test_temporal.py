"""Records and workflows together, on the double: what is started, signalled and cancelled, and how ends come in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from ensue import (
    App,
    DeclarationError,
    Effect,
    Entity,
    Integration,
    One,
    Property,
    Rejected,
    Unavailable,
    UsageError,
    side_effect,
)
from ensue.clock import ManualClock, SystemClock
from ensue.integrations.temporal import (
    Signal,
    Temporal,
    TemporalUnavailable,
    Workflow,
    WorkflowEvent,
    WorkflowRun,
)
from ensue.integrations.workflows.records import WorkflowWatch
from ensue.integrations.workflows.server import Start
from ensue.integrations.workflows.watch import LEASE, Lease, Watch
from ensue.testing import AppHarness


class Order(Entity):
    number: Property[int]


class Fulfilment(WorkflowRun):
    order: One[Order]


class Payment(Entity):
    amount: Property[int]
    fulfilment: One[Fulfilment]


class Told(Integration):
    """What an app hears of runs."""

    async def setup(self, controller: object) -> None:
        self.heard: list[tuple[str, Any]] = []

    @side_effect(Fulfilment, on="update", of=[Fulfilment.status], order_by=lambda run: run.id)
    async def moved(self, effect: Effect[Fulfilment]) -> None:
        self.heard.append((effect.record.status, effect.record.result))


def temporal(**settings: Any) -> Temporal:
    return Temporal(
        workflows={
            Fulfilment: Workflow("Fulfil", lambda run: {"order": run.order.number}, fields=[Fulfilment.order.number])
        },
        signals=[Signal("step", Payment, run="fulfilment", argument=lambda payment: f"paid {payment.amount}")],
        **settings,
    )


def app(**settings: Any) -> App:
    integrations = {"flows": temporal(**settings), "told": Told()}
    return App(entities=[Order, Fulfilment, Payment], integrations=integrations)


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[tuple[AppHarness, Any, Any]]:
    async with AppHarness(app(address="memory://", **settings)) as harness:
        flows = harness.integration("flows")
        yield harness, flows, flows.server


async def ordered(harness: AppHarness, number: int = 7) -> Fulfilment:
    order = await harness.store.create(Order(number=number))
    return await harness.store.create(Fulfilment(order=order))


async def test_a_record_starts_a_workflow_and_hears_how_it_ends() -> None:
    async with running() as (harness, flows, server):
        run = await ordered(harness)
        assert run.status == "starting"
        assert run.workflow_id.startswith(f"ensue-Fulfilment-{run.id}-")
        await harness.drain()
        (start,) = server.started
        assert (start.workflow, start.argument, start.task_queue) == ("Fulfil", {"order": 7}, "ensue")
        assert start.workflow_id == run.workflow_id
        run = await harness.store.get(Fulfilment, run.id)
        assert (run.status, run.run_id) == ("running", "run-1")
        assert await flows.watch_once()
        assert (await harness.store.get(Fulfilment, run.id)).status == "running"

        server.complete(run.workflow_id, {"parcel": "x-1"})
        for _ in range(3):
            await flows.watch_once()
        run = await harness.store.get(Fulfilment, run.id)
        assert (run.status, run.result, run.error) == ("completed", {"parcel": "x-1"}, None)
        await harness.drain()
        assert harness.integration("told").heard == [("running", None), ("completed", {"parcel": "x-1"})]
        assert await harness.store.count(WorkflowEvent) == 2


@pytest.mark.parametrize("status", ["failed", "cancelled", "terminated", "timed_out"])
async def test_every_other_end_is_an_event_too(status: Any) -> None:
    async with running() as (harness, flows, server):
        run = await ordered(harness)
        await harness.drain()
        server.end(run.workflow_id, status, error="why")
        await flows.watch_once()
        run = await harness.store.get(Fulfilment, run.id)
        assert (run.status, run.result, run.error) == (status, None, "why")


async def test_a_start_delivered_again_starts_nothing_new_and_an_outage_delays_it() -> None:
    async with running() as (harness, flows, server):
        server.down = True
        run = await ordered(harness)
        await harness.drain()
        assert not (await flows.health()).up
        server.down = False
        await harness.drain(waiting=True)
        assert len(server.started) == 1
        (start,) = [effect for effect in flows.create_side_effects() if effect.name == "start_Fulfilment"]
        assert start.options.target is not None
        assert (await harness.store.get(Fulfilment, run.id)).status == "running"


async def test_a_workflow_that_ended_before_it_was_noted_as_started_has_ended() -> None:
    async with running() as (harness, flows, server):
        start = server.start

        async def start_quickly(request: Start) -> str:
            run_id = await start(request)
            server.complete(request.workflow_id, 1)
            # Somebody looks just now.
            await flows.watch_once()
            return str(run_id)

        flows.server = Quick(server, start_quickly)
        run = await ordered(harness)
        await flows.watch_once()
        await harness.drain()
        assert (await harness.store.get(Fulfilment, run.id)).status == "running"
        await flows.watch_once()
        assert (await harness.store.get(Fulfilment, run.id)).status == "completed"
        await harness.drain()
        assert [status for status, _ in harness.integration("told").heard] == ["running", "completed"]


class Quick:
    """A server with another way to start."""

    def __init__(self, server: Any, start: Any) -> None:
        self._server = server
        self.start = start

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


async def test_ends_that_the_listing_misses_are_found_when_all_is_looked_at() -> None:
    async with running(reconcile_seconds=60.0) as (harness, flows, server):
        run = await ordered(harness)
        await harness.drain()
        await flows.watch_once()

        async def nothing(*_: object) -> list[tuple[str, str]]:
            return []

        type(server).ended_since, kept = nothing, type(server).ended_since
        try:
            server.complete(run.workflow_id)
            await flows.watch_once()
            assert (await harness.store.get(Fulfilment, run.id)).status == "running"
            harness.clock.advance(seconds=61)
            await flows.watch_once()
            assert (await harness.store.get(Fulfilment, run.id)).status == "completed"
        finally:
            type(server).ended_since = kept


@pytest.mark.parametrize("result", [float("nan"), {"a": "\0"}, {1: 2}])
async def test_a_result_that_no_record_can_keep_is_an_end_too(result: Any) -> None:
    async with running() as (harness, flows, server):
        run = await ordered(harness)
        await harness.drain()
        server.complete(run.workflow_id, result)
        for _ in range(3):
            await flows.watch_once()
        run = await harness.store.get(Fulfilment, run.id)
        assert (run.status, run.result) == ("completed", None)
        assert "can't be kept" in run.error
        assert await harness.store.count(WorkflowEvent) == 2


async def test_one_workflow_that_nothing_can_be_known_of_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as (harness, flows, server):
        odd, plain = await ordered(harness), await ordered(harness)
        await harness.drain()
        asked = type(server).end_of

        async def end_of(self: Any, workflow_id: str) -> Any:
            if workflow_id == odd.workflow_id:
                raise KeyError("what nobody thought of")
            return await asked(self, workflow_id)

        monkeypatch.setattr(type(server), "end_of", end_of)
        server.complete(odd.workflow_id)
        server.complete(plain.workflow_id)
        await flows.watch_once()
        assert (await harness.store.get(Fulfilment, plain.id)).status == "completed"
        assert (await harness.store.get(Fulfilment, odd.id)).status == "running"
        assert odd.workflow_id in caplog.text
        server.down = True
        with pytest.raises(TemporalUnavailable):
            await flows.watch_once()


async def test_a_lease_that_cannot_be_given_back_keeps_nobody_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    async with AppHarness(app(address="memory://")) as harness:
        lease = Lease(harness.store, "z", clock=harness.clock)
        assert await lease.held()

        async def fail(*_: object, **__: object) -> int:
            raise Unavailable("The database does not answer.")

        with monkeypatch.context() as patched:
            patched.setattr(type(harness.store), "update_many", fail)
            await lease.release()


async def test_a_workflow_that_the_server_forgot_has_failed() -> None:
    async with running() as (harness, flows, server):
        run = await ordered(harness)
        await harness.drain()
        server._held.clear()
        await flows.watch_once()
        run = await harness.store.get(Fulfilment, run.id)
        assert run.status == "failed"
        assert "does not know" in (run.error or "")


async def test_signals_arrive_in_order_once_started_and_not_after_the_end() -> None:
    async with running() as (harness, _, server):
        run = await ordered(harness)
        server.down = True
        for amount in (1, 2, 3):
            await harness.store.create(Payment(amount=amount, fulfilment=run))
        await harness.drain()
        assert server.signals == []
        server.down = False
        for _ in range(8):
            await harness.drain(waiting=True)
        assert [message.argument for message in server.signals] == ["paid 1", "paid 2", "paid 3"]
        assert len({message.request_id for message in server.signals}) == 3
        server.complete(run.workflow_id)
        await harness.store.create(Payment(amount=4, fulfilment=run))
        await harness.drain(waiting=True)
        assert len(server.signals) == 3


async def test_a_run_is_cancelled_by_its_record() -> None:
    async with running() as (harness, _, server):
        one, two = await ordered(harness), await ordered(harness)
        await harness.drain()
        await harness.store.update(Fulfilment, one.id, cancel_requested=True)
        await harness.store.delete(Fulfilment, two.id)
        await harness.drain()
        assert sorted(server.cancelled) == sorted([one.workflow_id, two.workflow_id])
        # Whether it stops is up to the workflow.
        assert (await harness.store.get(Fulfilment, one.id)).status == "running"


async def test_what_is_cancelled_before_it_was_started_is_not_started() -> None:
    async with running() as (harness, _, server):
        one, two = await ordered(harness), await ordered(harness)
        await harness.store.update(Fulfilment, one.id, cancel_requested=True)
        await harness.store.delete(Fulfilment, two.id)
        for _ in range(5):
            await harness.drain(waiting=True)
        assert server.started == []
        assert (await harness.store.get(Fulfilment, one.id)).status == "cancelled"


async def test_a_workflow_run_anew_on_the_server_ends_anew() -> None:
    async with running() as (harness, flows, server):
        run = await ordered(harness)
        await harness.drain()
        server.fail(run.workflow_id, "no shelf")
        await flows.watch_once()
        assert (await harness.store.get(Fulfilment, run.id)).status == "failed"
        server._held[run.workflow_id].run_id = "run-2"
        server.complete(run.workflow_id, {"ok": True})
        await ordered(harness)
        await flows.watch_once()
        run = await harness.store.get(Fulfilment, run.id)
        assert (run.status, run.run_id, run.result, run.error) == ("completed", "run-2", {"ok": True}, None)


async def test_columns_move_by_events_only() -> None:
    async with running() as (harness, _, _):
        run = await ordered(harness)
        with pytest.raises((Rejected, UsageError)):
            await harness.store.update(Fulfilment, run.id, status="completed")


async def test_one_process_looks_and_another_takes_over_when_it_is_gone() -> None:
    clock = ManualClock()
    async with AppHarness(app(address="memory://"), clock=clock) as harness:
        one, two = (Lease(harness.store, "x", clock=clock) for _ in range(2))
        assert await one.held()
        assert not await two.held()
        for _ in range(10):
            clock.advance(seconds=LEASE.total_seconds() / 3)
            assert await one.held()
            assert not await two.held()
        # It died: nothing is given back.
        clock.advance(seconds=LEASE.total_seconds() * 4 / 3)
        assert await two.held()
        assert not await one.held()
        await two.release()
        clock.advance(seconds=LEASE.total_seconds() / 3)
        assert await one.held()
        assert await harness.store.count(WorkflowWatch, WorkflowWatch.name == "x") == 1


async def test_a_look_that_takes_longer_than_the_lease_keeps_it() -> None:
    clock, length = SystemClock(), timedelta(seconds=0.3)
    async with AppHarness(app(address="memory://")) as harness:
        looking, done = asyncio.Event(), asyncio.Event()

        async def look(_anew: bool) -> None:
            looking.set()
            await done.wait()

        mine, other = (Lease(harness.store, "y", clock=clock, length=length) for _ in range(2))
        watch = Watch(mine, look, seconds=0.01, anew_seconds=60, clock=clock)
        once = asyncio.create_task(watch.once())
        await looking.wait()
        started = clock.monotonic_seconds()
        while clock.monotonic_seconds() < started + 3 * length.total_seconds():
            assert not await other.held()
            await asyncio.sleep(0.02)
        done.set()
        assert await once
        await mine.release()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"address": "temporal.example.com"}, "has the address 'temporal.example.com'; expected host:port"),
        ({"address": "http://temporal:7233"}, "expected host:port"),
        ({"watch_seconds": 0}, "watch_seconds=0; expected seconds above 0"),
        ({"reconcile_seconds": -1}, "reconcile_seconds=-1"),
        ({"lease": timedelta(0)}, "lease=0:00:00"),
        ({"task_queue": ""}, "an empty task_queue"),
    ],
)
async def test_settings_that_mean_nothing_are_told_at_the_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        await app(**{"address": "memory://", **settings}).freeze()


async def test_a_signal_by_a_link_that_is_none_is_told_at_the_start() -> None:
    flows = Temporal(workflows={Fulfilment: Workflow("Fulfil")}, signals=[Signal("paid", Payment, run="order")])
    with pytest.raises(DeclarationError, match="signal 'paid' with run='order', and Payment has no such link"):
        await App(entities=[Order, Fulfilment, Payment], integrations={"flows": flows}).freeze()


async def test_kinds_of_runs_and_workflows_must_match() -> None:
    class Forgotten(WorkflowRun):
        pass

    with pytest.raises(DeclarationError, match="Forgotten"):
        async with AppHarness(
            App(entities=[Order, Fulfilment, Payment, Forgotten], integrations={"flows": temporal()})
        ):
            raise AssertionError("started")


async def test_a_dead_server_keeps_nobody_from_starting_or_stopping(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = {"address": "127.0.0.1:1", "api_key": "a-key-that-nobody-sees", "tls": False}
    async with AppHarness(app(**settings, watch_seconds=0.01)) as harness:
        await ordered(harness)
        await harness.drain()
        flows = harness.integration("flows")
        assert not (await flows.health()).up
        assert (await harness.store.find(Fulfilment))[0].status == "starting"
        assert "a-key" not in caplog.text + repr(flows)


async def test_what_the_server_refuses_for_good_has_failed() -> None:
    same = {Fulfilment: Workflow("Fulfil", id=lambda run: "always-this-one", execution_timeout=timedelta(hours=1))}
    flows = App(entities=[Order, Fulfilment], integrations={"flows": Temporal(workflows=same, address="memory://")})
    async with AppHarness(flows) as harness:
        one, two = await ordered(harness), await ordered(harness)
        await harness.drain()
        found = {run.id: run for run in await harness.store.find(Fulfilment)}
        assert sorted(run.status for run in found.values()) == ["failed", "running"]
        assert {one.workflow_id, two.workflow_id} == {"always-this-one"}
        (failed,) = [run for run in found.values() if run.status == "failed"]
        assert "workflow_exists" in (failed.error or "")
        server = harness.integration("flows").server
        assert server.started[0].execution_timeout == timedelta(hours=1)


async def test_two_servers_share_the_kinds_of_runs_between_them() -> None:
    class Refund(WorkflowRun):
        amount: Property[int]

    both = {
        "flows": temporal(address="memory://"),
        "refunds": Temporal(workflows={Refund: Workflow("Refund")}, address="memory://"),
    }
    async with AppHarness(App(entities=[Order, Fulfilment, Payment, Refund], integrations=both)) as harness:
        await harness.store.create(Refund(amount=3))
        await ordered(harness)
        await harness.drain()
        started = {name: [item.workflow for item in harness.integration(name).server.started] for name in both}
        assert started == {"flows": ["Fulfil"], "refunds": ["Refund"]}
        assert await harness.integration("refunds").watch_once()
