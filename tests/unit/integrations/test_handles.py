"""Who comes and goes, and what integrations are told of it."""

import logging
from typing import Any

import pytest

from ensue.errors import UsageError
from ensue.integrations.connection import BufferedConnection, Connection
from ensue.integrations.handles import Handles


async def test_callbacks_run_in_order_for_each_connection() -> None:
    websockets = Handles().websockets
    seen: list[str] = []

    @websockets.on_connect
    async def first(connection: Connection) -> None:
        seen.append(f"first {connection.id}")

    @websockets.on_connect
    async def second(connection: Connection) -> None:
        seen.append(f"second {connection.id}")

    @websockets.on_disconnect
    async def gone(connection: Connection) -> None:
        seen.append(f"gone {connection.id}")

    connection = BufferedConnection(user=None, id="a")
    await websockets.connected(connection)
    assert list(websockets) == [connection]
    assert len(websockets) == 1
    await websockets.disconnected(connection)
    await websockets.disconnected(connection)
    assert seen == ["first a", "second a", "gone a"]
    assert len(websockets) == 0


async def test_a_connection_that_a_callback_refuses_is_taken_leave_of() -> None:
    websockets = Handles().websockets
    gone: list[str] = []

    async def refuse(connection: Connection) -> None:
        raise OSError("no database")

    async def leave(connection: Connection) -> None:
        gone.append(connection.id)

    websockets.on_connect(refuse)
    websockets.on_disconnect(leave)
    with pytest.raises(OSError, match="no database"):
        await websockets.connected(BufferedConnection(user=None, id="a"))
    assert gone == ["a"]
    assert not list(websockets)


async def test_a_failing_leave_taking_is_logged_and_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    websockets = Handles().websockets
    gone: list[str] = []

    async def fail(connection: Connection) -> None:
        raise OSError("broken")

    async def leave(connection: Connection) -> None:
        gone.append(connection.id)

    websockets.on_disconnect(fail)
    websockets.on_disconnect(leave)
    connection = BufferedConnection(user=None, id="a")
    await websockets.connected(connection)
    with caplog.at_level(logging.ERROR):
        await websockets.disconnected(connection)
    assert gone == ["a"]
    assert "on_disconnect callback failed for connection a" in caplog.text


@pytest.mark.parametrize("callback", [5, lambda connection: None])
def test_what_could_not_be_awaited_for_a_connection_is_refused(callback: Any) -> None:
    websockets = Handles().websockets
    for register in (websockets.on_connect, websockets.on_disconnect):
        with pytest.raises(UsageError, match=r"on_(dis)?connect\(.*\): expected an async function of the connection"):
            register(callback)


async def test_one_id_cannot_connect_twice() -> None:
    websockets = Handles().websockets
    await websockets.connected(BufferedConnection(user=None, id="a"))
    with pytest.raises(UsageError, match="connected already"):
        await websockets.connected(BufferedConnection(user=None, id="a"))


def test_other_handles_are_registered_by_name() -> None:
    handles = Handles()
    handles.register("mailer", "m")
    assert handles["mailer"] == "m"
    assert handles["websockets"] is handles.websockets
    assert "mailer" in handles
    assert "websockets" in handles
    with pytest.raises(UsageError, match="already"):
        handles.register("mailer", "n")
    with pytest.raises(UsageError, match="registered are: websockets, mailer"):
        handles["maler"]
