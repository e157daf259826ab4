"""The tutorial from its first line to its last: the file that a reader ends up with, its tests, and its server."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.docs.pages import DOCS, blocks, program, run_page

PAGE = DOCS / "tutorial.md"
ENSUE = Path(sys.executable).parent / "ensue"
WAIT_SECONDS = 20.0
_INSTANT = re.compile(r'"at":"[^"]*"')


async def test_the_page_runs_in_order() -> None:
    await run_page(PAGE)


def test_the_page_has_the_types_that_it_shows(tmp_path: Path) -> None:
    (tmp_path / "workshop.py").write_text("# pyright: strict\n" + program(PAGE))
    command = [ENSUE.parent / "pyright", "--pythonpath", sys.executable, "workshop.py"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=3 * WAIT_SECONDS)
    assert checked.returncode == 0, checked.stdout


def test_the_tests_on_the_page_are_run_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "workshop.py").write_text(program(PAGE))
    lines = [line for block in blocks(PAGE, "console") for line in block.text.splitlines()]
    [command] = [line for line in lines if line.startswith("$ pytest")]
    done = subprocess.run(
        [ENSUE.parent / "pytest", *shlex.split(command)[2:], "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=3 * WAIT_SECONDS,
    )
    assert "2 passed" in done.stdout, done.stdout


def test_what_the_page_imports_is_installed() -> None:
    """What is not installed there ends `ensue run workshop:served`, too."""
    [install] = [line for block in blocks(PAGE, "console") for line in block.text.splitlines() if "pip install" in line]
    tree = ast.walk(ast.parse(program(PAGE)))
    imported = {name.name for node in tree if isinstance(node, ast.Import) for name in node.names}
    assert imported == {"pytest"}
    assert imported | {"pytest-asyncio", "ensue[server]"} == set(shlex.split(install)[3:])


async def test_the_calls_on_the_page_are_answered_as_shown(tmp_path: Path) -> None:
    (tmp_path / "workshop.py").write_text(program(PAGE))
    calls = list(shown_calls())
    assert len(calls) == 5
    with serving(tmp_path) as url:
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as http:
            for command, answer in calls:
                assert await said(http, command) == answer, command
    checked = await asyncio.to_thread(check, tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "everything derived is right" in checked.stdout


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """`ensue check`, as at the end of the page."""
    command = [ENSUE, "check", "workshop:app"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=WAIT_SECONDS)


def shown_calls() -> Iterator[tuple[str, str]]:
    """Each `curl` on the page with the line below it."""
    for block in blocks(PAGE, "console"):
        lines = block.text.splitlines()
        for number, line in enumerate(lines):
            if line.startswith("$ curl"):
                yield line.removeprefix("$ "), lines[number + 1]


async def said(http: httpx2.AsyncClient, command: str) -> str:
    """What `curl` would print for the options that the page uses; instants are left out, as on the page."""
    words = iter(shlex.split(command)[1:])
    headers: dict[str, str] = {}
    body: str | None = None
    path = ""
    for word in words:
        match word:
            case "-s":
                pass
            case "-H":
                name, _, value = next(words).partition(": ")
                headers[name] = value
            case "-d":
                body = next(words)
            case _:
                path = word.removeprefix("localhost:8000")
    response = await http.request("GET" if body is None else "POST", path, content=body, headers=headers)
    text = _INSTANT.sub('"at":"…"', response.text)
    return re.sub(r'"request_id":"[^"]*"', '"request_id":"…"', text)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """`ensue run workshop:served` on a free port."""
    process = subprocess.Popen(
        [ENSUE, "run", "workshop:served", "--port", "0"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        seen: list[str] = []
        for line in process.stderr:
            seen.append(line)
            if line.startswith("{") and "listening on" in (message := json.loads(line)["message"]):
                yield message.removeprefix("listening on ")
                break
        else:
            raise AssertionError("".join(seen))
    finally:
        process.terminate()
        process.communicate(timeout=WAIT_SECONDS)
