"""A TCP proxy in front of a real server, which does on request what networks and peers do to us.

Decides what happens to bytes on their way; knows no protocol: a request is what a client sent, an answer what came back
after it. Invariants: without a fault nothing is changed, held or reordered; `heal` takes back every fault; the port
stays the same throughout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from ensue.errors import UsageError
from ensue.testing.faults.listener import PEER_TASK, Peer, abort

_CHUNK_BYTES = 65_536
WAIT_SECONDS = 10.0

_PORTS = {"http": 80, "https": 443, "redis": 6379, "postgresql": 5432, "nats": 4222, "amqp": 5672}


@dataclass(frozen=True, slots=True)
class FaultCounts:
    """What a proxy has seen and done: numbers since it was started.

    `connections` were accepted, `requests` and `answers` count runs of bytes from the client and from upstream;
    `answers_lost` and `answers_cut` are those that `drop_response_after_request` and `half_response` took, `resets` the
    connections dropped, `upstream_failures` those that upstream didn't take.
    """

    connections: int = 0
    requests: int = 0
    answers: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    answers_lost: int = 0
    answers_cut: int = 0
    resets: int = 0
    upstream_failures: int = 0


@dataclass(slots=True)
class _Trap:
    """What waits for the next request: `times` is how many answers it takes (None: all), `matching` which requests."""

    kind: Literal["lose", "cut"]
    times: int | None
    matching: bytes
    bytes_passed: int | None = None


@dataclass(slots=True, eq=False)
class _Way:
    """One connection through the proxy, both sides of it."""

    client: asyncio.StreamWriter
    upstream: asyncio.StreamWriter
    drops: int
    caught: _Trap | None = None
    waiting: asyncio.Queue[tuple[float, bytes]] = field(default_factory=asyncio.Queue[tuple[float, bytes]])


class FaultProxy(Peer):
    """A proxy to `upstream`, which is `"host:port"` or a URL; an async context manager.

    Faults are switched on by methods that return at once, hold for all connections, add up, and last until `heal`,
    except for those that take a number of `times`. `url` is upstream's URL by way of the proxy.

    >>> async with FaultProxy("redis://127.0.0.1:6379/0") as proxy:
    ...     client = Redis.from_url(proxy.url)
    ...     proxy.drop_response_after_request()
    ...     await client.incr("sent")          # raises ConnectionError; Redis has counted
    ...     proxy.heal()
    """

    def __init__(self, upstream: str, *, host: str = "127.0.0.1") -> None:
        self._given = upstream
        self._upstream = _address(upstream)
        super().__init__(host=host)
        self._counts = FaultCounts()
        self._delay_seconds = 0.0
        self._trap: _Trap | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._resets_new = False
        self._drops = 0
        self._ways: set[_Way] = set()

    @property
    def url(self) -> str:
        """The URL that was given, with the proxy in the place of upstream; the address if none was given."""
        if "://" not in self._given:
            return self.address
        parts = urlsplit(self._given)
        account = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{account[0]}{account[1]}{self.address}"))

    @property
    def counts(self) -> FaultCounts:
        """What was seen and done so far."""
        return self._counts

    def delay(self, seconds: float) -> None:
        """Every answer arrives `seconds` later than it would; 0 takes it back."""
        if seconds < 0:
            raise UsageError(f"FaultProxy.delay({seconds}): nothing can arrive earlier; give 0 or more seconds.")
        self._delay_seconds = seconds

    def reset(self, *, lasting: bool = False) -> None:
        """Drop all open connections with a TCP reset, now; with `lasting` also every new one, at its first request."""
        self._resets_new = lasting
        self._drops += 1
        self._add(resets=self._listener.reset_all())

    def black_hole(self) -> None:
        """Pass nothing on, either way, and close nothing: the peer is reachable and says no word.

        What was held is passed on after `heal`, as after a partition of a network.
        """
        self._passing.clear()

    def half_response(self, *, times: int | None = 1, matching: bytes = b"", bytes_passed: int | None = None) -> None:
        """Pass the first half of an answer (or `bytes_passed` of it), then close the connection.

        Takes the next `times` requests that contain `matching`; None: all of them.
        """
        self._trap = _Trap("cut", times, matching, bytes_passed)

    def drop_response_after_request(self, *, times: int | None = 1, matching: bytes = b"") -> None:
        """Pass a request on, wait until upstream begins to answer it, then reset the connection without the answer.

        Upstream has accepted what the client believes failed. Takes the next `times` requests that contain
        `matching`; None: all of them.
        """
        self._trap = _Trap("lose", times, matching)

    def refuse(self) -> None:
        """Drop all connections and refuse new ones, as if nobody listened."""
        self._listener.refuse()
        self.reset()

    def heal(self) -> None:
        """Take back every fault; connections that are still open go on."""
        self._delay_seconds = 0.0
        self._trap = None
        for way in self._ways:
            way.caught = None
        self._resets_new = False
        self._passing.set()
        self._listener.listen()

    async def until(self, met: Callable[[FaultCounts], bool], *, seconds_max: float = WAIT_SECONDS) -> FaultCounts:
        """Wait until the counts meet a condition, and give them. Raises `TimeoutError` with the counts as they are."""
        await self._until(lambda: met(self._counts), seconds_max, lambda: f"the proxy's counts are {self._counts}")
        return self._counts

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._add(connections=1)
        drops = self._drops
        await self._passing.wait()
        try:
            answers, upstream = await asyncio.open_connection(*self._upstream)
        except OSError:
            self._add(upstream_failures=1)
            abort(writer)
            return
        way = _Way(writer, upstream, drops)
        self._ways.add(way)
        tasks = [
            asyncio.create_task(work, name=f"{PEER_TASK} way")
            for work in (self._pass_requests(reader, way), self._take_answers(answers, way), self._pass_answers(way))
        ]
        try:
            # The first to end ends all: an end of stream, or a fault that dropped the connection.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            # Before the wait, which the end of the proxy cuts short.
            upstream.close()
            self._ways.discard(way)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass_requests(self, reader: asyncio.StreamReader, way: _Way) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            self._add(requests=1, bytes_sent=len(chunk))
            await self._passing.wait()
            if way.drops != self._drops:
                return  # what it sent was dropped with it
            if self._resets_new:
                self._add(resets=1)
                abort(way.client)
                return
            self._spring(way, chunk)
            way.upstream.write(chunk)
            await way.upstream.drain()
        # The client has said all and may still be waiting for the answer.
        if way.upstream.can_write_eof():
            way.upstream.write_eof()
        await asyncio.Event().wait()

    async def _take_answers(self, answers: asyncio.StreamReader, way: _Way) -> None:
        loop = asyncio.get_running_loop()
        while chunk := await answers.read(_CHUNK_BYTES):
            self._add(answers=1, bytes_received=len(chunk))
            if way.caught is not None:
                self._take_away(way, way.caught, chunk)
                return
            way.waiting.put_nowait((loop.time() + self._delay_seconds, chunk))
        way.waiting.put_nowait((loop.time() + self._delay_seconds, b""))
        await asyncio.Event().wait()

    async def _pass_answers(self, way: _Way) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, chunk = await way.waiting.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self._passing.wait()
            if not chunk:
                return
            way.client.write(chunk)
            await way.client.drain()

    def _spring(self, way: _Way, request: bytes) -> None:
        trap = self._trap
        if trap is None or way.caught is not None or trap.matching not in request:
            return
        way.caught = trap
        if trap.times is not None:
            trap.times -= 1
            self._trap = trap if trap.times > 0 else None

    def _take_away(self, way: _Way, trap: _Trap, chunk: bytes) -> None:
        if trap.kind == "lose":
            self._add(answers_lost=1, resets=1)
            abort(way.client)
            return
        passed = len(chunk) // 2 if trap.bytes_passed is None else trap.bytes_passed
        self._add(answers_cut=1)
        way.client.write(chunk[:passed])
        # Closed, not reset: a reset may overtake the half that was passed on.
        way.client.close()

    def _add(self, **numbers: int) -> None:
        if any(numbers.values()):
            self._counts = replace(self._counts, **{key: getattr(self._counts, key) + n for key, n in numbers.items()})
            self._changed.set()


def _address(upstream: str) -> tuple[str, int]:
    parts = urlsplit(upstream if "://" in upstream else f"//{upstream}")
    port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
    if parts.hostname is None or port is None:
        raise UsageError(
            f"FaultProxy({upstream!r}) names no address. Expected host:port or a URL with a host and a port, "
            "such as redis://127.0.0.1:6379."
        )
    return parts.hostname, port
