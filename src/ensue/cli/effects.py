"""`ensue effects`: look at effects and their targets, and set right what went wrong.

Decides how effects are printed. Leaves what may be done with them to `effects.ledger` and `effects.operate`. Invariant: nothing
is delivered meanwhile, and no integration is connected.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ensue.cli import FOUND, OK
from ensue.cli.locate import look_at, require_known
from ensue.cli.terminal import Change, instant, print_change, print_table, print_values
from ensue.effects import ledger, operate
from ensue.effects.states import SETTLED, TRANSITIONS
from ensue.effects.target import repeat_is_known
from ensue.errors import UsageError
from ensue.schema.written.names import suggestion

if TYPE_CHECKING:
    from ensue.app import AppRun
    from ensue.store.driver import Driver

COLUMNS = ("ID", "STATE", "ATTEMPT", "NAME", "RECORD", "ENQUEUED", "ERROR")
PROGRESS_COLUMNS = ("NAME", "PENDING", "CLAIMED", "RETRY", "PARKED", "UNKNOWN", "ENDED/S", "DEAD IN 10 S", "LAG S")
ERROR_LENGTH_MAX = 60


def execute(given: argparse.Namespace) -> int:
    """Run one action."""
    return asyncio.run(_execute(given))


async def _execute(given: argparse.Namespace) -> int:
    async with look_at(given.app) as run:
        driver, action = run.driver, given.action
        if action == "list":
            return await _list(run, given)
        if action == "show":
            return await _show(driver, given.id)
        if action == "watch":
            return await _watch(driver, given)
        if action == "targets":
            return await _targets(driver)
        if action in ("pause", "resume"):
            return await _stop_or_go(run, given)
        return await _change(run, given)


async def _change(run: AppRun, given: argparse.Namespace) -> int:
    driver = run.driver
    takes: Sequence[str]
    match given.action:
        case "retry":
            done, takes = await ledger.retry_effects(driver, given.ids), TRANSITIONS["requeue"].sources
        case "discard":
            done, takes = await ledger.discard_effects(driver, given.ids), TRANSITIONS["discard"].sources
        case "replay":
            done, takes = await operate.replay_effects(driver, given.ids, per_second=given.per_second), SETTLED
        case _:
            done = await operate.resolve_effects(driver, given.ids, arrived=given.done, note=given.note)
            takes = TRANSITIONS["resolve" if given.done else "resend"].sources
    states = await ledger.effect_states(driver, given.ids)
    complete = print_change(Change(given.action, "effect", given.ids, done, states, takes))
    if given.action == "retry":
        await _tell_unsent(run, given.app, done)
    return OK if complete else FOUND


async def _tell_unsent(run: AppRun, app: str, ids: Sequence[int]) -> None:
    """A retry promises a call; of what may have arrived and can't be repeated there is none."""
    unsent: list[str] = []
    for item in await operate.doubtful_effects(run.driver, ids):
        effect = run.model.effects.get(item.name)
        if effect is None or effect.options["verify"] is not None:
            continue
        if not repeat_is_known(effect.options["key_ttl"], item.since_first_send):
            unsent.append(str(item.id))
    if unsent:
        print(
            f"not called again, but unknown next: {', '.join(unsent)}. An earlier call may have arrived, and the"
            " other side need not recognise a repeat any more (key_ttl=). Look there, then say it: "
            f"ensue effects resolve {app} ID --done, or --resend"
        )


async def _stop_or_go(run: AppRun, given: argparse.Namespace) -> int:
    targets: dict[str, list[str]] = {}
    for name, effect in run.model.effects.items():
        target = effect.options["target"]
        targets.setdefault(name if target is None else target.name, []).append(name)
    if given.target not in targets:
        raise UsageError(
            f"The app has no target {given.target!r}.{suggestion(given.target, targets)} Without a Target, a side effect's"
            " target is named as itself."
        )
    if given.action == "pause":
        await operate.pause_target(run.driver, given.target, given.reason)
    else:
        await operate.resume_target(run.driver, given.target, targets[given.target])
    print(f"{given.action}: {given.target}")
    return OK


async def _targets(driver: Driver) -> int:
    rows = [
        (
            item.target,
            f"paused: {item.reason}" if item.paused else "held" if item.held_until else "open",
            instant(item.held_until),
            item.breaker,
            instant(item.open_until),
            "" if item.tokens is None else f"{item.tokens:.1f}",
        )
        for item in await operate.target_states(driver)
    ]
    print_table((("TARGET", "STATE", "HELD UNTIL", "BREAKER", "OPEN UNTIL", "TOKENS"), *rows))
    return OK


async def _watch(driver: Driver, given: argparse.Namespace) -> int:
    """One table after another; on a terminal each takes the place of the one before."""
    shown = 0
    while given.times is None or shown < given.times:
        if shown:
            await asyncio.sleep(given.every)
        found = await operate.progress(driver)
        rows = [
            (
                item.name,
                *(str(n) for n in (item.pending, item.claimed, item.retry_wait, item.parked, item.unknown)),
                f"{item.settled / 10:.1f}",
                str(item.dead),
                f"{item.lag_seconds:.1f}",
            )
            for item in found
        ]
        if shown and sys.stdout.isatty():
            print("\033[2J\033[H", end="")
        print_table((PROGRESS_COLUMNS, *rows))
        sys.stdout.flush()
        shown += 1
    return OK


async def _list(run: AppRun, given: argparse.Namespace) -> int:
    driver = run.driver
    found = await ledger.list_effects(
        driver, state=given.state, name=given.name, before_id=given.before, limit=given.limit
    )
    if given.name is not None and not found:
        kept = [item.name for item in await ledger.count_effects(driver)]
        require_known("side effect", given.name, [*run.model.effects, *kept])
    rows = [
        (
            str(item.id),
            item.state,
            str(item.attempt),
            item.name,
            f"{item.record} {item.record_id}",
            instant(item.enqueued_at),
            (item.error or "").split("\n")[0][:ERROR_LENGTH_MAX],
        )
        for item in found
    ]
    print_table((COLUMNS, *rows))
    if given.state is None and given.name is None:
        print()
        counts = await ledger.count_effects(driver)
        print_table(
            (
                ("NAME", "STATE", "COUNT", "OLDEST"),
                *((c.name, c.state, str(c.count), instant(c.oldest)) for c in counts),
            )
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
        "target": found.target or None,
        "cause": None if found.cause is None else f"{found.cause} {found.cause_id}",
        "provider id": found.provider_id,
        "note": found.note,
        "first sent": found.first_sent_at,
        "trace": found.trace,
        "error class": entry.error_class,
        "error": entry.error,
        "payload": found.payload,
    }
    print_values(values)
    for item in await operate.attempts_of(driver, id_):
        failed = "" if item.error is None else f", {item.error_class}: {item.error}"
        print(f"attempt {item.attempt}:   {instant(item.ended_at)} {item.outcome} by {item.worker}{failed}")
    return OK
