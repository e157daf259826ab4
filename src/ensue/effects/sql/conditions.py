"""Conditions that the statements of delivery share, word for word: partial indexes are used only by those that repeat theirs.

Decides what is the head of a key, where the keys of a name lie in the index, and what is too old to be looked at. Invariant:
a floor is a number of a transaction below which nothing of a name is unsettled, now or later: whatever begins to wait is given
the number of a transaction that was not over when the floor was found.
"""

from typing import Final

from ensue.effects.states import CLAIMABLE, SETTLED, target_of
from ensue.store.effect_table import CALLED, in_list
from ensue.store.statement import Statement

CLAIMABLE_STATE: Final = f"e.state IN {in_list(CLAIMABLE)}"
CLAIMABLE_BY_ID: Final = CLAIMABLE_STATE.replace("e.state", "coalesce(e.state, '')")
"""The same of rows that are found by their ids, in words that fit no partial index.

To the planner the index of what waits looks short; the remains in it can be all that was settled today.
"""
LEASED: Final = f"e.state = '{target_of('claim')}'"
LEASED_OF_TARGET: Final = f"{CALLED.replace('state', 'e.state')} AND e.target = "
"""The same of the target that follows, in the words of an index that nothing else fits.

Else the planner takes that one for the first lease that ends, and reads the rows of all that was ever claimed.
"""
UNSETTLED_KEYED: Final = f"h.order_key IS NOT NULL AND h.state NOT IN {in_list(SETTLED)}"

ALONE: Final = (
    "e.attempt > 0 OR e.doubt > 0 OR coalesce(e.error_class, 'unavailable') NOT IN ('unavailable', 'throttled')"
)
"""What failed by itself or lost its worker before goes in no batch: it may be what the others fail with."""

CALLS: Final = "count(DISTINCT CASE WHEN e.lease_token LIKE '%:%' THEN e.lease_token ELSE CAST(e.id AS text) END)"
"""How many calls claimed effects are: those of one batch have a token of their own, `turn:name#number`."""

REPLAYED: Final = ":again-"
"""In the key of an effect that an operator sent once more: it comes last in its order, and tells nothing newer."""

KEYS_AT_ONCE: Final = 500
"""How many order keys one look walks over."""

FEW: Final = 500
"""So many unsettled effects of a name are looked at one by one, from its floor on. Where more wait, PostgreSQL looks in the
order in which they go, which has it pass over the remains of what was settled while somebody keeps a snapshot open."""


def above(alias: str, floor: str) -> str:
    """The condition that keeps a look into an index of the effects `alias` from the remains of what was settled before.

    `floor` is a column; empty where there are no remains.
    """
    return f" AND {alias}.since_transaction >= {floor}" if floor else ""


def first_unsettled(columns: str, *, name: str, floor: str, limit: int = FEW + 1) -> str:
    """The unsettled effects of a name that began to wait first; by default one more than there are few of. PostgreSQL only."""
    return (
        f"SELECT {columns} FROM ensue_effect e WHERE e.name = {name} AND e.state NOT IN {in_list(SETTLED)}{above('e', floor)}"
        f" ORDER BY e.since_transaction LIMIT {limit}"
    )


def _first_head(columns: str, after: str, end: str, floor: str) -> str:
    """The head of the first order key with anything unsettled between `after` and `end`, exclusive."""
    return (
        f"SELECT {columns} FROM ensue_effect h WHERE h.order_key > {after} AND h.order_key < {end}"
        f" AND {UNSETTLED_KEYED}{above('h', floor)} ORDER BY h.order_key, h.position LIMIT 1"
    )


def walk(after: str, end: str) -> str:
    """A recursive query `walk(order_key, n)`: the keys after `after` in order, each found by one look into the index."""
    return (
        f"RECURSIVE walk(order_key, n) AS (SELECT ({_first_head('h.order_key', after, end, '')}), 1 UNION ALL"
        f" SELECT ({_first_head('h.order_key', 'walk.order_key', end, '')}), walk.n + 1 FROM walk"
        f" WHERE walk.order_key IS NOT NULL AND walk.n < {KEYS_AT_ONCE})"
    )


def walk_of_heads(after: str, end: str, *, floor: str, unless: str) -> str:
    """The same as `walk(order_key, n, id)`, with the head of each key; empty if `unless`. PostgreSQL only."""
    first = _first_head("h.order_key, h.id", after, end, floor)
    following = _first_head("h.order_key, h.id", "walk.order_key", end, floor)
    return (
        f"walk(order_key, n, id) AS (SELECT f.order_key, 1, f.id FROM ({first}) f WHERE NOT {unless}"
        f" UNION ALL SELECT f.order_key, walk.n + 1, f.id FROM walk CROSS JOIN LATERAL ({following}) f"
        f" WHERE walk.n < {KEYS_AT_ONCE})"
    )


HEAD_OF_WALK: Final = (
    "JOIN ensue_effect e ON e.id = (SELECT h.id FROM ensue_effect h WHERE h.order_key = walk.order_key"
    f" AND {UNSETTLED_KEYED} ORDER BY h.position LIMIT 1)"
)
"""Of each key that was walked over its lowest unsettled position, the only one that may go."""


def read(name: str, text: str) -> Statement:
    """A statement of delivery that returns rows."""
    return Statement(f"effect.{name}", text, rows=True)
