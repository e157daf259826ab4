"""Forget what has served its time: idempotency keys, after seven days.

Effects that were delivered are `ensue.effects.ledger`'s to forget. Invariant: a key is remembered for at least `KEYS_KEPT`.
"""

from datetime import timedelta

from ensue.clock import whole_micros
from ensue.store.driver import Driver
from ensue.store.effect_table import STATEMENT_NOW
from ensue.store.marks import marks
from ensue.store.statement import Run, Statement, Work

KEYS_KEPT = timedelta(days=7)


async def prune_idempotency_keys(driver: Driver, *, older_than: timedelta = KEYS_KEPT) -> int:
    """Forget keys stored longer than `older_than` ago: a repeat is then a new request. Answers how many."""
    (age,) = marks(driver.dialect, "bigint")
    text = f"DELETE FROM ensue_idempotency WHERE created_at < {STATEMENT_NOW[driver.dialect]} - {age} RETURNING id"
    statement = Statement("ensue_idempotency.prune", text, rows=True)
    return await driver.write(_count(statement, whole_micros(older_than)))


def _count(statement: Statement, age: int) -> Work[int]:
    rows: list[tuple[int]] = yield Run(statement, (age,))
    return len(rows)
