"""The effect table as both its writers know it: who enqueues (the engine) and who delivers meet here and nowhere else.

Decides the names of the states, the database's clock in SQL, and the statements of the causing transaction: the
positions of ordered effects, the insert of all of them, and the end of those that a newer one supersedes. Leaves claiming
and settling to `ensue.effects`.
Invariants: the text of a statement is constant for any number of rows, all rows travel as one JSON parameter, and
every instant is the database's.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from ensue.errors import Rejected
from ensue.store.driver import Dialect
from ensue.store.statement import Statement

EffectState = Literal["pending", "claimed", "retry_wait", "parked", "unknown", "done", "dead", "cancelled"]
WAITING: Final[tuple[EffectState, ...]] = ("pending", "retry_wait")
HELD: Final[tuple[EffectState, ...]] = ("parked", "unknown")
"""Those that wait for something else than their time: the target, an answer, or an operator."""
CLAIMABLE: Final[tuple[EffectState, ...]] = (*WAITING, *HELD)
SETTLED: Final[tuple[EffectState, ...]] = ("done", "dead", "cancelled")
GIVEN_UP: Final[tuple[EffectState, ...]] = ("dead", "cancelled")
"""Those of the settled that an operator may start anew."""

SUPERSEDED: Final = "superseded"
"""The `error_class` of an effect that was cancelled because a newer one of its key came (`coalesce=True`)."""

NEVER: Final = 253_402_300_799_000_000
"""The `available_at` of what only an operator can set going: the end of the year 9999."""

PAYLOAD_VERSION: Final = 1
"""The value of the field `v` in a payload."""
PAYLOAD_BYTES_MAX: Final = 1024 * 1024
ORDER_KEY_BYTES_MAX: Final = 1000
NOTIFY_CHANNEL: Final = "ensue"


CALLED: Final = "coalesce(state, '') = 'claimed'"
"""The condition of the index that tells how many calls to a target are being made; see `in_list`."""


def in_list(states: Iterable[str]) -> str:
    """`('pending', 'retry_wait')`.

    Partial indexes are used only by queries that repeat their condition word for word.
    """
    return "(" + ", ".join(f"'{state}'" for state in states) + ")"


DEFAULT_NOW: Final[Mapping[Dialect, str]] = {
    "sqlite": "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
    "postgresql": "(extract(epoch from clock_timestamp()) * 1000000)::bigint",
}
"""Microseconds since 1970 by the database's clock, for column defaults.

The instant of the insert, not of its transaction.
"""

STATEMENT_NOW: Final[Mapping[Dialect, str]] = {
    "sqlite": DEFAULT_NOW["sqlite"],
    # clock_timestamp() is volatile: a comparison with it can't be an index condition and is made once per row.
    "postgresql": "(extract(epoch from statement_timestamp()) * 1000000)::bigint",
}
"""The same for queries: one instant per statement."""

TRANSACTION_NUMBER: Final[Mapping[Dialect, str]] = {
    "sqlite": "0",
    "postgresql": "pg_current_xact_id()::text::bigint",
}
"""The value of `since_transaction` of an effect that begins to wait, whatever it did before.

