"""The page about the server: its requests and conversations are held, its tables are those of the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ensue.server.options import ServerOptions
from ensue.server.protocol import CLOSE
from tests.docs.pages import REFERENCE, blocks, module_of, program
from tests.server.network import Served, Talk, serving

PAGE = REFERENCE / "server.md"
_CHANGING = re.compile(r'"(at|request_id)":"[^"]*"')


async def test_requests_are_answered_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the database of the page's app is made
    exchanges = list(shown_requests())
    assert len(exchanges) == 4
    with module_of(PAGE) as module:
        exec(program(PAGE), module.__dict__)
        async with serving(module.served, module.app) as server:
            await module.seed(module.app.controller.store)
            for request, answer in exchanges:
                assert await said(server, request) == answer
            async with server.connect(user=None, path="/ws?token=ann") as talk:
                for conversation in blocks(PAGE, "session"):
                    await hold(talk, conversation.text)


def shown_requests() -> Iterator[tuple[str, str]]:
    """Each request on the page with the answer that follows it."""
    answers = {block.line: block.text for block in blocks(PAGE, "json")}
    for block in blocks(PAGE, "http"):
        yield block.text, answers[min(line for line in answers if line > block.line)].rstrip()


async def said(server: Served, request: str) -> str:
    head, _, body = request.partition("\n\n")
    (first, *rest) = head.splitlines()
    method, path = first.split()
    headers = dict(line.split(": ", 1) for line in rest)
    response = await server.http.request(method, path, content=body, headers=headers)
    return _CHANGING.sub(r'"\1":"…"', response.text)


async def hold(talk: Talk, conversation: str) -> None:
    """Say what the client says; what the server says between two of these may come in any order."""
    expected: list[Any] = []
    for line in conversation.splitlines():
        if line.startswith("> "):
            await hear(talk, expected)
            expected = []
            await talk.say(line[2:])
        else:
            expected.append(json.loads(line[2:]))
    await hear(talk, expected)


async def hear(talk: Talk, expected: list[Any]) -> None:
    heard = [_without_changing(await talk.hear()) for _ in expected]
    assert sorted(map(json.dumps, heard)) == sorted(map(json.dumps, expected))


def _without_changing(message: Any) -> Any:
    return json.loads(_CHANGING.sub(r'"\1":"…"', json.dumps(message, separators=(",", ":"))))


def test_the_options_and_close_codes_are_all_there() -> None:
    text = PAGE.read_text()
    named = re.findall(r"^\| `(\w+)` \|", text.partition("## Options")[2].partition("## Routes")[0], re.MULTILINE)
    assert named == [field.name for field in fields(ServerOptions)]
    codes = re.findall(r"^\| (\d{4}) \| ([^|]+) \|", text, re.MULTILINE)
    assert {(int(code), reason) for code, reason in codes} == set(CLOSE.values())
