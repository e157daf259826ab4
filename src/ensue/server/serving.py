"""What serving one run of an app needs: its calls, its subscriptions, its connections.

Decides how long these live: from the first request of a run to its end. Leaves the run itself to the app. Invariant:
nothing here outlives the run that it was made for.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection

from ensue.integrations.connection import Authenticated
from ensue.schema.interaction import Context
from ensue.server.calls import Calls
from ensue.server.health import HealthCheck
from ensue.server.live.flush import Flusher, attach
from ensue.server.live.sources import Gate
from ensue.server.live.subscriptions import Source, Subscriber, Subscriptions
from ensue.server.openapi import describe
from ensue.server.options import ServerOptions
from ensue.server.webhooks import Webhooks

if TYPE_CHECKING:
    from ensue.app import AppRun
    from ensue.server.websocket import Client

logger = logging.getLogger("ensue.server")

LEAVE_SECONDS_MAX = 10.0


class Serving:
    """One run of an app, being served."""

    def __init__(self, run: AppRun, options: ServerOptions) -> None:
        self.run = run
        self.options = options
        self.calls = Calls(run, suggests=options.docs)
        self.webhooks = Webhooks(run.inbox)
        self.gate = Gate(run.model, options)
        self.health = HealthCheck(run)
        self.subscriptions = Subscriptions()
        self.clients: set[Client] = set()
        self._everyone_left = asyncio.Event()
        run.controller.on_commit(lambda commit: self.subscriptions.touched(commit.touched))
        self._flusher = Flusher()
        self._watching = asyncio.Lock()
        self._watches = False

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document, without `servers`."""
        return describe(
            self.run.model, self.calls.payloads.values(), self.run.apis, self.run.inbox.endpoints.webhooks.values()
        )

    async def subscribe(self, source: Source, subscriber: Subscriber) -> None:
        """Subscribe, hearing of other processes' commits from the first subscription on."""
        async with self._watching:
            if not self._watches:
                await self.run.watch(self.subscriptions.hinted)
                self._watches = True
        self.subscriptions.add(source, subscriber)

    async def user_of(self, connection: HTTPConnection) -> Any:
        """Who asks, by the application's `authenticate`; None without one. Raises what that raises."""
        return (await self.known_of(connection))[0]

    async def known_of(self, connection: HTTPConnection) -> tuple[Any, Authenticated | None]:
        """The same, and the credentials if they can end."""
        if self.options.authenticate is None:
            return None, None
        found = self.options.authenticate(connection)
        found = await found if inspect.isawaitable(found) else found
        return (found.user, found) if isinstance(found, Authenticated) else (found, None)

    def context(self, user: Any, connection: HTTPConnection | None) -> Context:
        """The context for callbacks of the application."""
        return Context(user=user, request=connection, controller=self.run.controller)

    def write_directly(self, client: Client) -> bool:
        """Let its connection write without a task of its own; false if the server that runs us can't."""
        return attach(client.connection, client.websocket.scope, self._flusher, on_shutdown=client.retire)

    def enter(self, client: Client) -> None:
        """A WebSocket client has come."""
        self.clients.add(client)
        self._everyone_left.clear()

    def leave(self, client: Client) -> None:
        """It has gone."""
        self.clients.discard(client)
        if not self.clients:
            self._everyone_left.set()

    async def close(self) -> None:
        """Send every client away (1012) and wait until they are gone, within bounds."""
        for client in tuple(self.clients):
            client.happened("shutdown")
        if self.clients:
            try:
                await asyncio.wait_for(self._everyone_left.wait(), LEAVE_SECONDS_MAX)
            except TimeoutError:
                logger.warning("%d WebSocket clients did not leave in time", len(self.clients))
        await self.subscriptions.close()
