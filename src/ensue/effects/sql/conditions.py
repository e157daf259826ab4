"""Conditions that the statements of delivery share, word for word: partial indexes are used only by those that repeat theirs.

Decides what is the head of a key and where the keys of a name lie in the index. Invariant: nothing here depends on a
dialect.
"""

from typing import Final

from ensue.effects.states import CLAIMABLE, SETTLED, target_of
from ensue.store.effect_table import in_list
from ensue.store.statement import Statement

CLAIMABLE_STATE: Final = f"e.state IN {in_list(CLAIMABLE)}"
LEASED: Final = f"e.state = '{target_of('claim')}'"
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


def first_key(after: str, end: str) -> str:
    """The first order key with anything unsettled between `after` and `end`, exclusive."""
    return (
        f"SELECT h.order_key FROM ensue_effect h WHERE h.order_key > {after} AND h.order_key < {end}"
        f" AND {UNSETTLED_KEYED} ORDER BY h.order_key LIMIT 1"
    )


def walk(after: str, end: str) -> str:
    """A recursive query `walk(order_key, n)`: the keys after `after` in order, each found by one look into the index."""
    return (
        f"RECURSIVE walk(order_key, n) AS (SELECT ({first_key(after, end)}), 1 UNION ALL"
        f" SELECT ({first_key('walk.order_key', end)}), walk.n + 1 FROM walk"
        f" WHERE walk.order_key IS NOT NULL AND walk.n < {KEYS_AT_ONCE})"
    )


HEAD_OF_WALK: Final = (
    "JOIN ensue_effect e ON e.id = (SELECT h.id FROM ensue_effect h WHERE h.order_key = walk.order_key"
    f" AND {UNSETTLED_KEYED} ORDER BY h.position LIMIT 1)"
)
"""Of each key that was walked over its lowest unsettled position, the only one that may go."""


def read(name: str, text: str) -> Statement:
    """A statement of delivery that returns rows."""
    return Statement(f"effect.{name}", text, rows=True)
