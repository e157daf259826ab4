"""The tables that ensue keeps for itself, next to the application's, in one SQLAlchemy metadata.

Decides their columns, checks and indexes on both databases. Leaves what is written in them to the engine (effects,
positions, idempotency, the inbox, id blocks, the schema's fingerprint) and to `ensue.effects` (delivery). Invariant: instants
are microseconds since 1970 by the database's clock, in defaults of the columns, so that no process's clock is ever
compared with another's. Imported only where a plan is compiled: `import ensue` stays free of SQLAlchemy.
"""

from dataclasses import dataclass
from typing import Any, Final, cast

from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement

from ensue.store.effect_table import (
    CALLED,
    CLAIMABLE,
    DEFAULT_NOW,
    GIVEN_UP,
    HELD,
    SETTLED,
    TRANSACTION_NUMBER,
    WAITING,
    in_list,
)
from ensue.store.inbox_table import CLOSED, STATES
from ensue.store.task_table import PHASES

_BIGINT: Final = BigInteger().with_variant(Integer(), "sqlite")
_DOUBLE: Any = cast("Any", Double)().with_variant(REAL(), "sqlite")
_TEXT: Final = Text().with_variant(Text(collation="C"), "postgresql")

ANONYMOUS: Final = 0
"""`ensue_idempotency.user_id` when nobody is signed in: two nulls would be different users to a unique constraint."""


class DatabaseNow(ColumnElement[int]):
    """Microseconds since 1970 by the database's clock, in the words of the dialect that compiles it."""

    inherit_cache = True
    type = BigInteger()


@compiles(DatabaseNow, "sqlite")
def _now_on_sqlite(_element: DatabaseNow, _compiler: Any, **_options: Any) -> str:
    return DEFAULT_NOW["sqlite"]


@compiles(DatabaseNow, "postgresql")
def _now_on_postgresql(_element: DatabaseNow, _compiler: Any, **_options: Any) -> str:
    return DEFAULT_NOW["postgresql"]


class TransactionNumber(ColumnElement[int]):
    """What tells younger rows from older ones, in the words of the dialect that compiles it."""

    inherit_cache = True
    type = BigInteger()


@compiles(TransactionNumber, "sqlite")
def _number_on_sqlite(_element: TransactionNumber, _compiler: Any, **_options: Any) -> str:
    return TRANSACTION_NUMBER["sqlite"]


@compiles(TransactionNumber, "postgresql")
def _number_on_postgresql(_element: TransactionNumber, _compiler: Any, **_options: Any) -> str:
    return f"({TRANSACTION_NUMBER['postgresql']})"


@dataclass(frozen=True, slots=True)
class SystemTables:
    """The tables, as SQLAlchemy knows them."""

    effect: Table
    effect_order: Table
    effect_target: Table
    effect_attempt: Table
    idempotency: Table
    id_block: Table
    meta: Table
    inbox: Table
    task_poll: Table


def define_system_tables(metadata: MetaData) -> SystemTables:
    """Add ensue's own tables to `metadata` and return them; `metadata.create_all` or the plan's DDL then makes them."""
    return SystemTables(
        effect=_effect(metadata),
        effect_order=_effect_order(metadata),
        effect_target=_effect_target(metadata),
        effect_attempt=_effect_attempt(metadata),
        idempotency=_idempotency(metadata),
        id_block=_id_block(metadata),
        meta=_meta(metadata),
        inbox=_inbox(metadata),
        task_poll=_task_poll(metadata),
    )


