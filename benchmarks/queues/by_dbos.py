"""DBOS: a workflow enqueued by its SQL function, in the transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
from dbos import DBOS

from benchmarks.queues.contest import CONCURRENCY, Seen

name = "DBOS (queue)"
guarantees = "one transaction with the cause (SQL function); durable steps, results stored, recovery by executor"
QUEUE = "effects"
_ENQUEUE = (
    "SELECT dbos.enqueue_workflow(workflow_name => 'tell', queue_name => 'effects',"
    " positional_args => ARRAY[to_json($1::bigint)], app_version => 'contest')"
)


def launch(database: str, seen: Seen | None) -> None:
    DBOS(
        config={
            "name": "contest",
            "system_database_url": database,
            "application_version": "contest",
            "log_level": "ERROR",
            "run_admin_server": False,
        }
    )

    @DBOS.workflow(name="tell")
    async def tell(number: int) -> None:
        assert seen is not None
        seen(number)

    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=CONCURRENCY, polling_interval_sec=0.1)


class DbosProducer:
    def __init__(self, database: str) -> None:
        self._database = database

    async def prepare(self) -> None:
        await asyncio.to_thread(launch, self._database, None)
        await asyncio.to_thread(DBOS.destroy)
        self._pool: Any = await asyncpg.create_pool(self._database, min_size=10, max_size=10)
        await self._pool.execute("CREATE TABLE orders (id bigserial PRIMARY KEY, number bigint)")

    async def produce(self, number: int) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("INSERT INTO orders (number) VALUES ($1)", number)
            await connection.execute(_ENQUEUE, number)

    async def close(self) -> None:
        await self._pool.close()


def producer(database: str) -> DbosProducer:
    return DbosProducer(database)


async def work(database: str, seen: Seen, ready: Callable[[], None]) -> None:
    await asyncio.to_thread(launch, database, seen)
    ready()
    await asyncio.Event().wait()
