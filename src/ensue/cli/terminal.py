"""How errors, tables and the results of actions are shown on a terminal.

Decides the words around an error's own message, and how rows are set. Leaves what they hold to the commands. Invariant:
what a person reads says what happened and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ensue.errors import DeclarationError, EnsueError, InternalError


class CommandError(EnsueError):
    """The command was given something that it can't work with."""


def shown(error: EnsueError) -> str:
    """The text for `error`."""
    if isinstance(error, DeclarationError) and len(error.problems) > 1:
        if error.summarised:
            return "\n  ".join((f"ensue: {error.problems[0]}", *(problem.message for problem in error.problems[1:])))
        lines = "\n".join(f"  {problem}" for problem in error.problems)
        return f"ensue: {len(error.problems)} problems with the declarations:\n{lines}"
    if isinstance(error, InternalError):
        return f"ensue: internal error: {error}\nThis is a defect of ensue; please report it."
    return f"ensue: {error}"


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Rows in columns as wide as they need."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def instant(at: datetime | None) -> str:
    """An instant as all columns show it, to the second; nothing for None."""
    return "" if at is None else at.isoformat(timespec="seconds")


def print_values(values: Mapping[str, object]) -> None:
    """A line for each value that there is."""
    for name, value in values.items():
        if value is not None:
            print(f"{name + ':':<13}{instant(value) if isinstance(value, datetime) else value}")


@dataclass(frozen=True, slots=True)
class Change:
    """What an action did to rows: `done` of those `asked` for; `states` says how the others are, `takes` which it is for."""

    action: str
    what: str
    asked: Sequence[int]
    done: Sequence[int]
    states: Mapping[int, str]
    takes: Sequence[str]


def print_change(change: Change) -> bool:
    """Which rows were changed, which were not and why, and which there are not. Answers whether all were changed."""
    rest = sorted(set(change.asked) - set(change.done))
    left = [f"{id_} ({change.states[id_]})" for id_ in rest if id_ in change.states]
    missing = [str(id_) for id_ in rest if id_ not in change.states]
    if change.done:
        print(f"{change.action}: {', '.join(map(str, change.done))}")
    if left:
        print(f"left as they are: {', '.join(left)}; {change.action} takes what is {', '.join(change.takes)}")
    if missing:
        print(f"no {change.what} with this id: {', '.join(missing)}")
    return not rest
