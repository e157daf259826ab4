"""What is due, and its claim.

Decides index use: unordered effects are found by their instant, ordered ones by walking over their keys, each of which
shows its head at once however many wait behind it. Leaves what is asked for to `outbox`. Invariants: of an order key only
the lowest unsettled position is ever claimed; the row of a target is locked only if it has limits or a breaker that is not
closed, and what it allows is judged by what that lock shows. Limits are limits of calls: a batch is one, whoever makes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ensue.effects.sql.conditions import (
    ALONE,
    CALLS,
    CLAIMABLE_BY_ID,
    CLAIMABLE_STATE,
    FEW,
    HEAD_OF_WALK,
    KEYS_AT_ONCE,
    LEASED,
    LEASED_OF_TARGET,
    above,
    first_unsettled,
    read,
    walk,
    walk_of_heads,
)
from ensue.effects.states import target_of
from ensue.store.driver import Dialect
from ensue.store.effect_table import NEVER, STATEMENT_NOW
from ensue.store.statement import Statement


@dataclass(frozen=True, slots=True)
class ClaimStatements:
    """All of them return rows.

    `due` (wants) · `walk_end` (name, key after which; PostgreSQL: also floor, server) · `claim` (PostgreSQL: wants, gates, token,
    lease µs, worker, relaxed; SQLite: picked with their tokens, lease µs, worker).
    """

    due: Statement
    walk_end: Statement
    claim: Statement


@dataclass(frozen=True, slots=True)
class PickStatements:
    """What comes before `claim` on SQLite, where a statement costs microseconds; on PostgreSQL it is part of that.

    `room` (gates) · `plain` (name, rows) · `keyed` (name, rows, key after which) · `take_room` (taken, token).
    """

    room: Statement
    plain: Statement
    keyed: Statement
    take_room: Statement


CLAIMED: Final = (
    "e.id, e.name, e.key, e.record, e.record_id, e.payload, e.attempt, e.order_key, e.position, e.trace, e.enqueued_at,"
    " e.failures, e.doubt, e.error_class, e.cause, e.cause_id, coalesce(e.due_at, e.enqueued_at), e.first_sent_at,"
    " e.lease_token"
)

_IN_USE: Final = f"SELECT {CALLS} FROM ensue_effect e WHERE {LEASED_OF_TARGET}"
"""How many calls to the target that follows are being made, whoever makes them and under whatever name."""
_SERVER: Final = (
    "((extract(epoch from pg_postmaster_start_time())"
    " + coalesce(extract(epoch from pg_stat_get_bgwriter_stat_reset_time()), 0)) * 1000000)::bigint"
)
"""Which life of which server a floor was found in: what begins in another one, that took its place, may be older.

A server whose process was killed goes on with the same postmaster, and gives numbers once more that were not on the disk yet;
then its statistics begin anew.
"""
_KNOWN_FLOOR: Final = f"CASE WHEN {{0}} = {_SERVER} THEN {{1}} ELSE 0 END"
_NEXT_FLOOR: Final = (
    "least(pg_snapshot_xmin(pg_current_snapshot())::text::bigint,"
    f" coalesce(({first_unsettled('e.since_transaction', name='w.name', floor='w.floor', limit=1)}), {2**63 - 1}))"
)
"""The floor of name `w`: what this snapshot does not show yet has a number that is no lower than the snapshot's least."""
_UNLIMITED: Final = 1_000_000_000
_END_SQLITE: Final = "(?1 || '}')"
_END_POSTGRESQL: Final = "($1::text || '}')"
"""What lies behind all order keys of a name, which begin with `name|`."""


def _passable(now: str) -> str:
    """Whether anything may go to target `t`, limits aside; a target without a row is free."""
    return (
        f"(coalesce(t.paused, 0) = 0 AND coalesce(t.held_until, 0) <= {now} AND (coalesce(t.breaker_state, 'closed') = 'closed'"
        f" OR (t.breaker_state = 'open' AND t.open_until <= {now})"
        f" OR (t.breaker_state = 'half_open' AND t.probe_until <= {now})))"
    )


def _blocked_until(now: str, *, greatest: str, tokens: str) -> str:
    """The instant from which something may go to target `t` again."""
    return (
        f"CASE WHEN t.target IS NULL THEN 0 WHEN t.paused <> 0 THEN {NEVER} ELSE {greatest}(t.held_until,"
        " CASE t.breaker_state WHEN 'open' THEN t.open_until WHEN 'half_open' THEN t.probe_until ELSE 0 END,"
        f" CASE WHEN w.rate IS NOT NULL AND {tokens} < 1 THEN {now} + CAST((1 - {tokens}) / w.rate AS bigint) + 1 ELSE 0 END) END"
    )


