"""The bounded buffer between senders and one client."""

import asyncio

import pytest

from ensue.integrations.connection import BufferedConnection, Connection, ConnectionClosed


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
