"""`ensue inbox`: list, show, replay and discard messages from outside.

Decides how messages are printed, and that what they say is printed only when asked for. Leaves what may be done with
them to `effects.inbox`. Invariant: nothing is handled meanwhile, and no integration is connected.
"""

from __future__ import annotations

import argparse
import asyncio
from hashlib import sha256
from typing import TYPE_CHECKING

from ensue.cli import FOUND, OK
from ensue.cli.locate import look_at, require_known
from ensue.cli.terminal import Change, instant, print_change, print_table, print_values
from ensue.effects import inbox

if TYPE_CHECKING:
    from ensue.app import AppRun
    from ensue.store.driver import Driver

COLUMNS = ("ID", "STATE", "ATTEMPT", "ENDPOINT", "SENDER'S ID", "RECEIVED", "BYTES", "ERROR")
ERROR_LENGTH_MAX = 60
ID_LENGTH_MAX = 40


def execute(given: argparse.Namespace) -> int:
    """Run one action."""
    return asyncio.run(_execute(given))


async def _execute(given: argparse.Namespace) -> int:
    async with look_at(given.app) as run:
        if given.action == "list":
            return await _list(run, given)
        if given.action == "show":
            return await _show(run.driver, given.id, body=given.body)
        return await _change(run.driver, given)


async def _list(run: AppRun, given: argparse.Namespace) -> int:
    driver, endpoints = run.driver, run.integrations.endpoints
    found = await inbox.list_messages(
        driver, state=given.state, endpoint=given.endpoint, before_id=given.before, limit=given.limit
    )
    if given.endpoint is not None and not found:
        kept = [item.endpoint for item in await inbox.count_messages(driver)]
        require_known("webhook or consumer", given.endpoint, [*endpoints.webhooks, *endpoints.consumers, *kept])
    rows = [
        (
            str(item.id),
            item.state,
            str(item.attempt),
            item.endpoint,
            item.sender_id[:ID_LENGTH_MAX],
            instant(item.received_at),
            str(item.size),
            (item.error or "").split("\n")[0][:ERROR_LENGTH_MAX],
        )
        for item in found
    ]
    print_table((COLUMNS, *rows))
    if given.state is None and given.endpoint is None:
        print()
        counts = await inbox.count_messages(driver)
        head = ("ENDPOINT", "STATE", "COUNT", "OLDEST")
        print_table((head, *((c.endpoint, c.state, str(c.count), instant(c.oldest)) for c in counts)))
    return OK


async def _show(driver: Driver, id_: int, *, body: bool) -> int:
    found = await inbox.show_message(driver, id_)
    entry = found.entry
    values = {
        "id": entry.id,
        "endpoint": entry.endpoint,
        "sender's id": entry.sender_id,
        "state": entry.state,
        "attempt": entry.attempt,
        "received": entry.received_at,
        "handled": entry.handled_at,
        "error": entry.error,
    }
    print_values(values)
    if not body:
        print(f"{'headers:':<13}{', '.join(found.headers) or 'none'}")
        print(f"{'body:':<13}{entry.size} bytes, sha256 {sha256(found.body).hexdigest()} (--body prints it)")
        return OK
    for name, value in found.headers.items():
        print(f"{'header:':<13}{name}: {value}")
    print(f"{'body:':<13}{found.body.decode('utf-8', 'backslashreplace')}")
    return OK


async def _change(driver: Driver, given: argparse.Namespace) -> int:
    if given.action == "replay":
        done, takes = await inbox.replay_messages(driver, given.ids), inbox.REPLAYED_FROM
    else:
        done, takes = await inbox.discard_messages(driver, given.ids), inbox.DISCARDED_FROM
    states = await inbox.message_states(driver, given.ids)
    return OK if print_change(Change(given.action, "message", given.ids, done, states, takes)) else FOUND
