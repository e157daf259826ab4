"""Call a user's function from engine work: at once when it is plain, on the event loop when it must be awaited.

Decides how a callback sees the transaction: it may read through the store (pending changes are propagated first) and may not
write. Invariant: a callback gets frozen images; whatever it raises reaches the caller unchanged.
"""

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from ensue.engine.transaction import Transaction
from ensue.store.statement import Call, Work

current: ContextVar[Transaction | None] = ContextVar("ensue_transaction", default=None)
"""The transaction that the running task is in: opened by it, or the one whose callback it runs."""


def running() -> Transaction | None:
    """The transaction that the calling code is in. A task that was started in one which has ended since is in none."""
    tx = current.get()
    return None if tx is None or tx.ended else tx


def invoke(tx: Transaction, function: Callable[..., Any], *args: Any) -> Work[Any]:
    """The result of `function(*args)`, awaited if it is to be."""
    if inspect.iscoroutinefunction(function):
        return (yield Call(lambda session: _awaited(tx, session, lambda: function(*args))))
    token = current.set(tx)
    was_writable, tx.writable = tx.writable, False
    try:
        result = function(*args)
    finally:
        tx.writable = was_writable
        current.reset(token)
    if inspect.isawaitable(result):
        return (yield Call(lambda session: _awaited(tx, session, lambda: result)))
    return result


async def _awaited(tx: Transaction, session: Any, start: Callable[[], Any]) -> Any:
    token = current.set(tx)
    was_writable, tx.writable = tx.writable, False
    was_session, tx.session = tx.session, session
    try:
        return await start()
    finally:
        tx.session = was_session
        tx.writable = was_writable
        current.reset(token)
