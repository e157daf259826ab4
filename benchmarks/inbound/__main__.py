"""`python -m benchmarks.inbound`: rates and latencies of webhooks and consumers, on both databases.

Decides the load. The servers are those of the tests. Leaves what is measured to `app`. Invariant: messages are made and
signed before the measurement begins, and each is counted once its change is committed.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import hmac
import importlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import nats
import redis.asyncio

from benchmarks.inbound import app as measured
from benchmarks.processors import Meter
from ensue.clock import SystemClock
from tests.services import PostgresServer, RedisServer, _free_port
from tests.services_nats import NatsServer

SECONDS = 5.0
RATE = int(os.environ.get("RATE", "1000"))
CONNECTIONS = 32
MAKING_SECONDS = 0.5
MESSAGES = 10_000
clock = SystemClock()


def main() -> None:
    """Measure what the arguments name by a part of its name (all, without any), and print a table."""
    asked = sys.argv[1:]
    works = {name: work for name, work in WORK.items() if not asked or any(part in name for part in asked)}
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    with PostgresServer() as postgres, tempfile.TemporaryDirectory() as folder:
        for kind in ("sqlite", "postgresql"):
            for name, work in works.items():
                with postgres.database() as url:
                    database = url if kind == "postgresql" else f"sqlite:///{folder}/{work.__name__}.db"
                    print(f"{kind:<11}{name:<28}{asyncio.run(work(database))}", flush=True)


# --- Webhooks ---------------------------------------------------------------------------------------------------------


def request(number: int) -> bytes:
    """A signed message, as bytes on the wire."""
    body = b'{"number": %d, "text": "%s"}' % (number, b"x" * 200)
    stamp = str(int(clock.now().timestamp()))
    key = base64.b64decode(measured.SECRET.removeprefix("whsec_"))
    content = f"msg_{number}.{stamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, content, "sha256")).decode()
    head = (
        f"POST /api/webhooks/m/arrived HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nwebhook-id: msg_{number}\r\n"
        f"webhook-timestamp: {stamp}\r\nwebhook-signature: v1,{signature}\r\n\r\n"
    )
    return head.encode() + body


class Wire:
    """Keep-alive connections, each with one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: asyncio.Queue[Any] = asyncio.Queue()

    async def open(self) -> None:
        for _ in range(CONNECTIONS):
            self._free.put_nowait(await asyncio.open_connection("127.0.0.1", self._port))

    async def send(self, content: bytes) -> None:
        reader, writer = await self._free.get()
        writer.write(content)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length is not None
        await reader.readexactly(int(length[1]))
        self._free.put_nowait((reader, writer))


@contextmanager
def served(database: str) -> Iterator[tuple[int, int]]:
    """The port and the process of an `ensue run` of its own."""
    port = _free_port()
    program = "import sys; from ensue.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "run", "benchmarks.inbound.app:app", "--port", str(port)]
    environment = {**os.environ, "BENCH_DATABASE": database}
    process = subprocess.Popen([*command, "--log-level", "WARNING"], env=environment)
    try:
        deadline = clock.monotonic_seconds() + 30
        while clock.monotonic_seconds() < deadline and process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


async def webhooks_at_rate(database: str) -> str:
    """Open loop: `RATE` a second, whatever the answers."""
    with served(database) as (port, process):
        wire = Wire(port)
        await wire.open()
        await asyncio.gather(*(wire.send(request(-n)) for n in range(1, 300)))
        contents = [request(n) for n in range(int(RATE * SECONDS))]
        took: list[float] = []
        # Later than now, and without collections of our own: what keeps us from sending is not the server's.
        gc.collect()
        gc.disable()
        meter, began = Meter(server=process, load=os.getpid()), clock.monotonic_seconds() + MAKING_SECONDS

        async def one(n: int) -> None:
            due = began + n / RATE
            await asyncio.sleep(due - clock.monotonic_seconds())
            await wire.send(contents[n])
            took.append(clock.monotonic_seconds() - due)

        await asyncio.gather(*(one(n) for n in range(len(contents))))
        seconds, processors = clock.monotonic_seconds() - began, meter.text()
        gc.enable()
    return f"{len(took) / seconds:>7.0f}/s  {latencies(took)}  {processors}"


async def webhooks_at_most(database: str) -> str:
    """Closed loop: as fast as the answers come."""
    with served(database) as (port, process):
        wire = Wire(port)
        await wire.open()
        contents = iter([request(n) for n in range(20_000)])
        took: list[float] = []
        meter, end = Meter(server=process, load=os.getpid()), clock.monotonic_seconds() + SECONDS

        async def one() -> None:
            while (now := clock.monotonic_seconds()) < end:
                await wire.send(next(contents))
                took.append(clock.monotonic_seconds() - now)

        await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
        processors = meter.text()
    return f"{len(took) / SECONDS:>7.0f}/s  {latencies(took)}  {processors}"


def latencies(took: list[float]) -> str:
    """p50 and p99 in milliseconds."""
    ordered = sorted(took)
    p50, p99 = (1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return f"p50 {p50:6.1f} ms  p99 {p99:6.1f} ms"


# --- Brokers ----------------------------------------------------------------------------------------------------------


async def from_nats(database: str) -> str:
    """What JetStream holds, to the inbox."""
    with NatsServer() as server:
        connect: Any = nats.connect
        client = await connect(server.url)
        stream = client.jetstream(publish_async_max_pending=1000)
        await stream.add_stream(name=measured.NAME, subjects=[measured.NAME])
        for n in range(0, MESSAGES, 500):
            await asyncio.gather(
                *(stream.publish(measured.NAME, b'{"number": %d}' % m) for m in range(n, min(n + 500, MESSAGES)))
            )
        await client.close()
        return await consumed(database, server.url)


async def from_redis(database: str) -> str:
    """What a stream holds, to the inbox."""
    with RedisServer() as server:
        async with redis.asyncio.Redis.from_url(server.url) as client, client.pipeline(transaction=False) as pipeline:
            for n in range(MESSAGES):
                pipeline.xadd(measured.NAME, {"body": b'{"number": %d}' % n})
            await pipeline.execute()
        return await consumed(database, server.url)


async def consumed(database: str, broker: str) -> str:
    """The rate at which one process takes everything."""
    os.environ["BENCH_DATABASE"], os.environ["BENCH_BROKER"] = database, broker
    os.environ["BENCH_BATCH"] = BATCH
    app = importlib.reload(measured).app
    began = clock.monotonic_seconds()
    async with app:
        while await app.controller.store.count("Arrived") < MESSAGES:  # noqa: ASYNC110 - by whichever process
            await asyncio.sleep(0.02)
        rate = MESSAGES / (clock.monotonic_seconds() - began)
    del os.environ["BENCH_BROKER"]
    return f"{rate:>7.0f}/s  in batches of up to {BATCH}"


BATCH = os.environ.get("BATCH", "32")
WORK: dict[str, Callable[[str], Awaitable[str]]] = {
    f"webhooks, {RATE}/s offered": webhooks_at_rate,
    "webhooks, at most": webhooks_at_most,
    "JetStream to inbox": from_nats,
    "Redis stream to inbox": from_redis,
}

if __name__ == "__main__":
    main()
