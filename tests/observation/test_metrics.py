"""Metrics: what is counted, what is asked of the database and how little, who may read; and the pages about them."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ensue import Rejected
from ensue.app import AppRun
from ensue.cli import main
from ensue.errors import DeclarationError, UsageError
from ensue.observation import families
from ensue.observation.backlog import Backlog, backlog
from ensue.observation.metrics import CODES_MAX, Metrics
from ensue.observation.scrape import serve_metrics
from ensue.store.statement import Run, Statement, Work
from tests.docs.pages import REFERENCE
from tests.observation.post import Card, Letter, Write, post
from tests.server.network import serving

Sample = tuple[str, frozenset[tuple[str, str]]]


async def scrape(run: AppRun) -> dict[Sample, float]:
    """The samples of a page, as of now."""
    page, _ = await run.metrics.page()
    return samples(page.decode())


def samples(page: str) -> dict[Sample, float]:
    found = text_string_to_metric_families(page)
    return {(one.name, frozenset(one.labels.items())): one.value for family in found for one in family.samples}


def sample(name: str, **labels: str) -> Sample:
    return name, frozenset(labels.items())


def of(name: str, found: Mapping[Sample, float]) -> dict[tuple[str, ...], float]:
    """The samples of one name, by the values of their labels in the order of the family."""
    family = next(one for one in families.FAMILIES if one.shown == name)
    return {
        tuple(dict(labels)[label] for label in family.labels): value
        for (known, labels), value in found.items()
        if known == name
    }


def sql(text: str) -> Work[list[Any]]:
    return (yield Run(Statement("test.sql", text, rows=text.startswith("SELECT"))))


# --- What is counted --------------------------------------------------------------------------------------------------


class Latest(Random):
    """Pauses are as long as they can be, so that nothing is tried again while a test looks on."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


async def test_dispatches_and_effects_are_counted(database_url: str) -> None:
    async with post(database_url).run(deliver=False) as run:
        run.delivery._flights._rng = Latest()
        _ = run.metrics
        for text in ("hello", "slippery", "cursed"):
            await run.controller.dispatch(Write(text=text), idempotency_key=text)
        await run.controller.dispatch(Write(text="hello"), idempotency_key="hello")
        with pytest.raises(Rejected):
            await run.controller.dispatch(Write(text="rude"))
        with pytest.raises(RuntimeError):
            await run.controller.dispatch(Write(text="bug"))
        await run.controller.dispatch_many([Write(text="a"), Write(text="b")])
        await run.delivery.drain()
        found = await scrape(run)
    assert of("ensue_dispatches_total", found) == {
        ("Write", "ok", ""): 5,
        ("Write", "repeated", ""): 1,
        ("Write", "rejected", "rude"): 1,
        ("Write", "error", ""): 1,
    }
    assert found[sample("ensue_dispatch_seconds_count", interaction="Write")] == 7
    assert of("ensue_effects_enqueued_total", found) == {("office.carry", "post"): 5}
    assert of("ensue_effects_attempts_started_total", found) == {("office.carry", "post"): 5}
    assert of("ensue_effects_attempts_total", found) == {
        ("office.carry", "post", "done", ""): 3,
        ("office.carry", "post", "retry_wait", "transient"): 1,
        ("office.carry", "post", "dead", "rejected"): 1,
    }
    for name in ("run_seconds", "queue_wait_seconds", "commit_to_start_seconds"):
        assert found[sample(f"ensue_effects_{name}_count", effect="office.carry", target="post")] == 5
    assert of("ensue_effects_waiting", found) == {("office.carry", "post", "retry_wait"): 1}
    assert of("ensue_effects_dead", found) == {("office.carry", "post"): 1}
    assert 0 < of("ensue_effects_oldest_pending_seconds", found)["office.carry", "post"] < 60


async def test_lost_leases_and_rescues_are_counted(database_url: str) -> None:
    async with post(database_url).run(deliver=False) as run:
        await run.controller.store.create_many([Card(text="x"), Card(text="y")])
        office = run.integrations.members["office"]
        original, taken = office._see, False

        def take(what: str) -> None:
            nonlocal taken
            taken = True
            original(what)

        office._see = take
        # Another has it by the time that the call ends.
        thief = "UPDATE ensue_effect SET lease_token = 'other', worker = 'other' WHERE state = 'claimed'"
        settle = run.delivery._settle

        async def settle_late() -> bool:
            if taken:
                await run.driver.write(sql(thief))
            return await settle()

        _ = run.metrics
        run.delivery._settle = settle_late  # pyright: ignore[reportAttributeAccessIssue]
        await run.delivery.drain()
        run.delivery._settle = settle  # pyright: ignore[reportAttributeAccessIssue]
        await run.driver.write(sql("UPDATE ensue_effect SET lease_until = 1 WHERE state = 'claimed'"))
        await asyncio.sleep(0)
        run.delivery._looked_at = float("-inf")
        await run.delivery.drain()
        found = await scrape(run)
    assert sum(of("ensue_effects_ends_refused_total", found).values()) == 4
    rescued = of("ensue_effects_rescued_total", found)
    assert rescued["office.count", "office.count", "retry_wait"] == 2
    assert rescued["office.send", "office.send", "unknown"] == 2


