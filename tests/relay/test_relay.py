"""Effects handed to JetStream reach workers without a database: once each unless a worker dies, and then under one key."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from ensue import App, Effect, Integration, Nats, Rejected, side_effect
from ensue.app import AppRun
from ensue.cli.relayed import RelayedRun
from ensue.clock import SystemClock
from ensue.effects.ledger import list_effects, retry_effects, show_effect
from ensue.effects.target import Handling
from ensue.errors import DeclarationError, UsageError
from ensue.integrations.relay import returning
from ensue.integrations.relay import worker as relay_worker
from ensue.integrations.relay.nats_stream import connect_relay
from tests.effects.world import query
from tests.relay.parcels import LEASE_SECONDS, Parcel, app
from tests.services_nats import NatsServer

WAIT_SECONDS = 30.0


@pytest.fixture
def stream() -> str:
    return f"S{uuid.uuid4().hex[:12]}"


def calls(file: Path) -> list[list[str]]:
    """What workers wrote: key, label, attempt, process."""
    return [line.split("\t") for line in file.read_text().splitlines()] if file.exists() else []


async def until(condition: Any) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - other processes write the file
            await asyncio.sleep(0.02)


async def handed_over(run: AppRun) -> list[Any]:
    """The effects, once all are settled here."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            found = await list_effects(run.driver, limit=10_000)
            if all(effect.state == "done" for effect in found):
                return found
            await asyncio.sleep(0.02)


async def tried_in_vain(run: AppRun) -> list[Any]:
    """The effects that are not settled, once each has an error."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            found = [effect for effect in await list_effects(run.driver) if effect.state != "done"]
            if found and all(effect.error for effect in found):
                return found
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def worker(url: str, stream: str, file: Path, pause_seconds: float = 0.0) -> AsyncIterator[Any]:
    """A process that takes relayed effects."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.relay.parcels", url, stream, str(file), str(pause_seconds)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_what_is_handed_over_is_called_elsewhere_and_settled_here(
    nats_url: str, stream: str, tmp_path: Path
) -> None:
    file = tmp_path / "calls"
    async with app(nats_url, stream).run() as run:
        await run.controller.store.create_many([Parcel(label=f"p{n}") for n in range(50)])
        effects = await handed_over(run)
        detail = await show_effect(run.driver, effects[0].id)
        assert (detail.provider_id or "").partition(":")[0] == stream
        assert not file.exists()
        async with RelayedRun(app(nats_url, stream, file=str(file)), nats_url):
            await until(lambda: len(calls(file)) == 50)
    assert sorted(key for key, *_ in calls(file)) == sorted(effect.key for effect in effects)


async def test_a_repeated_hand_over_is_one_message(nats_url: str, stream: str) -> None:
    relay = Nats(nats_url, stream=stream, subject=stream.lower())
    async with connect_relay(relay) as connected:
        first = await connected.publish("courier.carry", "key-1", b"{}")
        assert await connected.publish("courier.carry", "key-1", b"{}") == first
        assert await connected.publish("courier.carry", "key-2", b"{}") != first


async def test_what_could_be_published_can_be_buried(nats_url: str, stream: str) -> None:
    relay = Nats(nats_url, stream=stream, subject=stream.lower())
    key = "courier.carry:Parcel:1:create"
    most = 1024 * 1024 - len(f"NATS/1.0\r\nNats-Msg-Id: {key}\r\n\r\n")
    texts: list[str | None] = []
    async with connect_relay(relay) as connected:
        dead = await connected.subscribe_dead(lease_seconds=30)
        with pytest.raises(Rejected) as caught:
            await connected.publish("courier.carry", key, b"x" * (most + 1))
        assert caught.value.code == "effect_too_large"
        # From nothing to all that fits beside the message: no error, its class, a part of its text, all of it.
        for number, less in enumerate((0, 27, 50, 100)):
            id_ = f"{key[:-1]}{number}"
            data = b"x" * (most - less)
            await connected.publish("courier.carry", id_, data)
            await connected.bury("courier.carry", id_, data, error=("bug", "ü" * 20))
            async with asyncio.timeout(WAIT_SECONDS):
                while not (found := await connected.fetch(dead, 1)):
                    pass
            assert found[0].data == data
            texts.append(found[0].headers.get("Ensue-Error"))
            assert found[0].headers.get("Ensue-Error-Class") == (None if less == 0 else "bug")
            await found[0].ack_sync()
    assert texts == [None, None, "ü" * 5, "ü" * 20]


