"""The inbox as its writers know it: a row for each message from outside, unique by endpoint and the sender's own id.

Decides the names of the states, how a sender's id becomes a key, and the statements that claim a message or keep it.
Leaves what a message means to `ensue.engine`, and listing, replaying and forgetting to `ensue.effects`. Invariant: a
message that is done can't be claimed again; whoever claims at the same time waits for the other's commit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Literal

import msgspec

from ensue.store.driver import Dialect
from ensue.store.effect_table import DEFAULT_NOW, in_list
from ensue.store.statement import Row, Run, Shared, Statement, Work

InboxState = Literal["received", "done", "failed", "discarded"]
STATES: Final[tuple[InboxState, ...]] = ("received", "done", "failed", "discarded")
"""`received`: stored, to be handled by whoever is free. `failed`: kept for an operator, or for the sender's retry."""

CLOSED: Final[tuple[InboxState, ...]] = ("done", "discarded")
OPEN: Final[tuple[InboxState, ...]] = ("received", "failed")
SENDER_ID_LENGTH_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it came: which endpoint took it, what its sender calls it, and what it said (never logged)."""

    endpoint: str
    sender_id: str
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


def sender_key(sender_id: str) -> str:
    """The sender's id as both databases can keep and index it; a long or odd one by its digest.

    >>> sender_key("evt_1")
    'evt_1'
    """
    if len(sender_id) <= SENDER_ID_LENGTH_MAX and sender_id.isprintable():
        return sender_id
    return f"sha256:{sha256(sender_id.encode('utf-8', 'surrogatepass')).hexdigest()}"


_MARKS: Final[Mapping[Dialect, str]] = {
    "sqlite": "?1, ?2, ?3, ?4",
    "postgresql": "$1::text, $2::text, $3::bytea, $4::text",
}
_CLAIMED: Final = (
    "INSERT INTO ensue_inbox AS i (endpoint, sender_id, body, headers, state, attempt, received_at, available_at,"
    " handled_at) {values} ON CONFLICT (endpoint, sender_id) DO UPDATE SET state = 'done',"
    " attempt = i.attempt + 1, handled_at = {now}, lease_token = NULL, lease_until = NULL"
    f" WHERE i.state IN {in_list(OPEN)} RETURNING "
)
_CLAIM: Final = _CLAIMED.replace("{values}", "VALUES ({marks}, 'done', 1, {now}, {now}, {now})") + "id"
# What waits to be handled, or was given up by an operator, is left alone: the sender's repeat changes nothing.
_FAIL: Final = (
    "INSERT INTO ensue_inbox AS i (endpoint, sender_id, body, headers, state, attempt, received_at, available_at,"
    " handled_at, error) VALUES ({marks}, 'failed', 1, {now}, {now}, {now}, {error})"
    " ON CONFLICT (endpoint, sender_id) DO UPDATE SET"
    " attempt = i.attempt + 1, handled_at = {now}, error = excluded.error WHERE i.state = 'failed' RETURNING attempt"
)
_STORE: Final = (
    "INSERT INTO ensue_inbox (endpoint, sender_id, body, headers, state, received_at, available_at)"
    " VALUES ({marks}, 'received', {now}, {now})"
    " ON CONFLICT (endpoint, sender_id) DO NOTHING RETURNING id"
)
_STATE: Final = "SELECT state FROM ensue_inbox WHERE endpoint = {endpoint} AND sender_id = {sender_id}"


_CLAIM_MANY: Final = Statement(
    "ensue_inbox.claim_many",
    _CLAIMED.format(
        values="SELECT g.e, g.s, g.b, g.h, 'done', 1, {now}, {now}, {now} FROM unnest($1::text[], $2::text[],"
        " $3::bytea[], $4::text[]) AS g(e, s, b, h) ORDER BY g.e, g.s".replace("{now}", DEFAULT_NOW["postgresql"]),
        now=DEFAULT_NOW["postgresql"],
    )
    + "i.endpoint, i.sender_id",
    rows=True,
)


def _claimed(runs: Sequence[Run], rows: Sequence[Row]) -> Sequence[list[Row]]:
    ours = set(rows)
    return [[(True,)] if tuple(run.params[:2]) in ours else [] for run in runs]


_CLAIM_SHARED: Final = Shared(
    "write",
    "ensue_inbox",
    exclusive=True,
    # A message is its member's until that is done: who comes with it again finds it done.
    ids=lambda run: (tuple(run.params[:2]),),
    many=_CLAIM_MANY,
    join=lambda runs: list(zip(*[run.params for run in runs], strict=True)),
    split=_claimed,
)


def _both(name: str, template: str, shared: Shared | None = None) -> dict[Dialect, Statement]:
    fifth: Mapping[Dialect, str] = {"sqlite": "?5", "postgresql": "$5::text"}
    found: dict[Dialect, Statement] = {}
    for dialect, marks in _MARKS.items():
        endpoint, sender_id, *_ = marks.split(", ")
        names = {"marks": marks, "now": DEFAULT_NOW[dialect], "error": fifth[dialect]}
        text = template.format(endpoint=endpoint, sender_id=sender_id, **names)
        found[dialect] = Statement(
            f"ensue_inbox.{name}", text, rows=True, shared=shared if dialect == "postgresql" else None
        )
    return found


CLAIM = _both("claim", _CLAIM, _CLAIM_SHARED)
FAIL, STORE, STATE = (_both(name, text) for name, text in (("fail", _FAIL), ("store", _STORE), ("state", _STATE)))


def claim_message(dialect: Dialect, message: StoredMessage) -> Work[bool]:
    """Keep `message` as done; False if it was done, or discarded, before. Run it in the transaction that handles it.

    Who claims the same message at the same time waits until this transaction has ended.
    """
    rows: list[Any] = yield Run(CLAIM[dialect], _params(message))
    return bool(rows)


def keep_failed(dialect: Dialect, message: StoredMessage, error: str) -> Work[int | None]:
    """Keep `message` as failed, for replay or for the sender's next try; how often it failed.

    None if it is in the inbox in another state.
    """
    rows: list[Any] = yield Run(FAIL[dialect], (*_params(message), error))
    return rows[0][0] if rows else None


def store_message(dialect: Dialect, message: StoredMessage) -> Work[bool]:
    """Keep `message` as received, to be handled later; False if it is known."""
    rows: list[Any] = yield Run(STORE[dialect], _params(message))
    return bool(rows)


def message_state(dialect: Dialect, message: StoredMessage) -> Work[InboxState | None]:
    """The state that `message` is in; None if it was never kept."""
    rows: list[Any] = yield Run(STATE[dialect], (message.endpoint, sender_key(message.sender_id)))
    return rows[0][0] if rows else None


def _params(message: StoredMessage) -> tuple[str, str, bytes, str]:
    headers = msgspec.json.encode(dict(message.headers)).decode()
    return message.endpoint, sender_key(message.sender_id), message.body, headers