def _tokens(now: str, *, least: str, greatest: str, of: str) -> str:
    """What is in the bucket of target `t` now; `of` has `burst` and `rate` per µs."""
    return f"{least}({of}.burst, coalesce(t.tokens, {of}.burst) + {greatest}(0, {now} - t.refilled_at) * {of}.rate)"


def _due(dialect: Dialect, wants: str) -> Statement:
    """Per name: µs until something can be claimed, whether anything ordered waits, until a lease ends, and whether the row
    that its limits are counted in is missing; its floor, and the server that found it.
    """
    now, server = STATEMENT_NOW[dialect], dialect == "postgresql"
    least, greatest = ("least", "greatest") if server else ("min", "max")
    floor, found = (
        ("w.floor", f"{_NEXT_FLOOR} AS floor, {_SERVER} AS server") if server else ("", "0 AS floor, 0 AS server")
    )
    # Else the planner looks once for each time that a value is named.
    once = " OFFSET 0" if server else ""
    first = f"(SELECT e.{{0}} FROM ensue_effect e WHERE e.name = w.name AND {{1}}{above('e', floor)} ORDER BY e.{{0}} LIMIT 1)"
    plain = first.format("available_at", f"{CLAIMABLE_STATE} AND e.order_key IS NULL")
    keyed = first.format("available_at", f"{CLAIMABLE_STATE} AND e.order_key IS NOT NULL")
    lease = first.format("lease_until", LEASED)
    among = ""
    if server:
        # Among few each is looked at; the other look is not made then.
        plain, keyed, lease = (
            f"CASE WHEN f.n > {FEW} THEN {look} ELSE f.{name} END"
            for name, look in (("plain", plain), ("keyed", keyed), ("lease", lease))
        )
        looked_at = first_unsettled(
            "e.state, e.available_at, e.order_key, e.lease_until", name="w.name", floor="w.floor"
        )
        among = (
            " CROSS JOIN LATERAL (SELECT count(*) AS n,"
            f" min(e.available_at) FILTER (WHERE {CLAIMABLE_STATE} AND e.order_key IS NULL) AS plain,"
            f" min(e.available_at) FILTER (WHERE {CLAIMABLE_STATE} AND e.order_key IS NOT NULL) AS keyed,"
            f" min(e.lease_until) FILTER (WHERE {LEASED}) AS lease FROM ({looked_at}) e) f"
        )
    tokens = _tokens(now, least=least, greatest=greatest, of="w")
    blocked = _blocked_until(now, greatest=greatest, tokens=tokens)
    return read(
        "due",
        f"SELECT d.name, CASE WHEN {least}(d.plain, d.keyed) < {NEVER} AND d.blocked < {NEVER}"
        f" THEN {greatest}({least}(d.plain, d.keyed), d.blocked) - {now} END, d.keyed < {NEVER}, d.lease - {now}, d.missing,"
        " d.floor, d.server"
        f" FROM (SELECT w.name, coalesce({plain}, {NEVER}) AS plain, coalesce({keyed}, {NEVER}) AS keyed, {lease} AS lease,"
        f" {blocked} AS blocked, w.limited AND t.target IS NULL AS missing, {found}"
        f" FROM {wants} LEFT JOIN ensue_effect_target t ON t.target = w.target{among}{once}) d",
    )


def _sqlite() -> ClaimStatements:
    now = STATEMENT_NOW["sqlite"]
    wants = (
        "(SELECT value ->> 'name' AS name, value ->> 'target' AS target, value ->> 'rate' AS rate,"
        " value ->> 'burst' AS burst, value ->> 'limited' AS limited FROM json_each(?1)) w"
    )
    picked = "SELECT value ->> 'id' AS id, value ->> 'target' AS target, value ->> 'token' AS token FROM json_each(?1)"
    return ClaimStatements(
        due=_due("sqlite", wants),
        walk_end=read(
            "walk_end", f"WITH {walk('?2', _END_SQLITE)} SELECT order_key FROM walk WHERE n = {KEYS_AT_ONCE}"
        ),
        claim=read(
            "claim",
            f"UPDATE ensue_effect AS e SET state = '{target_of('claim')}', lease_token = s.token, lease_until = {now} + ?2,"
            f" worker = ?3, claimed_at = {now}, first_sent_at = coalesce(e.first_sent_at, {now}), target = s.target"
            f" FROM ({picked}) AS s WHERE e.id = s.id AND {CLAIMABLE_STATE}"
            f" RETURNING {CLAIMED.replace('e.', '')}, {now}, target",
        ),
    )


