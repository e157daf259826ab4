"""From asyncpg's errors to those of ensue.

Decides by SQLSTATE; takes columns from the error's fields and detail, in which PostgreSQL names the columns of unique
and foreign keys. Invariant: every exception has an answer; what is not known is an `InternalError`.
"""

import asyncio
import re
from typing import Any

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

from ensue.errors import Conflict, EnsueError, Unavailable
from ensue.store import violations
from ensue.store.statement import Statement

_KEY = re.compile(r"Key \((.*?)\)=\(", re.DOTALL)
_PLAIN_COLUMN = re.compile(r'"?(\w+)"?')

_CONFLICTS = {"40001", "40P01"}
_UNSTORABLE_TEXT = {"22021", "22P05"}
_UNAVAILABLE = {
    "53": "the server is out of a resource",
    "57": "the server stopped the work",
    "58": "the server has trouble with its system",
    "08": "the connection was lost",
    "55": "the object is in use",
    "25006": "the server accepts no writes (it may be a replica)",
    "28": "the server refused the account",
    "3D": "the database does not exist",
}
_NOT_RETRYABLE = ("25006", "28", "3D")


def translate(error: BaseException, statement: Statement, shown: str) -> EnsueError:
    """The error to raise instead of `error`; `shown` names the database."""
    translated = _translate(error, statement, shown)
    translated.__cause__ = error
    return translated


def makes_unusable(error: BaseException) -> bool:
    """Whether asyncpg lost track of the connection's state, as when a server says farewell and hangs up later."""
    return isinstance(error, asyncpg.InternalClientError)


def lost(error: BaseException, doing: str, shown: str) -> Unavailable:
    """The server can't be reached, or the connection broke."""
    unavailable = Unavailable(
        f"{doing} on {shown}: no connection ({type(error).__name__}: {error}). Is the server running?"
    )
    unavailable.__cause__ = error
    return unavailable


def _translate(error: BaseException, statement: Statement, shown: str) -> EnsueError:
    if isinstance(error, EnsueError):
        return error
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return Conflict(f"{statement.name} on {shown}: the tables were changed meanwhile; run it again.")
    if isinstance(error, asyncpg.DataError) and "query argument" in str(error):
        return _of_argument(error, statement)
    if isinstance(error, asyncpg.PostgresError):
        return _of_server(error, statement, shown)
    if isinstance(error, UnicodeEncodeError):
        return violations.unstorable_text()
    if isinstance(error, asyncpg.InterfaceError) and "connection" not in str(error):
        return violations.broken_statement(statement, error)
    if isinstance(error, (OSError, asyncio.TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return lost(error, statement.name, shown)
    return violations.broken_statement(statement, error)


def _of_argument(error: BaseException, statement: Statement) -> EnsueError:
    """asyncpg refused to encode a parameter."""
    if isinstance(error.__cause__, OverflowError) or "out of" in str(error):
        return violations.overflow()
    if isinstance(error.__cause__, UnicodeEncodeError):
        return violations.unstorable_text()
    return violations.broken_statement(statement, error)


def _of_server(error: Any, statement: Statement, shown: str) -> EnsueError:
    state = str(error.sqlstate or "")
    if state[:2] == "23":
        refused = _constraint(error, state)
        if refused is not None:
            return refused
    if state == "22003":
        return violations.overflow(str(getattr(error, "column_name", None) or ""))
    if state in _UNSTORABLE_TEXT:
        return violations.unstorable_text()
    if state in _CONFLICTS:
        return Conflict(f"{statement.name} on {shown}: lost against another transaction ({error}); run it again.")
    why = _UNAVAILABLE.get(state) or _UNAVAILABLE.get(state[:2])
    if why is not None:
        retryable = not state.startswith(_NOT_RETRYABLE)
        return Unavailable(f"{statement.name} on {shown}: {why} ({error}).", retryable=retryable)
    return violations.broken_statement(statement, error)


def _constraint(error: Any, state: str) -> EnsueError | None:
    table, name, detail = str(error.table_name or ""), str(error.constraint_name or ""), str(error.detail or "")
    if state == "23505":
        return violations.unique(table, _columns(detail), name=name)
    if state == "23503":
        if "still referenced" in detail:
            return violations.reference(table, name=name, removed=True)
        return violations.reference(table, _columns(detail), name=name)
    if state == "23514":
        return violations.check(name)
    if state == "23502":
        return violations.not_null(table, str(error.column_name or ""))
    return None


def _columns(detail: str) -> list[str]:
    """The columns that a detail `Key (a, b)=(1, 2) …` names; none if the key has expressions."""
    key = _KEY.match(detail)
    names = [_PLAIN_COLUMN.fullmatch(name) for name in key.group(1).split(", ")] if key is not None else []
    return [name.group(1) for name in names if name is not None] if all(names) else []
