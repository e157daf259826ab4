"""A crowd: many WebSocket clients that log in, join channels, talk, and write down what they receive and when.

Run as a process of its own, so that everything goes through the network stack and takes no time from the server's loop:
`python -m examples.channels.crowd ws://127.0.0.1:8000/ws --clients 50 --seconds 5`. Leaves what the figures mean to
`figures`, to which it prints a `Record`. Invariant: it counts a message as sent only when the server has answered that
it is committed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from ensue.clock import SystemClock
from examples.channels.figures import Phase, Record

CHANNELS = ("lobby", "music", "films", "travel", "cooking")
JOINED = 2
STEADY_PER_SECOND = 2.0
CATCH_UP_SECONDS_MAX = 10.0
CONNECTING_MAX = 10

clock = SystemClock()


class Refused(Exception):
    """The server answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code = error["code"]


class Client:
    """One connection: `ask` for something; messages that arrive are written down in `received`."""

    def __init__(self, websocket: ClientConnection) -> None:
        self._websocket = websocket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.received: list[tuple[int, float]] = []
        self.channels: list[int] = []
        self._listening = asyncio.create_task(self._listen())

    async def ask(self, **request: Any) -> Any:
        """Send a request and give what it is answered. Raises `Refused`."""
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._websocket.send(msgspec.json.encode({"id": number, **request}).decode())
        return await future

    async def interact(self, name: str, /, **payload: Any) -> Any:
        """Dispatch an interaction."""
        return await self.ask(type="interaction", name=name, payload=payload)

    async def _listen(self) -> None:
        try:
            async for text in self._websocket:
                at = clock.monotonic_seconds()
                self._take(msgspec.json.decode(text), at)
        except ConnectionClosed:
            pass  # whoever waits is told below
        finally:
            for future in self._waiting.values():
                future.cancel()

    def _take(self, message: dict[str, Any], at: float) -> None:
        kind = message["type"]
        if kind == "message":
            self.received.append((message["message"]["id"], at))
        elif kind == "result":
            self._waiting.pop(message["id"]).set_result(message["data"])
        elif kind == "error":
            self._waiting.pop(message["id"]).set_exception(Refused(message["error"]))


@dataclass(slots=True)
class Talk:
    """Who talks until when, and the ids of what was said."""

    until: float
    sent: list[tuple[int, int]]

    async def steadily(self, client: Client) -> None:
        """Say something now and then, whatever the answers take."""
        await asyncio.sleep(random.uniform(0, 1 / STEADY_PER_SECOND))
        while clock.monotonic_seconds() < self.until:
            started = clock.monotonic_seconds()
            await self._say(client)
            spent = clock.monotonic_seconds() - started
            await asyncio.sleep(max(0, random.uniform(0.5, 1.5) / STEADY_PER_SECOND - spent))

    async def flat_out(self, client: Client) -> None:
        """Say the next thing as soon as the last is committed."""
        while clock.monotonic_seconds() < self.until:
            await self._say(client)

    async def _say(self, client: Client) -> None:
        channel = random.choice(client.channels)
        answer = await client.interact("SendMessage", channel=channel, text=f"thought number {len(self.sent)}")
        created = next(change["id"] for change in answer["changes"] if change["record"] == "Message")
        self.sent.append((created, channel))


Way = Callable[[Talk, Client], Awaitable[None]]


async def gather(url: str, clients: int, seconds: float) -> Record:
    """Let a crowd talk, first steadily and then flat out, half of the time each."""
    async with AsyncExitStack() as stack:
        crowd = await _arrive(stack, url, clients)
        members = Counter(channel for client in crowd for channel in client.channels)
        phases = [
            await _phase("steady", crowd, members=members, seconds=seconds / 2, way=Talk.steadily),
            await _phase("flat out", crowd, members=members, seconds=seconds / 2, way=Talk.flat_out),
        ]
    return Record(clients=clients, phases=phases)


async def _phase(name: str, crowd: Sequence[Client], *, members: Mapping[int, int], seconds: float, way: Way) -> Phase:
    for client in crowd:
        client.received.clear()
    started = clock.monotonic_seconds()
    talk = Talk(started + seconds, [])
    await asyncio.gather(*(way(talk, client) for client in crowd))
    took = clock.monotonic_seconds() - started
    expected = sum(members[channel] for _, channel in talk.sent)
    give_up = clock.monotonic_seconds() + CATCH_UP_SECONDS_MAX
    while sum(len(client.received) for client in crowd) < expected and clock.monotonic_seconds() < give_up:  # noqa: ASYNC110 - of many clients, at the end
        await asyncio.sleep(0.01)
    received = [item for client in crowd for item in client.received]
    return Phase(name=name, seconds=took, sent=len(talk.sent), expected=expected, received=received)


async def _arrive(stack: AsyncExitStack, url: str, clients: int) -> list[Client]:
    """Log in, open channels and join them, then connect: who is connected then receives what is said from the start."""
    async with connect(url) as websocket:
        nobody = Client(websocket)
        names = [f"crowd-{number:02}" for number in range(clients)]
        tokens = [
            (await nobody.ask(type="api", namespace="login", name="log_in", payload={"name": name}))["token"]
            for name in names
        ]
    async with connect(f"{url}?token={tokens[0]}") as websocket:
        first = Client(websocket)
        for name in CHANNELS:
            await _unless_done(first.interact("OpenChannel", name=name))
        channels = {item["name"]: item["id"] for item in (await first.interact("AllChannels"))["records"]}
    gate = asyncio.Semaphore(CONNECTING_MAX)

    async def come(number: int) -> Client:
        address = f"{url}?token={tokens[number]}"
        chosen = [channels[CHANNELS[(number + offset) % len(CHANNELS)]] for offset in range(JOINED)]
        async with gate:
            async with connect(address) as websocket:
                joining = Client(websocket)
                for channel in chosen:
                    await _unless_done(joining.interact("JoinChannel", channel=channel))
            client = Client(await stack.enter_async_context(connect(address)))
            # Once something is answered, the connection has been announced to whoever sends to it.
            await client.interact("Me")
        client.channels = chosen
        return client

    return await asyncio.gather(*(come(number) for number in range(clients)))


async def _unless_done(request: Coroutine[Any, Any, Any]) -> None:
    """An earlier crowd may have done it."""
    try:
        await request
    except Refused as refusal:
        if refusal.code != "unique":
            raise


def main() -> None:
    """Run a crowd and print its record as JSON."""
    parser = argparse.ArgumentParser(prog="python -m examples.channels.crowd", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    record = asyncio.run(gather(given.url, given.clients, given.seconds))
    print(msgspec.json.encode(record).decode())


if __name__ == "__main__":
    main()
