"""pgqueuer: a job enqueued on the asyncpg connection of the transaction."""

from __future__ import annotations

from collections.abc import Callable

import asyncpg
from pgqueuer import AsyncpgDriver, Job, PgQueuer
from pgqueuer.queries import Queries

from benchmarks.queues.contest import CONCURRENCY, Seen

name = "pgqueuer"
guarantees = "one transaction with the cause; a heartbeat, completion by delete and log, not fenced"


class PgqueuerProducer:
    def __init__(self, database: str) -> None:
        self._database = database

    async def prepare(self) -> None:
        self._pool = await asyncpg.create_pool(self._database, min_size=10, max_size=10)
        async with self._pool.acquire() as connection:
            await Queries(AsyncpgDriver(connection)).install()
            await connection.execute("CREATE TABLE orders (id bigserial PRIMARY KEY, number bigint)")

    async def produce(self, number: int) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("INSERT INTO orders (number) VALUES ($1)", number)
            await Queries(AsyncpgDriver(connection)).enqueue("tell", str(number).encode())

    async def close(self) -> None:
        await self._pool.close()


def producer(database: str) -> PgqueuerProducer:
    return PgqueuerProducer(database)


async def work(database: str, seen: Seen, ready: Callable[[], None]) -> None:
    queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(database)))

    @queuer.entrypoint("tell")
    async def tell(job: Job) -> None:
        assert job.payload is not None
        seen(int(job.payload))

    ready()
    await queuer.run(batch_size=CONCURRENCY)
