"""Effects that were done, made to wait again: what a crash between handling an effect and noting its end leaves.

Decides the statement only; a test calls it by `AppHarness.redeliver`. Invariant: the key of an effect and the number of
its attempts stay, because its receiver must be able to recognise it.
"""

from __future__ import annotations

from ensue.store.driver import Dialect
from ensue.store.effect_table import STATEMENT_NOW, TRANSACTION_NUMBER
from ensue.store.statement import Run, Statement, Work


def reopened(dialect: Dialect) -> Work[int]:
    """Every effect that was done waits again; answers how many."""
    text = (
        f"UPDATE ensue_effect SET state = 'pending', settled_at = NULL, available_at = {STATEMENT_NOW[dialect]},"
        f" since_transaction = {TRANSACTION_NUMBER[dialect]}"
        " WHERE state = 'done' RETURNING id"
    )
    rows = yield Run(Statement("harness.reopen", text, rows=True), ())
    return len(rows)
