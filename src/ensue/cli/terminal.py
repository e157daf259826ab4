"""How errors, tables and the results of actions are shown on a terminal.

Decides the words around an error's own message, and how rows are set. Leaves what they hold to the commands. Invariant:
what a person reads says what happened and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ensue.errors import DeclarationError, EnsueError, InternalError


class CommandError(EnsueError):
    """The command was given something that it can't work with."""


def shown(error: EnsueError) -> str:
    """The text for `error`."""
    if isinstance(error, DeclarationError) and len(error.problems) > 1:
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


def print_values(values: Mapping[str, object]) -> None:
    """A line for each value that there is."""
    for name, value in values.items():
        if value is not None:
            print(f"{name + ':':<13}{value}")


def print_changed(action: str, asked: Sequence[int], done: Sequence[int], *, left: str) -> bool:
    """Which of the ids the action was done to; `left` says why the others were not. Answers whether there are none."""
    rest = sorted(set(asked) - set(done))
    if done:
        print(f"{action}: {', '.join(map(str, done))}")
    if rest:
        print(f"left as they are, {left}: {', '.join(map(str, rest))}")
    return not rest
