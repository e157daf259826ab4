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


def above(alias: str, floor: str) -> str:
    """The condition that keeps a look into an index of the effects `alias` from the remains of what was settled before.

    `floor` is a column; empty where there are no remains.
    """
    return f" AND {alias}.since_transaction >= {floor}" if floor else ""


def first_key(after: str, end: str, floor: str) -> str:
    """The first order key with anything unsettled between `after` and `end`, exclusive."""
    return (
        f"SELECT h.order_key FROM ensue_effect h WHERE h.order_key > {after} AND h.order_key < {end}"
        f" AND {UNSETTLED_KEYED}{above('h', floor)} ORDER BY h.order_key LIMIT 1"
    )


def walk(after: str, end: str, floor: str = "") -> str:
    """A recursive query `walk(order_key, n)`: the keys after `after` in order, each found by one look into the index."""
    return (
        f"RECURSIVE walk(order_key, n) AS (SELECT ({first_key(after, end, floor)}), 1 UNION ALL"
        f" SELECT ({first_key('walk.order_key', end, floor)}), walk.n + 1 FROM walk"
        f" WHERE walk.order_key IS NOT NULL AND walk.n < {KEYS_AT_ONCE})"
    )


def head_of_walk(floor: str = "") -> str:
    """Of each key that was walked over its lowest unsettled position, the only one that may go."""
    return (
        "JOIN ensue_effect e ON e.id = (SELECT h.id FROM ensue_effect h WHERE h.order_key = walk.order_key"
        f" AND {UNSETTLED_KEYED}{above('h', floor)} ORDER BY h.position LIMIT 1)"
    )


def read(name: str, text: str) -> Statement:
    """A statement of delivery that returns rows."""
    return Statement(f"effect.{name}", text, rows=True)