async def test_failures_are_tried_again_and_end_among_the_dead(nats_url: str, stream: str, tmp_path: Path) -> None:
    file = tmp_path / "calls"
    troubles = ("once", "broken", "refused", "moved", "busy")
    async with app(nats_url, stream).run() as run:
        await run.controller.store.create_many([Parcel(label=trouble, trouble=trouble) for trouble in troubles])
        await handed_over(run)
    served = app(nats_url, stream, file=str(file))
    relay = Nats(nats_url, stream=stream, subject=stream.lower())
    async with RelayedRun(served, nats_url), connect_relay(relay) as connected:
        dead = await connected.subscribe_dead(lease_seconds=30)
        found: list[Any] = []
        async with asyncio.timeout(WAIT_SECONDS):
            while len(found) < 3:
                found += await connected.fetch(dead, 10)
        # Both wait a while of their own before they are called again.
        await until(lambda: Counter(label for _, label, *_ in calls(file)) >= Counter({"busy": 2, "once": 2}))
    attempts = [(label, attempt) for _, label, attempt, _ in calls(file)]
    assert Counter(attempts) == {
        ("once", "1"): 1,
        ("once", "2"): 1,
        ("broken", "1"): 1,
        ("broken", "2"): 1,
        ("broken", "3"): 1,
        ("refused", "1"): 1,
        ("moved", "1"): 1,
        ("busy", "1"): 2,
    }
    errors = sorted(f"{message.headers['Ensue-Error-Class']}: {message.headers['Ensue-Error']}" for message in found)
    assert errors == [
        "rejected: Moved: to another town",
        "rejected: Rejected: no_such_address: nobody lives there",
        "transient: RuntimeError: it broke",
    ]


async def test_what_ends_programs_ends_no_worker(nats_url: str, stream: str, tmp_path: Path) -> None:
    file = tmp_path / "calls"
    troubles = ("exit", "cancel", "odd")
    async with app(nats_url, stream).run() as run:
        await run.controller.store.create_many([Parcel(label=trouble, trouble=trouble) for trouble in troubles])
        await handed_over(run)
    served = app(nats_url, stream, file=str(file))
    relay = Nats(nats_url, stream=stream, subject=stream.lower())
    async with RelayedRun(served, nats_url), connect_relay(relay) as connected:
        dead = await connected.subscribe_dead(lease_seconds=30)
        found: list[Any] = []
        async with asyncio.timeout(WAIT_SECONDS):
            while len(found) < 3:
                found += await connected.fetch(dead, 10)
        async with app(nats_url, stream).run() as run:
            await run.controller.store.create(Parcel(label="after"))
            await until(lambda: calls(file)[-1][1] == "after")
    attempts = Counter(label for _, label, *_ in calls(file))
    assert attempts == {"exit": 3, "cancel": 3, "odd": 3, "after": 1}
    errors = {message.headers["Ensue-Error"].partition(":")[0] for message in found}
    assert errors == {"SystemExit", "CancelledError", "OddError"}


async def test_an_interrupt_ends_the_worker_and_uses_up_an_attempt(nats_url: str, stream: str, tmp_path: Path) -> None:
    file = tmp_path / "calls"
    async with app(nats_url, stream).run() as run:
        await run.controller.store.create(Parcel(label="a", trouble="interrupt"))
        await handed_over(run)
        async with worker(nats_url, stream, file) as process:
            async with asyncio.timeout(WAIT_SECONDS):
                assert await process.wait() != 0
            assert [(label, attempt) for _, label, attempt, _ in calls(file)] == [("a", "1")]
        async with worker(nats_url, stream, file):
            await until(lambda: len(calls(file)) == 2)
    assert calls(file)[1][2] == "2"


