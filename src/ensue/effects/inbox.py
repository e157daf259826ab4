"""The inbox after a message was stored: handling what waits, and what an operator sees and does.

Decides who may handle a stored message (a lease, compared by the database's clock), which ones may be replayed or given
up, and when they are forgotten. Leaves claiming new ones to `store.inbox_table` and their meaning to the integrations.
Invariants: whoever closes a leased message proves the lease; failed messages are never forgotten by themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from ensue.clock import from_micros, whole_micros
from ensue.effects.sql.lists import as_json, change_rows, each, rows_of, states_of
from ensue.errors import NotFound
from ensue.store.driver import Dialect, Driver
from ensue.store.effect_table import STATEMENT_NOW, in_list
from ensue.store.inbox_table import CLOSED, InboxState
from ensue.store.marks import marks
from ensue.store.statement import Run, Statement, Work

LIST_LIMIT: Final = 100
MESSAGES_KEPT: Final = timedelta(days=7)
"""Twice as long as senders try: a repeat within it is recognised."""

REPLAYED_FROM: Final[tuple[InboxState, ...]] = ("done", "failed", "discarded")
DISCARDED_FROM: Final[tuple[InboxState, ...]] = ("received", "failed")


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """One message without what it said."""

    id: int
    endpoint: str
    sender_id: str
    state: InboxState
    attempt: int
    received_at: datetime
    handled_at: datetime | None
    error: str | None
    size: int


@dataclass(frozen=True, slots=True)
class InboxDetail:
    """One message with everything that the table holds of it."""

    entry: InboxEntry
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class InboxCount:
    """How many messages of one endpoint are in one state, and when the oldest came."""

    endpoint: str
    state: InboxState
    count: int
    oldest: datetime


@dataclass(frozen=True, slots=True)
class LeasedMessage:
    """A stored message that is ours to handle until the lease ends."""

    id: int
    token: str
    endpoint: str
    sender_id: str
    attempt: int
    received_at: datetime
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


# --- Handling what waits ----------------------------------------------------------------------------------------------


def waiting(dialect: Dialect, endpoints: Sequence[str]) -> Work[int | None]:
    """µs until the next stored message of these endpoints is due; None if there is none. Reads only."""
    text = (
        f"SELECT min(available_at) - {STATEMENT_NOW[dialect]} FROM ensue_inbox"
        f" WHERE state = 'received' AND endpoint IN ({each(dialect)})"
    )
    rows: list[Any] = yield Run(Statement("ensue_inbox.waiting", text, rows=True), (as_json(endpoints),))
    return rows[0][0]


def lease_due(
    dialect: Dialect, endpoints: Sequence[str], *, token: str, lease: timedelta, limit: int
) -> Work[list[LeasedMessage]]:
    """Lease stored messages that are due, the oldest first; those whose lease ran out are due again."""
    now = STATEMENT_NOW[dialect]
    ours, span, most = marks(dialect, "text", "bigint", "bigint", first=2)
    locked = "" if dialect == "sqlite" else " FOR NO KEY UPDATE SKIP LOCKED"
    text = (
        f"UPDATE ensue_inbox SET lease_token = {ours}, lease_until = {now} + {span},"
        f" available_at = {now} + {span}, attempt = attempt + 1 WHERE state = 'received' AND id IN"
        f" (SELECT id FROM ensue_inbox WHERE state = 'received' AND available_at <= {now} AND endpoint IN"
        f" ({each(dialect)}) ORDER BY available_at, id LIMIT {most}{locked})"
        " RETURNING id, endpoint, sender_id, attempt, received_at, body, headers"
    )
    params = (as_json(endpoints), token, whole_micros(lease), limit)
    rows: list[Any] = yield Run(Statement("ensue_inbox.lease", text, rows=True), params)
    return [
        LeasedMessage(id_, token, endpoint, sender, attempt, from_micros(at), bytes(body), msgspec.json.decode(headers))
        for id_, endpoint, sender, attempt, at, body, headers in sorted(rows)
    ]


def close_leased(dialect: Dialect, message: LeasedMessage) -> Work[bool]:
    """The message is done, in this transaction; False if it is ours no longer."""
    now = STATEMENT_NOW[dialect]
    rows = yield from _settle(dialect, "done", f"state = 'done', handled_at = {now}", message=message)
    return bool(rows)


def release_leased(
    dialect: Dialect, message: LeasedMessage, *, delay: timedelta, error: str | None, failed: bool = False
) -> Work[bool]:
    """Handling did not succeed: again after `delay`, or never by itself if `failed`.

    Without an `error` the attempt is given back.
    """
    now = STATEMENT_NOW[dialect]
    pause, why = marks(dialect, "bigint", "text", first=3)
    state = "failed" if failed else "received"
    change = (
        f"state = '{state}', available_at = {now} + {pause}, error = coalesce({why}, error),"
        f" attempt = attempt - CASE WHEN {why} IS NULL THEN 1 ELSE 0 END" + (f", handled_at = {now}" if failed else "")
    )
    rows = yield from _settle(dialect, "release", change, message=message, more=(whole_micros(delay), error))
    return bool(rows)


def _settle(
    dialect: Dialect, name: str, change: str, *, message: LeasedMessage, more: tuple[Any, ...] = ()
) -> Work[list[Any]]:
    this, ours = marks(dialect, "bigint", "text")
    text = (
        f"UPDATE ensue_inbox SET lease_token = NULL, lease_until = NULL, {change}"
        f" WHERE id = {this} AND state = 'received' AND lease_token = {ours} RETURNING id"
    )
    params = (message.id, message.token, *more)
    return (yield Run(Statement(f"ensue_inbox.{name}", text, rows=True), params))


# --- What an operator sees and does -----------------------------------------------------------------------------------

_ENTRY: Final = "id, endpoint, sender_id, state, attempt, received_at, handled_at, error, length(body)"


async def list_messages(
    driver: Driver,
    *,
    state: str | None = None,
    endpoint: str | None = None,
    before_id: int | None = None,
    limit: int = LIST_LIMIT,
) -> list[InboxEntry]:
    """Newest first, at most `limit`; `before_id` pages on."""
    in_state, at, before, most = marks(driver.dialect, "text", "text", "bigint", "bigint")
    text = (
        f"SELECT {_ENTRY} FROM ensue_inbox WHERE ({in_state} IS NULL OR state = {in_state})"
        f" AND ({at} IS NULL OR endpoint = {at}) AND ({before} IS NULL OR id < {before}) ORDER BY id DESC LIMIT {most}"
    )
    params = (state, endpoint, before_id, limit)
    return [_entry(row) for row in await driver.read(rows_of(Statement("ensue_inbox.list", text, rows=True), params))]


async def count_messages(driver: Driver) -> list[InboxCount]:
    """Per endpoint and state: how many, and the oldest."""
    text = (
        "SELECT endpoint, state, count(*), min(received_at) FROM ensue_inbox GROUP BY endpoint, state"
        " ORDER BY endpoint, state"
    )
    rows = await driver.read(rows_of(Statement("ensue_inbox.count", text, rows=True), ()))
    return [InboxCount(endpoint, state, count, from_micros(oldest)) for endpoint, state, count, oldest in rows]


async def show_message(driver: Driver, id: int) -> InboxDetail:
    """One message. Raises `NotFound`."""
    (mark,) = marks(driver.dialect, "bigint")
    text = f"SELECT {_ENTRY}, body, headers FROM ensue_inbox WHERE id = {mark}"
    rows = await driver.read(rows_of(Statement("ensue_inbox.show", text, rows=True), (id,)))
    if not rows:
        raise NotFound(
            f"There is no message {id} in the inbox. What was done is removed after {MESSAGES_KEPT.days} days; "
            "`ensue inbox list` shows the rest."
        )
    *entry, body, headers = rows[0]
    return InboxDetail(_entry(entry), bytes(body), msgspec.json.decode(headers))


async def message_states(driver: Driver, ids: Sequence[int]) -> dict[int, str]:
    """In which states messages are, by id; those that there are not are left out."""
    return await states_of(driver, "ensue_inbox", ids)


async def replay_messages(driver: Driver, ids: Sequence[int]) -> list[int]:
    """Have messages handled again, from the start, by the processes of the app; answers which.

    A signature is not looked at again: it was right when the message came. One that was done is done a second time.
    """
    now = STATEMENT_NOW[driver.dialect]
    change = f"state = 'received', attempt = 0, available_at = {now}, handled_at = NULL, error = NULL"
    return await _change(driver, "replay", change, states=REPLAYED_FROM, ids=ids)


async def discard_messages(driver: Driver, ids: Sequence[int]) -> list[int]:
    """Give messages up for good; a repeat from the sender changes nothing either. Answers which."""
    now = STATEMENT_NOW[driver.dialect]
    change = f"state = 'discarded', handled_at = {now}, lease_token = NULL, lease_until = NULL"
    return await _change(driver, "discard", change, states=DISCARDED_FROM, ids=ids)


async def prune_inbox(driver: Driver, *, older_than: timedelta = MESSAGES_KEPT) -> int:
    """Remove what was done or discarded longer than `older_than` ago; what failed stays. Answers the number."""
    (mark,) = marks(driver.dialect, "bigint")
    text = (
        f"DELETE FROM ensue_inbox WHERE state IN {in_list(CLOSED)}"
        f" AND handled_at < {STATEMENT_NOW[driver.dialect]} - {mark} RETURNING id"
    )
    statement = Statement("ensue_inbox.prune", text, rows=True)
    return len(await driver.write(rows_of(statement, (whole_micros(older_than),))))


async def _change(
    driver: Driver, name: str, change: str, *, states: tuple[InboxState, ...], ids: Sequence[int]
) -> list[int]:
    return await change_rows(driver, f"ensue_inbox.{name}", "ensue_inbox", change, states=in_list(states), ids=ids)


def _entry(row: Sequence[Any]) -> InboxEntry:
    values = list(row)
    values[5:7] = [None if micros is None else from_micros(micros) for micros in values[5:7]]
    return InboxEntry(*values)
