"""`prepare_database`: what an app does to its database at start. Empty, it gets its tables; made for another schema, it is refused.

Decides which of the two it is, and that processes starting at once agree. Leaves changing an older database to `additive`, which
only a person starts. Invariants: at start a database that holds anything is never changed; who only looks makes none, as a
mistyped URL would find all well.
"""

from pathlib import Path

from ensue.migrate.catalogue import (
    META_TABLE,
    Catalogue,
    lock_catalogue,
    mismatch,
    read_catalogue,
    store_fingerprint,
)
from ensue.migrate.difference import differences
from ensue.plan.plan import Plan
from ensue.store.driver import Driver
from ensue.store.statement import Run, Work
from ensue.store.url import DatabaseUrl

SHOWN_MAX = 10


async def prepare_database(plan: Plan, driver: Driver, *, shown: str = "", creates_tables: bool = True) -> None:
    """Make sure that the database of `driver` holds the tables of `plan`.

    An empty database gets them, in one transaction. One with the same schema costs two reads. Raises `SchemaMismatch` (a
    `DeclarationError`) for one made for another schema, with every difference in words, or one whose tables are not ensue's,
    or one that is empty unless `creates_tables`; `shown` is what it calls the database.
    """
    catalogue = await driver.read(read_catalogue(plan.dialect))
    if catalogue.tables:
        check(plan, catalogue, shown)
        return
    if not creates_tables:
        raise _nothing(shown, "is empty")
    await driver.write(_install(plan, shown))


def require_file(url: DatabaseUrl) -> None:
    """Raises `SchemaMismatch` for a file that is not there, which opening it would make; a server says so by itself."""
    if url.dialect == "sqlite" and not url.in_memory and not Path(url.path).exists():
        raise _nothing(str(url), f"is not there: no file {Path(url.path).absolute()}")


def _install(plan: Plan, shown: str) -> Work[None]:
    yield from lock_catalogue(plan.dialect)
    # Another process may have been first; under the lock this reads what it committed.
    catalogue = yield from read_catalogue(plan.dialect)
    if catalogue.tables:
        check(plan, catalogue, shown)
        return
    for statement in plan.ddl:
        yield Run(statement)
    yield from store_fingerprint(plan.dialect, plan.fingerprint)


def check(plan: Plan, catalogue: Catalogue, shown: str) -> None:
    """Raises `SchemaMismatch` unless the database was made for this plan's schema."""
    if catalogue.fingerprint is None:
        raise foreign(catalogue, shown)
    found = differences(catalogue.fingerprint, plan.fingerprint)
    if found:
        raise mismatch(
            f"{_named(shown)} was made for another version of this schema. If what differs only adds, "
            "`ensue migrate module:app --additive` applies it; anything else must be changed by hand or in a new "
            "database. Differences:",
            *(item.text for item in found),
        )


def foreign(catalogue: Catalogue, shown: str = "") -> Exception:
    """The error for a database whose tables ensue did not make."""
    tables = sorted(catalogue.tables - {META_TABLE})
    names = ", ".join(tables[:SHOWN_MAX]) + (f" and {len(tables) - SHOWN_MAX} more" if len(tables) > SHOWN_MAX else "")
    return mismatch(
        f"{_named(shown)} holds tables that ensue did not make ({names or META_TABLE}), and no fingerprint of a schema. "
        "Expected an empty database, or one that this app made. Give the app a database (on PostgreSQL, a schema by search_path) "
        "of its own."
    )


def _nothing(shown: str, how: str) -> Exception:
    return mismatch(
        f"{_named(shown)} {how}. Expected one that the app ran on before; `ensue run` and `ensue worker` make the tables in "
        "one that is new. Is this the URL that is meant, and for a relative one the right directory?"
    )


def _named(shown: str) -> str:
    return f"The database {shown}" if shown else "The database"
