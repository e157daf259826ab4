"""What a database driver must do. One conformance suite (`ensue.testing.driver_conformance`) holds every implementation to it.

Decides how work is run in transactions; leaves SQL, meaning and retries to its callers. Invariants: work given to `write` is
all committed or not at all; a `Session` belongs to the task that opened it; native errors never leave a driver, only those of
`ensue.errors` do (`ConstraintViolated`, `InvalidValue` for overflow and NUL, `Conflict`, `Unavailable`, `InternalError`).
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, TypeVar

from ensue.store.statement import Statement, Work

T = TypeVar("T")
Dialect = Literal["sqlite", "postgresql"]
Observer = Callable[[Statement, int], None]
"""Called with each statement that is run and the number of parameter tuples (1 unless `many`), BEGIN and COMMIT included."""


class Session(Protocol):
    """An open transaction."""

    async def run(self, work: Work[T]) -> T:
        """Drive `work` inside the transaction. May be called again (nested) by the function of a `Call` of running work."""
        ...

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """A nested scope: released when the body ends, rolled back to when it raises."""
        ...


class Driver(Protocol):
    """One database."""

    @property
    def dialect(self) -> Dialect: ...

    @property
    def observers(self) -> list[Observer]:
        """Who is told of each statement; tests count with it, logs and traces name with it."""
        ...

    async def open(self) -> None:
        """Connect. Raises `Unavailable` that names the database (never a password) when it can't."""
        ...

    async def close(self) -> None:
        """Finish what runs and disconnect; idempotent."""
        ...

    def cut(self) -> None:
        """End what is under way, without the database, which may be silent: whoever waits for it gets `Unavailable`.

        For the end of a process, on the event loop of `open`; what follows is `close`, which is quick then.
        """
        ...

    async def read(self, work: Work[T]) -> T:
        """Drive `work`, which only reads, outside of any transaction of the caller. It sees everything committed before."""
        ...

    async def write(self, work: Work[T]) -> T:
        """Drive `work` in a transaction of its own: BEGIN, the work, COMMIT; ROLLBACK if it raises.

        On SQLite this is one hop to the writer thread (plus one per `Call`). PostgreSQL: READ COMMITTED.
        """
        ...

    def transaction(self) -> AbstractAsyncContextManager[Session]:
        """A transaction that stays open over several `Session.run`; commits when the body ends, rolls back when it raises."""
        ...

    async def script(self, statements: list[Statement]) -> None:
        """Run DDL in one transaction."""
        ...

    async def watch(self, callback: Callable[[str], None]) -> None:
        """From now on call `callback(payload)` on the event loop when another process may have committed something.

        PostgreSQL: NOTIFY on channel `ensue` (payload as sent, `""` after a reconnect). SQLite: a change of `data_version`
        (payload `""`). A hint: calls can be missing or spurious, never relied on for correctness.
        """
        ...