async def test_what_waits_is_read_from_the_database(database_url: str) -> None:
    async with post(database_url).run(deliver=False) as run:
        await run.controller.store.create_many([Letter(text=str(number)) for number in range(20)])
        await run.driver.write(sql("UPDATE ensue_effect SET state = 'parked' WHERE id % 4 = 0"))
        await run.driver.write(sql("UPDATE ensue_effect SET state = 'dead' WHERE id % 4 = 1"))
        await run.driver.write(sql("UPDATE ensue_effect SET state = 'done' WHERE id % 4 = 2"))
        await run.driver.write(sql("UPDATE ensue_effect SET due_at = enqueued_at - 90000000 WHERE id % 4 = 3"))
        await run.driver.write(
            sql(
                "INSERT INTO ensue_effect_target (target, paused, breaker_state, held_until)"
                " VALUES ('post', 1, 'half_open', 0), ('other', 0, 'closed', 9000000000000000)"
            )
        )
        message = b'{"id":"%d","text":"x","broken":true}'
        for number in (1, 2):
            await run.inbox.take_message("office.ordered", str(number), message % number)
        columns = "endpoint, sender_id, state, body, headers, received_at"
        stored = f"INSERT INTO ensue_inbox ({columns}) SELECT endpoint, 'x', 'received', body, headers,"
        await run.driver.write(sql(f"{stored} received_at - 40000000 FROM ensue_inbox WHERE sender_id = '1'"))
        values = "('Picture', 1, 'pictures', 'waiting', 'k', 1, 1), ('Picture', 2, 'pictures', 'settled', 'l', 1, NULL)"
        task = "INSERT INTO ensue_task_poll (task_type, task_id, integration, phase, key, deadline_at, next_at) VALUES"
        await run.driver.write(sql(f"{task} {values}"))
        found = await scrape(run)
    assert of("ensue_effects_waiting", found) == {
        ("office.carry", "post", "parked"): 5,
        ("office.carry", "post", "pending"): 5,
    }
    assert 90 <= of("ensue_effects_oldest_pending_seconds", found)["office.carry", "post"] < 150
    assert of("ensue_effects_dead", found) == {("office.carry", "post"): 5}
    assert of("ensue_target_paused", found) == {("post",): 1, ("other",): 0}
    assert of("ensue_target_breaker", found)["post", "half_open"] == 1
    assert of("ensue_target_breaker", found)["other", "half_open"] == 0
    assert of("ensue_target_held_seconds", found)["other",] > 0
    assert of("ensue_inbox_failed", found) == {("office.ordered",): 2}
    assert of("ensue_inbox_waiting", found) == {("office.ordered",): 1}
    assert 40 <= of("ensue_inbox_lag_seconds", found)["office.ordered",] < 100
    assert of("ensue_tasks_waiting", found) == {("pictures", "waiting"): 1}
    assert of("ensue_task_poll_lag_seconds", found)["pictures",] > 0
    assert found[sample("ensue_database_up")] == 1


async def test_messages_from_outside_are_counted() -> None:
    async with post().run(deliver=False) as run:
        _ = run.metrics
        for number, body in ((1, b'{"text":"x"}'), (1, b'{"text":"x"}'), (2, b'{"broken":true}')):
            await run.inbox.take_message("office.ordered", str(number), body)
        with pytest.raises(Rejected):
            await run.inbox.take_webhook("office.ordered", b"{}", {})
        found = await scrape(run)
    for name, expected in (("received", 3), ("duplicates", 1), ("failures", 1), ("refused", 1)):
        assert of(f"ensue_inbox_{name}_total", found) == {("office.ordered",): expected}, name


