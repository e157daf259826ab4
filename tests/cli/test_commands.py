"""The command line as a person uses it: what it prints, and its exit status."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import pytest

from ensue import __version__
from ensue.cli import main
from ensue.cli.locate import find_app
from tests.server import shop
from tests.server.shop import Comment, Post, User, make_app

ROOT = Path(__file__).parents[2]


def ensue(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `ensue` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ensue", *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit status."""

    returncode: int
    stdout: str
    stderr: str


class Shell(Protocol):
    def __call__(self, *arguments: str) -> Said: ...


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Runs commands in this process, where modules in `tmp_path` are found."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*arguments: str) -> Said:
        try:
            status = main(arguments)
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        return Said(status, *capsys.readouterr())

    return run


def make_tables(module: str) -> None:
    """Run the app of that module once, on its own database."""

    async def run() -> None:
        async with find_app(f"{module}:app").run(deliver=False, setup=False):
            pass

    asyncio.run(run())


@pytest.fixture
def filled(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The shop has a database with a user, a post, and a comment whose effect waits."""
    app = make_app(sqlite_url)
    monkeypatch.setattr(shop, "app", app)
    monkeypatch.setattr(shop, "served", app.asgi())

    async def fill() -> None:
        async with app.run(deliver=False) as run:
            store = run.controller.store
            user = await store.create(User(name="ann"))
            post = await store.create(Post(title="first", author=user))
            await store.create(Comment(text="x", post=post, author=user))

    asyncio.run(fill())
    return sqlite_url


def test_help_answers_at_once() -> None:
    imports = (
        "import sys; from ensue.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'sqlalchemy', 'starlette', 'apsw', 'uvicorn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("run", "worker", "check", "explain", "integrations", "effects", "inbox", "migrate", "new"):
        assert f"\n    {name}" in done.stdout


@pytest.mark.parametrize("command", [[sys.executable, "-m", "ensue"], [Path(sys.executable).with_name("ensue")]])
def test_both_ways_to_call_it(command: list[str | Path]) -> None:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"ensue {__version__}\n")
    wrong = subprocess.run([*command, "check", "shop"], capture_output=True, text=True, timeout=60, check=False)
    assert (wrong.returncode, wrong.stderr.startswith("ensue: 'shop' names no app")) == (2, True)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("shop", "'shop' names no app; expected MODULE:APP"),
        ("tests.server.shop", "expected MODULE:APP"),
        ("nowhere.at.all:app", "There is no module 'nowhere'"),
        ("shop.py:app", "Did you mean shop:app?"),
        ("tests.server.nothing:app", "There is no module 'tests.server.nothing'"),
        ("tests.server.shop:ap", "It has the app app."),
        ("tests.server.shop:Post", "is the class Post; expected an ensue App"),
        ("tests.server.shop:make_app", "is a function; expected an ensue App"),
    ],
)
@pytest.mark.parametrize("command", [["check"], ["effects", "list"], ["run"], ["worker"], ["migrate", "--additive"]])
def test_an_app_that_is_not_there(
    where: str, text: str, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    assert main([*command, where]) == 2
    assert text in capsys.readouterr().err


def test_an_error_of_the_module_itself_is_shown_whole(tmp_path: Path) -> None:
    (tmp_path / "broken_shop.py").write_text("import not_installed_anywhere\n")
    done = ensue("check", "broken_shop:app", cwd=tmp_path)
    # 1 would say that it had found something.
    assert done.returncode == 2
    assert "broken_shop.py" in done.stderr
    assert "not_installed_anywhere" in done.stderr


def test_wrong_declarations_are_one_message(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "wrong_shop.py").write_text(
        "from ensue import App, Entity, Property, Count, Many\n"
        "class Post(Entity):\n    when: Property[object]\n    what: Property[complex]\n"
        "app = App(entities=[Post], database='sqlite:///:memory:')\n"
    )
    done = shell("check", "wrong_shop:app")
    assert done.returncode == 2
    assert done.stderr.startswith("ensue: 2 problems")
    assert "wrong_shop.py:3" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("check",), ("effects", "list"), ("inbox", "list")])
def test_looking_makes_no_database(
    command: tuple[str, ...], database_url: str, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop, "app", make_app(database_url))
    done = shell(*command, "tests.server.shop:app")
    assert (done.returncode, done.stdout) == (2, "")
    how = "is empty" if database_url.startswith("postgresql") else "is not there: no file /"
    assert how in done.stderr
    assert "Expected one that the app ran on before" in done.stderr
    if how != "is empty":
        assert not Path(urlsplit(database_url).path).exists()
        Path(urlsplit(database_url).path[1:]).touch()
        assert "is empty. Expected one" in shell(*command, "tests.server.shop:app").stderr


def test_check_finds_and_repairs(filled: str, shell: Shell) -> None:
    assert shell("check", "tests.server.shop:app").returncode == 0
    _spoil(filled)
    found = shell("check", "tests.server.shop:served")
    assert (found.returncode, "comment_count" in found.stdout) == (1, True), found
    repaired = shell("check", "tests.server.shop:app", "--repair")
    assert (repaired.returncode, "repaired" in repaired.stdout) == (0, True)
    assert shell("check", "tests.server.shop:app").returncode == 0


def _spoil(url: str) -> None:
    import sqlite3

    path = url.removeprefix("sqlite:///").partition("?")[0]
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE post SET comment_count = 77")
    connection.close()


@pytest.mark.usefixtures("filled")
def test_effects(shell: Shell) -> None:
    shown = shell("effects", "list", "tests.server.shop:app")
    assert shown.returncode == 0, shown.stderr
    header, row, *_, count = shown.stdout.splitlines()
    assert header.split() == ["ID", "STATE", "ATTEMPT", "NAME", "RECORD", "ENQUEUED", "ERROR"]
    assert row.split()[1:6] == ["pending", "0", "desk.mail", "Comment", "1"]
    assert count.split()[:3] == ["desk.mail", "pending", "1"]
    number, at = row.split()[0], row.split()[6]
    assert datetime.fromisoformat(at).tzinfo is not None
    assert count.split()[3] == at
    detail = shell("effects", "show", "tests.server.shop:app", number)
    assert "desk.mail:Comment:1:create" in detail.stdout
    assert f"enqueued:    {at}" in detail.stdout
    assert '"text":"x"' in detail.stdout
    assert shell("effects", "show", "tests.server.shop:app", "99").returncode == 2
    done = shell("effects", "discard", "tests.server.shop:app", number, "99")
    assert done.returncode == 1
    assert f"discard: {number}" in done.stdout
    assert "no effect with this id: 99" in done.stdout
    done = shell("effects", "list", "tests.server.shop:app", "--state", "cancelled")
    assert len(done.stdout.splitlines()) == 2
    left = shell("effects", "discard", "tests.server.shop:app", number)
    assert left.stdout.startswith(f"left as they are: {number} (cancelled); discard takes what is dead, pending, ")
    assert shell("effects", "resolve", "tests.server.shop:app", number, "--done").returncode == 1
    replayed = shell("effects", "replay", "tests.server.shop:app", number, "98", "--per-second", "2")
    assert replayed.stdout == f"replay: {number}\nno effect with this id: 98\n"
    assert shell("effects", "retry", "tests.server.shop:app", number).returncode == 0
    assert shell("effects", "list", "tests.server.shop:app", "--name", "desk.mail").returncode == 0


def test_a_retry_tells_what_is_not_called_again(sqlite_url: str, shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "paying.py").write_text(
        f"""
from datetime import timedelta
from ensue import App, Entity, Integration, Property, side_effect
class Bill(Entity):
    text: Property[str]
class Bank(Integration):
    @side_effect(Bill, on="create", key_ttl=timedelta(hours=24))
    async def pay(self, effect): ...
    async def answer(self, effect): ...
    @side_effect(Bill, on="create", key_ttl=timedelta(hours=24), verify="answer")
    async def ask(self, effect): ...
app = App(entities=[Bill], integrations={{"bank": Bank()}}, database={sqlite_url!r})
"""
    )
    make_tables("paying")
    long_ago, now = 1, time.time_ns() // 1000
    dead = [
        ("bank.pay", "a", 1, long_ago),
        ("bank.pay", "b", 1, now),
        ("bank.pay", "c", 0, long_ago),
        ("bank.ask", "d", 1, long_ago),
    ]
    with sqlite3.connect(urlsplit(sqlite_url).path[1:]) as database:
        database.executemany(
            "INSERT INTO ensue_effect (name, key, doubt, first_sent_at, record, record_id, payload, state, enqueued_at,"
            " available_at) VALUES (?, ?, ?, ?, 'Bill', 1, '{}', 'dead', 1, 1)",
            dead,
        )
    done = shell("effects", "retry", "paying:app", "1", "2", "3", "4")
    assert done.returncode == 0, done
    first, second = done.stdout.splitlines()
    assert first == "retry: 1, 2, 3, 4"
    assert second.startswith("not called again, but unknown next: 1. ")
    assert "ensue effects resolve paying:app ID --done, or --resend" in second


def test_migrate_adds(sqlite_url: str, shell: Shell, tmp_path: Path) -> None:
    text = "from ensue import App, Entity, Property\nclass Post(Entity):\n    title: Property[str]\n"
    end = f"app = App(entities=[Post], database={sqlite_url!r})\n"
    (tmp_path / "small_shop.py").write_text(text + end)
    (tmp_path / "grown_shop.py").write_text(text + "    stars: Property[int] = Property(default=0)\n" + end)
    make_tables("small_shop")
    refused = shell("check", "grown_shop:app")
    assert (refused.returncode, "ensue migrate" in refused.stderr) == (2, True)
    first, *rest = refused.stderr.splitlines()
    assert first.startswith("ensue: [E0170] The database sqlite:")
    assert rest == ["  Column post.stars: new in the app (INTEGER NOT NULL)."]
    dry = shell("migrate", "grown_shop:app", "--additive", "--dry-run")
    assert "post.stars" in dry.stdout, dry
    done = shell("migrate", "grown_shop:app", "--additive")
    assert (done.returncode, "post.stars" in done.stdout) == (0, True), done
    assert shell("check", "grown_shop:app").returncode == 0
    again = shell("migrate", "grown_shop:app", "--additive")
    assert "nothing to do" in again.stdout
    assert shell("migrate", "grown_shop:app").returncode == 2
    dry = shell("migrate", "small_shop:app", "--additive", "--dry-run")
    assert (dry.returncode, dry.stdout.splitlines()[0]) == (
        1,
        "Nothing would be done, as these differences can't all be added:",
    )


@pytest.mark.parametrize(("name", "text"), [("Pots.title", "'Post'"), ("Post.comment_cuont", "'comment_count'")])
def test_explain_of_what_is_not_there(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "tests.server.shop:app", name]) == 2
    assert f"Did you mean {text}?" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "text"), [("Post", "entity, table post"), ("Post.comment_count", "UPDATE")])
def test_explain(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "tests.server.shop:app", name]) == 0
    shown = capsys.readouterr().out
    assert "comment_count" in shown
    assert text in shown


def test_a_port_that_is_taken_is_a_failure() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = ensue("run", "tests.server.shop:app", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "address already in use" in done.stderr.lower()
    assert "Choose another --host or --port." in done.stderr
    assert "Traceback" not in done.stderr
