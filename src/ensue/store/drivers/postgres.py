"""The PostgreSQL driver: asyncpg's pool, and generators driven with awaits.

Decides connections and transactions (READ COMMITTED), and that a broken connection is thrown away rather than
repaired. Rows are converted from asyncpg's records to tuples; jsonb comes and goes as text. Leaves making connections to
`postgres_connect.py`, errors to `postgres_errors.py` and notifications to `postgres_listen.py`. Invariants: a connection
goes back to the pool outside of any transaction, or closed; what was cancelled ends, whether the server answers or not.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any, TypeVar, cast

from ensue.errors import DeclarationError, EnsueError, Unavailable, UsageError
from ensue.store.driver import Dialect, Observer
from ensue.store.statement import Call, Request, Run, Statement, Work
from ensue.store.transaction import (
    BEGIN,
    COMMIT,
    ROLLBACK,
    Opening,
    OwnedSession,
    ReadSession,
    Transaction,
    caller_origin,
    current_session,
    enter_session,
    leave_session,
    refuse_own_transaction,
    script,
)
from ensue.store.url import DatabaseUrl

try:
    import asyncpg  # pyright: ignore[reportMissingTypeStubs]

    from ensue.store.drivers import postgres_errors
    from ensue.store.drivers.postgres_connect import Connector
    from ensue.store.drivers.postgres_listen import Listener
except ImportError as missing:
    raise DeclarationError(
        "A postgresql:// database needs the package asyncpg, which is not installed. Install ensue[postgres]."
    ) from missing

T = TypeVar("T")

VERSION_MIN = 15
WAIT_SECONDS = 30.0
CLOSE_SECONDS = 2.0
ROLLBACK_SECONDS = 5.0
"""How long a server may take to undo, which is nothing to it; to hang up has the same effect, only later."""
IDLE_SECONDS = 30.0
"""How long connections are kept at hand; then they are the pool's, which closes those that nobody needs."""

CLOCKS = ("statement_timestamp", "clock_timestamp")
"""The server's functions that a test's clock may take the place of."""

CONNECT = Statement("connect", "")
_OUTCOME_UNKNOWN = "Whether the transaction was committed is not known: the connection broke at COMMIT. "


