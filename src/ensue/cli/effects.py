"""`ensue effects`: list, show, retry and discard effects.

Decides how effects are printed. Leaves what may be done with them to `effects.ledger`. Invariant: nothing is delivered meanwhile,
and no integration is connected.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ensue.cli import FOUND, OK
from ensue.cli.locate import find_app
from ensue.effects import ledger

if TYPE_CHECKING:
    from ensue.store.driver import Driver

COLUMNS = ("ID", "STATE", "ATTEMPT", "NAME", "RECORD", "ENQUEUED", "ERROR")
ERROR_LENGTH_MAX = 60


def execute(given: argparse.Namespace) -> int:
    """Run one action."""
    return asyncio.run(_execute(given))


async def _execute(given: argparse.Namespace) -> int:
    async with find_app(given.app).run(deliver=False, setup=False) as run:
        if given.action == "list":
            return await _list(run.driver, given)
        if given.action == "show":
            return await _show(run.driver, given.id)
        change = ledger.retry_effects if given.action == "retry" else ledger.discard_effects
        return _report(given.action, given.ids, await change(run.driver, given.ids))


async def _list(driver: Driver, given: argparse.Namespace) -> int:
    found = await ledger.list_effects(
        driver, state=given.state, name=given.name, before_id=given.before, limit=given.limit
    )
    rows = [
        (
            str(item.id),
            item.state,
            str(item.attempt),
            item.name,
            f"{item.record} {item.record_id}",
            item.enqueued_at.isoformat(timespec="seconds"),
            (item.error or "").split("\n")[0][:ERROR_LENGTH_MAX],
        )
        for item in found
    ]
    _print_table((COLUMNS, *rows))
    if given.state is None and given.name is None:
        print()
        counts = await ledger.count_effects(driver)
        _print_table(
            (("NAME", "STATE", "COUNT", "OLDEST"), *((c.name, c.state, str(c.count), str(c.oldest)) for c in counts))
        )
    return OK


async def _show(driver: Driver, id_: int) -> int:
    found = await ledger.show_effect(driver, id_)
    entry = found.entry
    values = {
        "id": entry.id,
        "name": entry.name,
        "key": entry.key,
        "record": f"{entry.record} {entry.record_id}",
        "state": entry.state,
        "attempt": entry.attempt,
        "enqueued": entry.enqueued_at,
        "available": entry.available_at,
        "settled": entry.settled_at,
        "worker": entry.worker,
        "lease until": found.lease_until,
        "order key": entry.order_key,
        "position": entry.position,
        "trace": found.trace,
        "error class": entry.error_class,
        "error": entry.error,
        "payload": found.payload,
    }
    for name, value in values.items():
        if value is not None:
            print(f"{name + ':':<13}{value}")
    return OK


def _report(action: str, asked: Sequence[int], done: Sequence[int]) -> int:
    left = sorted(set(asked) - set(done))
    if done:
        print(f"{action}: {', '.join(map(str, done))}")
    if left:
        print(f"left as they are, being delivered, done, or unknown: {', '.join(map(str, left))}")
    return FOUND if left else OK


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
