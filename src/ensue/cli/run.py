"""`ensue run`: serve the app with uvicorn, and deliver its effects.

Decides how the server is set up and when it stops. Leaves serving to uvicorn, and the app's life to its lifespan. Invariant: on
SIGTERM nothing new is accepted, what runs is finished, then delivery stops gracefully; a second signal ends the process
at once.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ensue.app import App, AppRun
from ensue.cli import FAILED, OK
from ensue.cli.locate import find_served
from ensue.cli.signals import Signals
from ensue.cli.starting import Starting
from ensue.cli.terminal import CommandError
from ensue.server.logs import log_to

if TYPE_CHECKING:
    import uvicorn

logger = logging.getLogger("ensue.cli")

GRACE_SECONDS = 30


def execute(given: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    try:
        import uvicorn
    except ModuleNotFoundError:
        raise CommandError("Serving needs uvicorn: install it with `pip install 'ensue[server]'`.") from None
    found = find_served(given.app)
    application = found.asgi() if isinstance(found, App) else found
    if given.metrics:
        from ensue.observation.scrape import VARIABLE
        from ensue.server.asgi import Server

        options = replace(
            application.options,
            metrics=True,
            metrics_token=os.environ.get(VARIABLE) or application.options.metrics_token,
        )
        application = Server(application.app, options)
    log_to(sys.stderr, level=given.log_level)
    config = uvicorn.Config(
        application,
        host=given.host,
        port=given.port,
        lifespan="on",
        access_log=False,
        log_config=None,
        # Frames that go to many are made once; compressing each of them for each client would be most of the work.
        ws="ensue.server.live.wire:FrameProtocol",
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )

    class AnnouncedServer(uvicorn.Server):
        """One that says where it listens; uvicorn's own lines are left out, as some of them quote clients' tokens."""

        @contextmanager
        def capture_signals(self) -> Generator[None]:
            # They are ours: uvicorn would go on waiting at a second SIGTERM.
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            try:
                await super().startup(sockets)
            except SystemExit:
                # uvicorn has logged why, and ends the process with a status of its own.
                where = f"{self.config.host}:{self.config.port}"
                raise CommandError(f"Nothing can be served at {where}. Choose another --host or --port.") from None
            for listening in (item for server in self.servers for item in server.sockets):
                host, port = listening.getsockname()[:2]
                logger.info("listening on http://%s:%d", host, port)

    server = AnnouncedServer(config)
    with Signals() as signals:
        app = found if isinstance(found, App) else found.app
        run = app.run(lease_seconds=given.lease_seconds, grace_seconds=given.grace_seconds)
        stopped = asyncio.run(_serve(run, server, signals))
    # Being told to stop is no failure.
    return OK if server.started or stopped else FAILED


async def _serve(run: AppRun, server: uvicorn.Server, signals: Signals) -> bool:
    """Serve until a signal; whether that came before the app had started."""
    starting = Starting()

    def stop() -> None:
        logger.info("stopping; another signal ends at once")
        server.should_exit = True
        starting.stop()

    signals.attach(stop)
    try:
        # Entered here and not by the server's lifespan, whose errors are logged and not raised.
        async with run:
            starting.end()
            await server.serve()
    except asyncio.CancelledError:
        if not starting.stopped:
            raise
        logger.info("stopped before it had started")
    return starting.stopped
