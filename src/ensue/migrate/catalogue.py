"""What a database holds, as far as deciding needs it: its tables, and the fingerprint of the schema it was made for.

Leaves what follows from it to `install` and `additive`. Invariant: nothing here writes but `store_fingerprint`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ensue.errors import DeclarationError, Problem
from ensue.store.driver import Dialect
from ensue.store.statement import Run, Statement, Work

Fingerprint = Mapping[str, Any]

META_TABLE: Final = "ensue_meta"
META_KEY: Final = "schema"
_LOCK_KEY: Final = 7_305_805_511
"""Of the advisory lock on PostgreSQL under which processes change a database's tables one after the other."""

_TABLES: Final[Mapping[Dialect, Statement]] = {
    "sqlite": Statement(
        "catalogue.tables",
        "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
        "ORDER BY name",
        rows=True,
    ),
    # What an extension brought is nobody's data.
    "postgresql": Statement(
        "catalogue.tables",
        "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace "
        "AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT EXISTS (SELECT FROM pg_depend d "
        "WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1",
        rows=True,
    ),
}
_READ: Final[Mapping[Dialect, Statement]] = {
    "sqlite": Statement("meta.read", "SELECT value FROM ensue_meta WHERE key = ?1", rows=True),
    "postgresql": Statement("meta.read", "SELECT value FROM ensue_meta WHERE key = $1", rows=True),
}
_STORE_TEXT: Final = (
    "INSERT INTO ensue_meta (key, value) VALUES ({0}1, {0}2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
_STORE: Final[Mapping[Dialect, Statement]] = {
    "sqlite": Statement("meta.store", _STORE_TEXT.format("?")),
    "postgresql": Statement("meta.store", _STORE_TEXT.format("$")),
}
_LOCK: Final = Statement("catalogue.lock", "SELECT pg_advisory_xact_lock($1)", rows=True)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The names of a database's tables and views, and the fingerprint stored in it (None: never installed)."""

    tables: frozenset[str]
    fingerprint: Fingerprint | None


def read_catalogue(dialect: Dialect) -> Work[Catalogue]:
    """At most two statements, as every start pays for them."""
    found: list[tuple[str]] = yield Run(_TABLES[dialect])
    tables = frozenset(name for (name,) in found)
    if META_TABLE not in tables:
        return Catalogue(tables, None)
    stored: list[tuple[str]] = yield Run(_READ[dialect], (META_KEY,))
    return Catalogue(tables, msgspec.json.decode(stored[0][0]) if stored else None)


def lock_catalogue(dialect: Dialect) -> Work[None]:
    """Until the transaction ends, nobody else installs or migrates; SQLite's writer is alone anyway."""
    if dialect == "postgresql":
        yield Run(_LOCK, (_LOCK_KEY,))


def store_fingerprint(dialect: Dialect, fingerprint: Fingerprint) -> Work[None]:
    """From now on the database is one made for this schema."""
    text = msgspec.json.encode(fingerprint, order="sorted").decode()
    yield Run(_STORE[dialect], (META_KEY, text))


class SchemaMismatch(DeclarationError):
    """The database was made for another schema, or not by ensue. `problems` has one entry per difference."""

    code = "E0170"
    summarised = True


def mismatch(message: str, *details: str) -> SchemaMismatch:
    """The error, its summary first."""
    return SchemaMismatch([Problem(SchemaMismatch.code, text) for text in (message, *details)])
