"""What must hold after processes were killed: what was committed was told, and nothing else, under one key."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import TypeVar

Told = TypeVar("Told", bound=Hashable)


def note(wrong: list[str], what: str, found: Iterable[object]) -> None:
    """Add to `wrong` that something was found, if it was."""
    listed = list(found)
    if listed:
        wrong.append(f"{len(listed)} {what}, such as {listed[:5]}")


def note_log(wrong: list[str], log: Path) -> None:
    """Add to `wrong` what was logged."""
    if log.exists() and (logged := log.read_text()):
        wrong.append(f"logged: {logged[:4000]}")


def compare(wrong: list[str], committed: set[Told], told: Iterable[tuple[Told, str]], *, to: str = "outside") -> int:
    """Compare what was committed with what was told and under which keys; answers how much was lost."""
    keys: dict[Told, set[str]] = {}
    for change, key in told:
        keys.setdefault(change, set()).add(key)
    lost = committed - keys.keys()
    note(wrong, f"committed and never told to {to}", lost)
    note(wrong, f"told to {to} and never committed", keys.keys() - committed)
    note(wrong, f"told to {to} under more than one key", [change for change, found in keys.items() if len(found) > 1])
    return len(lost)