@pytest.mark.timeout(120)
async def test_several_processes_share_the_work_and_one_that_is_killed_loses_nothing(
    nats_url: str, stream: str, tmp_path: Path
) -> None:
    file = tmp_path / "calls"
    count = 300
    async with (
        app(nats_url, stream).run() as run,
        worker(nats_url, stream, file, 0.2) as first,
        worker(nats_url, stream, file, 0.2),
        worker(nats_url, stream, file, 0.2),
    ):
        await run.controller.store.create_many([Parcel(label=f"p{n}") for n in range(count)])
        await until(lambda: len({pid for *_, pid in calls(file)}) == 3)
        first.kill()
        await until(lambda: len({key for key, *_ in calls(file)}) == count)
        # What the killed one was at comes again, to others, and nothing else does.
        await asyncio.sleep(LEASE_SECONDS + 1)
    told = calls(file)
    keys = Counter(key for key, *_ in told)
    assert len(keys) == count
    repeats = sum(keys.values()) - count
    assert repeats <= 20
    assert all({pid for found, *_, pid in told if found == key} >= {str(first.pid)} for key in keys if keys[key] > 1)
    assert {attempt for *_, attempt, _ in told} == {"1"}


async def test_while_the_broker_is_gone_effects_wait_in_the_table(
    nats_server: NatsServer, stream: str, tmp_path: Path
) -> None:
    file = tmp_path / "calls"
    database = f"sqlite:///{tmp_path / 'parcels.db'}"
    served = app(nats_server.url, stream, file=str(file))
    async with app(nats_server.url, stream, database).run() as run, RelayedRun(served, nats_server.url):
        await run.controller.store.create(Parcel(label="before"))
        await until(lambda: len(calls(file)) == 1)
        nats_server.kill()
        await run.controller.store.create(Parcel(label="meanwhile"))
        waiting = await tried_in_vain(run)
        assert [effect.attempt for effect in waiting] == [0]
        nats_server.start()
        await until(lambda: len({key for key, *_ in calls(file)}) == 2)
        await handed_over(run)


async def test_what_nobody_could_deliver_is_dead_in_the_table_and_can_be_handed_over_anew(
    nats_url: str, stream: str, tmp_path: Path
) -> None:
    file = tmp_path / "calls"
    async with app(nats_url, stream).run() as run:
        await run.controller.store.create_many([Parcel(label="well"), Parcel(label="refused", trouble="refused")])
        async with RelayedRun(app(nats_url, stream, file=str(file)), nats_url), asyncio.timeout(WAIT_SECONDS):
            while not (dead := await list_effects(run.driver, state="dead")):  # noqa: ASYNC110 - another process tells
                await asyncio.sleep(0.02)
        assert [(effect.record_id, effect.error_class) for effect in dead] == [(2, "rejected")]
        assert "nobody lives there" in (dead[0].error or "")
        assert await retry_effects(run.driver, [dead[0].id]) == [dead[0].id]
        # At once, also within the time in which the stream drops repeats.
        async with RelayedRun(app(nats_url, stream, file=str(file)), nats_url):
            await until(lambda: Counter(label for _, label, *_ in calls(file))["refused"] == 2)
            async with asyncio.timeout(WAIT_SECONDS):
                while not await list_effects(run.driver, state="dead"):  # noqa: ASYNC110 - another process tells
                    await asyncio.sleep(0.02)


async def test_a_worker_that_is_quicker_than_the_note_of_the_hand_over_loses_nothing(
    nats_url: str, stream: str, tmp_path: Path
) -> None:
    file = tmp_path / "calls"
    async with app(nats_url, stream, f"sqlite:///{tmp_path / 'parcels.db'}").run() as run:
        await run.controller.store.create(Parcel(label="refused", trouble="refused"))
        [effect] = await handed_over(run)
        # As if the process had been killed after the stream took it, and before that was written.
        unsettled = (
            "UPDATE ensue_effect SET state = 'claimed', settled_at = NULL, worker = 'gone', lease_token = 'gone',"
            " lease_until = unixepoch('subsec') * 1000000 + 2000000 RETURNING id"
        )
        await run.driver.write(query(unsettled))
        async with RelayedRun(app(nats_url, stream, file=str(file)), nats_url), asyncio.timeout(WAIT_SECONDS):
            while not (dead := await list_effects(run.driver, state="dead")):  # noqa: ASYNC110 - another process tells
                await asyncio.sleep(0.02)
    assert [item.id for item in dead] == [effect.id]
    assert len(calls(file)) == 1