PostgreSQL keeps what was settled in its indexes for as long as any snapshot is older; by this number it is passed over there,
without a look at its row. SQLite has no such remains.
"""

_PLAIN_COLUMNS: Final = "name, key, record, record_id, payload, order_key, position, trace, cause, cause_id"
_NEW_COLUMNS: Final = f"{_PLAIN_COLUMNS}, target, priority, enqueued_at, due_at, available_at"
_ENQUEUE: Final[Mapping[Dialect, Statement]] = {
    "sqlite": Statement(
        "effect.enqueue",
        f"INSERT INTO ensue_effect ({_NEW_COLUMNS}) SELECT "
        + ", ".join(f"value ->> '{name}'" for name in _PLAIN_COLUMNS.split(", "))
        + f", coalesce(value ->> 'target', value ->> 'name'), coalesce(value ->> 'priority', 0), {DEFAULT_NOW['sqlite']},"
        f" coalesce(max(value ->> 'due_at', {DEFAULT_NOW['sqlite']}), {DEFAULT_NOW['sqlite']} + (value ->> 'delay')),"
        f" coalesce(value ->> 'due_at', {DEFAULT_NOW['sqlite']} + coalesce(value ->> 'delay', 0)) FROM json_each(?1)",
    ),
    "postgresql": Statement(
        "effect.enqueue",
        f"INSERT INTO ensue_effect ({_NEW_COLUMNS}) SELECT {_PLAIN_COLUMNS},"
        f" coalesce(target, name), coalesce(priority, 0), {DEFAULT_NOW['postgresql']},"
        f" CASE WHEN due_at IS NULL THEN {DEFAULT_NOW['postgresql']} + delay"
        f" ELSE greatest(due_at, {DEFAULT_NOW['postgresql']}) END,"
        f" coalesce(due_at, {DEFAULT_NOW['postgresql']} + coalesce(delay, 0))"
        " FROM json_to_recordset($1::text::json) AS r(name text, key text, record text, record_id bigint, payload text,"
        " order_key text, position bigint, trace text, cause text, cause_id bigint, target text, priority bigint,"
        " due_at bigint, delay bigint)",
    ),
}

# Not `unknown` ones: whether they arrived must be found out first.
_SUPERSEDED: Final = (
    f"e.state IN {in_list((*WAITING, 'parked'))} AND e.order_key IS NOT NULL AND e.state NOT IN {in_list(SETTLED)}"
)

# The newest takes the place in line of those it supersedes: with its own delay each time, a steady stream would end in no call.
_INHERITED: Final = (
    "available_at = o.at, due_at = CASE WHEN e.due_at IS NOT NULL THEN {greatest}(o.at, e.enqueued_at) END"
)
_INHERITS: Final = (
    "e.order_key = o.order_key AND e.position = o.newest AND e.available_at > o.at"
    f" AND e.order_key IS NOT NULL AND e.state NOT IN {in_list(SETTLED)}"
)

_SUPERSEDE: Final[Mapping[Dialect, tuple[Statement, ...]]] = {
    "sqlite": (
        Statement(
            "effect.inherit",
            f"UPDATE ensue_effect AS e SET {_INHERITED.format(greatest='max')} FROM (SELECT k.key AS order_key,"
            " k.value AS newest, min(e.available_at) AS at FROM json_each(?1) k JOIN ensue_effect e"
            f" ON e.order_key = k.key AND e.position < k.value AND {_SUPERSEDED} GROUP BY k.key, k.value) AS o"
            f" WHERE {_INHERITS}",
        ),
        Statement(
            "effect.supersede",
            f"UPDATE ensue_effect AS e SET state = 'cancelled', error_class = '{SUPERSEDED}',"
            f" settled_at = {STATEMENT_NOW['sqlite']} FROM (SELECT key, value FROM json_each(?1)) AS k"
            f" WHERE e.order_key = k.key AND e.position < k.value AND {_SUPERSEDED}",
        ),
    ),
    "postgresql": (
        Statement(
            "effect.supersede",
            "WITH older AS MATERIALIZED (SELECT e.id, e.order_key, k.value::bigint AS newest, e.available_at"
            " FROM json_each_text($1::text::json) k JOIN ensue_effect e"
            f" ON e.order_key = k.key AND e.position < k.value::bigint AND {_SUPERSEDED} ORDER BY e.id FOR NO KEY UPDATE OF e),"
            f" gone AS (UPDATE ensue_effect e SET state = 'cancelled', error_class = '{SUPERSEDED}',"
            f" settled_at = {STATEMENT_NOW['postgresql']} FROM older WHERE e.id = older.id AND {_SUPERSEDED})"
            f" UPDATE ensue_effect e SET {_INHERITED.format(greatest='greatest')} FROM (SELECT order_key, newest,"
            f" min(available_at) AS at FROM older GROUP BY order_key, newest) o WHERE {_INHERITS}",
        ),
    ),
}

_ALLOT: Final[Mapping[Dialect, Statement]] = {
    "sqlite": Statement(
        "effect.allot_positions",
        "INSERT INTO ensue_effect_order (order_key, last_position)"
        " SELECT key, value FROM json_each(?1) WHERE true"
        " ON CONFLICT (order_key) DO UPDATE SET last_position = last_position + excluded.last_position"
        " RETURNING order_key, last_position",
        rows=True,
    ),
    # Sorted, so that two transactions with several keys in common can't wait for each other in a circle.
    "postgresql": Statement(
        "effect.allot_positions",
        "INSERT INTO ensue_effect_order AS o (order_key, last_position)"
        ' SELECT key, value::bigint FROM json_each_text($1::text::json) ORDER BY key COLLATE "C"'
        " ON CONFLICT (order_key) DO UPDATE SET last_position = o.last_position + excluded.last_position"
        " RETURNING order_key, last_position",
        rows=True,
    ),
}

_NOTIFY: Final = Statement("effect.notify", f"SELECT pg_notify('{NOTIFY_CHANNEL}', $1::text)", rows=True)


class NewEffect(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One effect to enqueue; also one row of the JSON parameter.

    `name` is the qualified side effect (`"channels.publish"`), `record` and `record_id` what it is about, `payload` a
    JSON object with `"v": PAYLOAD_VERSION`. With `order_by=`, `order_key` and `position` come from `allot_statement`.
    `target` is by default the name. It is due `delay` µs after now, or at the instant `due_at` (µs since 1970), and its age
    counts from then, from now if that is past. `cause`
    and `cause_id` name the event of the dispatch that caused it, `trace` the trace that it belongs to.
    """

    name: str
    key: str
    record: str
    record_id: int
    payload: str
    order_key: str | None = None
    position: int | None = None
    trace: str | None = None
    target: str | None = None
    priority: int = 0
    delay: int | None = None
    due_at: int | None = None
    cause: str | None = None
    cause_id: int | None = None


