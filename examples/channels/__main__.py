"""`python -m examples.channels`: serve the demo, let a crowd talk, check what was derived, and go on serving.

Decides the order of what is shown and the exit status (0 if every message arrived and everything derived is right, 2 if
it could not start).
Leaves the crowd and the check to processes of their own: both see the demo as anybody else would. Invariant: whatever
was started is stopped, and a database that was made here is removed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

import msgspec
import uvicorn
from starlette.types import ASGIApp

from ensue.cli.parsing.values import port
from ensue.errors import EnsueError, UsageError
from ensue.store.url import parse_database_url
from examples.channels.figures import CommitTimes, Record, lines

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
GRACE_SECONDS = 5
CHECK = "import sys; from ensue.cli import main; sys.exit(main(['check', 'examples.channels.app:app']))"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; gives its exit status."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    with tempfile.TemporaryDirectory(prefix="ensue-channels-") as folder:
        # In the environment, since the check, which is another process, reads its settings there too.
        os.environ["DATABASE"] = given.database or f"sqlite:///{folder}/channels.db"
        os.environ["REDIS_URL"] = given.redis_url or "memory://"
        try:
            return asyncio.run(_demo(given))
        except EnsueError as error:
            print(error, file=sys.stderr)
            return 2


class _Server(uvicorn.Server):
    """uvicorn raises a signal again once it has stopped, which would end this process before it has cleaned up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:
            # uvicorn has logged why.
            raise UsageError(f"Nothing can be served at port {self.config.port}. Choose another --port.") from None

    def stop(self) -> None:
        """Stop in good order; at once if asked twice."""
        self.force_exit = self.should_exit
        self.should_exit = True


async def _demo(given: argparse.Namespace) -> int:
    # Here, where the settings are known.
    from examples.channels.app import app, login
    from examples.channels.site import site

    # Entered here and not by the server's lifespan, whose errors are logged with all their tracebacks.
    async with app:
        return await _serve(given, site(app, login))


async def _serve(given: argparse.Namespace, application: ASGIApp) -> int:
    config = uvicorn.Config(
        application,
        host=HOST,
        port=given.port,
        lifespan="on",
        access_log=False,
        log_config=None,
        ws="ensue.server.live.wire:FrameProtocol",
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        while not (server.started or serving.done()):  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        if not server.started:
            await serving
            return 1
        port = server.servers[0].sockets[0].getsockname()[1]
        redis = "" if os.environ["REDIS_URL"] == "memory://" else " and Redis"
        say(f"http://{HOST}:{port}   open it in two tabs (on {parse_database_url(os.environ['DATABASE'])}{redis})")
        showing = asyncio.create_task(_show(given, port))
        await asyncio.wait([showing, serving], return_when=asyncio.FIRST_COMPLETED)
        if not showing.done():
            showing.cancel()
            await asyncio.wait([showing])
            return 0
        status = await showing
        if given.serve:
            say("serving until Ctrl-C; log in as ada to moderate")
            await asyncio.wait([serving])
        return status
    finally:
        server.should_exit = True
        await asyncio.wait([serving])


async def _show(given: argparse.Namespace, port: int) -> int:
    """Crowd and check; gives the exit status."""
    from examples.channels.app import app

    times = CommitTimes()
    status = 0
    if given.crowd:
        app.controller.on_commit(times.note)
        crowd = ["-m", "examples.channels.crowd", f"ws://{HOST}:{port}/ws", f"--clients={given.crowd}"]
        failed, output = await _python(*crowd, f"--seconds={given.seconds}")
        if failed:
            return 1
        record = msgspec.json.decode(output, type=Record)
        for line in lines(record, times):
            say(line)
        status = 0 if record.complete else 1
    failed, output = await _python("-c", CHECK)
    say(f"ensue check: {output.decode().strip()}")
    return max(status, failed)


async def _python(*arguments: str) -> tuple[int, bytes]:
    """Run Python in the repository; gives its exit status and output. It does not outlive the call."""
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return process.returncode or 0, output


def say(line: str) -> None:
    """Print at once, also into a pipe."""
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.channels", description="A chat in which everything counts."
    )
    parser.add_argument("--database", metavar="URL", help="default: a new SQLite file, removed at the end")
    parser.add_argument("--redis-url", metavar="URL", help="default: messages stay within this process")
    parser.add_argument("--port", type=port, default=0, metavar="N", help="default: a free one")
    parser.add_argument("--crowd", type=int, default=50, metavar="CLIENTS", help="0 for none (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long the crowd talks (default: %(default)s)")
    parser.add_argument("--no-serve", dest="serve", action="store_false", help="end after the check")
    return parser


if __name__ == "__main__":
    sys.exit(main())
