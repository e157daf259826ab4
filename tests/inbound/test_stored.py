"""Messages that are stored and not handled: deferred, replayed, left by a process that died; and what an operator does."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from ensue import App
from ensue.app import AppRun
from ensue.cli import main
from ensue.effects.inbox import (
    close_leased,
    discard_messages,
    lease_due,
    list_messages,
    message_states,
    prune_inbox,
    release_leased,
    replay_messages,
    show_message,
)
from ensue.errors import NotFound, Unavailable
from ensue.integrations.inbound import reconcile
from ensue.integrations.inbound.handling import Failed
from ensue.store.inbox_table import StoredMessage, message_state, store_message
from ensue.store.statement import Run, Statement, Work
from ensue.testing import AppHarness
from tests.inbound.brokers import until
from tests.inbound.payments import ENV, Bank, signed
from tests.inbound.shop import Order, PaymentEvent, shop


async def take(run: AppRun, endpoint: str, body: Any, *, id_: str = "m1") -> Any:
    content, headers = signed(body, id_=id_, at=run.clock.now())
    return await run.inbox.take_webhook(endpoint, content, headers)


def bank_app(url: str) -> tuple[App, Bank]:
    integration = Bank()
    return shop(url, integrations={"bank": integration}), integration


async def states(run: AppRun) -> list[tuple[str, int]]:
    return [(item.state, item.attempt) for item in await list_messages(run.driver)]


async def test_a_deferred_message_is_stored_and_then_handled(database_url: str) -> None:
    app, integration = bank_app(database_url)
    async with app.run(deliver=False, env=ENV) as run:
        order = await run.controller.store.create(Order(title="x"))
        assert [await take(run, "bank.later", {"order": order.id}) for _ in range(2)] == ["stored", "known"]
        assert (integration.seen, await states(run)) == ([], [("received", 0)])
        assert await run.inbox.drain() == 1
        assert await states(run) == [("done", 1)]
        assert (await run.controller.store.get(Order, order.id)).status == "paid"
        assert await take(run, "bank.later", {"order": order.id}) == "known"
        assert await run.inbox.drain() == 0
        assert integration.seen[0].json() == {"order": order.id}


async def test_a_running_app_handles_it_at_once(sqlite_url: str) -> None:
    app, _ = bank_app(sqlite_url)
    async with app.run(env=ENV) as run:
        await take(run, "bank.later", {"order": 7})
        await until(lambda: _is(run, [("done", 1)]), seconds=4)


async def test_what_fails_is_tried_again_and_given_up_after_ten_times(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "STEP_SECONDS_MAX", 0.0)
    app, integration = bank_app(database_url)
    async with app.run(deliver=False, env=ENV) as run:
        await take(run, "bank.later", {"order": 1})
        integration.fail = LookupError("nothing\0there")
        while await run.inbox.drain():
            pass
        ((state, attempt),) = await states(run)
        assert (state, attempt) == ("failed", 10)
        assert "nothing" in ((await list_messages(run.driver))[0].error or "")
        integration.fail = None
        assert await run.inbox.drain() == 0
        (entry,) = await list_messages(run.driver)
        assert await replay_messages(run.driver, [entry.id, 99]) == [entry.id]
        assert await run.inbox.drain() == 1
        assert await states(run) == [("done", 1)]


async def test_an_outage_gives_the_attempt_back(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = bank_app(sqlite_url)
    async with app.run(deliver=False, env=ENV) as run:
        await take(run, "bank.later", {})

        async def away(*_: Any) -> Any:
            raise Unavailable("away")

        monkeypatch.setattr(run.controller, "bring_in", away)
        await run.inbox.drain()
        assert await states(run) == [("received", 0)]


async def test_replay_verifies_nothing_again(database_url: str) -> None:
    """The clock is years on and the secret another one: what was right when it came is right."""
    app, integration = bank_app(database_url)
    async with app.run(deliver=False, env=ENV) as run:
        integration.fail = LookupError()
        failed = await take(run, "bank.paid", {"order": 1})
        assert isinstance(failed, Failed)
        (entry,) = await list_messages(run.driver)
        await replay_messages(run.driver, [entry.id])
    app, integration = bank_app(database_url)
    async with AppHarness(app, env={"BANK_SECRET": "whsec_" + "C" * 32}, database=database_url) as harness:
        harness.clock.advance(seconds=365 * 86_400)
        await harness.drain()
        assert await harness.store.count(PaymentEvent) == 1
        assert await states(harness.run) == [("done", 1)]


async def test_a_message_of_a_process_that_died_is_handled_by_another(database_url: str) -> None:
    app, _ = bank_app(database_url)
    async with app.run(deliver=False, env=ENV) as run:
        await take(run, "bank.later", {"order": 1})
        dialect = run.driver.dialect
        dead = lease_due(dialect, ["bank.later"], token="dead", lease=timedelta(seconds=-1), limit=9)
        (message,) = await run.driver.write(dead)
        assert await run.inbox.drain() == 1
        assert await states(run) == [("done", 2)]
        # Who comes back later has lost it, and neither closes nor spoils it.
        assert not await run.driver.write(close_leased(dialect, message))
        release = release_leased(dialect, message, delay=timedelta(0), error="late", failed=True)
        assert not await run.driver.write(release)
        assert await states(run) == [("done", 2)]


async def test_two_processes_never_handle_one_message_together(postgres_url: str) -> None:
    runs = []
    app, first = bank_app(postgres_url)
    other, second = bank_app(postgres_url)
    async with app.run(deliver=False, env=ENV) as run, other.run(deliver=False, env=ENV) as run2:
        for n in range(30):
            await take(run, "bank.later", {"order": n}, id_=f"m{n}")
        runs = await asyncio.gather(run.inbox.drain(), run2.inbox.drain())
        assert sum(runs) == 30
        assert await run.controller.store.count(PaymentEvent) == 30
        assert len(first.seen) + len(second.seen) == 30


async def test_messages_of_endpoints_that_this_app_lacks_wait(sqlite_url: str) -> None:
    app, _ = bank_app(sqlite_url)
    async with app.run(deliver=False, env=ENV) as run:
        await run.driver.write(store_message(run.driver.dialect, StoredMessage("other.hook", "1", b"{}")))
        assert await run.inbox.drain() == 0
        assert await states(run) == [("received", 0)]


async def test_a_direct_repeat_overtakes_one_that_waits(database_url: str) -> None:
    app, _ = bank_app(database_url)
    async with app.run(deliver=False, env=ENV) as run:
        await take(run, "bank.later", {"order": 1})
        assert await run.controller.receive("bank.later", "m1", PaymentEvent(order_number=1))
        assert await run.inbox.drain() == 0
        assert await run.controller.store.count(PaymentEvent) == 1


async def test_discarded_is_discarded_for_the_sender_too(database_url: str) -> None:
    app, integration = bank_app(database_url)
    async with app.run(deliver=False, env=ENV) as run:
        integration.fail = LookupError()
        await take(run, "bank.paid", {"order": 1})
        (entry,) = await list_messages(run.driver, state="failed", endpoint="bank.paid")
        assert await discard_messages(run.driver, [entry.id]) == [entry.id]
        assert await message_states(run.driver, [entry.id, 99]) == {entry.id: "discarded"}
        integration.fail = None
        assert await take(run, "bank.paid", {"order": 1}) == "known"
        integration.fail = LookupError()
        assert await take(run, "bank.paid", {"order": 1}) == "known"
        assert await run.controller.store.count(PaymentEvent) == 0


async def test_what_is_done_is_forgotten_in_time_and_what_failed_is_not(database_url: str) -> None:
    app, integration = bank_app(database_url)
    async with app.run(deliver=False, env=ENV) as run:
        await take(run, "bank.paid", {}, id_="done")
        await take(run, "bank.later", {}, id_="waits")
        integration.fail = LookupError()
        await take(run, "bank.paid", {}, id_="fails")
        assert await prune_inbox(run.driver) == 0
        assert await prune_inbox(run.driver, older_than=timedelta(seconds=-1)) == 1
        assert [item.sender_id for item in await list_messages(run.driver)] == ["fails", "waits"]


async def test_what_waits_is_found_by_an_index(postgres_url: str) -> None:
    app, _ = bank_app(postgres_url)
    async with app.run(deliver=False, env=ENV) as run:
        rng = Random(1)
        for n in range(200):
            message = StoredMessage("bank.later", f"{n}{rng.random()}", b"")
            await run.driver.write(store_message(run.driver.dialect, message))
        assert await run.driver.read(message_state(run.driver.dialect, StoredMessage("bank.later", "x"))) is None

        def plan() -> Work[list[Any]]:
            text = "EXPLAIN SELECT id FROM ensue_inbox WHERE state = 'received' AND available_at <= 5 ORDER BY available_at, id"
            yield Run(Statement("off", "SET LOCAL enable_seqscan = off"))
            return (yield Run(Statement("explain", text, rows=True)))

        assert "ensue_inbox_due" in str(await run.driver.write(plan()))


# --- The command line -------------------------------------------------------------------------------------------------


async def test_the_command_line(
    sqlite_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, integration = bank_app(sqlite_url)
    async with app.run(deliver=False, env=ENV) as run:
        await take(run, "bank.paid", {"order": 1, "card": "hush"}, id_="fine")
        integration.fail = LookupError("not here")
        await take(run, "bank.paid", {"order": 2, "card": "hush"}, id_="broken")
        fine, broken = sorted(item.id for item in await list_messages(run.driver))
    monkeypatch.setenv("BANK_DATABASE", sqlite_url)
    monkeypatch.delitem(sys.modules, "tests.inbound.bank_app", raising=False)

    async def ensue(action: str, *arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(main, ["inbox", action, "tests.inbound.bank_app:app", *arguments])
        return code, capsys.readouterr().out

    code, text = await ensue("list")
    assert (code, "hush" in text, "broken" in text) == (0, False, True)
    assert re.search(r"^bank\.paid +failed +1 ", text, re.MULTILINE)
    code, text = await ensue("list", "--state", "failed")
    assert ("fine" in text, "not here" in text) == (False, True)
    code, text = await ensue("show", str(broken))
    assert [word in text for word in ("hush", "v1,", "webhook-signature", "sha256")] == [False, False, True, True]
    code, text = await ensue("show", str(broken), "--body")
    assert json.loads(text.partition("body:")[2])["card"] == "hush"
    assert (await ensue("show", "99"))[0] == 2
    assert (await ensue("replay", str(broken), "99"))[0] == 1
    assert await ensue("discard", str(broken)) == (0, f"discard: {broken}\n")
    assert (await ensue("discard", str(fine)))[0] == 1
    async with bank_app(sqlite_url)[0].run(deliver=False, env=ENV) as run:
        assert [item.state for item in await list_messages(run.driver)] == ["discarded", "done"]
        with pytest.raises(NotFound, match="7 days"):
            await show_message(run.driver, 99)


async def _is(run: AppRun, wanted: list[tuple[str, int]]) -> bool:
    return await states(run) == wanted
