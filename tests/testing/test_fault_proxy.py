"""Does the proxy do each fault as it says, and nothing without one?"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from ensue.errors import UsageError
from ensue.testing import FaultProxy
from ensue.testing.faults.listener import Listener


class Echo:
    """A server that answers each line with the line, and counts what it took."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.listener = Listener(self.serve)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.lines.append(line)
            writer.write(line)
            await writer.drain()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    server = Echo()
    server.listener.listen()
    yield server
    await server.listener.close()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(f"127.0.0.1:{echo.listener.port}") as proxy:
        yield proxy


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, line: bytes, *, seconds: float = 5) -> bytes:
        self.writer.write(line)
        return await asyncio.wait_for(self.reader.readline(), seconds)


Connect = Callable[[FaultProxy], Awaitable[Client]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    clients: list[Client] = []

    async def connect(proxy: FaultProxy) -> Client:
        clients.append(Client(*await asyncio.open_connection(proxy.host, proxy.port)))
        return clients[-1]

    yield connect
    for client in clients:
        client.writer.close()


async def test_without_a_fault_everything_passes(proxy: FaultProxy, connect: Connect) -> None:
    client = await connect(proxy)
    assert await client.ask(b"one\n") == b"one\n"
    large = b"x" * 60_000 + b"\n"
    assert await client.ask(large) == large
    assert (proxy.counts.connections, proxy.counts.bytes_sent) == (1, 4 + len(large))
    assert proxy.counts.bytes_received == proxy.counts.bytes_sent


async def test_a_delayed_answer_arrives_later(proxy: FaultProxy, connect: Connect) -> None:
    client = await connect(proxy)
    proxy.delay(0.1)
    began = asyncio.get_running_loop().time()
    assert await client.ask(b"one\n") == b"one\n"
    assert asyncio.get_running_loop().time() - began >= 0.1
    with pytest.raises(UsageError, match="earlier"):
        proxy.delay(-1)


async def test_reset_drops_open_connections_once(proxy: FaultProxy, connect: Connect) -> None:
    client = await connect(proxy)
    await client.ask(b"one\n")
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await client.ask(b"two\n")
    assert await (await connect(proxy)).ask(b"three\n") == b"three\n"
    assert proxy.counts.resets == 1


async def test_a_lasting_reset_takes_new_connections_too(proxy: FaultProxy, echo: Echo, connect: Connect) -> None:
    proxy.reset(lasting=True)
    with pytest.raises(ConnectionResetError):
        await (await connect(proxy)).ask(b"one\n")
    proxy.heal()
    assert await (await connect(proxy)).ask(b"two\n") == b"two\n"
    assert echo.lines == [b"two\n"]


async def test_a_black_hole_holds_everything_until_healed(proxy: FaultProxy, echo: Echo, connect: Connect) -> None:
    before = await connect(proxy)
    await before.ask(b"one\n")
    proxy.black_hole()
    with pytest.raises(TimeoutError):
        await before.ask(b"two\n", seconds=0.05)
    during = await connect(proxy)
    during.writer.write(b"three\n")
    assert echo.lines == [b"one\n"]
    proxy.heal()
    assert await before.reader.readline() == b"two\n"
    assert await during.reader.readline() == b"three\n"


async def test_a_half_response_is_cut(proxy: FaultProxy, connect: Connect) -> None:
    client = await connect(proxy)
    proxy.half_response()
    assert await client.ask(b"12345678\n") == b"1234"
    assert client.reader.at_eof()
    assert proxy.counts.answers_cut == 1
    assert await (await connect(proxy)).ask(b"whole\n") == b"whole\n"
    proxy.half_response(bytes_passed=1)
    assert await (await connect(proxy)).ask(b"12345678\n") == b"1"


async def test_a_dropped_response_was_accepted_upstream(proxy: FaultProxy, echo: Echo, connect: Connect) -> None:
    client = await connect(proxy)
    proxy.drop_response_after_request(matching=b"pay")
    assert await client.ask(b"hello\n") == b"hello\n"
    with pytest.raises(ConnectionResetError):
        await client.ask(b"pay 1\n")
    assert echo.lines == [b"hello\n", b"pay 1\n"]
    assert proxy.counts.answers_lost == 1
    assert await (await connect(proxy)).ask(b"pay 2\n") == b"pay 2\n"


async def test_a_refusing_proxy_keeps_its_port(proxy: FaultProxy, connect: Connect) -> None:
    client = await connect(proxy)
    await client.ask(b"one\n")
    port = proxy.port
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        await client.ask(b"two\n")
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    proxy.heal()
    assert proxy.port == port
    assert await (await connect(proxy)).ask(b"three\n") == b"three\n"


@pytest.mark.parametrize("steps", range(10))
async def test_a_connection_that_is_being_accepted_is_dropped_too(proxy: FaultProxy, echo: Echo, steps: int) -> None:
    loop = asyncio.get_running_loop()
    # The system accepts it at once, the proxy some steps later.
    with socket.create_connection((proxy.host, proxy.port)) as client:
        client.sendall(b"pay\n")
        client.setblocking(False)
        for _ in range(steps):
            await asyncio.sleep(0)
        passed = proxy.counts.requests
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(loop.sock_recv(client, 10), 5)
    await asyncio.sleep(0.05)
    assert len(echo.lines) == passed
    assert proxy.open_connections == 0


async def test_an_upstream_that_is_not_there_resets(proxy: FaultProxy, echo: Echo, connect: Connect) -> None:
    echo.listener.refuse()
    with pytest.raises(ConnectionResetError):
        await (await connect(proxy)).ask(b"one\n")
    counts = await proxy.until(lambda counts: counts.upstream_failures == 1)
    assert counts.answers == 0


async def test_waiting_for_what_does_not_happen_says_what_did(proxy: FaultProxy) -> None:
    with pytest.raises(TimeoutError, match="connections=0"):
        await proxy.until(lambda counts: counts.connections == 1, seconds_max=0.01)


async def test_nothing_is_left_behind(echo: Echo, connect: Connect) -> None:
    async with FaultProxy(f"127.0.0.1:{echo.listener.port}") as proxy:
        client = await connect(proxy)
        await client.ask(b"one\n")
        proxy.black_hole()
    with pytest.raises(ConnectionResetError):
        await client.ask(b"two\n")
    assert proxy.open_connections == 0


def test_the_url_goes_by_way_of_the_proxy() -> None:
    proxy = FaultProxy("redis://user:pw@127.0.0.1/3")
    assert proxy.url == "redis://user:pw@127.0.0.1:0/3"
    with pytest.raises(UsageError, match="names no address"):
        FaultProxy("nowhere")
