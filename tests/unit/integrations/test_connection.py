"""The bounded buffer between senders and one client."""

import asyncio
from collections.abc import Sequence

import pytest

from ensue.integrations.connection import (
    BufferedConnection,
    Connection,
    ConnectionClosed,
    SharedText,
    send_to_all,
)


async def test_messages_arrive_in_order_and_json_is_encoded() -> None:
    connection = BufferedConnection(user=None)
    sent: list[str] = []

    async def send(text: str) -> None:
        sent.append(text)
        if len(sent) == 3:
            connection.close()

    pump = asyncio.create_task(connection.pump(send))
    await connection.send_text("one")
    await connection.send_json({"n": 2})
    await asyncio.sleep(0)
    await connection.send_text("three")
    await pump
    assert sent == ["one", '{"n":2}', "three"]


async def test_sending_never_waits_for_a_client_that_does_not_read() -> None:
    connection = BufferedConnection(user=None, messages_max=10)
    stuck = asyncio.Event()

    async def send(text: str) -> None:
        await stuck.wait()

    pump = asyncio.create_task(connection.pump(send))
    for _ in range(5):
        await asyncio.wait_for(connection.send_text("x"), timeout=0.1)
    assert connection.waiting >= 4
    connection.close()
    stuck.set()
    await asyncio.wait_for(pump, timeout=1)


@pytest.mark.parametrize("limits", [{"messages_max": 2}, {"bytes_max": 5}])
async def test_what_does_not_fit_ends_the_connection(limits: dict[str, int]) -> None:
    connection = BufferedConnection(user=None, id="c1", **limits)
    await connection.send_text("xx")
    await connection.send_text("xx")
    with pytest.raises(ConnectionClosed, match="too slowly"):
        await connection.send_text("xx")
    assert connection.overflowed
    assert connection.waiting == 0
    with pytest.raises(ConnectionClosed, match=r"c1 .* is closed"):
        await connection.send_text("x")


async def test_closing_while_idle_ends_the_pump() -> None:
    connection = BufferedConnection(user=None)

    async def send(text: str) -> None:
        raise AssertionError(text)

    pump = asyncio.create_task(connection.pump(send))
    await asyncio.sleep(0)
    connection.close()
    connection.close()
    await asyncio.wait_for(pump, timeout=1)


def test_ids_are_unique_and_the_protocol_is_met() -> None:
    one, other = BufferedConnection(user=None), BufferedConnection(user=None)
    assert one.id != other.id
    assert isinstance(one, Connection)


class FakeWire:
    """Takes what is written until it is told not to."""

    def __init__(self) -> None:
        self.paused = False
        self.writes: list[list[str]] = []

    def write_texts(self, texts: Sequence[str], /) -> None:
        self.writes.append(list(texts))


async def test_a_wire_gets_what_waits_in_one_write_and_nothing_while_it_is_paused() -> None:
    connection, wire, noted = BufferedConnection(user=None), FakeWire(), list[BufferedConnection]()
    connection.post("before")
    connection.attach(wire, noted.append)
    connection.post("after")
    assert noted == [connection], "noted once for all that waits"
    connection.flush()
    assert wire.writes == [["before", "after"]]
    wire.paused = True
    connection.post("later")
    connection.flush()
    assert connection.waiting == 1
    wire.paused = False
    connection.wake()
    connection.flush()
    assert wire.writes[1:] == [["later"]]
    assert noted == [connection] * 3


async def test_a_write_is_bounded_and_so_is_what_waits_for_a_paused_wire() -> None:
    connection, wire = BufferedConnection(user=None, messages_max=5), FakeWire()
    connection.attach(wire, lambda _: None)
    for _ in range(3):
        connection.post("x" * 40_000)
    connection.flush()
    assert [len(texts) for texts in wire.writes] == [1, 1, 1]
    wire.paused = True
    for _ in range(5):
        connection.post("x")
    with pytest.raises(ConnectionClosed, match="too slowly"):
        connection.post("x")
    wire.paused = False
    connection.flush()
    assert len(wire.writes) == 3
    assert connection.overflowed


async def test_all_get_one_text_whoever_is_closed_among_them() -> None:
    connections = [BufferedConnection(user=None) for _ in range(3)]
    connections[1].close()
    wires = [FakeWire() for _ in connections]
    for connection, wire in zip(connections, wires, strict=True):
        connection.attach(wire, BufferedConnection.flush)
    await send_to_all(connections, "hello")
    assert [wire.writes for wire in wires] == [[["hello"]], [], [["hello"]]]
    assert wires[0].writes[0][0] is wires[2].writes[0][0]
    assert isinstance(wires[0].writes[0][0], SharedText)
