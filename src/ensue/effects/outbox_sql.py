"""The statements of delivery, spelled out for each database; the one place of the effects that knows dialects.

Decides locking and index use. Leaves their order and meaning to `outbox`. Invariants: rows travel as one JSON
parameter, so a text is constant; on PostgreSQL, several rows are locked either in order of id or with SKIP LOCKED, so
that no two workers deadlock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ensue.effects.states import SETTLED, WAITING, target_of
from ensue.store.driver import Dialect
from ensue.store.effect_table import STATEMENT_NOW, in_list
from ensue.store.statement import Statement


@dataclass(frozen=True, slots=True)
class OutboxStatements:
    """All of them return rows.

    `due` (names) · `claim` (SQLite: name, free, token, lease µs, worker; PostgreSQL: wants, token, lease µs, worker) ·
    `settle` (outcomes) · `beat` (leases, lease µs) · `release` (tokens) · `rescue` (served names, live tokens).
    """

    due: Statement
    claim: Statement
    settle: Statement
    beat: Statement
    release: Statement
    rescue: Statement


_CLAIMED: Final = (
    "e.id, e.name, e.key, e.record, e.record_id, e.payload, e.attempt, e.order_key, e.position, e.trace, e.enqueued_at"
)
_SQLITE_CLAIMED: Final = _CLAIMED.replace("e.", "")
_WAITING: Final = f"e.state IN {in_list(WAITING)}"
_LEASED: Final = f"e.state = '{target_of('claim')}'"
# The head of a key is its lowest unsettled position. The condition repeats that of the partial index, which serves it.
_HEAD: Final = (
    "(e.order_key IS NULL OR NOT EXISTS (SELECT 1 FROM ensue_effect h WHERE h.order_key = e.order_key"
    f" AND h.order_key IS NOT NULL AND h.state NOT IN {in_list(SETTLED)} AND h.position < e.position))"
)


def _settled_as(now: str) -> str:
    return (
        "state = s.state, attempt = s.attempt, lease_token = NULL, lease_until = NULL,"
        f" available_at = CASE WHEN s.state IN {in_list(WAITING)} THEN {now} + s.delay ELSE e.available_at END,"
        f" settled_at = CASE WHEN s.state IN {in_list(SETTLED)} THEN {now} END,"
        " error_class = coalesce(s.error_class, e.error_class), error = coalesce(s.error, e.error)"
    )


def _rescued_as(now: str) -> str:
    too_old = f"e.enqueued_at + s.max_age <= {now}"
    return (
        f"state = CASE WHEN {too_old} THEN '{target_of('expire')}' ELSE '{target_of('rescue')}' END,"
        f" settled_at = CASE WHEN {too_old} THEN {now} END, available_at = {now}, lease_token = NULL, lease_until"
        " = NULL,"
        " error_class = 'lost', error = 'the lease of worker ' || coalesce(e.worker, '?') || ' ran out'"
    )


def _released_as(now: str) -> str:
    return f"state = '{target_of('release')}', lease_token = NULL, lease_until = NULL, available_at = {now}"


def _due(now: str, name: str, names: str) -> Statement:
    """Per name: µs until something can be claimed, and until a lease ends; one index entry each."""
    first = f"SELECT e.{{}} FROM ensue_effect e WHERE e.name = {name} AND {{}} ORDER BY e.{{}} LIMIT 1"
    waiting = first.format("available_at", _WAITING, "available_at")
    leased = first.format("lease_until", _LEASED, "lease_until")
    return _read("due", f"SELECT {name}, ({waiting}) - {now}, ({leased}) - {now} FROM {names}")


def _sqlite() -> OutboxStatements:
    now = STATEMENT_NOW["sqlite"]
    held = f"e.id = s.id AND {_LEASED} AND e.lease_token = s.token"
    return OutboxStatements(
        due=_due(now, "w.value", "json_each(?1) w"),
        claim=_read(
            "claim",
            f"UPDATE ensue_effect SET state = '{target_of('claim')}', lease_token = ?3,"
            f" lease_until = {now} + ?4, worker = ?5 WHERE id IN (SELECT e.id FROM ensue_effect e"
            f" WHERE e.name = ?1 AND {_WAITING} AND e.available_at <= {now} AND {_HEAD}"
            f" ORDER BY e.available_at, e.id LIMIT ?2) RETURNING {_SQLITE_CLAIMED}, {now}",
        ),
        settle=_read(
            "settle",
            f"UPDATE ensue_effect AS e SET {_settled_as(now)} FROM"
            " (SELECT value ->> 'id' AS id, value ->> 'token' AS token, value ->> 'state' AS state,"
            " value ->> 'attempt' AS attempt, value ->> 'delay' AS delay, value ->> 'error_class' AS error_class,"
            f" value ->> 'error' AS error FROM json_each(?1)) AS s WHERE {held} RETURNING id",
        ),
        beat=_read(
            "beat",
            f"UPDATE ensue_effect AS e SET lease_until = {now} + ?2 FROM"
            f" (SELECT value ->> 'id' AS id, value ->> 'token' AS token FROM json_each(?1)) AS s"
            f" WHERE {held} RETURNING id",
        ),
        release=_read(
            "release",
            f"UPDATE ensue_effect AS e SET {_released_as(now)} WHERE {_LEASED}"
            " AND e.lease_token IN (SELECT value FROM json_each(?1)) RETURNING id",
        ),
        rescue=_read(
            "rescue",
            f"UPDATE ensue_effect AS e SET {_rescued_as(now)} FROM (SELECT value ->> 'name' AS name,"
            " value ->> 'max_age' AS max_age FROM json_each(?1)) AS s"
            f" WHERE e.name = s.name AND {_LEASED} AND e.lease_until <= {now}"
            " AND e.lease_token NOT IN (SELECT value FROM json_each(?2)) RETURNING id, name, key, state, worker",
        ),
    )


def _postgresql() -> OutboxStatements:
    now = STATEMENT_NOW["postgresql"]
    locked = "FOR NO KEY UPDATE OF e"
    leases = "json_to_recordset($1::text::json) AS s(id bigint, token text"
    held = f"e.id = s.id AND {_LEASED} AND e.lease_token = s.token"
    return OutboxStatements(
        due=_due(now, "w.name", "json_array_elements_text($1::text::json) AS w(name)"),
        claim=_read(
            "claim",
            # Materialized, because a limit inside a sub-select that the planner runs twice would claim twice as much.
            "WITH picked AS MATERIALIZED (SELECT p.id"
            " FROM json_to_recordset($1::text::json) AS w(name text, free bigint) CROSS JOIN LATERAL"
            f" (SELECT e.id FROM ensue_effect e WHERE e.name = w.name AND {_WAITING} AND e.available_at <= {now}"
            f" AND {_HEAD} ORDER BY e.available_at, e.id LIMIT w.free {locked} SKIP LOCKED) p)"
            f" UPDATE ensue_effect e SET state = '{target_of('claim')}', lease_token = $2,"
            f" lease_until = {now} + $3::bigint, worker = $4"
            f" FROM picked WHERE e.id = picked.id AND {_WAITING} RETURNING {_CLAIMED}, {now}",
        ),
        settle=_read(
            "settle",
            f"WITH s AS MATERIALIZED (SELECT * FROM {leases}, state text, attempt bigint, delay bigint,"
            " error_class text, error text)), mine AS MATERIALIZED"
            f" (SELECT e.id FROM ensue_effect e JOIN s ON {held} ORDER BY e.id {locked})"
            f" UPDATE ensue_effect e SET {_settled_as(now)} FROM s JOIN mine ON mine.id = s.id"
            f" WHERE {held} RETURNING e.id",
        ),
        beat=_read(
            "beat",
            "WITH mine AS MATERIALIZED"
            f" (SELECT e.id FROM ensue_effect e JOIN {leases}) ON {held} ORDER BY e.id {locked})"
            f" UPDATE ensue_effect e SET lease_until = {now} + $2::bigint FROM mine WHERE e.id = mine.id"
            f" AND {_LEASED} RETURNING e.id",
        ),
        release=_read(
            "release",
            f"WITH mine AS MATERIALIZED (SELECT e.id FROM ensue_effect e WHERE {_LEASED}"
            " AND e.lease_token IN (SELECT json_array_elements_text($1::text::json))"
            f" ORDER BY e.id {locked}) UPDATE ensue_effect e SET {_released_as(now)} FROM mine"
            f" WHERE e.id = mine.id AND {_LEASED} RETURNING e.id",
        ),
        rescue=_read(
            "rescue",
            "WITH s AS MATERIALIZED"
            " (SELECT * FROM json_to_recordset($1::text::json) AS s(name text, max_age bigint)),"
            " late AS MATERIALIZED (SELECT e.id, e.name FROM ensue_effect e JOIN s ON e.name = s.name"
            f" WHERE {_LEASED} AND e.lease_until <= {now}"
            " AND e.lease_token NOT IN (SELECT json_array_elements_text($2::text::json))"
            f" ORDER BY e.id {locked} SKIP LOCKED)"
            f" UPDATE ensue_effect e SET {_rescued_as(now)} FROM late JOIN s ON late.name = s.name"
            f" WHERE e.id = late.id AND {_LEASED} RETURNING e.id, e.name, e.key, e.state, e.worker",
        ),
    )


def _read(name: str, text: str) -> Statement:
    return Statement(f"effect.{name}", text, rows=True)


STATEMENTS: Final[Mapping[Dialect, OutboxStatements]] = {"sqlite": _sqlite(), "postgresql": _postgresql()}