def _picking() -> PickStatements:
    now = STATEMENT_NOW["sqlite"]
    tokens = _tokens(now, least="min", greatest="max", of="g")
    return PickStatements(
        room=read(
            "room",
            f"SELECT g.target, coalesce(t.breaker_state, 'closed') <> 'closed', {tokens}, CASE WHEN NOT {_passable(now)} THEN 0"
            " WHEN coalesce(t.breaker_state, 'closed') <> 'closed' THEN 1"
            " WHEN (g.rate IS NOT NULL OR g.concurrency IS NOT NULL) AND t.target IS NULL THEN 0"
            f" WHEN g.rate IS NOT NULL OR g.concurrency IS NOT NULL THEN min(coalesce(CAST({tokens} AS integer), {_UNLIMITED}),"
            f" coalesce(g.concurrency - ({_IN_USE}g.target),"
            f" {_UNLIMITED})) END FROM (SELECT value ->> 'target' AS target, value ->> 'rate' AS rate,"
            " value ->> 'burst' AS burst, value ->> 'concurrency' AS concurrency FROM json_each(?1)) g"
            " LEFT JOIN ensue_effect_target t ON t.target = g.target",
        ),
        plain=read(
            "plain",
            f"SELECT e.id, e.available_at, {ALONE} FROM ensue_effect e WHERE e.name = ?1 AND {CLAIMABLE_STATE}"
            f" AND e.order_key IS NULL AND e.available_at <= {now} ORDER BY e.available_at, e.id LIMIT ?2",
        ),
        keyed=read(
            "keyed",
            f"WITH {walk('?3', _END_SQLITE)} SELECT e.id, e.available_at, {ALONE} FROM walk CROSS {HEAD_OF_WALK}"
            f" WHERE {CLAIMABLE_STATE} AND e.available_at <= {now} LIMIT ?2",
        ),
        take_room=read(
            "take_room",
            "UPDATE ensue_effect_target AS t SET version = t.version + 1, tokens = s.tokens,"
            f" refilled_at = max(t.refilled_at, {now}),"
            " breaker_state = CASE WHEN s.probe IS NULL THEN t.breaker_state ELSE 'half_open' END,"
            " probe_token = CASE WHEN s.probe IS NULL THEN t.probe_token ELSE ?2 END,"
            f" probe_until = CASE WHEN s.probe IS NULL THEN t.probe_until ELSE {now} + s.probe END"
            " FROM (SELECT value ->> 'target' AS target, value ->> 'tokens' AS tokens, value ->> 'probe' AS probe"
            " FROM json_each(?1)) AS s WHERE t.target = s.target RETURNING target",
        ),
    )


def _postgresql() -> ClaimStatements:
    now = STATEMENT_NOW["postgresql"]
    wants = (
        f"(SELECT w.name, w.target, w.rate, w.burst, w.limited, {_KNOWN_FLOOR.format('w.server', 'w.floor')} AS floor"
        " FROM json_to_recordset($1::text::json) AS w(name text, target text, rate double precision, burst double precision,"
        " limited boolean, floor bigint, server bigint)) w"
    )
    floor = _KNOWN_FLOOR.format("$4::bigint", "$3::bigint")
    return ClaimStatements(
        due=_due("postgresql", wants),
        walk_end=read(
            "walk_end",
            f"WITH RECURSIVE f AS MATERIALIZED (SELECT count(*) <= {FEW} AS all_seen"
            f" FROM ({first_unsettled('e.id', name='$1::text', floor=floor)}) e),"
            f" {walk_of_heads('$2::text', _END_POSTGRESQL, floor=floor, unless='(SELECT all_seen FROM f)')}"
            f" SELECT order_key FROM walk WHERE n = {KEYS_AT_ONCE}",
        ),
        claim=read("claim", _claim_on_postgresql(now)),
    )