def _effect(metadata: MetaData) -> Table:
    states = in_list(("claimed", *WAITING, *SETTLED, *HELD))
    table = Table(
        "ensue_effect",
        metadata,
        Column("id", _BIGINT, Identity(always=False), primary_key=True),
        Column("name", _TEXT, nullable=False),
        Column("key", _TEXT, nullable=False, unique=True),
        Column("record", _TEXT, nullable=False),
        Column("record_id", _BIGINT, nullable=False),
        Column("payload", _TEXT, nullable=False),
        Column("state", _TEXT, nullable=False, server_default=text("'pending'")),
        Column("attempt", _BIGINT, nullable=False, server_default=text("0")),
        Column("enqueued_at", _BIGINT, nullable=False, server_default=DatabaseNow()),
        Column("available_at", _BIGINT, nullable=False, server_default=DatabaseNow()),
        Column("lease_until", _BIGINT),
        Column("settled_at", _BIGINT),
        Column("lease_token", _TEXT),
        Column("worker", _TEXT),
        Column("order_key", _TEXT),
        Column("position", _BIGINT),
        Column("error_class", _TEXT),
        Column("error", _TEXT),
        Column("trace", _TEXT),
        Column("cause", _TEXT),
        Column("cause_id", _BIGINT),
        Column("target", _TEXT, nullable=False, server_default=text("''")),
        Column("priority", _BIGINT, nullable=False, server_default=text("0")),
        Column("due_at", _BIGINT),
        Column("claimed_at", _BIGINT),
        Column("first_sent_at", _BIGINT),
        Column("failures", _BIGINT, nullable=False, server_default=text("0")),
        Column("doubt", _BIGINT, nullable=False, server_default=text("0")),
        Column("provider_id", _TEXT),
        Column("note", _TEXT),
        Column("since_transaction", _BIGINT, nullable=False, server_default=TransactionNumber()),
        CheckConstraint(f"state IN {states}", name="ensue_effect_state"),
        CheckConstraint("(order_key IS NULL) = (position IS NULL)", name="ensue_effect_ordered"),
        CheckConstraint("(state = 'claimed') = (lease_token IS NOT NULL)", name="ensue_effect_leased"),
        sqlite_strict=True,
    )
    claimable = f"state IN {in_list(CLAIMABLE)}"
    # `since_transaction` comes last: what is too old by it is passed over in the index.
    since = "since_transaction"
    plain, keyed = f"{claimable} AND order_key IS NULL", f"{claimable} AND order_key IS NOT NULL"
    _partial_index(table, "ensue_effect_plain", ("name", "available_at", "id", since), plain)
    _partial_index(table, "ensue_effect_keyed", ("name", "available_at", since), keyed)
    _partial_index(table, "ensue_effect_parked", ("name",), "state = 'parked'")
    _partial_index(table, "ensue_effect_lease", ("name", "lease_until", since), "state = 'claimed'")
    _partial_index(table, "ensue_effect_claimed", ("target",), CALLED)
    _partial_index(table, "ensue_effect_unsettled", ("name", since), f"state NOT IN {in_list(SETTLED)}")
    unsettled = f"order_key IS NOT NULL AND state NOT IN {in_list(SETTLED)}"
    _partial_index(table, "ensue_effect_head", ("order_key", "position", since), unsettled)
    given_up = f"order_key IS NOT NULL AND state IN {in_list(GIVEN_UP)}"
    _partial_index(table, "ensue_effect_given_up", ("order_key",), given_up)
    _partial_index(table, "ensue_effect_settled", ("state", "settled_at"), f"state IN {in_list(SETTLED)}")
    return table


