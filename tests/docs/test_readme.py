"""The example of the README is a program, and prints what the README says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import REPOSITORY, blocks

README = REPOSITORY / "README.md"
LINES_MAX = 40


def test_the_example_prints_what_is_shown(tmp_path: Path) -> None:
    [example] = blocks(README, "python")
    [printed] = blocks(README, "text")
    (tmp_path / "example.py").write_text(example.text)
    run = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (run.stdout, run.stderr) == (printed.text, "")


@pytest.mark.parametrize("checker", [["pyright", "--pythonpath", sys.executable], ["mypy", "--strict"]])
def test_the_example_checks(tmp_path: Path, checker: list[str]) -> None:
    [example] = blocks(README, "python")
    (tmp_path / "example.py").write_text(example.text)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    command = [sys.executable, "-m", *checker, "example.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_example_is_as_short_as_its_heading_says() -> None:
    [example] = blocks(README, "python")
    assert len([line for line in example.text.splitlines() if line.strip()]) <= LINES_MAX


def test_the_commands_are_those_of_the_makefile() -> None:
    [commands, _] = blocks(README, "console")
    rules = (REPOSITORY / "Makefile").read_text()
    for line in commands.text.splitlines():
        name = line.split()[2]
        assert f"\n{name}: " in rules
