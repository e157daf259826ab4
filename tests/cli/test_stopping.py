"""How a command ends that has something to do: the first signal drains, the second ends, and no silent peer is waited for."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ensue.app import STOP_SECONDS
from ensue.testing import FaultProxy
from tests.cli.test_commands import ROOT

WAIT_SECONDS = 30.0

BUSY = """
import asyncio, os, pathlib, time
import ensue.app
from ensue import App, Effect, Entity, Integration, Property, side_effect

HERE = pathlib.Path(__file__).parent
ensue.app.CUT_SECONDS = float(os.environ.get("CUT_SECONDS") or ensue.app.CUT_SECONDS)

class Note(Entity):
    text: Property[str]

class Slow(Integration):
    async def setup(self, controller):
        if os.environ["HOW"] != "idle":
            await controller.store.create(Note(text="a"))

    @side_effect(Note, on="create")
    async def tell(self, effect: Effect):
        (HERE / "running").touch()
        if os.environ["HOW"] == "blocks":
            time.sleep(60)
        await asyncio.sleep(1 if os.environ["HOW"] == "short" else 60)
        (HERE / "done").touch()

app = App(entities=[Note], integrations={"slow": Slow()}, database=os.environ["DATABASE"])
"""
COMMANDS = (["worker"], ["run", "--port", "0"])


@contextmanager
def ensue(
    folder: Path, command: list[str], *, how: str, database: str = "sqlite:///:memory:"
) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "busy.py").write_text(BUSY)
    line = [sys.executable, "-m", "ensue", command[0], "busy:app", *command[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOW": how, "DATABASE": database}
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(line, cwd=folder, env=environment, stderr=log) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def until(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_the_first_signal_lets_an_effect_end(command: list[str], tmp_path: Path) -> None:
    with ensue(tmp_path, command, how="short") as process:
        until(process, (tmp_path / "running").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_leases_are_as_long_as_is_asked_for(command: list[str], tmp_path: Path, sqlite_url: str) -> None:
    with ensue(tmp_path, [*command, "--lease-seconds", "600"], how="long", database=sqlite_url) as process:
        until(process, (tmp_path / "running").exists)
        with sqlite3.connect(urlsplit(sqlite_url).path) as connection:
            ((leased_micros,),) = connection.execute("SELECT lease_until - claimed_at FROM ensue_effect").fetchall()
        connection.close()
    assert leased_micros == pytest.approx(600e6, rel=0.2)


@pytest.mark.parametrize(
    ("command", "number", "status"),
    [(COMMANDS[0], signal.SIGTERM, 143), (COMMANDS[1], signal.SIGINT, 130)],
    ids=["worker", "run"],
)
def test_the_second_signal_ends_at_once(
    command: list[str], number: signal.Signals, status: int, tmp_path: Path
) -> None:
    with ensue(tmp_path, command, how="long") as process:
        until(process, (tmp_path / "running").exists)
        process.send_signal(signal.SIGTERM)
        until(process, lambda: b"another signal ends at once" in (tmp_path / "log").read_bytes())
        process.send_signal(number)
        began = time.monotonic()
        assert process.wait(WAIT_SECONDS) == status
        # Less than the grace, which the effect would have.
        assert time.monotonic() - began < 10


def test_the_second_signal_ends_one_that_is_blocked(tmp_path: Path) -> None:
    with ensue(tmp_path, ["worker"], how="blocks") as process:
        until(process, (tmp_path / "running").exists)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 143


async def test_a_worker_stops_while_its_database_says_nothing(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As that of a worker is, only sooner.
    monkeypatch.setenv("CUT_SECONDS", "0.5")
    async with FaultProxy(postgres_url) as proxy:
        with ensue(tmp_path, ["worker", "--grace-seconds", "0"], how="idle", database=proxy.url) as process:
            await asyncio.to_thread(
                until, process, lambda: b"delivering the effects" in (tmp_path / "log").read_bytes()
            )
            proxy.black_hole()
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert await asyncio.to_thread(process.wait, 60) == 0, (tmp_path / "log").read_text()
            assert time.monotonic() - began < STOP_SECONDS
