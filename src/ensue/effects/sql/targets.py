"""The rows of targets: pauses, holds, breakers and the tokens of their limits.

Decides the words of each move. Leaves when to make one to `flights`, and what is allowed meanwhile to `claim`. Invariants: a
target without limits that was never stopped has no row; the probe of a half-open breaker is settled only by the token
under which it was claimed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ensue.effects.sql.conditions import read
from ensue.effects.states import target_of
from ensue.store.driver import Dialect
from ensue.store.effect_table import NEVER, STATEMENT_NOW
from ensue.store.statement import Statement

MoveKind = Literal["hold", "trip", "reopen", "close", "unprobe", "pause", "resume"]


@dataclass(frozen=True, slots=True)
class TargetStatements:
    """All of them return rows.

    `ensure` (targets): rows for those with limits · `moves`, each (target, µs, µs at most, token, reason) · `unpark`
    (names) · `states` ().
    """

    ensure: Statement
    moves: Mapping[MoveKind, Statement]
    unpark: Statement
    states: Statement


def _moves(now: str, *, greatest: str, least: str) -> Mapping[MoveKind, Statement]:
    target, pause, most, token, reason = ("{0}1", "{0}2", "{0}3", "{0}4", "{0}5")
    probe = f"t.target = {target} AND t.breaker_state = 'half_open' AND t.probe_token = {token}"
    longer = f"{least}(t.open_seconds * 2, {most} / 1000000.0)"
    insert = (
        "INSERT INTO ensue_effect_target AS t (target, {0}) VALUES ({1}) ON CONFLICT (target)"
        " DO UPDATE SET version = t.version + 1,"
    )
    # Every move names all five parameters, as a statement must use each that it is given.
    unused = "".join(f" AND ({mark} IS NULL OR true)" for mark in (pause, most, token, reason))
    back = f"{unused} RETURNING target"
    return {
        "hold": read(
            "hold",
            insert.format("held_until", f"{target}, {now} + {pause}")
            + f" held_until = {greatest}(t.held_until, excluded.held_until) WHERE true{back}",
        ),
        "trip": read(
            "trip",
            insert.format(
                "breaker_state, open_until, open_seconds", f"{target}, 'open', {now} + {pause}, {pause} / 1000000.0"
            )
            + " breaker_state = 'open', open_until = excluded.open_until, open_seconds = excluded.open_seconds"
            f" WHERE t.breaker_state = 'closed'{back}",
        ),
        "reopen": read(
            "reopen",
            f"UPDATE ensue_effect_target AS t SET version = t.version + 1, breaker_state = 'open', open_seconds = {longer},"
            f" open_until = {now} + CAST({longer} * 1000000 AS bigint), probe_token = NULL, probe_until = 0 WHERE {probe}{back}",
        ),
        "close": read(
            "close",
            "UPDATE ensue_effect_target AS t SET version = t.version + 1, breaker_state = 'closed', open_seconds = 0,"
            f" open_until = 0, probe_token = NULL, probe_until = 0 WHERE {probe}{back}",
        ),
        "unprobe": read(
            "unprobe",
            f"UPDATE ensue_effect_target AS t SET version = t.version + 1, breaker_state = 'open', open_until = {now},"
            f" probe_token = NULL, probe_until = 0 WHERE {probe}{back}",
        ),
        "pause": read(
            "pause",
            insert.format("paused, reason", f"{target}, 1, {reason}")
            + f" paused = 1, reason = excluded.reason WHERE true{back}",
        ),
        "resume": read(
            "resume",
            # An operator who resumes knows better than a breaker and a Retry-After.
            "UPDATE ensue_effect_target AS t SET version = t.version + 1, paused = 0, reason = NULL, held_until = 0,"
            f" breaker_state = 'closed', open_seconds = 0, open_until = 0, probe_token = NULL, probe_until = 0"
            f" WHERE t.target = {target}{back}",
        ),
    }


_STATES: Final = (
    "SELECT target, paused, reason, held_until, breaker_state, open_until, open_seconds, tokens, refilled_at, {0}"
    " FROM ensue_effect_target ORDER BY target"
)


def _sqlite() -> TargetStatements:
    now = STATEMENT_NOW["sqlite"]
    texts = _moves(now, greatest="max", least="min")
    return TargetStatements(
        ensure=read(
            "ensure_targets",
            "INSERT INTO ensue_effect_target (target) SELECT value FROM json_each(?1) WHERE true"
            " ON CONFLICT (target) DO NOTHING RETURNING target",
        ),
        moves={kind: Statement(item.name, item.text.replace("{0}", "?"), rows=True) for kind, item in texts.items()},
        unpark=read(
            "unpark",
            f"UPDATE ensue_effect SET state = '{target_of('unpark')}', available_at = {now} WHERE state = 'parked'"
            f" AND available_at < {NEVER} AND name IN (SELECT value FROM json_each(?1)) RETURNING id",
        ),
        states=read("targets", _STATES.format(now)),
    )


_TYPES: Final = {"{0}1": "$1::text", "{0}2": "$2::bigint", "{0}3": "$3::bigint", "{0}4": "$4::text", "{0}5": "$5::text"}


def _typed(text: str) -> str:
    for mark, typed in _TYPES.items():
        text = text.replace(mark, typed)
    return text


def _postgresql() -> TargetStatements:
    now = STATEMENT_NOW["postgresql"]
    texts = _moves(now, greatest="greatest", least="least")
    return TargetStatements(
        ensure=read(
            "ensure_targets",
            "INSERT INTO ensue_effect_target (target) SELECT value FROM json_array_elements_text($1::text::json)"
            ' ORDER BY value COLLATE "C" ON CONFLICT (target) DO NOTHING RETURNING target',
        ),
        moves={kind: Statement(item.name, _typed(item.text), rows=True) for kind, item in texts.items()},
        unpark=read(
            "unpark",
            "WITH p AS MATERIALIZED (SELECT e.id FROM ensue_effect e WHERE e.state = 'parked'"
            f" AND e.available_at < {NEVER} AND e.name IN (SELECT json_array_elements_text($1::text::json))"
            f" ORDER BY e.id FOR NO KEY UPDATE OF e) UPDATE ensue_effect e SET state = '{target_of('unpark')}',"
            f" available_at = {now} FROM p WHERE e.id = p.id AND e.state = 'parked' RETURNING e.id",
        ),
        states=read("targets", _STATES.format(now)),
    )


TARGETS: Final[Mapping[Dialect, TargetStatements]] = {"sqlite": _sqlite(), "postgresql": _postgresql()}
