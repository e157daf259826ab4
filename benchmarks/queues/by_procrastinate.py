"""procrastinate: a task deferred on the connection of the transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import procrastinate
import psycopg_pool

from benchmarks.queues.contest import CONCURRENCY, Seen

name = "procrastinate"
guarantees = "one transaction with the cause; stalled jobs are retried by a task that the user schedules"


def made(database: str, seen: Seen | None) -> tuple[procrastinate.App, Any]:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=database))

    @app.task(name="tell")
    async def tell(number: int) -> None:
        assert seen is not None
        seen(number)

    return app, tell


class ProcrastinateProducer:
    def __init__(self, database: str) -> None:
        self._app, self._task = made(database, None)
        self._pool = psycopg_pool.AsyncConnectionPool(database, open=False, min_size=10, max_size=10)

    async def prepare(self) -> None:
        await self._app.open_async()
        await self._app.schema_manager.apply_schema_async()
        await self._pool.open()
        async with self._pool.connection() as connection:
            await connection.execute("CREATE TABLE orders (id bigserial PRIMARY KEY, number bigint)")

    async def produce(self, number: int) -> None:
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("INSERT INTO orders (number) VALUES (%s)", (number,))
            await self._task.configure(connection=connection).defer_async(number=number)

    async def close(self) -> None:
        await self._pool.close()
        await self._app.close_async()


def producer(database: str) -> ProcrastinateProducer:
    return ProcrastinateProducer(database)


async def work(database: str, seen: Seen, ready: Callable[[], None]) -> None:
    app, _ = made(database, seen)
    async with app.open_async():
        worker = asyncio.create_task(app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False))
        ready()
        await worker