class PostgresDriver:
    """A `Driver` for one PostgreSQL database. `wait_seconds` bounds the waiting for a free connection of the pool.

    `clocks` take the place of the server's functions of these names in what is run; definitions keep the server's.
    """

    def __init__(
        self,
        url: DatabaseUrl,
        *,
        wait_seconds: float = WAIT_SECONDS,
        clocks: Mapping[str, Callable[[], datetime]] | None = None,
    ) -> None:
        self._url = url
        self._wait_seconds = wait_seconds
        self._clocks = dict(clocks or {})
        self._observers: list[Observer] = []
        self._pool: Any = None
        self._idle: list[Any] = []
        self._waiting = 0
        self._sweeping: asyncio.TimerHandle | None = None
        self._sweep_task: asyncio.Task[None] | None = None  # the loop itself holds tasks weakly
        self._listener: Listener | None = None
        self._connector = Connector(url)
        self._closing_pool: Any = None
        self._returned = asyncio.Event()
        self._is_cut = False
        self._holders: dict[Transaction, None] = {}

    @property
    def dialect(self) -> Dialect:
        return "postgresql"

    @property
    def observers(self) -> list[Observer]:
        return self._observers

    async def open(self) -> None:
        if self._pool is not None:
            raise UsageError(f"The database {self._url} is open already; open each driver once.")
        self._connector, self._is_cut = Connector(self._url), False
        create_pool = cast(Any, asyncpg.create_pool)  # pyright: ignore[reportUnknownMemberType]
        # No minimum: to keep one up, the pool would try by itself during an outage, with a traceback for every attempt.
        sizes = {"min_size": 0, "init_size": 1, "max_size": self._url.pool}
        pool = create_pool(**sizes, reset=_leave_as_is, connect=self._connector.connect, **self._connector.options)
        try:
            await pool
        except Exception as error:
            pool.terminate()
            raise postgres_errors.translate(error, CONNECT, str(self._url)) from error
        self._pool = pool
        try:
            await self._check_version()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Waits for what runs; after `wait_seconds` cuts the connections, which rolls back."""
        session = current_session(self)
        if session is not None and session.transaction.task is asyncio.current_task():
            raise UsageError(f"The database {self._url} was closed inside of a transaction; end that first.")
        listener, self._listener = self._listener, None
        pool, self._pool = self._pool, None
        if listener is not None:
            await listener.stop()
        if pool is None:
            return
        self._closing_pool = pool
        try:
            # At once, as each may wait for a server that is silent.
            await asyncio.gather(*map(self._give_back, self._swept()))
            await asyncio.wait_for(self._all_returned(pool), self._wait_seconds)
            await asyncio.wait_for(pool.close(), CLOSE_SECONDS)
        except TimeoutError:
            pool.terminate()
        except BaseException:
            pool.terminate()
            raise
        finally:
            self._closing_pool = None

    def cut(self) -> None:
        self._is_cut = True
        self._connector.cut()
        for pool in (self._pool, self._closing_pool):
            if pool is not None:
                pool.terminate()
        self._returned.set()

    async def read(self, work: Work[T]) -> T:
        connection = await self._acquire(work)
        try:
            return await self._drive(connection, work, None)
        finally:
            await self._release(connection)

    async def write(self, work: Work[T]) -> T:
        try:
            refuse_own_transaction(self, "starts a write of its own")
        except UsageError:
            work.close()
            raise
        connection = await self._begin(work)
        transaction = Transaction(asyncio.current_task())
        self._holders[transaction] = None
        try:
            result = await self._drive(connection, work, transaction)
            await self._commit(connection, transaction)
            return result
        except BaseException:
            await _settled(self._rollback(connection))
            raise
        finally:
            del self._holders[transaction]
            await self._release(connection)

    def transaction(self) -> "Opening[PostgresSession]":
        return Opening(self, caller_origin())

    async def script(self, statements: list[Statement]) -> None:
        await self.write(script(statements))

    async def watch(self, callback: Callable[[str], None]) -> None:
        if self._listener is not None:
            raise UsageError(f"The database {self._url} is watched already; one callback can tell many.")
        listener = Listener(lambda: self._connector.connect(**self._connector.options), callback)
        try:
            await listener.start()
        except Exception as error:
            raise postgres_errors.translate(error, CONNECT, str(self._url)) from error
        self._listener = listener

    async def begin_session(self, transaction: Transaction) -> "PostgresSession":
        """For `transaction()`: take a connection and BEGIN."""
        connection = await self._begin(None)
        self._holders[transaction] = None
        return PostgresSession(self, transaction, connection)

    async def end_session(self, session: "PostgresSession", *, commits: bool) -> None:
        """For `transaction()`: COMMIT or ROLLBACK, and give the connection back."""
        connection = session.connection
        try:
            if commits:
                await self._commit(connection, session.transaction)
            else:
                await _settled(self._rollback(connection))
        except BaseException:
            await _settled(self._rollback(connection))
            raise
        finally:
            del self._holders[session.transaction]
            await self._release(connection)

    async def drive_in(self, session: "PostgresSession", work: Work[T], *, shielded: bool) -> T:
        """For sessions: run work in the open transaction."""
        driving = self._drive(session.connection, work, session.transaction)
        return await (_settled(driving, give_up=session.connection.terminate) if shielded else driving)

    def abandon_session(self, session: "PostgresSession") -> None:
        """For `transaction()`: nothing can be awaited any more; the server rolls back when the connection is gone."""
        session.connection.terminate()
        self._holders.pop(session.transaction, None)

    async def _check_version(self) -> None:
        connection = await self._acquire(None)
        try:
            version = connection.get_server_version()
        finally:
            await self._release(connection)
        if version.major < VERSION_MIN:
            raise Unavailable(
                f"The server of {self._url} is PostgreSQL {version.major}; ensue needs {VERSION_MIN} or later.",
                retryable=False,
            )

    async def _acquire(self, work: Work[Any] | None) -> Any:
        try:
            if self._pool is None or self._is_cut:
                raise Unavailable(f"The database {self._url} is not open.")
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
                await self._give_back(connection)
            self._waiting += 1
            try:
                # Not the pool's proxy: once the connection is lost, that can't even be asked whether it is.
                proxy = await self._pool.acquire(timeout=self._wait_seconds)
            finally:
                self._waiting -= 1
            return proxy._con
        except BaseException as error:
            if work is not None:
                work.close()
            if isinstance(error, TimeoutError):
                raise Unavailable(
                    f"None of the {self._url.pool} connections to {self._url} was free within {self._wait_seconds:g} "
                    f"s. The longest in use is held by {next(iter(self._holders), 'reads')}. Keep transactions "
                    "short, and await nothing slow inside of them; or raise ?pool= in the URL."
                ) from error
            if isinstance(error, Exception):
                raise postgres_errors.translate(error, CONNECT, str(self._url)) from error
            raise

    async def _release(self, connection: Any) -> None:
        """Keep a connection at hand, which costs neither a task nor a turn of the loop, unless somebody waits for one."""
        if self._pool is None or self._waiting or connection.is_closed():
            await self._give_back(connection)
            return
        self._idle.append(connection)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._start_sweep)

    def _start_sweep(self) -> None:
        self._sweep_task = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        """Give all that are at hand back to the pool."""
        for connection in self._swept():
            await self._give_back(connection)

    def _swept(self) -> list[Any]:
        """All that were at hand."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        idle, self._idle = self._idle, []
        return idle

    async def _give_back(self, connection: Any) -> None:
        proxy = connection._proxy
        if proxy is not None:
            try:
                # What was cancelled may still be waiting for the server to say so.
                async with asyncio.timeout(ROLLBACK_SECONDS):
                    # The holder's pool, as `close` has taken away ours while it waits for this.
                    await proxy._holder._pool.release(proxy)
            except TimeoutError:
                connection.terminate()
        self._returned.set()

    async def _all_returned(self, pool: Any) -> None:
        while pool.get_size() > pool.get_idle_size():
            self._returned.clear()
            await self._returned.wait()

    async def _begin(self, work: Work[Any] | None) -> Any:
        """A connection with a transaction begun. Those that were lost while nobody used them are replaced unnoticed."""
        for lost in range(self._url.pool + 1):
            connection = await self._acquire(work)
            try:
                await self._execute(connection, BEGIN)
            except BaseException as error:
                await _settled(self._rollback(connection))
                replaceable = isinstance(error, Unavailable) and connection.is_closed() and lost < self._url.pool
                await self._release(connection)
                if replaceable:
                    continue
                if work is not None:
                    work.close()
                raise
            return connection
        raise AssertionError("the last attempt returns or raises")

    async def _commit(self, connection: Any, transaction: Transaction) -> None:
        failure = transaction.uncommittable()
        if failure is not None:
            raise failure
        try:
            await self._execute(connection, COMMIT)
        except Unavailable as error:
            if connection.is_closed():
                raise Unavailable(f"{_OUTCOME_UNKNOWN}{error}", retryable=False) from error
            raise

    async def _rollback(self, connection: Any) -> None:
        """End an open transaction; a connection that can't is closed, which makes the server do it."""
        if connection.is_closed():
            return
        # Whether one is open is not asked: while a statement is being cancelled, the answer may be out of date.
        try:
            async with asyncio.timeout(ROLLBACK_SECONDS):
                await self._execute(connection, ROLLBACK)
        except (EnsueError, TimeoutError):
            connection.terminate()

    async def _execute(self, connection: Any, statement: Statement) -> None:
        for observer in self._observers:
            observer(statement, 1)
        try:
            await connection.execute(statement.text)
        except Exception as error:
            raise self._failed(connection, error, statement) from error

    async def _drive(self, connection: Any, work: Work[T], transaction: Transaction | None) -> T:
        answer: Any = None
        error: BaseException | None = None
        try:
            while True:
                request = work.send(answer) if error is None else work.throw(error)
                try:
                    answer, error = await self._answer(connection, request, transaction), None
                except GeneratorExit:
                    raise
                except BaseException as failure:  # noqa: BLE001 - goes to the generator, whatever it is
                    error = failure
        except StopIteration as end:
            return end.value
        finally:
            work.close()

    async def _answer(self, connection: Any, request: Request, transaction: Transaction | None) -> Any:
        if isinstance(request, Call):
            return await self._call(connection, request, transaction)
        try:
            return await self._run(connection, request, transaction)
        except Exception as failure:
            error = self._failed(connection, failure, request.statement)
            if transaction is not None and transaction.failure is None:
                transaction.failure = error
            raise error from failure

    def _failed(self, connection: Any, error: Exception, statement: Statement) -> EnsueError:
        if postgres_errors.makes_unusable(error):
            connection.terminate()
        return postgres_errors.translate(error, statement, str(self._url))

    async def _run(self, connection: Any, request: Run, transaction: Transaction | None) -> list[tuple[Any, ...]]:
        statement, params = request.statement, request.params
        failed = transaction is not None and transaction.failure is not None
        if transaction is not None:
            transaction.last = statement
            refused = transaction.refused(statement)
            if refused is not None:
                raise refused
        for observer in self._observers:
            observer(statement, len(params) if request.many else 1)
        rows: list[tuple[Any, ...]] = []
        text = _with_clocks(statement.text, self._clocks) if self._clocks else statement.text
        if request.many:
            await connection.executemany(text, params)
        elif statement.rows:
            rows = [tuple(record) for record in await connection.fetch(text, *params)]
        else:
            await connection.execute(text, *params)
        if transaction is not None and failed:
            transaction.recovered()
        return rows

    async def _call(self, connection: Any, call: Call, transaction: Transaction | None) -> Any:
        """Await a callback with the transaction it interrupts as current session."""
        if transaction is None:
            # On the same connection: waiting for another while holding this one could be waiting for each other.
            return await call.function(ReadSession(lambda work: self._drive(connection, work, None)))
        session = current_session(self)
        if session is not None and session.transaction is transaction:
            return await call.function(session)
        session = PostgresSession(self, transaction, connection)
        enter_session(self, session)
        try:
            return await call.function(session)
        finally:
            leave_session(session)


