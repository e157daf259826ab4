"""How an error of ensue is shown on a terminal.

Decides the words around an error's own message. Invariant: what a person reads says what happened and what to do.
"""

from __future__ import annotations

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
