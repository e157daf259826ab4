"""Call a user's function from engine work: at once when it is plain, on the event loop when it must be awaited.

Decides how a callback sees the transaction: it may read through the store (pending changes are propagated first) and may not
write. Invariant: a callback gets frozen images; whatever it raises reaches the caller unchanged, with a note of where it stands.
"""

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from ensue.engine.transaction import Transaction
from ensue.errors import EnsueError
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
        return (yield Call(lambda session: _awaited(tx, session, function, lambda: function(*args))))
    token = current.set(tx)
    was_writable, tx.writable = tx.writable, False
    try:
        result = function(*args)
    except Exception as error:
        note_origin(error, function)
        raise
    finally:
        tx.writable = was_writable
        current.reset(token)
    if inspect.isawaitable(result):
        return (yield Call(lambda session: _awaited(tx, session, function, lambda: result)))
    return result


def note_origin(error: Exception, function: Callable[..., Any]) -> None:
    """Say on an error that isn't ensue's own in which function of the application it was raised."""
    code = getattr(function, "__code__", None)
    if isinstance(error, EnsueError) or code is None:
        return
    name = getattr(function, "__qualname__", repr(function))
    error.add_note(
        f"raised in {name} ({code.co_filename}:{code.co_firstlineno}), which ensue called; nothing was written"
    )


async def _awaited(tx: Transaction, session: Any, function: Callable[..., Any], start: Callable[[], Any]) -> Any:
    token = current.set(tx)
    was_writable, tx.writable = tx.writable, False
    was_session, tx.session = tx.session, session
    try:
        return await start()
    except Exception as error:
        note_origin(error, function)
        raise
    finally:
        tx.session = was_session
        tx.writable = was_writable
        current.reset(token)