async def test_websocket_connections_are_counted_while_they_are_open() -> None:
    app = post()
    async with app.run(deliver=False) as run, serving(app.asgi(metrics=True)) as server:
        async with server.connect(user=None), server.connect(user=None) as talk:
            await talk.ask({"type": "ping", "id": 1})
            assert (await scrape(run))[sample("ensue_websocket_connections")] == 2
        async with asyncio.timeout(10):
            while (await scrape(run))[sample("ensue_websocket_connections")]:  # noqa: ASYNC110 - clients leave unannounced
                await asyncio.sleep(0.01)


def test_words_that_an_application_makes_up_are_bounded() -> None:
    metrics = Metrics({}, None)
    for number in range(CODES_MAX + 50):
        with metrics.activity("dispatch", "Write") as activity:
            activity.end_as("rejected", f"made_up_{number}")
    page = samples(_text(metrics))
    codes = of("ensue_dispatches_total", page)
    assert len(codes) == CODES_MAX + 1
    assert codes["Write", "rejected", "other"] == 50


def _text(metrics: Metrics) -> str:
    from prometheus_client import generate_latest

    return generate_latest(metrics.registry).decode()


# --- What it costs ----------------------------------------------------------------------------------------------------


async def test_the_database_is_asked_once_however_often_it_is_scraped(database_url: str) -> None:
    async with post(database_url).run(deliver=False) as run:
        names: list[str] = []
        run.driver.observers.append(lambda statement, _: names.append(statement.name))
        _ = run.metrics
        await asyncio.gather(*(scrape(run) for _ in range(20)))
        assert {name for name in names if not name.startswith("metrics.")} == set()
        assert names.count("metrics.backlog") + names.count("metrics.others") == 1


async def test_what_is_done_is_never_looked_at(database_url: str) -> None:
    async with post(database_url).run(deliver=False) as run:
        driver = run.driver
        await run.controller.store.create_many([Letter(text=str(number)) for number in range(30)])
        columns = "name, key, record, record_id, payload, target, state, settled_at"
        digits = " CROSS JOIN ".join(f"(VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)) AS d{n}(v)" for n in range(4))
        if driver.dialect == "sqlite":
            ten = " UNION ALL ".join(f"SELECT {digit} AS v" for digit in range(10))
            digits = " CROSS JOIN ".join(f"({ten}) AS d{n}" for n in range(4))
        number = "d0.v + 10 * d1.v + 100 * d2.v + 1000 * d3.v"
        row = f"'office.carry', 'old-' || ({number}), 'Letter', 1, '{{}}', 'post', 'done', 1"
        await driver.write(sql(f"INSERT INTO ensue_effect ({columns}) SELECT {row} FROM {digits}"))
        await driver.write(sql("ANALYZE"))
        plans: list[str] = []
        work = backlog(driver.dialect, ["office.carry"])
        request = next(work)
        while True:
            assert isinstance(request, Run)
            plans += await driver.read(_explained(driver.dialect, request))
            try:
                request = work.send(await driver.read(_one(request)))
            except StopIteration:
                break
    shown = "\n".join(plans)
    if driver.dialect == "sqlite":
        assert not re.search(r"SCAN (e|ensue_effect|ensue_inbox|ensue_task_poll)\b(?! USING)", shown), shown
    else:
        touched = re.findall(r"on (?:ensue_effect|ensue_inbox|ensue_task_poll)\b.*?rows=(\d+)", shown)
        assert "Seq Scan on ensue_effect " not in shown, shown
        assert sum(int(rows) for rows in touched) < 1000


def _one(request: Run) -> Work[list[Any]]:
    return (yield request)


def _explained(dialect: str, request: Run) -> Work[list[str]]:
    how = "EXPLAIN QUERY PLAN " if dialect == "sqlite" else "EXPLAIN (ANALYZE, TIMING off, COSTS off) "
    rows: list[Any] = yield Run(Statement("test.explain", how + request.statement.text, rows=True), request.params)
    return [str(row[-1]) for row in rows]


async def test_a_database_that_does_not_answer_is_told_of(database_url: str) -> None:
    async with post(database_url).run(deliver=False) as run:
        reader = Backlog(run.driver, ["office.carry"])
    await reader.refresh()
    found = {family.name: family.samples for family in reader.collect()}
    assert [one.value for one in found["ensue_database_up"]] == [0]
    assert found["ensue_effects_waiting"] == []


# --- Who may read -----------------------------------------------------------------------------------------------------


