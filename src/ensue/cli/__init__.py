"""The command line `ensue`: run, worker, check, explain, integrations, effects, inbox, migrate, new.

Decides the commands and their arguments, and how an error is shown. Leaves the work to the modules behind, which are imported
only when their command is given, so that `ensue --help` answers at once. Invariant: a mistake of the caller is one message that
says what to do, with exit status 2, and never a traceback.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

OK, FOUND, FAILED = 0, 1, 2
"""Exit statuses: all is well; the command looked for something wrong and found it; the command could not do its work."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit status."""
    given = _parser().parse_args(arguments)
    from ensue.cli.terminal import shown
    from ensue.errors import EnsueError

    try:
        command = importlib.import_module(f"ensue.cli.{given.module}")
        return command.execute(given)
    except EnsueError as error:
        print(shown(error), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output (`| head`) has seen enough; what Python still flushes at its end must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ensue", description="Serve and look after an ensue app.", allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run = _command(commands, "run", "serve the app over HTTP and WebSocket, and deliver its effects")
    run.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    run.add_argument(
        "--port", type=_port, default=8000, help="port to listen on, 0 for a free one (default: %(default)s)"
    )
    run.add_argument("--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"), help="default: INFO")
    run.add_argument(
        "--metrics", action="store_true", help="serve /metrics for Prometheus (token: ENSUE_METRICS_TOKEN)"
    )
    worker = _command(commands, "worker", "deliver the app's effects, without serving")
    worker.add_argument(
        "--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"), help="default: INFO"
    )
    worker.add_argument(
        "--from",
        dest="relay",
        metavar="URL",
        help="take effects that have a relay from this broker, without a database",
    )
    worker.add_argument(
        "--lease-seconds",
        type=float,
        default=30.0,
        metavar="N",
        help="how long after this worker's death others take what it held (default: %(default)g)",
    )
    worker.add_argument(
        "--metrics-port",
        type=_port,
        metavar="N",
        help="serve /metrics for Prometheus on this port (token: ENSUE_METRICS_TOKEN)",
    )
    worker.add_argument(
        "--metrics-host", default="127.0.0.1", metavar="HOST", help="address for --metrics-port (default: %(default)s)"
    )
    check = _command(
        commands, "check", "compare derived data with what it derives from; 0: right, 1: differences, 2: failed"
    )
    check.add_argument("--repair", action="store_true", help="write the right values")
    check.add_argument(
        "--sample", type=float, metavar="SHARE", help="compare only this share of the records, above 0 up to 1"
    )
    explain = _command(commands, "explain", "show how a derived property is kept right")
    explain.add_argument("name", metavar="NAME", help="Post.comment_count, or a record type such as Post")
    _integrations(commands)
    _effects(commands)
    _inbox(commands)
    migrate = _command(commands, "migrate", "bring the database to the app's schema")
    how = migrate.add_mutually_exclusive_group(required=True)
    how.add_argument("--additive", action="store_true", help="add what is missing; remove nothing")
    how.add_argument("--adopt", action="store_true", help="take over a database that was changed by hand, if it fits")
    migrate.add_argument("--dry-run", action="store_true", help="with --additive: only say what would be done")
    _new(commands)
    return parser


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    _app_argument(command)
    command.set_defaults(module=name)
    return command


def _effects(commands: Any) -> None:
    text = "look after the effects that wait, failed or were given up"
    effects = commands.add_parser(
        "effects", help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
    )
    effects.set_defaults(module="effects")
    actions = effects.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list effects, newest first; without options also how many there are")
    _app_argument(listing)
    listing.add_argument("--state", help="only those in this state, for example dead")
    listing.add_argument("--name", help="only those of this side effect, for example channels.publish")
    listing.add_argument("--before", type=int, metavar="ID", help="only those before this one, to page on")
    listing.add_argument("--limit", type=int, default=100, help="at most so many (default: %(default)s)")
    listing.set_defaults(action="list")
    show = actions.add_parser("show", help="show one effect with its payload and error")
    _app_argument(show)
    show.add_argument("id", type=int)
    show.set_defaults(action="show")
    for name, text in EFFECT_ACTIONS.items():
        action = actions.add_parser(name, help=text)
        _app_argument(action)
        action.add_argument("ids", type=int, nargs="+", metavar="ID")
        action.set_defaults(action=name)
        if name == "resolve":
            how = action.add_mutually_exclusive_group(required=True)
            how.add_argument("--done", action="store_true", help="they arrived: nothing more is to be done")
            how.add_argument(
                "--resend", action="store_true", help="they did not arrive: send them again, with their keys"
            )
            action.add_argument("--note", help="how you know, kept with them")
        if name == "replay":
            action.add_argument("--per-second", type=float, metavar="N", help="spread them, so many a second")
    _effect_targets(actions)


