"""Spans: from a request to what a provider answered in one trace, also over processes, brokers and polls."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from ensue import App, Effect, Inbound, Integration, TaskUpdate, side_effect
from ensue.app import RunOptions
from ensue.cli.relayed import RelayedRun
from ensue.effects.ledger import list_effects, show_effect
from ensue.store.statement import Run, Statement
from tests.observation.post import Card, Write, post, recording
from tests.relay import parcels
from tests.server.network import serving
from tests.tasks import shop

WAIT_SECONDS = 30.0
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def only(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (span,) = named(exporter, name)
    return span


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def is_child(span: ReadableSpan, of: ReadableSpan) -> bool:
    return span.parent is not None and of.context is not None and span.parent.span_id == of.context.span_id


async def until(condition: Any) -> Any:
    async with asyncio.timeout(WAIT_SECONDS):
        while not (found := condition()):  # noqa: ASYNC110 - spans announce themselves to nobody
            await asyncio.sleep(0.01)
    return found


# --- The whole way ----------------------------------------------------------------------------------------------------


async def test_a_request_and_what_another_process_calls_are_one_trace(postgres_url: str) -> None:
    provider, exporter = recording()
    app = post(postgres_url)
    async with app.run(deliver=False, tracer_provider=provider) as run, serving(app.asgi()) as server:
        headers = {"traceparent": PARENT}
        answer = await server.http.post("/api/interactions/Write", json={"text": "hello"}, headers=headers)
        assert answer.status_code == 200
        request, dispatch = only(exporter, "POST /api/interactions/{name}"), only(exporter, "dispatch Write")
        (effect,) = await list_effects(run.driver)
        kept = (await show_effect(run.driver, effect.id)).trace
    assert request.kind is SpanKind.SERVER
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT.split("-")[2]
    assert facts(request)["http.response.status_code"] == 200
    assert is_child(dispatch, request)
    assert facts(dispatch)["ensue.interaction"] == "Write"
    assert facts(dispatch)["ensue.event.id"] == answer.json()["event"]["id"]
    assert dispatch.context is not None
    assert kept == f"00-{TRACE}-{dispatch.context.span_id:016x}-01"
    (attempt,) = await spans_of_another_process(postgres_url, 1)
    assert attempt["trace"] == TRACE
    assert attempt["parent"] == f"{dispatch.context.span_id:016x}"
    assert attempt["name"] == "process office.carry"
    assert attempt["ensue.provider_id"] == "post-1"
    assert attempt["ensue.effect.key"] == effect.key
    assert attempt["ensue.effect.outcome"] == "done"
    assert attempt["ensue.effect.target"] == "post"


async def spans_of_another_process(database: str, count: int) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.observation.post", database), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            return [json.loads(await process.stdout.readline()) for _ in range(count)]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_every_attempt_has_a_span_and_tells_no_secret() -> None:
    provider, exporter = recording()
    async with post().run(deliver=False, tracer_provider=provider) as run:
        for text in ("slippery", "cursed"):
            await run.controller.dispatch(Write(text=text))
        await run.delivery.drain()
        await run.delivery.drain(waiting=True)
        office = run.integrations.members["office"]
    dispatches = {trace_of(span) for span in named(exporter, "dispatch Write")}
    attempts = named(exporter, "process office.carry")
    told = sorted(
        (facts(span)["ensue.effect.attempt"], facts(span)["ensue.effect.outcome"], facts(span).get("error.type"))
        for span in attempts
    )
    assert told == [(1, "dead", "rejected"), (1, "retry_wait", "transient"), (2, "done", None)]
    assert {trace_of(span) for span in attempts} == dispatches
    # The span is current in the call, so that what a client library does there is its child.
    assert {trace_id for _, trace_id in office.seen} == dispatches
    assert "secret" not in " ".join(span.to_json() for span in exporter.get_finished_spans())


async def test_dispatches_that_share_a_commit_keep_their_traces(postgres_url: str) -> None:
    provider, exporter = recording()
    async with post(postgres_url).run(deliver=False, tracer_provider=provider) as run:
        await asyncio.gather(*(run.controller.dispatch(Write(text=str(number))) for number in range(30)))
        effects = [await show_effect(run.driver, one.id) for one in await list_effects(run.driver)]
    kept = {(one.trace or "").split("-")[1] for one in effects}
    assert kept == {trace_of(span) for span in named(exporter, "dispatch Write")}
    assert len(kept) == 30


async def test_batches_link_questions_join_and_after_commit_follows() -> None:
    provider, exporter = recording()
    tracer = provider.get_tracer("test")
    async with post().run(deliver=False, tracer_provider=provider) as run:
        for text in ("a", "unclear"):
            with tracer.start_as_current_span("somebody's work"):
                await run.controller.store.create(Card(text=text))
        await run.delivery.drain()
        await run.delivery.drain(waiting=True)
        await until(lambda: len(named(exporter, "process office.announce")) == 2)
        office = run.integrations.members["office"]
        await run.driver.write(_now("UPDATE ensue_effect SET available_at = 0 WHERE state = 'unknown'"))
        await run.delivery.drain()
    works = {trace_of(span) for span in named(exporter, "somebody's work")}
    call = next(span for span in named(exporter, "process office.count") if span.links)
    assert {f"{link.context.trace_id:032x}" for link in call.links} == works
    assert facts(call)["messaging.batch.message_count"] == 2
    assert {trace_of(span) for span in named(exporter, "process office.announce")} == works
    outcomes = [facts(span)["ensue.effect.outcome"] for span in named(exporter, "process office.send")]
    assert office.asked == 1
    assert sorted(outcomes) == ["done", "done", "unknown"]
    assert {trace_of(span) for span in named(exporter, "process office.send")} == works


async def test_a_call_over_a_websocket_has_its_own_trace_or_its_callers() -> None:
    provider, exporter = recording()
    app = post()
    async with app.run(deliver=False, tracer_provider=provider), serving(app.asgi()) as server:
        async with server.connect(user=None) as talk:
            for number, more in enumerate(({}, {"traceparent": PARENT})):
                message = {"id": number, "type": "interaction", "name": "Write", "payload": {"text": "x"}, **more}
                assert (await talk.ask(message))["type"] == "result"
            rude = {"id": 9, "type": "interaction", "name": "Write", "payload": {"text": "rude"}}
            assert (await talk.ask(rude))["type"] == "error"
        calls = named(exporter, "/ws interaction")
    assert len({trace_of(span) for span in calls}) == 3
    assert trace_of(calls[1]) == TRACE
    rejected = named(exporter, "dispatch Write")[2]
    assert is_child(rejected, calls[2])
    assert facts(rejected)["ensue.code"] == "rude"


async def test_a_request_that_the_host_traces_has_no_second_span() -> None:
    provider, exporter = recording()
    app = post()
    served = app.asgi()

    async def host(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await served(scope, receive, send)
        with provider.get_tracer("host").start_as_current_span("host"):
            return await served(scope, receive, send)

    async with app.run(deliver=False, tracer_provider=provider), serving(host) as server:
        await server.http.post("/api/interactions/Write", json={"text": "x"})
        assert (await server.http.get("/health")).status_code == 200
    assert named(exporter, "POST /api/interactions/{name}") == []
    assert is_child(only(exporter, "dispatch Write"), named(exporter, "host")[0])


# --- What comes in, what is relayed, what is polled -------------------------------------------------------------------


async def test_a_message_from_outside_continues_its_senders_trace() -> None:
    provider, exporter = recording()
    app = post()
    async with app.run(deliver=False, tracer_provider=provider) as run, serving(app.asgi()) as server:
        headers = {"traceparent": PARENT, "content-type": "application/json"}
        body = {"id": "m1", "text": "from outside"}
        assert (await server.http.post("/api/webhooks/office/ordered", json=body, headers=headers)).status_code == 200
        await run.inbox.take_message("office.ordered", "m2", b'{"id":"m2","text":"x"}', headers=headers)
        await run.delivery.drain()
    first, second = named(exporter, "process office.ordered")
    assert is_child(first, only(exporter, "POST /api/webhooks/{namespace}/{path}"))
    assert facts(second)["messaging.message.id"] == "m2"
    names = ("process office.ordered", "dispatch Write", "process office.carry")
    spans = [span for name in names for span in named(exporter, name)]
    assert len(spans) == 6
    assert {trace_of(span) for span in spans} == {TRACE}


async def test_messages_that_share_a_transaction_are_linked_to() -> None:
    provider, exporter = recording()
    async with post().run(deliver=False, tracer_provider=provider) as run:
        headers = [{"traceparent": PARENT.replace(TRACE, TRACE[::-1])}, {"traceparent": PARENT}]
        messages = [_message(f"m{number}", found) for number, found in enumerate(headers)]
        assert await run.inbox.handling.take_many(messages) == ["done", "done"]
    span = only(exporter, "process office.ordered")
    assert {f"{link.context.trace_id:032x}" for link in span.links} == {TRACE, TRACE[::-1]}


def _message(id_: str, headers: dict[str, str]) -> Any:
    return Inbound(id_, b'{"text":"x"}', headers, datetime.now(UTC), "office.ordered")


async def test_a_relayed_effect_stays_in_its_trace(nats_url: str, tmp_path: Path) -> None:
    provider, exporter = recording()
    stream = f"T{id(exporter)}"
    async with parcels.app(nats_url, stream).run(tracer_provider=provider) as run:
        with provider.get_tracer("test").start_as_current_span("work") as work:
            await run.controller.store.create(parcels.Parcel(label="p"))
        (handed,) = await until(lambda: named(exporter, "process courier.carry"))
    served = parcels.app(nats_url, stream, file=str(tmp_path / "calls"))
    other, elsewhere = recording()
    async with RelayedRun(served, nats_url, options=RunOptions(tracer_provider=other)) as worker:
        registry = worker.metrics.registry
        (called,) = await until(lambda: named(elsewhere, "process courier.carry"))
    labels = {"effect": "courier.carry", "target": "courier.carry", "outcome": "done", "error_class": ""}
    assert registry.get_sample_value("ensue_effects_attempts_total", labels) == 1
    assert trace_of(handed) == trace_of(called) == f"{work.get_span_context().trace_id:032x}"
    assert is_child(called, handed)
    assert facts(handed)["ensue.provider_id"].startswith(stream)
    assert facts(called)["ensue.effect.outcome"] == "done"


class Frames(Integration):
    """Frames what was painted."""

    @side_effect(shop.Picture, on="update", of=[shop.Picture.status], where=lambda task: task.status == "completed")
    async def frame(self, effect: Effect[Any]) -> None:
        pass


async def test_a_tasks_polls_and_its_end_are_in_the_trace_of_its_submission(database_url: str) -> None:
    provider, exporter = recording()
    painter = shop.Shop()
    app = App(
        user=shop.User,
        entities=[shop.Picture],
        integrations={"shop": painter, "frames": Frames()},
        database=database_url,
    )
    async with app.run(deliver=False, tracer_provider=provider) as run:
        registry = run.metrics.registry
        with provider.get_tracer("test").start_as_current_span("work") as work:
            await run.controller.store.create(shop.Picture(prompt="a cat"))
        await run.delivery.drain()
        for status in ("waiting", "done"):
            painter.answers["p1"] = TaskUpdate(status=status, result={"url": "https://pictures.example/1"})
            await run.driver.write(_now("UPDATE ensue_task_poll SET next_at = 1 WHERE phase = 'waiting'"))
            assert await painter.poll_due() == 1
        await run.delivery.drain()
    trace_id = f"{work.get_span_context().trace_id:032x}"
    (submit, *_), polls, framed = (
        [span for span in exporter.get_finished_spans() if span.name.startswith(prefix)]
        for prefix in ("process shop.", "poll shop", "process frames.frame")
    )
    for outcome in ("waiting", "settled"):
        labels = {"integration": "shop", "outcome": outcome}
        assert registry.get_sample_value("ensue_task_polls_total", labels) == 1
    assert facts(submit)["ensue.provider_id"] == "p1"
    assert [facts(span)["ensue.outcome"] for span in polls] == ["waiting", "settled"]
    assert facts(polls[0])["ensue.provider_ids"] == ("p1",)
    assert len(framed) == 1
    assert {trace_of(span) for span in (submit, *polls, *framed)} == {trace_id}


def _now(text: str) -> Any:
    yield Run(Statement("test.now", text))


# --- Without ----------------------------------------------------------------------------------------------------------


async def test_without_a_provider_nothing_is_kept_and_nobody_listens() -> None:
    async with post().run(deliver=False) as run:
        assert not run.telemetry.listening
        assert run.delivery.observers == []
        with run.telemetry.activity("dispatch", "Write") as activity:
            activity.note(event_id=1)
        await run.controller.dispatch(Write(text="x"))
        (effect,) = await list_effects(run.driver)
        assert (await show_effect(run.driver, effect.id)).trace is None


async def test_an_app_that_does_not_use_telemetry_imports_none() -> None:
    code = (
        "import asyncio, sys\n"
        "from ensue import App, Entity, Property\n"
        "class Note(Entity):\n    text: Property[str]\n"
        "async def main():\n"
        "    async with App(entities=[Note], database='sqlite:///:memory:') as app:\n"
        "        await app.controller.store.create(Note(text='x'))\n"
        "asyncio.run(main())\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'prometheus_client'))])\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0] == b"[]\n"


async def test_a_listener_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            return self._fail

        def _fail(self, *_: Any, **__: Any) -> Any:
            raise ValueError

    async with post().run(deliver=False) as run:
        run.observe(Broken())  # pyright: ignore[reportArgumentType]
        await run.controller.dispatch(Write(text="x"))
        await run.delivery.drain()
        (effect,) = await list_effects(run.driver)
    assert effect.state == "done"
    assert "a listener of telemetry failed" in caplog.text
