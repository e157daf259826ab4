"""The command line as a person uses it: what it prints, and its exit status."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ensue.cli import main
from tests.server.shop import Comment, Post, User, make_app

ROOT = Path(__file__).parents[2]


def ensue(*arguments: str, database: str = "sqlite:///:memory:", cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `ensue` as its console script does."""
    environment = {**os.environ, "SHOP_DATABASE": database, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "import sys; from ensue.cli import main; sys.exit(main())", *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def filled(sqlite_url: str) -> str:
    """A database with a user, a post, and a comment whose effect waits."""

    async def fill() -> None:
        app = make_app(sqlite_url)
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


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("shop", "'shop' names no app; expected MODULE:APP"),
        ("tests.server.shop", "expected MODULE:APP"),
        ("nowhere.at.all:app", "There is no module 'nowhere'"),
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
    assert done.returncode == 1
    assert "broken_shop.py" in done.stderr
    assert "not_installed_anywhere" in done.stderr


def test_wrong_declarations_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "wrong_shop.py").write_text(
        "from ensue import App, Entity, Property, Count, Many\n"
        "class Post(Entity):\n    when: Property[object]\n    what: Property[complex]\n"
        "app = App(entities=[Post], database='sqlite:///:memory:')\n"
    )
    done = ensue("check", "wrong_shop:app", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("ensue: 2 problems")
    assert "wrong_shop.py:3" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_finds_and_repairs(filled: str) -> None:
    assert ensue("check", "tests.server.shop:app", database=filled).returncode == 0
    _spoil(filled)
    found = ensue("check", "tests.server.shop:served", database=filled)
    assert (found.returncode, "comment_count" in found.stdout) == (1, True), found
    repaired = ensue("check", "tests.server.shop:app", "--repair", database=filled)
    assert (repaired.returncode, "repaired" in repaired.stdout) == (0, True)
    assert ensue("check", "tests.server.shop:app", database=filled).returncode == 0


def _spoil(url: str) -> None:
    import sqlite3

    path = url.removeprefix("sqlite:///").partition("?")[0]
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE post SET comment_count = 77")
    connection.close()


def test_effects(filled: str) -> None:
    shown = ensue("effects", "list", "tests.server.shop:app", database=filled)
    assert shown.returncode == 0, shown.stderr
    header, row, *_, count = shown.stdout.splitlines()
    assert header.split() == ["ID", "STATE", "ATTEMPT", "NAME", "RECORD", "ENQUEUED", "ERROR"]
    assert row.split()[1:6] == ["pending", "0", "desk.mail", "Comment", "1"]
    assert count.split()[:3] == ["desk.mail", "pending", "1"]
    number = row.split()[0]
    detail = ensue("effects", "show", "tests.server.shop:app", number, database=filled)
    assert "desk.mail:Comment:1:create" in detail.stdout
    assert '"text":"x"' in detail.stdout
    assert ensue("effects", "show", "tests.server.shop:app", "99", database=filled).returncode == 2
    done = ensue("effects", "discard", "tests.server.shop:app", number, "99", database=filled)
    assert done.returncode == 1
    assert f"discard: {number}" in done.stdout
    assert "unknown: 99" in done.stdout
    done = ensue("effects", "list", "tests.server.shop:app", "--state", "cancelled", database=filled)
    assert len(done.stdout.splitlines()) == 2
    assert ensue("effects", "retry", "tests.server.shop:app", number, database=filled).returncode == 0


def test_migrate_adds(sqlite_url: str, tmp_path: Path) -> None:
    text = "from ensue import App, Entity, Property\nclass Post(Entity):\n    title: Property[str]\n"
    end = f"app = App(entities=[Post], database={sqlite_url!r})\n"
    module = tmp_path / "growing_shop.py"
    module.write_text(text + end)
    assert ensue("check", "growing_shop:app", cwd=tmp_path).returncode == 0
    module.write_text(text + "    stars: Property[int] = Property(default=0)\n" + end)
    refused = ensue("check", "growing_shop:app", cwd=tmp_path)
    assert (refused.returncode, "ensue migrate" in refused.stderr) == (2, True)
    dry = ensue("migrate", "growing_shop:app", "--additive", "--dry-run", cwd=tmp_path)
    assert "post.stars" in dry.stdout, dry
    done = ensue("migrate", "growing_shop:app", "--additive", cwd=tmp_path)
    assert (done.returncode, "post.stars" in done.stdout) == (0, True), done
    assert ensue("check", "growing_shop:app", cwd=tmp_path).returncode == 0
    again = ensue("migrate", "growing_shop:app", "--additive", cwd=tmp_path)
    assert "nothing to do" in again.stdout
    assert ensue("migrate", "growing_shop:app", cwd=tmp_path).returncode == 2


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
    assert done.returncode != 0
    assert "address already in use" in done.stderr.lower()