class PostgresSession(OwnedSession):
    """An open transaction on a connection of the pool."""

    def __init__(self, driver: PostgresDriver, transaction: Transaction, connection: Any) -> None:
        super().__init__(transaction)
        self._driver = driver
        self.connection = connection

    async def _drive(self, work: Work[T], *, shielded: bool) -> T:
        return await self._driver.drive_in(self, work, shielded=shielded)


def _with_clocks(text: str, clocks: Mapping[str, Callable[[], datetime]]) -> str:
    """`text` with the instants of `clocks` written out. Not in definitions: these outlive whoever holds the clock."""
    if text.lstrip().startswith(("CREATE", "ALTER")):
        return text
    for name, now in clocks.items():
        text = text.replace(f"{name}()", f"timestamptz '{now().isoformat()}'")
    return text


async def _leave_as_is(_connection: object) -> None:
    """Instead of asyncpg's reset between uses, a round trip: nothing here changes a connection's settings."""


async def _settled(coroutine: Coroutine[Any, Any, T], *, give_up: Callable[[], None] | None = None) -> T:
    """Await to the end, and raise a cancellation that came meanwhile only then.

    `give_up` is called to bring the end about if that takes too long after a cancellation.
    """
    task = asyncio.ensure_future(coroutine)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            _, late = await asyncio.wait([task], timeout=None if cancelled is None else ROLLBACK_SECONDS)
            if late and give_up is not None:
                give_up()
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled() and task.exception() is not None:
            raise cancelled from task.exception()
        raise cancelled
    return task.result()
