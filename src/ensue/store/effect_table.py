"""The effect table as both its writers know it: who enqueues (the engine) and who delivers meet here and nowhere else.

Decides the names of the states, the database's clock in SQL, and the two statements of the causing transaction: the
positions of ordered effects and the insert of all of them. Leaves claiming and settling to `ensue.effects`.
Invariants: the text of a statement is constant for any number of rows, all rows travel as one JSON parameter, and
every instant is the database's.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from ensue.errors import Rejected
from ensue.store.driver import Dialect
from ensue.store.statement import Statement

EffectState = Literal["pending", "claimed", "retry_wait", "done", "dead", "cancelled"]
WAITING: Final[tuple[EffectState, ...]] = ("pending", "retry_wait")
SETTLED: Final[tuple[EffectState, ...]] = ("done", "dead", "cancelled")
RESERVED: Final[tuple[str, ...]] = ("parked", "unknown")
"""States that the design names and nothing enters yet.

The table's check admits them so that no migration is due later.
"""

PAYLOAD_VERSION: Final = 1
"""The value of the field `v` in a payload."""
PAYLOAD_BYTES_MAX: Final = 1024 * 1024
NOTIFY_CHANNEL: Final = "ensue"


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

_ENQUEUE: Final[Mapping[Dialect, Statement]] = {
    "sqlite": Statement(
        "effect.enqueue",
        "INSERT INTO ensue_effect (name, key, record, record_id, payload, order_key, position, trace)"
        " SELECT value ->> 'name', value ->> 'key', value ->> 'record', value ->> 'record_id', value ->> 'payload',"
        " value ->> 'order_key', value ->> 'position', value ->> 'trace' FROM json_each(?1)",
    ),
    "postgresql": Statement(
        "effect.enqueue",
        "INSERT INTO ensue_effect (name, key, record, record_id, payload, order_key, position, trace)"
        " SELECT name, key, record, record_id, payload, order_key, position, trace"
        " FROM json_to_recordset($1::text::json) AS r(name text, key text, record text, record_id bigint, payload text,"
        " order_key text, position bigint, trace text)",
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


class NewEffect(msgspec.Struct, frozen=True, kw_only=True):
    """One effect to enqueue; also one row of the JSON parameter.

    `name` is the qualified side effect (`"channels.publish"`), `record` and `record_id` what it is about, `payload` a
    JSON object with `"v": PAYLOAD_VERSION`. With `order_by=`, `order_key` and `position` come from `allot_statement`.
    """

    name: str
    key: str
    record: str
    record_id: int
    payload: str
    order_key: str | None = None
    position: int | None = None
    trace: str | None = None


def effect_key(name: str, record: str, record_id: int, transition: str) -> str:
    """The stable idempotency key of an effect: equal on every attempt, different for every transition.

    `transition` names the change within the history of the record, for example the kind of change and a token of the
    transaction: `effect_key("channels.publish", "Message", 42, "create-9f3c") ==
    "channels.publish:Message:42:create-9f3c"`.
    """
    return f"{name}:{record}:{record_id}:{transition}"


def order_key_of(name: str, key: object) -> str:
    """The value of `order_key` for one side effect and one value of its `order_by=`.

    Different effects never share one.
    """
    return f"{name}|{key}"


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


def notify_statement(dialect: Dialect) -> Statement | None:
    """What tells other processes of a commit, one text parameter; None where the driver notices by itself (SQLite)."""
    return _NOTIFY if dialect == "postgresql" else None
