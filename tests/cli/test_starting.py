"""Being told to stop while an app waits for a peer that says nothing."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ensue.cli.starting import Starting
from tests.cli.test_commands import ROOT

PATIENT = """
import asyncio, pathlib
from contextlib import asynccontextmanager
from ensue import App, Entity, Integration, Property

HERE = pathlib.Path(__file__).parent

class Note(Entity):
    text: Property[str]

@asynccontextmanager
async def client():
    yield
    (HERE / "closed").touch()

class Patient(Integration):
    async def setup(self, controller):
        await self.enter(client())
        (HERE / "waits").touch()
        await asyncio.Event().wait()

app = App(entities=[Note], integrations={"patient": Patient()}, database="sqlite:///:memory:")
"""


@pytest.mark.parametrize("command", [["worker"], ["run", "--port", "0"]])
def test_a_signal_ends_a_start_that_waits(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "patient.py").write_text(PATIENT)
    ensue = [sys.executable, "-c", "import sys; from ensue.cli import main; sys.exit(main())"]
    arguments = [command[0], "patient:app", *command[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*ensue, *arguments], cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as process:
        try:
            end = time.monotonic() + 30
            while not (tmp_path / "waits").exists():
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, b"stopped before it had started" in told) == (0, True), told
    assert (tmp_path / "closed").exists()


async def test_what_an_app_is_made_of_is_not_looked_through_again() -> None:
    starting = Starting()
    made = [[number] for number in range(100)]
    before = gc.get_freeze_count()
    try:
        starting.end()
        assert starting.over
        assert gc.get_freeze_count() >= before + len(made)
    finally:
        gc.unfreeze()