def _room(now: str) -> str:
    """The queries `known`, `held` and `room`: of each target what it allows, and whether its row is locked for it."""
    tokens = _tokens(now, least="least", greatest="greatest", of="k")
    return (
        "known AS MATERIALIZED (SELECT g.*, t.version, g.rate IS NOT NULL OR g.concurrency IS NOT NULL AS limited,"
        f" {_passable(now)} AS passable, coalesce(t.breaker_state, 'closed') <> 'closed' AS probing"
        " FROM json_to_recordset($2::text::json) AS g(target text, rate double precision, burst double precision,"
        " concurrency bigint, probe bigint) LEFT JOIN ensue_effect_target t ON t.target = g.target),"
        f" held AS MATERIALIZED (SELECT t.target, {tokens} AS tokens FROM ensue_effect_target t"
        " JOIN known k ON k.target = t.target AND k.version = t.version"
        " WHERE k.passable AND (k.probing OR k.limited) FOR NO KEY UPDATE OF t SKIP LOCKED),"
        " room AS MATERIALIZED (SELECT k.target, k.probing, k.probe, h.tokens, h.target IS NOT NULL AS held,"
        " CASE WHEN NOT k.passable OR ((k.probing OR k.limited) AND h.target IS NULL) THEN 0 WHEN k.probing THEN 1"
        " WHEN k.limited THEN least(floor(h.tokens)::bigint,"
        f" k.concurrency - CASE WHEN k.concurrency IS NOT NULL THEN ({_IN_USE}k.target) END) END AS room"
        " FROM known k LEFT JOIN held h ON h.target = k.target)"
    )


_FOUND: Final = "SELECT * FROM seen UNION ALL SELECT * FROM plain UNION ALL SELECT * FROM keyed"


def _found(now: str) -> str:
    """The queries of `_FOUND`, rows that may go, locked: `seen` of names with few unsettled effects, of others the rest."""
    locked = "FOR NO KEY UPDATE OF e SKIP LOCKED"
    limit = "least(w.free, r.room) * w.batch"
    columns = "p.id, w.name, w.target, w.free, w.batch, p.alone, p.available_at - w.priority * 60000000 AS rank"
    due_rows = f"e.id, e.available_at, {ALONE} AS alone"
    end = "(w.name || '}')"
    of_room = " FROM w JOIN room r ON r.target = w.target AND coalesce(r.room, 1) > 0"
    # Of the ordered ones the head of each key, whatever its state; of the others all.
    may_go = (
        f"SELECT e.id FROM (SELECT DISTINCT ON (coalesce(few.order_key, few.id::text)) few.* FROM few WHERE few.name = w.name"
        f" AND (w.keyed OR few.order_key IS NULL) ORDER BY coalesce(few.order_key, few.id::text), few.position) e"
        f" WHERE {CLAIMABLE_STATE} AND e.available_at <= {now}"
    )
    # Materialized, because a limit inside a sub-select that the planner runs twice would claim twice as much.
    return (
        f" seen AS MATERIALIZED (SELECT {columns}{of_room} AND w.all_seen CROSS JOIN LATERAL"
        f" (SELECT {due_rows} FROM ensue_effect e WHERE e.id = ANY (ARRAY({may_go}))"
        f" AND {CLAIMABLE_BY_ID} AND e.available_at <= {now} ORDER BY e.available_at, e.id LIMIT {limit} {locked}) p),"
        f" plain AS MATERIALIZED (SELECT {columns}{of_room} AND NOT w.all_seen CROSS JOIN LATERAL"
        f" (SELECT {due_rows} FROM ensue_effect e WHERE e.name = w.name AND {CLAIMABLE_STATE}"
        f" AND e.order_key IS NULL AND e.available_at <= {now}{above('e', 'w.floor')}"
        f" ORDER BY e.available_at, e.id LIMIT {limit} {locked}) p),"
        f" keyed AS MATERIALIZED (SELECT {columns}{of_room} AND w.keyed AND NOT w.all_seen CROSS JOIN LATERAL"
        f" (WITH RECURSIVE {walk_of_heads('w.after', end, floor='w.floor', unless='w.all_seen')}"
        f" SELECT {due_rows} FROM walk JOIN ensue_effect e ON e.id = walk.id"
        f" WHERE {CLAIMABLE_BY_ID} AND e.available_at <= {now} LIMIT {limit} {locked}) p)"
    )


