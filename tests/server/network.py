"""A real server on a free port of this machine, in the loop of the test, and clients for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from ensue import App
from tests.server.shop import User, authenticate

WAIT_SECONDS = 10.0


class Served:
    """A server that runs: HTTP through `http`, WebSockets through `connect`."""

    def __init__(self, port: int, http: httpx2.AsyncClient, app: App | None) -> None:
        self.port = port
        self.http = http
        self._app = app

    @property
    def app(self) -> App:
        assert self._app is not None
        return self._app

    async def call(self, path: str, payload: Any = None, *, user: int | None = None, **options: Any) -> httpx2.Response:
        """POST JSON, as a user."""
        headers = {**({"authorization": f"Bearer user-{user}"} if user else {}), **options.pop("headers", {})}
        return await self.http.post(path, json={} if payload is None else payload, headers=headers, **options)

    async def interact(
        self, name: str, payload: Any = None, *, user: int | None = 1, **options: Any
    ) -> httpx2.Response:
        """Dispatch an interaction."""
        return await self.call(f"/api/interactions/{name}", payload, user=user, **options)

    @asynccontextmanager
    async def connect(self, *, user: int | None = 1, path: str = "/ws", **options: Any) -> AsyncGenerator[Talk]:
        """A WebSocket connection that has been greeted."""
        query = f"?token=user-{user}" if user else ""
        async with connect(f"ws://127.0.0.1:{self.port}{path}{query}", **options) as websocket:
            yield Talk(websocket)


class Talk:
    """One side of a WebSocket conversation."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket

    async def say(self, message: Any) -> None:
        await self.websocket.send(message if isinstance(message, str | bytes) else json.dumps(message))

    async def hear(self) -> Any:
        """The next message, greetings and heartbeats left out."""
        while True:
            message = json.loads(await asyncio.wait_for(self.websocket.recv(), WAIT_SECONDS))
            if message.get("type") not in ("hello", "ping"):
                return message

    async def ask(self, message: Any) -> Any:
        await self.say(message)
        return await self.hear()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@asynccontextmanager
async def serving(application: Any, app: App | None = None, **config: Any) -> AsyncGenerator[Served]:
    """Serve an ASGI application."""
    # As `ensue run` serves; `ws="auto"` is any other uvicorn.
    config.setdefault("ws", "ensue.server.live.wire:FrameProtocol")
    server = _Server(uvicorn.Config(application, port=0, log_config=None, lifespan="auto", **config))
    task = asyncio.create_task(server.serve())
    try:
        await asyncio.wait([task, asyncio.ensure_future(server.listening.wait())], return_when=asyncio.FIRST_COMPLETED)
        assert not task.done(), "the server did not start; the reason is in the log"
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            yield Served(port, http, app)
    finally:
        server.should_exit = True
        await asyncio.wait([task])
        assert task.exception() is None


@asynccontextmanager
async def serving_app(app: App, *, ws: str = "", **options: Any) -> AsyncGenerator[Served]:
    """Serve an app with the tests' `authenticate`, and one user and post in it."""
    config = {"ws": ws} if ws else {}
    async with serving(app.asgi(**{"authenticate": authenticate, **options}), app, **config) as served:
        store = app.controller.store
        user = await store.create(User(name="ann"))
        await store.create("Post", title="first", author=user)
        yield served
