"""From SQLite's errors to those of ensue.

Decides by the extended result code, and reads names from the message where SQLite gives them nowhere else. A foreign
key's failure names neither table nor column. Invariant: every exception has an answer; what is not known is an
`InternalError`.
"""

import re
from collections.abc import Callable
from typing import Any

import apsw

from ensue.errors import Conflict, EnsueError, Unavailable
from ensue.store import violations
from ensue.store.statement import Statement

_DATATYPE_OVERFLOW = re.compile(r"cannot store REAL value in INTEGER column (?:.*\.)?(.+)")

_UNAVAILABLE = {
    apsw.SQLITE_FULL: "the disk is full; free some space",
    apsw.SQLITE_IOERR: "reading or writing the file failed",
    apsw.SQLITE_READONLY: "the file can't be written; check its permissions and those of its directory",
    apsw.SQLITE_CANTOPEN: "the file can't be opened; check that its directory exists and can be written",
    apsw.SQLITE_PERM: "the file can't be accessed; check its permissions",
    apsw.SQLITE_NOMEM: "there is no memory left",
    apsw.SQLITE_CORRUPT: "the file is damaged; restore it from a backup",
    apsw.SQLITE_NOTADB: "the file is not an SQLite database",
    apsw.SQLITE_INTERRUPT: "the work was interrupted",
    apsw.SQLITE_PROTOCOL: "locking the file failed",
}
_NOT_RETRYABLE = {apsw.SQLITE_CORRUPT, apsw.SQLITE_NOTADB, apsw.SQLITE_CANTOPEN, apsw.SQLITE_PERM, apsw.SQLITE_READONLY}


def translate(error: Exception, statement: Statement, shown: str) -> EnsueError:
    """The error to raise instead of `error`; `shown` names the database."""
    translated = _translate(error, statement, shown)
    translated.__cause__ = error
    return translated


def _translate(error: Exception, statement: Statement, shown: str) -> EnsueError:
    if isinstance(error, EnsueError):
        return error
    if isinstance(error, OverflowError):
        return violations.overflow()
    if isinstance(error, UnicodeEncodeError):
        return violations.unstorable_text()
    if not isinstance(error, apsw.Error):
        return violations.broken_statement(statement, error)
    # Errors of apsw itself carry no code.
    code, text = getattr(error, "result", 0) & 0xFF, str(error)
    if code == apsw.SQLITE_CONSTRAINT:
        refused = _CONSTRAINTS.get(getattr(error, "extendedresult", 0))
        if refused is not None:
            return refused(text.partition(": ")[2])
        overflow = _DATATYPE_OVERFLOW.match(text)
        if overflow is not None:
            return violations.overflow(overflow.group(1))
    if text == "integer overflow" or code == apsw.SQLITE_TOOBIG:
        return violations.overflow()
    if code in (apsw.SQLITE_BUSY, apsw.SQLITE_LOCKED):
        return Conflict(
            f"{statement.name} on {shown}: another connection changed or locked the data meanwhile; run it again."
        )
    if code in _UNAVAILABLE:
        message = f"{statement.name} on {shown}: {_UNAVAILABLE[code]} ({text})."
        return Unavailable(message, retryable=code not in _NOT_RETRYABLE)
    return violations.broken_statement(statement, error)


def _unique(columns: str) -> EnsueError:
    if columns.startswith("index "):
        return violations.unique("", (), name=columns.removeprefix("index ").strip("'"))
    pairs = [name.rpartition(".") for name in columns.split(", ")]
    return violations.unique(pairs[0][0], [column for _, _, column in pairs])


def _not_null(column: str) -> EnsueError:
    table, _, name = column.rpartition(".")
    return violations.not_null(table, name)


_CONSTRAINTS: dict[int, Callable[[str], Any]] = {
    apsw.SQLITE_CONSTRAINT_UNIQUE: _unique,
    apsw.SQLITE_CONSTRAINT_PRIMARYKEY: _unique,
    apsw.SQLITE_CONSTRAINT_ROWID: _unique,
    apsw.SQLITE_CONSTRAINT_FOREIGNKEY: lambda _: violations.reference(),
    apsw.SQLITE_CONSTRAINT_CHECK: violations.check,
    apsw.SQLITE_CONSTRAINT_NOTNULL: _not_null,
}