async def test_a_server_serves_metrics_only_if_asked_to_and_to_whom() -> None:
    app = post()
    async with app.run(deliver=False), serving(app.asgi()) as server:
        assert (await server.http.get("/metrics")).status_code == 404
    async with app.run(deliver=False), serving(app.asgi(metrics=True, metrics_token="s3cret")) as server:
        await server.http.post("/api/interactions/Write", json={"text": "x"})
        assert (await server.http.get("/metrics")).status_code == 401
        assert (await server.http.get("/metrics", headers={"authorization": "Bearer s3cre"})).status_code == 401
        answer = await server.http.get("/metrics", headers={"authorization": "Bearer s3cret"})
    assert answer.headers["content-type"].startswith("text/plain")
    assert of("ensue_dispatches_total", samples(answer.text)) == {("Write", "ok", ""): 1}
    with pytest.raises(DeclarationError, match="needs metrics=True"):
        app.asgi(metrics_token="s3cret")
    assert "s3cret" not in repr(app.asgi(metrics=True, metrics_token="s3cret").options)


async def test_a_worker_answers_on_a_port_of_its_own() -> None:
    async with (
        post().run(deliver=False) as run,
        serve_metrics(run.metrics, host="127.0.0.1", port=0, token="s3cret") as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        headers = {"authorization": "Bearer s3cret"}
        answer = await http.get("/metrics", headers=headers)
        assert answer.status_code == 200
        assert samples(answer.text)[sample("ensue_database_up")] == 1
        assert (await http.get("/metrics")).status_code == 401
        assert (await http.get("/", headers=headers)).status_code == 404
        assert (await http.post("/metrics", headers=headers)).status_code == 405
        accept = {"accept": "application/openmetrics-text; version=1.0.0", **headers}
        assert (await http.get("/metrics", headers=accept)).text.endswith("# EOF\n")


async def test_a_command_serves_metrics_to_those_who_have_the_token() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "import sys; from ensue.cli import main; sys.exit(main())"),
        *("run", "tests.observation.post_in_memory:app", "--port", "0", "--metrics"),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "ENSUE_METRICS_TOKEN": "s3cret"},
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(30):
            place = None
            while place is None:
                line = await process.stderr.readline()
                assert line, "it ended"
                place = re.search(rb"http://127.0.0.1:\d+", line)
        async with httpx2.AsyncClient(base_url=place[0].decode(), trust_env=False) as http:
            assert (await http.get("/metrics")).status_code == 401
            answer = await http.get("/metrics", headers={"authorization": "Bearer s3cret"})
        assert samples(answer.text)[sample("ensue_database_up")] == 1
    finally:
        process.kill()
        await process.communicate()


async def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "ensue.observation.metrics")
    async with post().run(deliver=False) as run:
        with pytest.raises(UsageError, match=r"pip install 'ensue\[metrics\]'"):
            _ = run.metrics


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ["worker", "tests.observation.post_in_memory:app", "--metrics-port", port, "--log-level", "ERROR"]
        assert main(arguments) == 2
    assert f"Metrics can't be served at 127.0.0.1:{port}" in capsys.readouterr().err


# --- The pages --------------------------------------------------------------------------------------------------------


def test_the_page_lists_the_metrics_as_they_are() -> None:
    rows = re.findall(r"^\| `(ensue_\w+)` \| (\w+) \| (.+?) \| (.+?) \|$", (REFERENCE / "metrics.md").read_text(), re.M)
    expected = [
        (one.shown, one.type, ", ".join(f"`{label}`" for label in one.labels) or "—", one.text)
        for one in families.FAMILIES
    ]
    assert rows == expected


def test_alerts_name_only_metrics_that_exist_with_labels_that_they_have() -> None:
    text = (REFERENCE / "alerts.yml").read_text()
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    known = {one.name + suffix: one for one in families.FAMILIES for suffix in suffixes[one.type]}
    expressions = re.findall(r"expr: (?:\|\n((?: {10,}.*\n)+)|(.*)\n)", text)
    assert len(expressions) == text.count("- alert:") > 12
    for block, line in expressions:
        named = re.findall(r"(ensue_\w+)(?:\{(\w+)[!=~]+)?", block or line)
        assert named, block or line
        grouped = set(re.findall(r"by \(([\w, ]+)\)", block or line))
        for name, label in named:
            assert name in known, name
            assert not label or label in known[name].labels, (name, label)
            for group in grouped:
                assert set(group.split(", ")) - {"le"} <= set(known[name].labels), (name, group)
    for label in re.findall(r"\$labels\.(\w+)", text):
        assert label == "instance" or any(label in one.labels for one in families.FAMILIES)


def test_families_have_names_of_their_own() -> None:
    names = [one.shown for one in families.FAMILIES]
    assert len(set(names)) == len(names)
    assert all(one.buckets == tuple(sorted(one.buckets)) for one in families.FAMILIES)
    assert replace(families.RUN, type="counter").shown == "ensue_effects_run_seconds_total"
