"""The demo as a person starts it: what it prints, that it serves, and that nothing is left of it."""

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
from typing import ClassVar

import httpx2
import pytest
from websockets.asyncio.client import connect

from examples.channels.crowd import Client
from examples.channels.figures import CommitTimes, Phase, Record, lines, percentile

ROOT = Path(__file__).parents[2]
FIGURES = r"{}\s+[\d,]+ messages/s committed\s+[\d,]+ deliveries/s\s+commit to client p50 [\d,.]+ ms, p99 [\d,.]+ ms\n"
PRINTED = re.compile(
    r"http://127\.0\.0\.1:\d+   open it in two tabs \(on (?P<on>.*)\)\n"
    r"10 WebSocket clients, in a process of their own\n"
    rf"  {FIGURES.format('steady')}  {FIGURES.format('flat out')}"
    r"ensue check: (?:.*\n)*.*everything derived is right\.\n"
)


def demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the demo; its temporary files go below `folder`."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    environment.pop("REDIS_URL", None)
    command = [sys.executable, "-m", "examples.channels", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def crowded(folder: Path, *arguments: str) -> re.Match[str]:
    """Run the demo with a small crowd to its end; gives what it printed, all as it should be."""
    process = demo(folder, "--no-serve", "--crowd=10", "--seconds=0.5", *arguments)
    output, errors = process.communicate(timeout=90)
    assert (process.returncode, errors) == (0, "")
    found = PRINTED.fullmatch(output)
    assert found is not None, output
    return found


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The demo without a crowd, once it serves, and its address."""
    process = demo(folder, "--crowd=0")
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split(" ", 1)[0]
        for line in process.stdout:
            if line.startswith("serving until"):
                break
        yield process, address
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a demo without a crowd serves, for tests that leave it running."""
    with served(tmp_path_factory.mktemp("served")) as (_, address):
        yield address


def test_the_demo_on_sqlite(tmp_path: Path) -> None:
    found = crowded(tmp_path)
    assert found["on"].startswith("sqlite:///")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_on_postgresql_and_redis(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    found = crowded(tmp_path, f"--database={postgres_url}", f"--redis-url={redis_url}")
    assert found["on"].startswith("postgresql://")
    assert found["on"].endswith(" and Redis")


def test_a_second_crowd_on_the_same_database(tmp_path: Path) -> None:
    database = f"--database=sqlite:///{tmp_path / 'kept.db'}"
    crowded(tmp_path, database)
    crowded(tmp_path, database)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_in_good_order_while_somebody_is_connected(tmp_path: Path, number: signal.Signals) -> None:
    async def stay(address: str) -> None:
        async with connect(f"ws{address.removeprefix('http')}/ws") as websocket:
            process.send_signal(number)
            await asyncio.wait_for(websocket.wait_closed(), 20)
            assert websocket.close_code == 1012

    with served(tmp_path) as (process, address):
        asyncio.run(stay(address))
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--database=postgresql://ann:sekrit@127.0.0.1:1/x", "Is the server running?"),
        ("--database=mysql://x", "has the scheme 'mysql'"),
        ("--redis-url=foo", "is not the URL of a Redis"),
    ],
)
def test_what_it_can_not_start_with_is_one_message(argument: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.channels", argument], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "sekrit" not in done.stderr


@pytest.mark.xdist_group("demo")
def test_the_page_is_served_with_all_it_needs_and_nothing_from_elsewhere(address: str) -> None:
    with httpx2.Client(base_url=address, trust_env=False) as http:
        page = http.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert 'src="chat.js"' in page.text
        for name in ("/chat.js", "/connection.js"):
            script = http.get(name)
            assert script.headers["content-type"].startswith("text/javascript")
            assert "://" not in re.sub(r"\$\{scheme\}//", "", script.text)
        assert re.findall(r'(?:src|href)="(?!data:)([^"]*)"', page.text) == ["chat.js"]
        assert http.post("/", json={}).status_code == 405
        assert http.get("/health").status_code == 200
        refused = http.post("/api/integrations/login/log_in", json={"name": " "})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid")


@pytest.mark.xdist_group("demo")
def test_clients_are_told_of_messages_and_counts_over_the_network(address: str) -> None:
    async def talk() -> None:
        url = f"ws{address.removeprefix('http')}/ws"
        async with connect(url) as websocket:
            nobody = Client(websocket)
            given = [
                await nobody.ask(type="api", namespace="login", name="log_in", payload={"name": name})
                for name in ("ann", "bob")
            ]
        async with (
            connect(f"{url}?token={given[0]['token']}") as one,
            connect(f"{url}?token={given[1]['token']}") as two,
        ):
            ann, bob = Client(one), Client(two)
            opened = await ann.interact("OpenChannel", name="general")
            channel = next(change["id"] for change in opened["changes"] if change["record"] == "Channel")
            for client in (ann, bob):
                await client.interact("JoinChannel", channel=channel)
            await ann.interact("SendMessage", channel=channel, text="hello")
            (mine,) = (await bob.interact("MyChannels"))["records"]
            assert mine["unread"] == 1
            async with asyncio.timeout(20):
                while not bob.received:  # noqa: ASYNC110 - the client writes down, it does not announce
                    await asyncio.sleep(0.01)

    asyncio.run(talk())


def test_figures() -> None:
    class Clock:
        at = 0.0

        def monotonic_seconds(self) -> float:
            return self.at

    class Commit:
        touched: ClassVar = {"Message": frozenset({1, 2}), "User": frozenset({9})}

    clock = Clock()
    clock.at = 10.0
    times = CommitTimes(clock)  # type: ignore[arg-type]
    times.note(Commit())
    received = [(1, 10.001), (1, 10.002), (2, 10.003), (2, 10.5)]
    phase = Phase(name="steady", seconds=2.0, sent=4, expected=8, received=received)
    assert [round(value, 3) for value in times.latencies(phase)] == [0.001, 0.002, 0.003, 0.5]
    record = Record(clients=2, phases=[phase])
    assert not record.complete
    assert list(lines(record, times)) == [
        "2 WebSocket clients, in a process of their own",
        "  steady          2 messages/s committed         4 deliveries/s   commit to client p50 2.0 ms, p99 500.0 ms",
        "           4 of 8 deliveries arrived",
    ]
    assert percentile([], 0.5) != percentile([], 0.5)
