"""The statements on `ensue_task_poll`, for each database; the one place of the tasks that knows dialects.

Decides locking and index use. Leaves their order and meaning to `poll_table`. Invariants: whoever changes a row that
it polled proves with the lease's token that it still may; a claim takes only rows that nobody polls; instants are
compared by the database with its own clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ensue.store.driver import Dialect
from ensue.store.effect_table import GIVEN_UP, HELD, SETTLED, STATEMENT_NOW, WAITING, in_list
from ensue.store.statement import Statement

_NUMBERED: Final = re.compile(r"\$(\d+)(?:::\w+)*")
_RECORDED: Final = (
    "task_type text, task_id bigint, key text, token text, was text, phase text, external_id text, delay bigint,"
    " failed bigint, error text"
)
_ROW: Final = "phase, key, past_keys, submits, sent_at, deadline_at, {now}, external_id"
_SEEN: Final = (
    "{p}task_type, {p}task_id, {p}key, {p}phase, {p}external_id, {p}polls, {p}submits, {p}deadline_at <= {now}, {of}"
)
# Who gave up on submitting, in so many words.
_EFFECT: Final = (
    "(SELECT e.state || ': ' || coalesce(e.error, '') FROM ensue_effect e WHERE e.key = {row}.key"
    f" AND e.state IN {in_list(GIVEN_UP)})"
)
_OURS: Final = (
    "p.task_type = s.task_type AND p.task_id = s.task_id AND p.key = s.key AND p.phase = s.was"
    " AND (s.token IS NULL OR p.lease_token = s.token)"
)
_DUE: Final = "integration = $1::text AND next_at IS NOT NULL AND next_at <= {now}"
# A claimed row is due again when the lease ends, so that one index serves both.
_CLAIMED: Final = "lease_token = $3::text, next_at = {now} + $4::bigint, worker = $5::text"
_NEGLECTED: Final = (
    "SELECT e.record, e.record_id, $1::text, 'ready', e.key, e.enqueued_at + $3::bigint, {now}"
    " FROM ensue_effect e WHERE e.name = $2::text AND "
)


@dataclass(frozen=True, slots=True)
class TaskStatements:
    """All of them return rows. The parameters are those of the function of the same name in `poll_table`."""

    look: Statement
    insert: Statement
    send: Statement
    record: Statement
    claim: Statement
    release: Statement
    due: Statement
    hasten: Statement
    neglected: Statement
    given_up: Statement
    adopt: Statement
    by_reference: Statement
    traces: Statement
    prune: Statement


_CLAIM: Final[Mapping[Dialect, str]] = {
    "sqlite": (
        f"UPDATE ensue_task_poll SET {_CLAIMED} WHERE (task_type, task_id) IN (SELECT task_type, task_id"
        f" FROM ensue_task_poll WHERE {_DUE} ORDER BY next_at LIMIT $2::bigint)"
        f" RETURNING {_SEEN.replace('{of}', _EFFECT.replace('{row}', 'ensue_task_poll'))}"
    ),
    "postgresql": (
        "WITH picked AS MATERIALIZED (SELECT task_type, task_id FROM ensue_task_poll"
        f" WHERE {_DUE} ORDER BY next_at LIMIT $2::bigint FOR NO KEY UPDATE SKIP LOCKED)"
        f" UPDATE ensue_task_poll p SET {_CLAIMED} FROM picked"
        " WHERE p.task_type = picked.task_type AND p.task_id = picked.task_id"
        f" RETURNING {_SEEN.replace('{of}', _EFFECT.replace('{row}', 'p'))}"
    ),
}
_TEMPLATES: Final[Mapping[str, str]] = {
    "look": (f"SELECT {_ROW} FROM ensue_task_poll WHERE task_type = $1::text AND task_id = $2::bigint{{lock}}"),
    "insert": (
        "INSERT INTO ensue_task_poll (task_type, task_id, integration, phase, key, submits, sent_at, deadline_at,"
        " next_at) VALUES ($1::text, $2::bigint, $3::text, 'sending', $4::text, 1, {now}, {now} + $5::bigint,"
        " {now} + $5::bigint) ON CONFLICT DO NOTHING RETURNING deadline_at"
    ),
    "send": (
        "UPDATE ensue_task_poll SET phase = 'sending', key = $3::text, past_keys = $4::text, submits = submits + 1,"
        " sent_at = CASE WHEN key = $3::text AND sent_at IS NOT NULL THEN sent_at ELSE {now} END,"
        " external_id = CASE WHEN key = $3::text THEN external_id END,"
        " deadline_at = CASE WHEN $5::bigint IS NULL THEN deadline_at ELSE {now} + $5::bigint END,"
        " next_at = CASE WHEN $5::bigint IS NULL THEN deadline_at ELSE {now} + $5::bigint END,"
        " settled_at = NULL, lease_token = NULL, polls = 0, failures = 0, error = NULL"
        " WHERE task_type = $1::text AND task_id = $2::bigint RETURNING deadline_at"
    ),
    "record": (
        "UPDATE ensue_task_poll AS p SET phase = s.phase, external_id = coalesce(s.external_id, p.external_id),"
        " lease_token = NULL, next_at = CASE WHEN s.phase = 'settled' THEN NULL WHEN s.phase <> 'waiting' THEN"
        " p.deadline_at WHEN p.deadline_at > {now} THEN {least}({now} + s.delay, p.deadline_at)"
        " ELSE {now} + s.delay END, settled_at = CASE WHEN s.phase = 'settled' THEN {now} END,"
        " polls = CASE WHEN s.was = 'waiting' THEN p.polls + 1 ELSE 0 END,"
        " failures = CASE WHEN s.failed = 1 THEN p.failures + 1 ELSE 0 END, error = s.error"
        f" FROM {{outcomes}} WHERE {_OURS} RETURNING {{p}}task_type, {{p}}task_id"
    ),
    "release": (
        "UPDATE ensue_task_poll SET lease_token = NULL, next_at = {now}"
        " WHERE integration = $1::text AND lease_token = $2::text RETURNING task_id"
    ),
    "due": (
        "SELECT next_at - {now} FROM ensue_task_poll WHERE integration = $1::text AND next_at IS NOT NULL"
        " ORDER BY next_at LIMIT 1"
    ),
    "hasten": (
        "UPDATE ensue_task_poll SET next_at = {now} WHERE integration = $1::text AND next_at IS NOT NULL"
        " AND lease_token IS NULL AND phase = 'waiting' AND task_type = $2::text AND task_id = $3::bigint"
        " RETURNING task_id"
    ),
    "neglected": (
        "INSERT INTO ensue_task_poll (task_type, task_id, integration, phase, key, deadline_at, next_at)"
        f" {_NEGLECTED}e.state IN {in_list(WAITING)} AND e.enqueued_at + $3::bigint <= {{now}}"
        f" UNION ALL {_NEGLECTED}e.state IN {in_list(HELD)} AND e.enqueued_at + $3::bigint <= {{now}}"
        f" UNION ALL {_NEGLECTED}e.state IN {in_list(GIVEN_UP)} AND e.state IN {in_list(SETTLED)}"
        " AND e.settled_at >= {now} - $4::bigint ON CONFLICT DO NOTHING RETURNING task_id"
    ),
    "given_up": (
        "UPDATE ensue_task_poll SET next_at = {now} WHERE integration = $1::text AND next_at > {now}"
        " AND lease_token IS NULL AND phase IN ('ready', 'sending') AND EXISTS"
        f" (SELECT 1 FROM ensue_effect e WHERE e.key = ensue_task_poll.key AND e.state IN {in_list(GIVEN_UP)})"
        " RETURNING task_id"
    ),
    "adopt": (
        "INSERT INTO ensue_task_poll AS p (task_type, task_id, integration, phase, key, external_id, submits, sent_at,"
        " deadline_at, next_at) VALUES ($1::text, $2::bigint, $3::text, 'waiting', $4::text, $5::text, 1, {now},"
        " {now} + $6::bigint, {now}) ON CONFLICT (task_type, task_id) DO UPDATE SET phase = 'waiting',"
        " external_id = $5::text, deadline_at = {now} + $6::bigint, next_at = {now}, settled_at = NULL,"
        " lease_token = NULL, polls = 0, failures = 0, error = NULL WHERE p.phase = 'settled' RETURNING task_id"
    ),
    "by_reference": (
        "SELECT task_type, task_id, phase, key, external_id FROM ensue_task_poll WHERE integration = $1::text"
        " AND (external_id = $2::text OR key = $3::text) ORDER BY task_type, task_id"
    ),
    "traces": "SELECT key, trace FROM ensue_effect WHERE key IN ({keys}) AND trace IS NOT NULL",
    "prune": (
        "DELETE FROM ensue_task_poll WHERE integration = $1::text AND settled_at < {now} - $2::bigint RETURNING task_id"
    ),
}
_NAMES: Final = tuple(column.split()[0] for column in _RECORDED.split(", "))
_WORDS: Final[Mapping[Dialect, Mapping[str, str]]] = {
    "sqlite": {
        "{p}": "",
        "{lock}": "",
        "{least}": "min",
        "{keys}": "SELECT value FROM json_each($1::text)",
        "{outcomes}": f"(SELECT {', '.join(f'value ->> {n!r} AS {n}' for n in _NAMES)} FROM json_each($1::text)) AS s",
    },
    "postgresql": {
        "{p}": "p.",
        "{lock}": " FOR NO KEY UPDATE",
        "{least}": "least",
        "{keys}": "SELECT json_array_elements_text($1::text::json)",
        "{outcomes}": f"json_to_recordset($1::text::json) AS s({_RECORDED})",
    },
}


class _Maker:
    """Makes a statement of a template, in the words of one database."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect: Dialect = dialect
        self._words = {"{now}": STATEMENT_NOW[dialect], **_WORDS[dialect]}

    def __call__(self, name: str, template: str) -> Statement:
        text = template
        for mark, word in self._words.items():
            text = text.replace(mark, word)
        if self._dialect == "sqlite":
            text = _NUMBERED.sub(r"?\1", text)
        return Statement(f"ensue_task_poll.{name}", text, rows=True)


def _make(dialect: Dialect) -> TaskStatements:
    made = _Maker(dialect)
    templates = {**_TEMPLATES, "claim": _CLAIM[dialect]}
    return TaskStatements(**{name: made(name, template) for name, template in templates.items()})


STATEMENTS: Final[Mapping[Dialect, TaskStatements]] = {
    "sqlite": _make("sqlite"),
    "postgresql": _make("postgresql"),
}
