"""Frames, and the turns in which connections are written to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from websockets.asyncio.client import connect

from ensue.integrations.connection import BufferedConnection, SharedText, send_to_all
from ensue.server.live.flush import FLUSHED_AT_ONCE, Flusher, frame
from tests.server.network import WAIT_SECONDS, Served, serving_app
from tests.server.shop import make_app


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, 200_000])
async def test_frames_are_what_clients_understand(shop: Served, length: int) -> None:
    async with connect(f"ws://127.0.0.1:{shop.port}/ws?token=user-1", max_size=None) as websocket:
        await websocket.recv()
        (connection,) = _connections(shop)
        text = "é" * (length // 2) + "x" * (length % 2)
        await connection.send_text(text)
        await connection.send_text("and on")
        assert await asyncio.wait_for(websocket.recv(), WAIT_SECONDS) == text
        assert await asyncio.wait_for(websocket.recv(), WAIT_SECONDS) == "and on"


def test_the_frame_of_a_shared_text_is_made_once() -> None:
    text = SharedText("hello")
    assert frame(text) == b"\x81\x05hello"
    assert frame(text) is frame(text)
    assert frame("hello") == frame(text)


class _Wire:
    paused = False

    def __init__(self) -> None:
        self.written = 0

    def write_texts(self, texts: Sequence[str], /) -> None:
        self.written += len(texts)


async def test_others_get_their_turn_between_many_writes() -> None:
    flusher = Flusher()
    pairs = [(BufferedConnection(user=None), _Wire()) for _ in range(FLUSHED_AT_ONCE * 3)]
    for connection, wire in pairs:
        connection.attach(wire, flusher.note)
    await send_to_all((connection for connection, _ in pairs), "x")
    seen: list[int] = []
    while sum(wire.written for _, wire in pairs) < len(pairs):
        await asyncio.sleep(0)
        seen.append(sum(wire.written for _, wire in pairs))
    assert seen == [FLUSHED_AT_ONCE, FLUSHED_AT_ONCE * 2, FLUSHED_AT_ONCE * 3]
    await send_to_all([pairs[0][0]], "y")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert pairs[0][1].written == 2


@pytest.mark.parametrize("ws", ["auto", "ensue.server.live.wire:FrameProtocol"])
async def test_a_client_that_reads_late_gets_everything_in_order(ws: str) -> None:
    async with (
        serving_app(make_app(), ws=ws, send_messages_max=5_000) as shop,
        connect(f"ws://127.0.0.1:{shop.port}/ws?token=user-1", max_queue=1) as websocket,
    ):
        await websocket.recv()
        (connection,) = _connections(shop)
        for number in range(3_000):
            await connection.send_text(f"{number}" + "x" * 1_000)
            if number % 100 == 0:
                await asyncio.sleep(0)
        for number in range(3_000):
            text = await asyncio.wait_for(websocket.recv(), WAIT_SECONDS)
            assert str(text).rstrip("x") == str(number)


def _connections(shop: Served) -> list[BufferedConnection]:
    running = shop.app.running
    assert running is not None
    return [each for each in running.handles.websockets if isinstance(each, BufferedConnection)]