def _claim_on_postgresql(now: str) -> str:
    """One round trip: what each target allows, the rows that are due, what they take of it, and their leases.

    The lock on the row of a target shows its newest values; that its version is the one of the snapshot says that nobody
    has claimed for it meanwhile, so that the count of what is claimed is right. A row that somebody else is working on is
    passed over, and so is everything for that target, until the next look.
    """
    in_turn = "ORDER BY c.rank, c.id"
    looked_at = first_unsettled(
        "e.id, e.state, e.order_key, e.position, e.available_at", name="given.name", floor="given.floor"
    )
    return (
        # A claim that is lost with the server is made again; a set value lasts for this one statement, its own transaction.
        "WITH given AS MATERIALIZED (SELECT w.name, w.free, w.batch, w.target, w.priority, w.keyed, w.after,"
        f" {_KNOWN_FLOOR.format('w.server', 'w.floor')} AS floor, set_config('synchronous_commit',"
        " CASE WHEN $6::boolean THEN 'off' ELSE current_setting('synchronous_commit') END, true)"
        " FROM json_to_recordset($1::text::json) AS w(name text, free bigint, batch bigint, target text, priority bigint,"
        " keyed boolean, after text, floor bigint, server bigint)),"
        f" few AS MATERIALIZED (SELECT given.name, e.* FROM given CROSS JOIN LATERAL ({looked_at}) e),"
        " w AS MATERIALIZED (SELECT given.*, (SELECT count(*) FROM few WHERE few.name = given.name)"
        f" <= {FEW} AS all_seen FROM given),"
        f" {_room(now)},"
        f"{_found(now)},"
        f" floors AS MATERIALIZED (SELECT w.name, {_NEXT_FLOOR} AS floor FROM w"
        f" WHERE w.name IN (SELECT name FROM ({_FOUND}) c)),"
        # The first of a batch costs a call, and so does each that goes alone.
        f" numbered AS (SELECT c.*, row_number() OVER (PARTITION BY c.name, c.alone {in_turn}) - 1 AS nth"
        f" FROM ({_FOUND}) c),"
        " costing AS (SELECT c.*, CASE WHEN c.alone OR c.nth % c.batch = 0 THEN 1 ELSE 0 END AS cost FROM numbered c),"
        " picked AS MATERIALIZED (SELECT c.id, c.target, c.cost, r.probing, f.floor, $3::text || CASE WHEN c.alone OR c.batch = 1"
        " THEN '' ELSE ':' || c.name || '#' || c.nth / c.batch END AS token FROM (SELECT c.*,"
        f" sum(c.cost) OVER (PARTITION BY c.target {in_turn}) AS spent,"
        f" sum(c.cost) OVER (PARTITION BY c.name {in_turn}) AS spent_of_name"
        " FROM costing c) c JOIN room r ON r.target = c.target JOIN floors f ON f.name = c.name"
        " WHERE (r.room IS NULL OR c.spent <= r.room) AND c.spent_of_name <= c.free),"
        " taken AS (UPDATE ensue_effect_target t SET version = t.version + 1, tokens = r.tokens - p.calls,"
        # A claim that began before another may lock the row after it; what came back since then is counted once.
        f" refilled_at = greatest(t.refilled_at, {now}),"
        " breaker_state = CASE WHEN r.probing THEN 'half_open' ELSE t.breaker_state END,"
        " probe_token = CASE WHEN r.probing THEN $3::text ELSE t.probe_token END,"
        f" probe_until = CASE WHEN r.probing THEN {now} + r.probe ELSE t.probe_until END"
        " FROM room r JOIN (SELECT target, sum(cost) AS calls FROM picked GROUP BY target) p ON p.target = r.target"
        " WHERE t.target = r.target AND r.held)"
        f" UPDATE ensue_effect e SET state = '{target_of('claim')}', lease_token = picked.token,"
        f" lease_until = {now} + $4::bigint, worker = $5::text, claimed_at = {now},"
        f" first_sent_at = coalesce(e.first_sent_at, {now}), target = picked.target"
        # The planner can't know how few are picked; from an array it expects few, and takes the index.
        " FROM picked WHERE e.id = picked.id AND e.id = ANY (ARRAY(SELECT id FROM picked))"
        f" AND {CLAIMABLE_BY_ID} RETURNING {CLAIMED}, {now}, e.target, picked.probing, picked.floor"
    )


ANALYZE: Final = Statement("effect.analyze", "ANALYZE (SKIP_LOCKED) ensue_effect")
"""Has every session plan anew, for the table as it is. PostgreSQL only."""

CLAIM: Final[Mapping[Dialect, ClaimStatements]] = {"sqlite": _sqlite(), "postgresql": _postgresql()}
PICK: Final = _picking()