async def test_watching_the_dead_ends_though_the_client_swallows_a_cancellation(
    stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    swallowed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def connect(_: Nats) -> AsyncIterator[Any]:
        if not swallowed.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            swallowed.set()
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr(returning, "connect_relay", connect)
    watching = returning.Returning([Nats("nats://nobody", stream=stream)], cast("Any", None))
    watching.start()
    await asyncio.sleep(0)
    async with asyncio.timeout(WAIT_SECONDS):
        await watching.stop()
    assert swallowed.is_set()


async def test_a_stream_that_is_deleted_is_made_anew(nats_url: str, stream: str, tmp_path: Path) -> None:
    file = tmp_path / "calls"
    relay = Nats(nats_url, stream=stream, subject=stream.lower())
    async with (
        app(nats_url, stream).run() as run,
        RelayedRun(app(nats_url, stream, file=str(file)), nats_url),
        connect_relay(relay) as connected,
    ):
        await run.controller.store.create(Parcel(label="before"))
        await until(lambda: len(calls(file)) == 1)
        await connected._stream.delete_stream(stream)
        await run.controller.store.create(Parcel(label="after"))
        await until(lambda: len(calls(file)) == 2)


async def test_what_the_broker_takes_in_no_size_is_dead_at_once(nats_url: str, stream: str) -> None:
    async with app(nats_url, stream).run() as run, asyncio.timeout(WAIT_SECONDS):
        await run.controller.store.create(Parcel(label='"' * 400_000))
        while not (dead := await list_effects(run.driver, state="dead")):  # noqa: ASYNC110 - delivery goes on meanwhile
            await asyncio.sleep(0.02)
    assert [(item.error_class, "effect_too_large" in (item.error or "")) for item in dead] == [("rejected", True)]


async def test_a_worker_has_no_database(nats_url: str, stream: str, tmp_path: Path) -> None:
    class Curious(Integration):
        async def setup(self, controller: Any) -> None:
            await controller.store.find(Parcel)

        @side_effect(Parcel, on="create", relay=Nats(nats_url, stream=stream))
        async def carry(self, effect: Effect[Parcel]) -> None: ...

    curious = App(entities=[Parcel], integrations={"curious": Curious()})
    with pytest.raises(UsageError, match="was used in a worker of relayed effects, which has no database"):
        async with RelayedRun(curious, nats_url):
            pass
    with pytest.raises(UsageError, match="This app hands no effect to a relay"):
        async with RelayedRun(App(entities=[Parcel]), nats_url):
            pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order_by": lambda p: p.label}, "relay= and order_by= exclude each other"),
        ({"priority": 3}, "relay= and priority= exclude each other"),
        ({"key_ttl": timedelta(hours=1)}, "relay= and key_ttl= exclude each other"),
        ({"delivery": "after_commit"}, "relay= and delivery='after_commit' exclude each other"),
        ({"batch": 10}, "relay= and batch= exclude each other"),
    ],
)
async def test_what_a_broker_does_not_keep_is_refused(options: dict[str, Any], message: str) -> None:
    class Wrong(Integration):
        @side_effect(Parcel, on="create", relay=Nats("nats://broker"), **options)
        async def carry(self, effect: Any) -> None: ...

    with pytest.raises(DeclarationError, match=message):
        await App(entities=[Parcel], integrations={"wrong": Wrong()}).freeze()


def test_names_that_a_broker_refuses_are_refused_where_they_are_written() -> None:
    with pytest.raises(DeclarationError, match="was given a url that is none"):
        Nats("broker")
    with pytest.raises(DeclarationError, match="can't hold dots, spaces, slashes or wildcards"):
        Nats("nats://broker", subject="a.b")
    assert "secret" not in repr(Nats("nats://me:secret@broker"))


async def test_an_error_of_the_client_that_nobody_knows_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Queue[str]()

    class Broken:
        """A relay whose client fails once in a way of its own."""

        async def subscribe(self, name: str, **_: Any) -> str:
            asked.put_nowait(name)
            if asked.qsize() == 1:
                raise AttributeError("'NoneType' object has no attribute 'write'")
            return "subscription"

        async def fetch(self, subscription: str, count: int) -> list[Any]:
            await asyncio.Event().wait()
            return []

    @contextlib.asynccontextmanager
    async def connect(_: Nats) -> AsyncIterator[Any]:
        yield Broken()

    monkeypatch.setattr(relay_worker, "connect_relay", connect)
    monkeypatch.setattr(relay_worker, "FIRST_PAUSE_SECONDS", 0.0)

    async def deliver(_: object) -> None: ...

    worker = relay_worker.RelayWorker(Nats("nats://nowhere"), {"shop.send": Handling(deliver)}, clock=SystemClock())
    await worker.start()
    await until(lambda: asked.qsize() == 2)
    await worker.stop(grace_seconds=0)
