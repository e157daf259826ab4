"""Every argument of every command refuses what it can't work with: it says what was given, what is expected, and how to go on."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator

import pytest

from ensue.cli import main
from ensue.cli.parsing.commands import make_parser
from tests.server import shop

APP = "tests.server.shop:app"
NO_NUMBER = ("", "x", "1.5", "0x1", "1_0", "²")
NO_ID = (*NO_NUMBER, "0", "-1", "99999999999999999999", str(2**63))
NO_SECONDS = ("", "x", "0", "-1", "nan", "inf", "-inf")
NO_PORT = (*NO_NUMBER, "-1", "65536", "99999")
NO_WORD = ("", " ")
NO_APP = ("", "shop", ":app", "shop:", ".shop:app", "a..b:app", "shop/main.py:app", "shop:app()", "a b:app")

WRONG: dict[tuple[str, str], tuple[str, ...]] = {
    ("run", "--host"): NO_WORD,
    ("run", "--port"): NO_PORT,
    ("run", "--log-level"): ("", "LOUD", "10"),
    ("run", "--grace-seconds"): ("", "x", "-1", "nan", "inf", "86401"),
    ("run", "--lease-seconds"): (*NO_SECONDS, "0.5", "86401"),
    ("worker", "--grace-seconds"): ("", "x", "-1", "nan", "inf", "86401"),
    ("worker", "--log-level"): ("", "LOUD", "10"),
    ("worker", "--from"): (
        "",
        "broker",
        "broker:4222",
        "http://broker",
        "nats://",
        "nats://u:secret@:x",
        "nats://b:99999",
    ),
    ("worker", "--lease-seconds"): (*NO_SECONDS, "0.5", "86401"),
    ("worker", "--metrics-port"): NO_PORT,
    ("worker", "--metrics-host"): NO_WORD,
    ("check", "--sample"): (*NO_SECONDS, "1.1", "50%"),
    ("explain", "NAME"): (*NO_WORD, "Pots"),
    ("effects list", "--state"): ("", "bogus", "received", "pending,dead"),
    ("effects list", "--name"): (*NO_WORD, "desk.mial"),
    ("effects list", "--before"): NO_ID,
    ("effects list", "--limit"): NO_ID,
    ("effects show", "ID"): (*NO_ID, "12"),
    ("effects retry", "ID"): NO_ID,
    ("effects discard", "ID"): NO_ID,
    ("effects replay", "ID"): NO_ID,
    ("effects replay", "--per-second"): (*NO_SECONDS, "1e-300"),
    ("effects resolve", "ID"): NO_ID,
    ("effects resolve", "--note"): NO_WORD,
    ("effects pause", "TARGET"): (*NO_WORD, "desk.mial"),
    ("effects pause", "--reason"): NO_WORD,
    ("effects resume", "TARGET"): (*NO_WORD, "desk.mial"),
    ("effects watch", "--every"): (*NO_SECONDS, "0.01", "1e9"),
    ("effects watch", "--times"): NO_ID,
    ("inbox list", "--state"): ("", "bogus", "pending"),
    ("inbox list", "--endpoint"): (*NO_WORD, "shop.paid"),
    ("inbox list", "--before"): NO_ID,
    ("inbox list", "--limit"): NO_ID,
    ("inbox show", "ID"): (*NO_ID, "12"),
    ("inbox replay", "ID"): NO_ID,
    ("inbox discard", "ID"): NO_ID,
    ("new integration", "--into"): (*NO_WORD, __file__),
    ("new integration", "NAME"): ("", "Mail", "mail-service", "../mail"),
}
OTHERS = {
    "effects show": {"ID": "1"},
    "effects retry": {"ID": "1"},
    "effects discard": {"ID": "1"},
    "effects replay": {"ID": "1"},
    "effects resolve": {"ID": "1", "--done": ""},
    "effects pause": {"TARGET": "desk.mail"},
    "effects resume": {"TARGET": "desk.mail"},
    "explain": {"NAME": "Post"},
    "inbox show": {"ID": "1"},
    "inbox replay": {"ID": "1"},
    "inbox discard": {"ID": "1"},
    "migrate": {"--additive": ""},
    "new integration": {"NAME": "crm"},
}
"""What each command needs besides."""

COMMANDS_WITH_APP = ("run", "worker", "check", "explain", "integrations", "effects list", "inbox list", "migrate")
FOUND_LATER = ("12", "Pots", "desk.mial", "shop.paid", __file__)
"""What only the app or the disk can tell to be wrong."""


@pytest.fixture(autouse=True)
def made(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shop has a database, which commands that look at one expect."""
    app = shop.make_app(sqlite_url)
    monkeypatch.setattr(shop, "app", app)

    async def make() -> None:
        async with app.run(deliver=False, setup=False):
            pass

    asyncio.run(make())


