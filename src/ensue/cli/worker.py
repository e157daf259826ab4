"""`ensue worker`: deliver an app's effects, without serving.

Decides when a worker stops. Leaves delivery to the run of the app. Invariant: on SIGINT or SIGTERM nothing more is claimed, and
what is being delivered has its grace before it is given back; a second signal ends the process at once.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from ensue.cli import OK
from ensue.cli.locate import find_app
from ensue.cli.parsing.commands import METRICS_HOST
from ensue.cli.signals import Signals
from ensue.cli.starting import Starting
from ensue.cli.terminal import CommandError
from ensue.server.logs import log_to

if TYPE_CHECKING:
    from ensue.app import App, AppRun

logger = logging.getLogger("ensue.cli")


def execute(given: argparse.Namespace) -> int:
    """Deliver until SIGINT or SIGTERM."""
    if given.metrics_host is not None and given.metrics_port is None:
        raise CommandError(
            "--metrics-host was given without --metrics-port; expected both, such as --metrics-port 9100."
        )
    app = find_app(given.app)
    log_to(sys.stderr, level=given.log_level)
    with Signals() as signals:
        asyncio.run(_work(app, given, signals))
    return OK


async def _work(app: App, given: argparse.Namespace, signals: Signals) -> None:
    stopping = asyncio.Event()
    starting = Starting()

    def stop() -> None:
        stopping.set()
        starting.stop()

    signals.attach(stop)
    try:
        async with _run(app, given) as run, AsyncExitStack() as stack:
            starting.end()
            logger.info("delivering the effects of %s", given.app)
            if given.metrics_port is not None:
                await _serve_metrics(run, given, stack)
            await stopping.wait()
            logger.info("stopping; another signal ends at once")
    except asyncio.CancelledError:
        if not starting.stopped:
            raise
        logger.info("stopped before it had started")


async def _serve_metrics(run: AppRun, given: argparse.Namespace, stack: AsyncExitStack) -> None:
    from ensue.observation.scrape import VARIABLE, serve_metrics

    token, host = os.environ.get(VARIABLE) or None, given.metrics_host or METRICS_HOST
    serving = serve_metrics(run.metrics, host=host, port=given.metrics_port, token=token)
    try:
        port = await stack.enter_async_context(serving)
    except OSError as error:
        where = f"{host}:{given.metrics_port}"
        raise CommandError(f"Metrics can't be served at {where}: {error.strerror}. Choose another port.") from error
    logger.info("metrics at http://%s:%d/metrics", host, port)


def _run(app: App, given: argparse.Namespace) -> AppRun:
    if given.relay is None:
        return app.run(worker_name="worker", lease_seconds=given.lease_seconds, grace_seconds=given.grace_seconds)
    from ensue.app import RunOptions
    from ensue.cli.relayed import RelayedRun

    options = RunOptions(worker_name="relay worker", grace_seconds=given.grace_seconds)
    return RelayedRun(app, given.relay, options=options, lease_seconds=given.lease_seconds)
