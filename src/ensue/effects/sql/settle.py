"""The ends of attempts, and what becomes of leases.

Decides what the database itself adds to a worker's word: a failure that meets an open breaker is parked, and of a key of
which only the newest is wanted, one that failed gives way to a newer one. Leaves which transition an attempt takes to
`retry`. Invariant: whoever settles or renews a claimed row proves it with the lease token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ensue.effects.sql.conditions import LEASED, REPLAYED, UNSETTLED_KEYED, read
from ensue.effects.states import CLAIMABLE, SETTLED, WAITING, target_of
from ensue.store.driver import Dialect
from ensue.store.effect_table import NEVER, STATEMENT_NOW, SUPERSEDED, in_list
from ensue.store.statement import Statement


@dataclass(frozen=True, slots=True)
class SettleStatements:
    """All of them return rows.

    `note` (outcomes): attempts into the ledger, before · `settle` (outcomes) · `beat` (leases, lease µs) · `release`
    (tokens) · `rescue` (served names, live tokens) · `note_lost` (rescued).
    """

    note: Statement
    settle: Statement
    beat: Statement
    release: Statement
    rescue: Statement
    note_lost: Statement


_FIELDS: Final[Mapping[str, str]] = {
    "id": "bigint",
    "token": "text",
    "state": "text",
    "attempt": "bigint",
    "kept": "bigint",
    "delay": "bigint",
    "error_class": "text",
    "error": "text",
    "failures": "bigint",
    "doubt": "bigint",
    "parks": "boolean",
    "yields": "boolean",
    "provider_id": "text",
    "note": "text",
    "tried": "bigint",
    "noted": "text",
}
_ATTEMPT: Final = (
    "INSERT INTO ensue_effect_attempt (effect_id, attempt, worker, started_at, ended_at, outcome, error_class, error,"
    " provider_id)"
)


def _final(effect: str) -> str:
    """The state that outcome `s` brings effect `effect` to."""
    newer = UNSETTLED_KEYED.replace("h.", "n.")
    return (
        f"CASE WHEN s.yields AND s.state IN {in_list((*WAITING, 'parked'))} AND EXISTS (SELECT 1 FROM ensue_effect n"
        f" WHERE n.order_key = {effect}.order_key AND {newer} AND n.position > {effect}.position"
        f" AND n.key NOT LIKE '%{REPLAYED}%')"
        f" THEN '{target_of('yield')}' WHEN s.parks AND EXISTS (SELECT 1 FROM ensue_effect_target t"
        f" WHERE t.target = {effect}.target AND t.breaker_state <> 'closed') THEN '{target_of('park')}' ELSE s.state END"
    )


def _settled_as(now: str) -> str:
    later = f"coalesce({now} + s.delay, {NEVER})"
    parked = f"(s.parks AND s.final = '{target_of('park')}')"
    return (
        f"state = s.final, attempt = CASE WHEN {parked} THEN s.kept ELSE s.attempt END, lease_token = NULL, lease_until = NULL,"
        f" available_at = CASE WHEN s.final IN {in_list(CLAIMABLE)} THEN {later} ELSE e.available_at END,"
        f" settled_at = CASE WHEN s.final IN {in_list(SETTLED)} THEN {now} END,"
        f" error_class = CASE WHEN s.final = '{target_of('yield')}' THEN '{SUPERSEDED}'"
        " ELSE coalesce(s.error_class, e.error_class) END, error = coalesce(s.error, e.error),"
        " failures = s.failures, doubt = s.doubt, provider_id = coalesce(s.provider_id, e.provider_id),"
        " note = coalesce(s.note, e.note)"
    )


def _rescued_as(now: str) -> str:
    """A worker that did not come back may have called: what is guarded is in doubt, and asked about if that is possible."""
    old = f"coalesce(e.due_at, e.enqueued_at) + s.max_age <= {now}"
    state = (
        f"CASE WHEN s.guard = 'ask' OR (s.guard = 'doubt' AND {old}) THEN '{target_of('mistrust')}'"
        f" WHEN {old} AND s.poison = 'skip' THEN '{target_of('expire')}'"
        f" WHEN {old} AND s.poison = 'park' THEN '{target_of('strand')}' ELSE '{target_of('rescue')}' END"
    )
    return (
        f"state = {state}, settled_at = CASE WHEN {old} AND s.poison = 'skip' AND s.guard = '' THEN {now} END,"
        f" available_at = CASE WHEN {old} AND s.guard <> 'ask' AND (s.poison = 'park' OR s.guard = 'doubt') THEN {NEVER}"
        f" ELSE {now} END,"
        " doubt = CASE WHEN s.guard <> '' AND e.doubt = 0 THEN 1 ELSE e.doubt END, failures = e.failures + 1,"
        " lease_token = NULL, lease_until = NULL,"
        " error_class = 'lost', error = 'the lease of worker ' || coalesce(e.worker, '?') || ' ran out'"
    )


def _released_as(now: str) -> str:
    return f"state = '{target_of('release')}', lease_token = NULL, lease_until = NULL, available_at = {now}"


_RESCUED: Final = "id, name, key, state, worker, attempt, claimed_at, error"


def _sqlite() -> SettleStatements:
    now = STATEMENT_NOW["sqlite"]
    fields = ", ".join(f"value ->> '{name}' AS {name}" for name in _FIELDS)
    outcomes = f"(SELECT {fields} FROM json_each(?1)) AS s"
    held = f"e.id = s.id AND {LEASED} AND e.lease_token = s.token"
    return SettleStatements(
        note=read(
            "note",
            f"{_ATTEMPT} SELECT e.id, s.tried, e.worker, e.claimed_at, {now}, s.noted, s.error_class, s.error, s.provider_id"
            f" FROM {outcomes} JOIN ensue_effect e ON {held} WHERE s.noted IS NOT NULL RETURNING id",
        ),
        settle=read(
            "settle",
            f"UPDATE ensue_effect AS e SET {_settled_as(now)} FROM (SELECT s.*, {_final('h')} AS final"
            f" FROM {outcomes} JOIN ensue_effect h ON h.id = s.id) AS s WHERE {held} RETURNING id, state",
        ),
        beat=read(
            "beat",
            f"UPDATE ensue_effect AS e SET lease_until = {now} + ?2 FROM"
            f" (SELECT value ->> 'id' AS id, value ->> 'token' AS token FROM json_each(?1)) AS s"
            f" WHERE {held} RETURNING id",
        ),
        release=read(
            "release",
            f"UPDATE ensue_effect AS e SET {_released_as(now)} WHERE {LEASED}"
            " AND substr(e.lease_token, 1, instr(e.lease_token || ':', ':') - 1) IN (SELECT value FROM json_each(?1)) RETURNING id",
        ),
        rescue=read(
            "rescue",
            f"UPDATE ensue_effect AS e SET {_rescued_as(now)} FROM (SELECT value ->> 'name' AS name,"
            " value ->> 'max_age' AS max_age, value ->> 'guard' AS guard, value ->> 'poison' AS poison FROM json_each(?1)) AS s"
            f" WHERE e.name = s.name AND {LEASED} AND e.lease_until <= {now}"
            f" AND e.lease_token NOT IN (SELECT value FROM json_each(?2)) RETURNING {_RESCUED}",
        ),
        note_lost=read(
            "note_lost",
            f"{_ATTEMPT} SELECT value ->> 'id', value ->> 'attempt' + 1, value ->> 'worker', value ->> 'claimed_at', {now},"
            " 'lost', 'lost', value ->> 'error', NULL FROM json_each(?1) WHERE true RETURNING id",
        ),
    )


def _postgresql() -> SettleStatements:
    now = STATEMENT_NOW["postgresql"]
    locked = "FOR NO KEY UPDATE OF e"
    fields = ", ".join(f"{name} {kind}" for name, kind in _FIELDS.items())
    outcomes = f"s AS MATERIALIZED (SELECT * FROM json_to_recordset($1::text::json) AS s({fields}))"
    # A row has a token only while it is claimed: the table checks it. Named here, the state would have the planner read the
    # whole index of what is claimed, in which the remains of what was settled stay for as long as a snapshot is older.
    held = "e.id = s.id AND e.lease_token = s.token"
    # The planner can't know how few there are; from an array it expects few, and takes the index.
    few = "e.id = ANY (ARRAY(SELECT id FROM s))"
    return SettleStatements(
        note=read(
            "note",
            f"WITH {outcomes}, mine AS MATERIALIZED (SELECT e.id, e.worker, e.claimed_at FROM ensue_effect e"
            f" JOIN s ON {held} AND {few}"
            f" WHERE s.noted IS NOT NULL ORDER BY e.id {locked})"
            f" {_ATTEMPT} SELECT s.id, s.tried, mine.worker, mine.claimed_at, {now}, s.noted, s.error_class, s.error,"
            " s.provider_id FROM s JOIN mine ON mine.id = s.id RETURNING id",
        ),
        settle=read(
            "settle",
            f"WITH {outcomes}, mine AS MATERIALIZED"
            f" (SELECT e.id, {_final('e')} AS final FROM ensue_effect e JOIN s ON {held} AND {few}"
            f" ORDER BY e.id {locked}), f AS (SELECT s.*, mine.final FROM s JOIN mine ON mine.id = s.id)"
            f" UPDATE ensue_effect e SET {_settled_as(now)} FROM f AS s WHERE {held} AND {few} RETURNING e.id, e.state",
        ),
        beat=read(
            "beat",
            "WITH s AS MATERIALIZED (SELECT * FROM json_to_recordset($1::text::json) AS s(id bigint, token text)),"
            f" mine AS MATERIALIZED (SELECT e.id FROM ensue_effect e JOIN s ON {held} AND {few} ORDER BY e.id {locked})"
            f" UPDATE ensue_effect e SET lease_until = {now} + $2::bigint FROM mine WHERE e.id = mine.id"
            f" AND e.id = ANY (ARRAY(SELECT id FROM mine)) AND e.lease_token IS NOT NULL RETURNING e.id",
        ),
        release=read(
            "release",
            f"WITH mine AS MATERIALIZED (SELECT e.id FROM ensue_effect e WHERE {LEASED}"
            " AND split_part(e.lease_token, ':', 1) IN (SELECT json_array_elements_text($1::text::json))"
            f" ORDER BY e.id {locked}) UPDATE ensue_effect e SET {_released_as(now)} FROM mine"
            f" WHERE e.id = mine.id AND {LEASED} RETURNING e.id",
        ),
        rescue=read(
            "rescue",
            "WITH s AS MATERIALIZED (SELECT * FROM json_to_recordset($1::text::json)"
            " AS s(name text, max_age bigint, guard text, poison text)),"
            " late AS MATERIALIZED (SELECT e.id, e.name FROM ensue_effect e JOIN s ON e.name = s.name"
            f" WHERE {LEASED} AND e.lease_until <= {now}"
            " AND e.lease_token NOT IN (SELECT json_array_elements_text($2::text::json))"
            f" ORDER BY e.id {locked} SKIP LOCKED)"
            f" UPDATE ensue_effect e SET {_rescued_as(now)} FROM late JOIN s ON late.name = s.name"
            f" WHERE e.id = late.id AND {LEASED} RETURNING {', '.join('e.' + name for name in _RESCUED.split(', '))}",
        ),
        note_lost=read(
            "note_lost",
            f"{_ATTEMPT} SELECT id, attempt + 1, worker, claimed_at, {now}, 'lost', 'lost', error, NULL"
            " FROM json_to_recordset($1::text::json) AS s(id bigint, attempt bigint, worker text, claimed_at bigint, error text)"
            " RETURNING id",
        ),
    )


SETTLE: Final[Mapping[Dialect, SettleStatements]] = {"sqlite": _sqlite(), "postgresql": _postgresql()}