EFFECT_ACTIONS = {
    "retry": "start effects anew, with their keys",
    "discard": "give effects up for good",
    "replay": "send settled effects once more, with new keys",
    "resolve": "say whether effects of unknown outcome arrived",
}


def _effect_targets(actions: Any) -> None:
    targets = actions.add_parser("targets", help="list targets that have limits or were stopped")
    _app_argument(targets)
    targets.set_defaults(action="targets")
    for name, text in (("pause", "let nothing go to a target"), ("resume", "let effects go to a target again")):
        action = actions.add_parser(name, help=text)
        _app_argument(action)
        action.add_argument("target", metavar="TARGET", help="name of a Target, or of a side effect without one")
        action.set_defaults(action=name)
        if name == "pause":
            action.add_argument(
                "--reason", default="paused by an operator", help="why, for others (default: %(default)s)"
            )
    watch = actions.add_parser("watch", help="show how delivery goes, again and again")
    _app_argument(watch)
    watch.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="how often (default: %(default)g)")
    watch.add_argument("--times", type=int, metavar="N", help="how many times, then end")
    watch.set_defaults(action="watch")


def _inbox(commands: Any) -> None:
    text = "look after the messages that came in from outside"
    parser = commands.add_parser("inbox", help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    parser.set_defaults(module="inbox")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list messages, newest first; without options also how many there are")
    _app_argument(listing)
    listing.add_argument(
        "--state", choices=("received", "done", "failed", "discarded"), help="only those in this state"
    )
    listing.add_argument("--endpoint", help="only those of this webhook or consumer, for example shop.paid")
    listing.add_argument("--before", type=int, metavar="ID", help="only those before this one, to page on")
    listing.add_argument("--limit", type=int, default=100, help="at most so many (default: %(default)s)")
    listing.set_defaults(action="list")
    show = actions.add_parser("show", help="show one message, without what it says")
    _app_argument(show)
    show.add_argument("id", type=int)
    show.add_argument("--body", action="store_true", help="print its headers and its body too; they may hold secrets")
    show.set_defaults(action="show")
    for name, text in (("replay", "have messages handled again"), ("discard", "give messages up for good")):
        action = actions.add_parser(name, help=text)
        _app_argument(action)
        action.add_argument("ids", type=int, nargs="+", metavar="ID")
        action.set_defaults(action=name)


def _integrations(commands: Any) -> None:
    integrations = _command(commands, "integrations", "list the app's integrations: what they offer, how they are")
    integrations.add_argument("--json", action="store_true", help="print JSON")
    integrations.add_argument(
        "--offline", action="store_true", help="don't set them up to ask how they are; nothing is connected to"
    )


def _new(commands: Any) -> None:
    text = "write the beginning of something, with its tests"
    new = commands.add_parser("new", help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    new.set_defaults(module="new")
    kinds = new.add_subparsers(metavar="KIND", required=True)
    integration = kinds.add_parser("integration", help="write an integration that works, with its double and a page")
    integration.add_argument("name", metavar="NAME", help="what it is called, as a Python module: mail_service")
    integration.add_argument("--into", default=".", metavar="FOLDER", help="where to write (default: %(default)s)")


def _app_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("app", metavar="MODULE:APP", help="where the app is, for example shop.main:app")


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError(text)
    return port
