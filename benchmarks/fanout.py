"""`python -m benchmarks.fanout`: one process sends to thousands of WebSockets; how late messages are, and what gets lost.

Decides the load and what is told of it. The clients are another process (`fanout_clients`), real sockets between the two.
A latency is the time from the commit of a message to its receipt by one client, by the one monotonic clock of the
machine. In the same run a bare Starlette application under uvicorn broadcasts the same texts to as many clients. Then
connections are broken under load, and each client checks that it got every offset, or was told that it did not.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from benchmarks.fanout_clients import OPEN_FILES
from benchmarks.processors import Meter
from ensue import App, Entity, Many, One, Property, Relation
from ensue.integrations.redis_channels import RedisChannels
from examples.channels.figures import percentile
from tests.services import PostgresServer, RedisServer

ROOT = Path(__file__).resolve().parents[1]
TEXT = "x" * 100
LATE_SECONDS = 0.2
CREATED_AT_ONCE = 500


class User(Entity):
    name: Property[str]
    memberships = Many(lambda: Membership, inverse="user")


class Channel(Entity):
    title: Property[str]
    memberships = Many(lambda: Membership, inverse="channel")
    messages = Many(lambda: Message, inverse="channel")


class Membership(Relation):
    user: One[User]
    channel: One[Channel]


class Message(Entity):
    text: Property[str]
    channel: One[Channel]


class Crowd:
    """The process of the clients."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def meter(self) -> Meter:
        """Counts who uses the processors from now on."""
        return Meter(server=os.getpid(), clients=self._process.pid)

    async def ask(self, do: str, **arguments: Any) -> Any:
        """Give a command and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode({"do": do, **arguments}) + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise SystemExit("the clients' process ended; its error is above")
        return msgspec.json.decode(line)


@asynccontextmanager
async def crowd() -> AsyncGenerator[Crowd]:
    """Clients, in a process of their own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.fanout_clients"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 30,
    )
    try:
        yield Crowd(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def serving(application: Any, *, ws: str) -> AsyncGenerator[int]:
    """Serve on a free port, with settings that are the same for both sides; gives the port."""
    config = uvicorn.Config(
        application, port=0, log_config=None, access_log=False, lifespan="off", ws=ws, ws_per_message_deflate=False
    )
    server = uvicorn.Server(config)
    server.capture_signals = suppress  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    # As `ensue run` does.
    gc.collect()
    gc.freeze()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.force_exit = server.should_exit = True
        await asyncio.wait([task])


class Bare:
    """What is compared with: every client gets every text, and nothing is kept, ordered or checked."""

    def __init__(self) -> None:
        self._clients: list[set[WebSocket]] = []
        self._turns: list[asyncio.Lock] = []
        self._offsets: list[int] = []
        self.times: dict[int, float] = {}
        self._number = 0

    def application(self, channels: int) -> Starlette:
        self._clients = [set() for _ in range(channels)]
        self._turns = [asyncio.Lock() for _ in range(channels)]
        self._offsets = [0] * channels
        return Starlette(routes=[WebSocketRoute("/ws/{number:int}", self._serve)])

    @property
    def connected(self) -> int:
        return sum(map(len, self._clients))

    async def _serve(self, websocket: WebSocket) -> None:
        clients = self._clients[websocket.path_params["number"] % len(self._clients)]
        await websocket.accept()
        clients.add(websocket)
        try:
            while True:
                await websocket.receive_text()
        except (WebSocketDisconnect, asyncio.CancelledError, KeyError):
            return
        finally:
            clients.discard(websocket)

    async def send(self, channel: int) -> None:
        """Broadcast one message, as `RedisChannels` words it."""
        self._number += 1
        number = self._number
        self.times[number] = time.perf_counter()
        # Two that wait for one slow client would not go on in their order.
        async with self._turns[channel - 1]:
            await self._broadcast(channel, number)

    async def _broadcast(self, channel: int, number: int) -> None:
        offset = self._offsets[channel - 1] = self._offsets[channel - 1] + 1
        text = (
            f'{{"type":"message","channel":{channel},"epoch":"00000000","offset":{offset},"key":"channels.publish:Message'
            f':{number}:create","message":{{"id":{number},"text":"{TEXT}","channel":{{"id":{channel}}}}}}}'
        )
        for client in tuple(self._clients[channel - 1]):
            await client.send_text(text)


@dataclass(frozen=True, slots=True)
class Load:
    """How many clients, in how many channels, and how much for how long."""

    connections: int
    channels: int
    rate: float
    seconds: float

    @property
    def members(self) -> float:
        return self.connections / self.channels


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one phase gave; latencies in ascending order, seconds of the processor used by this process and in words by all."""

    deliveries: int
    seconds: float
    latencies: list[float]
    processor: float
    processors: str

    def text(self, name: str) -> str:
        """One line of the table, and who used the processors meanwhile."""
        p50, p99, worst = (percentile(self.latencies, share) * 1000 for share in (0.5, 0.99, 1.0))
        return (
            f"  {name:28}{self.deliveries / self.seconds:9,.0f} deliveries/s   p50 {p50:7.1f} ms   p99 {p99:7.1f} ms   "
            f"worst {worst:7.1f} ms   {self.processor / self.deliveries * 1e6:5.1f} us of processor each\n{'':30}{self.processors}"
        )


async def steadily(load: Load, send: Callable[[int], Awaitable[object]]) -> int:
    """Send at the rate, to the channels in turn; gives how many messages that were. Late ones are sent at once."""
    started, sent = time.perf_counter(), 0
    sending: set[asyncio.Task[Any]] = set()
    while (now := time.perf_counter()) < started + load.seconds:
        due = int((now - started) * load.rate / load.members)
        for _ in range(due - sent):
            sent += 1
            task = asyncio.ensure_future(send(1 + sent % load.channels))
            sending.add(task)
            task.add_done_callback(sending.discard)
        await asyncio.sleep(load.members / load.rate / 2)
    if sending:
        await asyncio.wait(sending)
    return sent


async def phase(clients: Crowd, load: Load, work: Callable[[], Awaitable[int]], times: dict[int, float]) -> Outcome:
    """Measure what `work`, which sends messages, leads to."""
    before = (await clients.ask("report"))["deliveries"]
    meter, started, processor = clients.meter(), time.perf_counter(), time.process_time()
    sent = await work()
    expected = int(sent * load.members)
    ended = await clients.ask("expect", deliveries=before + expected)
    used, processors = time.process_time() - processor, meter.text()
    report = await clients.ask("report")
    late = sorted(at - times[number] for number, at in report["arrivals"] if number in times)
    return Outcome(report["deliveries"] - before, ended["at"] - started, late, used, processors)


async def bare_side(clients: Crowd, load: Load, flat_out: int) -> tuple[Outcome, Outcome]:
    """The comparison: steady, and as fast as it goes."""
    side = Bare()
    async with serving(side.application(load.channels), ws="websockets-sansio") as port:
        await clients.ask("connect", port=port, count=load.connections, path="/ws/{number}", joins=False)
        while side.connected < load.connections:  # noqa: ASYNC110 - the last of thousands has no event
            await asyncio.sleep(0.05)

        async def rush() -> int:
            for number in range(flat_out):
                await side.send(1 + number % load.channels)
            return flat_out

        return (
            await phase(clients, load, lambda: steadily(load, side.send), side.times),
            await phase(clients, load, rush, side.times),
        )


@asynccontextmanager
async def channels_app(load: Load, folder: str, redis_url: str) -> AsyncGenerator[App]:
    """An app that runs, with users 1 to n, each in one of the channels."""
    channels = RedisChannels(membership=Membership, message=Message, redis_url=redis_url)
    database = os.environ.get("DATABASE", f"sqlite:///{folder}/fanout.db")
    app = App(user=User, entities=[Message], integrations={"channels": channels}, database=database)
    async with app:
        store = app.controller.store
        users = await store.create_many([User(name=f"{number}") for number in range(load.connections)])
        found = await store.create_many([Channel(title=f"{number}") for number in range(load.channels)])
        # As the bare side shares its clients out.
        await store.create_many([Membership(user=user, channel=found[user.id % load.channels]) for user in users])
        await asyncio.sleep(1)
        yield app


async def ensue_side(clients: Crowd, load: Load, flat_out: int, *, app: App, port: int) -> tuple[Outcome, Outcome]:
    """The same through commits, effects and channels."""
    times: dict[int, float] = {}

    def note(commit: Any) -> None:
        now = time.perf_counter()
        for id_ in commit.touched.get("Message", ()):
            times.setdefault(id_, now)

    app.controller.on_commit(note)
    store = app.controller.store
    await clients.ask("connect", port=port, count=load.connections, path="/ws?user={number}", joins=True)

    async def send(channel: int) -> None:
        await store.create(Message(text=TEXT, channel=Channel.ref(channel)))

    async def rush() -> int:
        messages = [Message(text=TEXT, channel=Channel.ref(1 + number % load.channels)) for number in range(flat_out)]
        for start in range(0, flat_out, CREATED_AT_ONCE):
            await store.create_many(messages[start : start + CREATED_AT_ONCE])
        return flat_out

    return (
        await phase(clients, load, lambda: steadily(load, send), times),
        await phase(clients, load, rush, times),
    )


async def broken(clients: Crowd, load: Load, app: App, disconnects: int) -> dict[str, Any]:
    """Break connections under load; gives the clients' report once all of them have everything."""
    store = app.controller.store
    before = (await clients.ask("report"))["deliveries"]

    async def send(channel: int) -> None:
        await store.create(Message(text=TEXT, channel=Channel.ref(channel)))

    sending = asyncio.create_task(steadily(load, send))
    await clients.ask("drop", count=disconnects, seconds=load.seconds * 0.8)
    sent = await sending
    await clients.ask("expect", deliveries=before + int(sent * load.members))
    return await clients.ask("report")


async def run(given: argparse.Namespace) -> int:
    """Everything; gives the exit status."""
    load = Load(given.connections, given.channels, given.rate, given.seconds)
    flat_out = max(load.channels, int(given.rate * given.seconds / load.members))
    print(f"{load.connections} connections, {load.channels} channels, {load.rate:,.0f} deliveries/s asked for")
    async with crowd() as clients:
        print(f"steady for {load.seconds:g} s")
        bare = await bare_side(clients, load, flat_out)
        print(bare[0].text("bare Starlette and uvicorn"), flush=True)
        with tempfile.TemporaryDirectory(prefix="ensue-fanout-") as folder:
            async with channels_app(load, folder, given.redis_url) as app:
                served = app.asgi(authenticate=lambda asked: User.ref(int(asked.query_params["user"])))
                async with serving(served, ws="ensue.server.live.wire:FrameProtocol") as port:
                    ours = await ensue_side(clients, load, flat_out, app=app, port=port)
                    print(ours[0].text("ensue, commit to client"))
                    print("as fast as it goes")
                    print(bare[1].text("bare Starlette and uvicorn"))
                    print(ours[1].text("ensue, commit to client"))
                    ratios = [
                        (ours[0].processor / ours[0].deliveries) / (bare[0].processor / bare[0].deliveries),
                        (ours[1].deliveries / ours[1].seconds) / (bare[1].deliveries / bare[1].seconds),
                    ]
                    print(
                        f"ensue to bare: {ratios[0]:.2f} of the processor, {ratios[1]:.2f} of the throughput",
                        flush=True,
                    )
                    report = await broken(clients, load, app, given.disconnects) if given.disconnects else None
    return _verdict(ours[0], report)


def _verdict(steady: Outcome, report: dict[str, Any] | None) -> int:
    late = percentile(steady.latencies, 0.99) > LATE_SECONDS
    print(f"p99 {'over' if late else 'within'} {LATE_SECONDS * 1000:g} ms")
    if report is None:
        return int(late)
    print(
        f"{report['drops']} connections broken: {report['recovered']:,} messages recovered, {report['told_gaps']} gaps told, "
        f"{report['untold_gaps']} gaps not told"
    )
    return int(late or report["untold_gaps"] > 0)


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fanout", description=__doc__)
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--channels", type=int, default=10)
    parser.add_argument("--rate", type=float, default=20_000, help="deliveries per second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--disconnects", type=int, default=1_000)
    parser.add_argument("--redis-url", default="memory://")
    parser.add_argument("--servers", action="store_true", help="over a Redis and a PostgreSQL of its own")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with ExitStack() as stack:
        if given.servers:
            given.redis_url = stack.enter_context(RedisServer()).url
            os.environ["DATABASE"] = stack.enter_context(stack.enter_context(PostgresServer()).database())
        return asyncio.run(run(given))


if __name__ == "__main__":
    raise SystemExit(main())