def _effect_target(metadata: MetaData) -> Table:
    return Table(
        "ensue_effect_target",
        metadata,
        Column("target", _TEXT, primary_key=True),
        Column("version", _BIGINT, nullable=False, server_default=text("0")),
        Column("paused", _BIGINT, nullable=False, server_default=text("0")),
        Column("reason", _TEXT),
        Column("held_until", _BIGINT, nullable=False, server_default=text("0")),
        Column("breaker_state", _TEXT, nullable=False, server_default=text("'closed'")),
        Column("open_until", _BIGINT, nullable=False, server_default=text("0")),
        Column("open_seconds", _DOUBLE, nullable=False, server_default=text("0")),
        Column("probe_token", _TEXT),
        Column("probe_until", _BIGINT, nullable=False, server_default=text("0")),
        Column("tokens", _DOUBLE),
        Column("refilled_at", _BIGINT, nullable=False, server_default=text("0")),
        CheckConstraint("breaker_state IN ('closed', 'open', 'half_open')", name="ensue_effect_target_breaker"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )


def _effect_attempt(metadata: MetaData) -> Table:
    return Table(
        "ensue_effect_attempt",
        metadata,
        Column("id", _BIGINT, Identity(always=False), primary_key=True),
        Column("effect_id", _BIGINT, nullable=False),
        Column("attempt", _BIGINT, nullable=False),
        Column("worker", _TEXT),
        Column("started_at", _BIGINT),
        Column("ended_at", _BIGINT, nullable=False, server_default=DatabaseNow()),
        Column("outcome", _TEXT, nullable=False),
        Column("error_class", _TEXT),
        Column("error", _TEXT),
        Column("provider_id", _TEXT),
        Index("ensue_effect_attempt_of", "effect_id", "id"),
        sqlite_strict=True,
    )


def _partial_index(table: Table, name: str, columns: tuple[str, ...], where: str) -> None:
    condition = text(where)
    Index(name, *(table.c[column] for column in columns), sqlite_where=condition, postgresql_where=condition)


def _effect_order(metadata: MetaData) -> Table:
    return Table(
        "ensue_effect_order",
        metadata,
        Column("order_key", _TEXT, primary_key=True),
        Column("last_position", _BIGINT, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )


def _idempotency(metadata: MetaData) -> Table:
    return Table(
        "ensue_idempotency",
        metadata,
        Column("id", _BIGINT, Identity(always=False), primary_key=True),
        Column("interaction", _TEXT, nullable=False),
        Column("user_id", _BIGINT, nullable=False, server_default=text(str(ANONYMOUS))),
        Column("key", _TEXT, nullable=False),
        Column("payload_hash", _TEXT, nullable=False),
        Column("event_id", _BIGINT),
        Column("response", _TEXT),
        Column("created_at", _BIGINT, nullable=False, server_default=DatabaseNow()),
        UniqueConstraint("interaction", "user_id", "key", name="ensue_idempotency_once"),
        Index("ensue_idempotency_age", "created_at"),
        sqlite_strict=True,
    )


def _inbox(metadata: MetaData) -> Table:
    table = Table(
        "ensue_inbox",
        metadata,
        Column("id", _BIGINT, Identity(always=False), primary_key=True),
        Column("endpoint", _TEXT, nullable=False),
        Column("sender_id", _TEXT, nullable=False),
        Column("state", _TEXT, nullable=False),
        Column("attempt", _BIGINT, nullable=False, server_default=text("0")),
        Column("received_at", _BIGINT, nullable=False, server_default=DatabaseNow()),
        Column("available_at", _BIGINT, nullable=False, server_default=DatabaseNow()),
        Column("handled_at", _BIGINT),
        Column("lease_until", _BIGINT),
        Column("lease_token", _TEXT),
        Column("body", LargeBinary(), nullable=False),
        Column("headers", _TEXT, nullable=False),
        Column("error", _TEXT),
        UniqueConstraint("endpoint", "sender_id", name="ensue_inbox_once"),
        CheckConstraint(f"state IN {in_list(STATES)}", name="ensue_inbox_state"),
        sqlite_strict=True,
    )
    _partial_index(table, "ensue_inbox_due", ("available_at", "id"), "state = 'received'")
    _partial_index(table, "ensue_inbox_failed", ("id",), "state = 'failed'")
    _partial_index(table, "ensue_inbox_closed", ("handled_at",), f"state IN {in_list(CLOSED)}")
    return table


def _task_poll(metadata: MetaData) -> Table:
    table = Table(
        "ensue_task_poll",
        metadata,
        Column("task_type", _TEXT, primary_key=True),
        Column("task_id", _BIGINT, primary_key=True, autoincrement=False),
        Column("integration", _TEXT, nullable=False),
        Column("phase", _TEXT, nullable=False),
        Column("key", _TEXT, nullable=False),
        Column("past_keys", _TEXT, nullable=False, server_default=text("'[]'")),
        Column("external_id", _TEXT),
        Column("submits", _BIGINT, nullable=False, server_default=text("0")),
        Column("polls", _BIGINT, nullable=False, server_default=text("0")),
        Column("failures", _BIGINT, nullable=False, server_default=text("0")),
        Column("sent_at", _BIGINT),
        Column("deadline_at", _BIGINT, nullable=False),
        Column("next_at", _BIGINT),
        Column("settled_at", _BIGINT),
        Column("lease_token", _TEXT),
        Column("lease_until", _BIGINT),
        Column("worker", _TEXT),
        Column("error", _TEXT),
        CheckConstraint(f"phase IN {in_list(PHASES)}", name="ensue_task_poll_phase"),
        CheckConstraint("(phase = 'settled') = (next_at IS NULL)", name="ensue_task_poll_scheduled"),
        Index("ensue_task_poll_external", "integration", "external_id"),
        Index("ensue_task_poll_key", "integration", "key"),
        sqlite_strict=True,
    )
    _partial_index(table, "ensue_task_poll_due", ("integration", "next_at"), "next_at IS NOT NULL")
    _partial_index(table, "ensue_task_poll_settled", ("settled_at",), "settled_at IS NOT NULL")
    return table


def _id_block(metadata: MetaData) -> Table:
    return Table(
        "ensue_id_block",
        metadata,
        Column("table_name", _TEXT, primary_key=True),
        Column("next", _BIGINT, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )


def _meta(metadata: MetaData) -> Table:
    return Table(
        "ensue_meta",
        metadata,
        Column("key", _TEXT, primary_key=True),
        Column("value", _TEXT, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