def effect_key(name: str, record: str, record_id: int, transition: str) -> str:
    """The stable idempotency key of an effect: equal on every attempt, different for every transition.

    `transition` names the change within the history of the record, for example the kind of change and a token of the
    transaction: `effect_key("channels.publish", "Message", 42, "create-9f3c") ==
    "channels.publish:Message:42:create-9f3c"`.
    """
    return f"{name}:{record}:{record_id}:{transition}"


def order_key_of(name: str, key: object) -> str:
    """The value of `order_key` for one side effect and one value of its `order_by=`.

    Different effects never share one. A long value is told by its digest: no index holds any length.
    """
    text = f"{name}|{key}"
    if len(text.encode()) <= ORDER_KEY_BYTES_MAX:
        return text
    return f"{name}|{hashlib.sha256(text.encode()).hexdigest()}"


def enqueue_statement(dialect: Dialect) -> Statement:
    """The insert of any number of effects; its parameters come from `enqueue_params`.

    Run it in the causing transaction.
    """
    return _ENQUEUE[dialect]


def enqueue_params(effects: Iterable[NewEffect]) -> tuple[str]:
    """The parameters of `enqueue_statement`. Raises `Rejected("effect_too_large")` when a payload is over 1 MiB."""
    rows = list(effects)
    for row in rows:
        if len(row.payload) > PAYLOAD_BYTES_MAX // 4 and len(row.payload.encode()) > PAYLOAD_BYTES_MAX:
            raise Rejected(
                "effect_too_large",
                f"The side effect {row.name} for {row.record} {row.record_id} carries"
                f" {len(row.payload.encode())} bytes; at most {PAYLOAD_BYTES_MAX} are allowed."
                " Store large values elsewhere and let the effect read them by reference.",
            )
    return (msgspec.json.encode(rows).decode(),)


def allot_statement(dialect: Dialect) -> Statement:
    """One upsert for all order keys of a transaction; answers `(order_key, last position now taken)` per key.

    Run it once, after everything else but the insert: the locks that it takes are held to the commit, so that
    positions are commit order and free of gaps. With `n` effects of a key, theirs are `last - n + 1 … last`.
    """
    return _ALLOT[dialect]


def allot_params(counts: Mapping[str, int]) -> tuple[str]:
    """The parameters of `allot_statement`: how many positions each order key needs."""
    return (msgspec.json.encode(dict(sorted(counts.items()))).decode(),)


def supersede_statements(dialect: Dialect) -> tuple[Statement, ...]:
    """The end of the waiting effects of order keys that came before a position, which is due when the first of them was.

    All of them get the parameters that `supersede_params` gives. Run them after the insert: positions were allotted under a
    lock that is held to the commit.
    """
    return _SUPERSEDE[dialect]


def supersede_params(newest: Mapping[str, int]) -> tuple[str]:
    """The parameters of `supersede_statements`: the position of the newest effect of each order key."""
    return (msgspec.json.encode(dict(sorted(newest.items()))).decode(),)


def notify_statement(dialect: Dialect) -> Statement | None:
    """What tells other processes of a commit, one text parameter; None where the driver notices by itself (SQLite)."""
    return _NOTIFY if dialect == "postgresql" else None
