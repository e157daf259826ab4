"""Many WebSocket clients in a process of their own, for `benchmarks.fanout`: they receive, resume, and write down when.

Reads commands as JSON lines from stdin and answers each with one line. Each client is a plain protocol that reads frames,
so that one process can be thousands of them. Invariant: a client believes nothing: every offset must follow the last, and
what does not is counted.
"""

from __future__ import annotations

import asyncio
import random
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

OPEN_FILES = 20_000
CONNECTING_MAX = 50
WAIT_SECONDS_MAX = 60.0
_HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_OFFSET = b',"offset":'
_ID = b'"message":{"id":'
_PING, _PONG, _TEXT = 0x89, 0x8A, 0x81


class Seen:
    """What all clients together saw."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[int, float]] = []
        self.deliveries = 0
        self.recovered = 0
        self.told_gaps = 0
        self.untold_gaps = 0
        self.repeats = 0
        self.drops = 0
        self.ended = 0


class Client(asyncio.Protocol):
    """One client of one channel, which comes back with the place where it was."""

    def __init__(self, seen: Seen, path: str) -> None:
        self._seen = seen
        self._path = path
        self._buffer = b""
        self._greeted = False
        self._held: list[bytes] | None = None
        self.place: dict[str, Any] | None = None
        self.transport: Any = None
        self.live = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._buffer, self._greeted, self._held = b"", False, None
        transport.write(_HANDSHAKE.format(path=self._path).encode())

    def connection_lost(self, exc: Exception | None) -> None:
        # Those that we break are no longer live.
        self._seen.ended += self.live.is_set()
        self.live.clear()

    def data_received(self, data: bytes) -> None:
        at = time.perf_counter()
        buffer = self._buffer + data if self._buffer else data
        if not self._greeted:
            head, end, buffer = buffer.partition(b"\r\n\r\n")
            if not end:
                self._buffer = head
                return
            self._greeted = True
        position = 0
        while (found := _frame(buffer, position)) is not None:
            kind, (start, position) = buffer[position], found
            if kind == _PING:
                # Who does not answer is taken for gone, some 40 s after it came.
                self._send(buffer[start:position], kind=_PONG)
            else:
                self._take(buffer[start:position], at)
        self._buffer = buffer[position:]

    def _take(self, text: bytes, at: float) -> None:
        if text.startswith(b'{"type":"message"'):
            if self._held is not None:
                self._held.append(text)
            else:
                self._next(text)
            start = text.index(_ID) + len(_ID)
            self._seen.arrivals.append((int(text[start : text.index(b",", start)]), at))
        elif text.startswith(b'{"type":"joined"'):
            self._joined(msgspec.json.decode(text)["channels"])
        elif b'"type":"result"' in text[:40]:
            self._resumed(msgspec.json.decode(text)["data"][0])
        elif text.startswith(b'{"type":"gap"'):
            self._seen.told_gaps += 1
            (self.place,) = msgspec.json.decode(text)["channels"]

    def _next(self, text: bytes) -> None:
        start = text.index(_OFFSET) + len(_OFFSET)
        offset = int(text[start : text.index(b",", start)])
        if self.place is None:
            self.place = {"offset": offset - 1}
        step = offset - self.place["offset"]
        if step <= 0:
            self._seen.repeats += 1
            return
        self._seen.untold_gaps += step > 1
        self.place["offset"] = offset
        self._seen.deliveries += 1

    def _joined(self, places: list[dict[str, Any]]) -> None:
        if not places:
            return
        if self.place is None or places[0] == self.place:
            self.place = places[0]
            self.live.set()
        else:
            self._held = []
            self._ask()

    def _ask(self) -> None:
        request = {"type": "api", "id": 1, "namespace": "channels", "name": "resume"}
        self._send(msgspec.json.encode({**request, "payload": {"channels": [self.place]}}))

    def _resumed(self, answer: dict[str, Any]) -> None:
        messages = answer["messages"]
        if not answer["recovered"]:
            self._seen.told_gaps += 1
        assert self.place is not None
        for message in messages:
            self._seen.untold_gaps += message["offset"] != self.place["offset"] + 1
            self.place["offset"] = message["offset"]
        self._seen.recovered += len(messages)
        self._seen.deliveries += len(messages)
        self.place = {name: answer[name] for name in ("channel", "epoch", "offset")}
        if answer["more"]:
            return self._ask()
        held, self._held = self._held or [], None
        for text in held:
            self._next(text)
        self.live.set()
        return None

    def _send(self, payload: bytes, kind: int = _TEXT) -> None:
        length = len(payload)
        head = bytes((kind, 0x80 | length)) if length < 126 else bytes((kind, 0x80 | 126)) + length.to_bytes(2, "big")
        # Masked with zeros: whoever reads need not be fooled here.
        self.transport.write(head + bytes(4) + payload)


def _frame(buffer: bytes, position: int) -> tuple[int, int] | None:
    """Where the payload of the frame at `position` starts and ends; None if it is not there as a whole."""
    if len(buffer) < position + 2:
        return None
    length, start = buffer[position + 1] & 0x7F, position + 2
    if length >= 126:
        width = 2 if length == 126 else 8
        length, start = int.from_bytes(buffer[start : start + width], "big"), start + width
    return (start, start + length) if len(buffer) >= start + length else None


class Crowd:
    """All clients."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.clients: list[Client] = []
        self._port = 0

    async def connect(self, *, port: int, count: int, path: str, joins: bool) -> dict[str, Any]:
        """Connect `count` clients; `path` has a place for the number of each."""
        self.seen, self._port = Seen(), port
        for client in self.clients:
            client.transport.abort()
        self.clients = [Client(self.seen, path.format(number=number + 1)) for number in range(count)]
        gate = asyncio.Semaphore(CONNECTING_MAX)
        await asyncio.gather(*(self._come(client, gate, joins=joins) for client in self.clients))
        return {"connected": count}

    async def _come(self, client: Client, gate: asyncio.Semaphore, *, joins: bool) -> None:
        async with gate:
            await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", self._port)
            if joins:
                await client.live.wait()
            client.live.set()

    async def drop(self, *, count: int, seconds: float) -> dict[str, Any]:
        """Break connections without a word, one after the other over `seconds`; each comes back a moment later."""
        coming: list[asyncio.Task[None]] = []
        gate = asyncio.Semaphore(CONNECTING_MAX)
        for _ in range(count):
            # On a busy machine all of the few that were looked at may still be on their way back.
            while not (live := [each for each in self.clients[:: random.randint(1, 7)] if each.live.is_set()]):  # noqa: ASYNC110 - none announces it
                await asyncio.sleep(0.01)
            client = random.choice(live)
            client.live.clear()
            client.transport.abort()
            self.seen.drops += 1
            coming.append(asyncio.create_task(self._come_back(client, gate)))
            await asyncio.sleep(seconds / count)
        await asyncio.gather(*coming)
        return {"dropped": count}

    async def _come_back(self, client: Client, gate: asyncio.Semaphore) -> None:
        await asyncio.sleep(random.uniform(0, 0.5))
        await self._come(client, gate, joins=True)

    async def expect(self, *, deliveries: int) -> dict[str, Any]:
        """Wait until that many deliveries were made to all together."""
        seen = self.seen
        try:
            await _until(lambda: seen.deliveries >= deliveries)
        except TimeoutError:
            raise SystemExit(
                f"{seen.deliveries:,} of {deliveries:,} deliveries came within {WAIT_SECONDS_MAX:g} s; {seen.repeats} "
                f"repeats, {seen.told_gaps} gaps told, {seen.untold_gaps} not, {seen.ended} connections ended by the server"
            ) from None
        return {"deliveries": self.seen.deliveries, "at": time.perf_counter()}

    async def report(self) -> dict[str, Any]:
        """What was seen since the last report."""
        seen, processor = self.seen, time.process_time()
        offsets = sorted({client.place["offset"] for client in self.clients if client.place})
        arrivals, seen.arrivals = seen.arrivals, []
        return {**vars(seen), "arrivals": arrivals, "offsets": offsets, "processor": processor}


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not condition():  # noqa: ASYNC110 - of thousands of clients
            await asyncio.sleep(0.005)


async def main() -> None:
    """Answer commands until stdin ends."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    crowd = Crowd()
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        command = msgspec.json.decode(line)
        answer = await getattr(crowd, command.pop("do"))(**command)
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(main())
