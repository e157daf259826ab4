"""What one process commits, the clients of another are told."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.server.network import WAIT_SECONDS, serving_app
from tests.server.shop import Comment, Post, User, make_app

ROOT = Path(__file__).parents[2]


@contextmanager
def ensue(*arguments: str, database: str) -> Iterator[subprocess.Popen[str]]:
    """`ensue` in a process of its own; killed if it does not end by itself after SIGTERM."""
    environment = {**os.environ, "SHOP_DATABASE": database, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "import sys; from ensue.cli import main; sys.exit(main())", *arguments]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(WAIT_SECONDS)
                finally:
                    process.kill()


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """The first line of its log that contains `text`."""
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return line
    raise AssertionError("".join(seen))


async def test_commits_of_another_process_are_pushed(database_url: str) -> None:
    async with serving_app(make_app(database_url), subscribable=[Post]) as shop, shop.connect() as talk:
        message = {"id": 1, "type": "subscribe", "record": "Post", "key": 1}
        assert (await talk.ask(message))["data"]["comment_count"] == 0
        read = {"id": 2, "type": "subscribe", "read": "ListPosts"}
        assert len((await talk.ask(read))["data"]["records"]) == 1
        other = make_app(database_url)
        async with other:
            await other.controller.store.create(Comment(text="x", post=Post.ref(1), author=User.ref(1)))
            heard = [await talk.hear(), await talk.hear()]
            assert {item["subscription"] for item in heard} == {1, 2}
            assert next(item for item in heard if item["subscription"] == 1)["data"]["comment_count"] == 1


async def test_ensue_run_serves_and_pushes_across_processes(database_url: str) -> None:
    async with serving_app(make_app(database_url), subscribable=[Post]) as shop, shop.connect() as talk:
        await talk.ask({"id": 1, "type": "subscribe", "record": "Post", "key": 1, "fields": ["comment_count"]})
        with ensue("run", "tests.server.shop:served", "--port", "0", database=database_url) as process:
            line = await asyncio.to_thread(line_with, process, "listening on")
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found is not None
            async with httpx2.AsyncClient(base_url=found[0], trust_env=False) as http:
                assert (await http.get("/health")).json()["status"] == "ok"
                headers = {"authorization": "Bearer user-1"}
                payload = {"post": 1, "text": "from elsewhere"}
                response = await http.post("/api/interactions/AddComment", json=payload, headers=headers)
                assert response.status_code == 200, response.text
            assert (await talk.hear())["data"]["comment_count"] == 1
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, WAIT_SECONDS) == 0


async def test_what_runs_is_finished_before_the_end(sqlite_url: str) -> None:
    with ensue("run", "tests.server.shop:served", "--port", "0", database=sqlite_url) as process:
        line = await asyncio.to_thread(line_with, process, "listening on")
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found is not None
        async with httpx2.AsyncClient(base_url=found[0], trust_env=False) as http:
            call = asyncio.create_task(http.post("/api/integrations/desk/slow", json={"seconds": 1}))
            await asyncio.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            assert (await call).json() == "done"
        assert await asyncio.to_thread(process.wait, WAIT_SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_stops_when_told(sqlite_url: str, number: signal.Signals) -> None:
    with ensue("worker", "tests.server.shop:app", database=sqlite_url) as process:
        line_with(process, "delivering the effects")
        process.send_signal(number)
        assert process.wait(WAIT_SECONDS) == 0
