"""The commands of `ensue`, their arguments, and what `--help` says of them.

Decides names, defaults and words. Leaves which values are accepted to `values`, and the work to the modules that are named
after the commands. Invariant: nothing is imported for it that `import ensue` has not imported, but names of states.
"""

from __future__ import annotations

import argparse
from typing import Any, get_args

from ensue.cli.parsing import values
from ensue.schema.delivery import GRACE_SECONDS, LEASE_SECONDS
from ensue.store.effect_table import EffectState
from ensue.store.inbox_table import STATES as MESSAGE_STATES

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
METRICS_HOST = "127.0.0.1"
EFFECT_ACTIONS = {
    "retry": "try effects again from their first attempt, under their keys; also dead and cancelled ones",
    "discard": "give effects up for good",
    "replay": "send what is done, dead or cancelled once more as something new, under new keys",
    "resolve": "say of effects whose outcome is unknown whether they arrived",
}


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    from ensue import __version__

    parser = argparse.ArgumentParser(
        prog="ensue",
        description="Serve and look after an ensue app.",
        epilog="MODULE:APP, which most commands take, says where the app is: shop.main:app is the variable app in "
        "shop/main.py. `ensue COMMAND --help` tells more of one. Exit status: 0 all is well, 1 something wrong was "
        "found, 2 the command could not do its work.",
        allow_abbrev=False,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"ensue {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _run(commands)
    _worker(commands)
    _check(commands)
    _explain(commands)
    _integrations(commands)
    _effects(commands)
    _inbox(commands)
    _migrate(commands)
    _new(commands)
    return parser


class _Help(argparse.HelpFormatter):
    """Help with room for names of options beside what they mean."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)


def _command(commands: Any, name: str, text: str, *, more: str = "", app: bool = True) -> argparse.ArgumentParser:
    """A command or an action: `text` is its line in a list, with `more` after it its own help."""
    description = f"{text[0].upper()}{text[1:]}.{' ' * bool(more)}{more}".replace("%", "%%")
    command = commands.add_parser(name, help=text, description=description, allow_abbrev=False, formatter_class=_Help)
    if app:
        command.add_argument("app", metavar="MODULE:APP", help="where the app is, for example shop.main:app")
    return command


def _run(commands: Any) -> None:
    run = _command(
        commands, "run", "serve the app over HTTP and WebSocket, and deliver its effects", more="Ends with SIGTERM."
    )
    run.set_defaults(module="run")
    run.add_argument(
        "--host",
        type=values.host,
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets other machines in (default: %(default)s)",
    )
    run.add_argument(
        "--port",
        type=values.port,
        default=8000,
        metavar="N",
        help="port to listen on, 0 for a free one (default: %(default)s)",
    )
    _delivers(run)
    run.add_argument(
        "--metrics", action="store_true", help="serve /metrics for Prometheus (token: ENSUE_METRICS_TOKEN)"
    )


def _worker(commands: Any) -> None:
    worker = _command(
        commands,
        "worker",
        "deliver the app's effects, without serving",
        more="Any number may run. It also consumes from brokers, handles stored messages and asks after tasks. Ends "
        "with SIGTERM.",
    )
    worker.set_defaults(module="worker")
    _delivers(worker)
    worker.add_argument(
        "--from",
        dest="relay",
        type=values.broker,
        metavar="URL",
        help="take effects that have a relay from this NATS server, without a database",
    )
    worker.add_argument(
        "--metrics-port",
        type=values.port,
        metavar="N",
        help="serve /metrics for Prometheus on this port, 0 for a free one (token: ENSUE_METRICS_TOKEN)",
    )
    worker.add_argument(
        "--metrics-host", type=values.host, metavar="HOST", help=f"address for --metrics-port (default: {METRICS_HOST})"
    )


def _delivers(parser: argparse.ArgumentParser) -> None:
    """The options of every process that delivers."""
    _log_level(parser)
    parser.add_argument(
        "--grace-seconds",
        type=values.grace,
        default=GRACE_SECONDS,
        metavar="N",
        help="how long what is being delivered may go on after SIGTERM; a second signal ends at once (default: %(default)g)",
    )
    parser.add_argument(
        "--lease-seconds",
        type=values.lease,
        default=LEASE_SECONDS,
        metavar="N",
        help="how long after this process died others take what it held (default: %(default)g)",
    )


def _log_level(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-level",
        type=values.one_of(LOG_LEVELS),
        default="INFO",
        metavar="LEVEL",
        help=f"what is logged: {', '.join(LOG_LEVELS)} (default: %(default)s)",
    )


def _check(commands: Any) -> None:
    check = _command(
        commands,
        "check",
        "compare derived data with what it derives from",
        more="Exit status: 0 all is right or was repaired, 1 there are differences, 2 it could not be done.",
    )
    check.set_defaults(module="check")
    check.add_argument("--repair", action="store_true", help="write the right values")
    check.add_argument(
        "--sample", type=values.share, metavar="SHARE", help="compare only this share of the records, such as 0.01"
    )


def _explain(commands: Any) -> None:
    explain = _command(commands, "explain", "show how a derived property is kept right", more="No database is opened.")
    explain.set_defaults(module="explain")
    name = values.words("what to explain, such as Post.comment_count or Post")
    explain.add_argument("name", type=name, metavar="NAME", help="Post.comment_count, or a record type such as Post")


def _integrations(commands: Any) -> None:
    integrations = _command(
        commands,
        "integrations",
        "list the app's integrations: what they offer, how they are",
        more="Exit status: 1 if a setting is missing or one of them is down.",
    )
    integrations.set_defaults(module="integrations")
    integrations.add_argument("--json", action="store_true", help="print JSON")
    integrations.add_argument(
        "--offline", action="store_true", help="don't set them up to ask how they are; nothing is connected to"
    )


def _effects(commands: Any) -> None:
    effects = _command(commands, "effects", "look after the effects that wait, failed or were given up", app=False)
    effects.set_defaults(module="effects")
    actions = effects.add_subparsers(metavar="ACTION", required=True)
    listing = _command(
        actions, "list", "list effects, newest first; without --state and --name also how many there are"
    )
    listing.set_defaults(action="list")
    _state(listing, get_args(EffectState))
    name = values.words("the name of a side effect, such as channels.publish")
    listing.add_argument("--name", type=name, help="only those of this side effect, for example channels.publish")
    _paging(listing, values.effect_id)
    show = _command(actions, "show", "show one effect with its payload, its error and its attempts")
    show.set_defaults(action="show")
    show.add_argument("id", type=values.effect_id, metavar="ID", help="number of the effect, as `list` shows it")
    for action, text in EFFECT_ACTIONS.items():
        parser = _command(actions, action, text)
        parser.set_defaults(action=action)
        _ids(parser, "effects", values.effect_id)
        if action == "resolve":
            how = parser.add_mutually_exclusive_group(required=True)
            how.add_argument("--done", action="store_true", help="they arrived: nothing more is to be done")
            how.add_argument(
                "--resend", action="store_true", help="they did not arrive: send them again, under their keys"
            )
            note = values.words("how you know, such as 'seen in their log'; or leave it out")
            parser.add_argument("--note", type=note, metavar="TEXT", help="how you know, kept with them")
        if action == "replay":
            parser.add_argument("--per-second", type=values.rate, metavar="N", help="spread them, so many a second")
    _targets(actions)


def _targets(actions: Any) -> None:
    _command(actions, "targets", "list targets that have limits or were stopped").set_defaults(action="targets")
    for action, text in (
        ("pause", "let nothing go to a target, in any process, until it is resumed"),
        ("resume", "let effects go to a target again, whatever stopped it"),
    ):
        parser = _command(actions, action, text)
        parser.set_defaults(action=action)
        name = values.words("the name of a Target or of a side effect; `ensue effects targets` lists some")
        parser.add_argument(
            "target", type=name, metavar="TARGET", help="name of a Target, or of a side effect without one"
        )
        if action == "pause":
            parser.add_argument(
                "--reason",
                type=values.words("why, such as 'moving to a new account'; or leave it out"),
                default="paused by an operator",
                metavar="TEXT",
                help="why, for others (default: %(default)s)",
            )
    watch = _command(
        actions, "watch", "show how delivery goes, by side effect, again and again", more="Ends with Ctrl-C."
    )
    watch.set_defaults(action="watch")
    watch.add_argument(
        "--every", type=values.interval, default=1.0, metavar="SECONDS", help="how often (default: %(default)g)"
    )
    watch.add_argument("--times", type=values.times, metavar="N", help="how many times, then end (default: for ever)")


def _inbox(commands: Any) -> None:
    inbox = _command(commands, "inbox", "look after the messages that came in from outside", app=False)
    inbox.set_defaults(module="inbox")
    actions = inbox.add_subparsers(metavar="ACTION", required=True)
    listing = _command(
        actions, "list", "list messages, newest first; without --state and --endpoint also how many there are"
    )
    listing.set_defaults(action="list")
    _state(listing, MESSAGE_STATES)
    endpoint = values.words("the name of a webhook or a consumer, such as shop.paid")
    listing.add_argument(
        "--endpoint", type=endpoint, help="only those of this webhook or consumer, for example shop.paid"
    )
    _paging(listing, values.message_id)
    show = _command(actions, "show", "show one message, without what it says")
    show.set_defaults(action="show")
    show.add_argument("id", type=values.message_id, metavar="ID", help="number of the message, as `list` shows it")
    show.add_argument("--body", action="store_true", help="print its headers and its body too; they may hold secrets")
    for action, text in (
        ("replay", "have messages that are done, failed or discarded handled again, within seconds"),
        ("discard", "give messages up for good"),
    ):
        parser = _command(actions, action, text)
        parser.set_defaults(action=action)
        _ids(parser, "messages", values.message_id)


def _state(parser: argparse.ArgumentParser, states: tuple[str, ...]) -> None:
    parser.add_argument("--state", type=values.one_of(states), help=f"only those in this state: {', '.join(states)}")


def _paging(parser: argparse.ArgumentParser, kind: Any) -> None:
    parser.add_argument("--before", type=kind, metavar="ID", help="only those before this one, to page on")
    parser.add_argument(
        "--limit", type=values.limit, default=100, metavar="N", help="at most so many (default: %(default)s)"
    )


def _ids(parser: argparse.ArgumentParser, what: str, kind: Any) -> None:
    parser.add_argument("ids", type=kind, nargs="+", metavar="ID", help=f"numbers of {what}, as `list` shows them")


def _migrate(commands: Any) -> None:
    migrate = _command(
        commands,
        "migrate",
        "bring an older database to the app's declarations",
        more="Exit status: 1 if there is something that can't be added; then nothing is done.",
    )
    migrate.set_defaults(module="migrate")
    how = migrate.add_mutually_exclusive_group(required=True)
    how.add_argument("--additive", action="store_true", help="add what is missing; remove nothing")
    how.add_argument(
        "--adopt",
        action="store_true",
        help="take over a database that was changed by hand, if it fits; everything derived is computed anew",
    )
    migrate.add_argument("--dry-run", action="store_true", help="with --additive: only say what would be done")


def _new(commands: Any) -> None:
    new = _command(commands, "new", "write the beginning of something, with its tests", app=False)
    new.set_defaults(module="new")
    kinds = new.add_subparsers(metavar="KIND", required=True)
    integration = _command(
        kinds, "integration", "write an integration that works, with its double, tests and a page", app=False
    )
    integration.add_argument("name", metavar="NAME", help="what it is called, as a Python module: mail_service")
    integration.add_argument(
        "--into",
        type=values.words("a folder, such as . for this one"),
        default=".",
        metavar="FOLDER",
        help="where to write (default: %(default)s, the working directory)",
    )