def line(command: str, argument: str, value: str) -> list[str]:
    """The command line with `value` for that argument."""
    given = {"MODULE:APP": APP, **OTHERS.get(command, {}), argument: value}
    if command == "new integration":
        del given["MODULE:APP"]
    options = [f"{name}={text}" if text or name == argument else name for name, text in given.items() if name[0] == "-"]
    return [*command.split(), *options, "--", *(text for name, text in given.items() if name[0] != "-")]


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of wrong arguments; a traceback would fail the test."""
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    shown = capsys.readouterr()
    assert (status, shown.out) == (2, "")
    return shown.err


@pytest.mark.parametrize(
    ("command", "argument", "value"),
    [(*where, value) for where, wrong in WRONG.items() for value in wrong]
    + [(command, "MODULE:APP", value) for command in COMMANDS_WITH_APP for value in NO_APP],
)
def test_a_wrong_value_is_refused(command: str, argument: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(line(command, argument, value), capsys)
    assert "secret" not in text
    assert value.strip() in text or "secret" in value
    if value not in FOUND_LATER:
        assert "xpected" in text
        assert argument == "MODULE:APP" or argument in text or command == "new integration"


def test_no_argument_is_left_out() -> None:
    """One that takes a value must be among those above, with what it refuses."""
    found = {(command, name) for command, name in arguments_of(make_parser()) if name != "MODULE:APP"}
    assert found == set(WRONG)


def arguments_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Each argument that takes a value, with the command that it belongs to."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action.choices.values():
                yield from arguments_of(choice)
        elif action.nargs != 0:
            name = action.option_strings[-1] if action.option_strings else str(action.metavar)
            yield parser.prog.removeprefix("ensue "), name


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["migrate", APP, "--adopt", "--dry-run"], "--dry-run was given with --adopt; expected --additive"),
        (["migrate", APP], "one of the arguments --additive --adopt is required"),
        (["effects", "resolve", APP, "1"], "one of the arguments --done --resend is required"),
        (["effects", "resolve", APP, "1", "--done", "--resend"], "not allowed with argument"),
        (["worker", APP, "--metrics-host", "0.0.0.0"], "expected both, such as --metrics-port 9100"),
        (["effects", "list", APP, "--stat", "dead"], "unrecognized arguments: --stat"),
        (["effects", "list", APP, "--state", "deda"], "Did you mean 'dead'?"),
        (["effects", "list", APP, "--name", "desk.mial"], "Did you mean 'desk.mail'?"),
        (["check", "shop/main.py:app"], "Did you mean shop.main:app?"),
        (["check", "./shop/main.py"], "Did you mean shop.main:app?"),
        (["efects"], "invalid choice: 'efects'"),
        ([], "the following arguments are required: COMMAND"),
        (["effects"], "the following arguments are required: ACTION"),
        (["new"], "the following arguments are required: KIND"),
    ],
)
def test_arguments_that_do_not_go_together(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert text in said(arguments, capsys)


def test_what_can_be_meant_is_taken() -> None:
    parse = make_parser().parse_args
    assert parse(["run", APP, "--port", "0", "--log-level", "debug"]).log_level == "DEBUG"
    assert parse(["worker", APP, "--from", "nats://a:4222,tls://u:p@b"]).relay == "nats://a:4222,tls://u:p@b"
    assert parse(["check", APP, "--sample", "1"]).sample == 1
    assert parse(["effects", "replay", APP, "1", "2", "--per-second", "0.5"]).per_second == 0.5
    assert parse(["inbox", "list", APP, "--before", str(2**63 - 1)]).before == 2**63 - 1
