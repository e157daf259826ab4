"""`ensue run`: serve the app with uvicorn, and deliver its effects.

Decides how the server is set up and when it stops. Leaves serving to uvicorn, and the app's life to its lifespan. Invariant: on
SIGTERM nothing new is accepted, what runs is finished, then delivery stops gracefully.
"""

from __future__ import annotations

import argparse
import logging
import sys

from ensue.cli import FAILED, OK
from ensue.cli.failures import CommandError
from ensue.cli.locate import find_app
from ensue.server.logs import log_to

GRACE_SECONDS = 30


def execute(given: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    try:
        import uvicorn
    except ModuleNotFoundError:
        raise CommandError("Serving needs uvicorn: install it with `pip install 'ensue[server]'`.") from None
    application = find_app(given.app).asgi()
    log_to(sys.stderr, level=given.log_level)
    config = uvicorn.Config(
        application,
        host=given.host,
        port=given.port,
        lifespan="on",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    logging.getLogger("ensue.cli").info("serving %s on http://%s:%d", given.app, given.host, given.port)
    server.run()
    return OK if server.started else FAILED
