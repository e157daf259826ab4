"""The difference between two fingerprints, item by item and in words.

Decides what counts as one difference; whether it can be applied is decided in `additive`. Invariant: equal fingerprints have no
differences, and different ones have at least one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from ensue.migrate.catalogue import Fingerprint

Part = Literal["table", "column", "constraint", "index", "definition", "version"]
Kind = Literal["added", "removed", "changed"]

_PARTS: Final[tuple[tuple[str, Part], ...]] = (
    ("columns", "column"),
    ("constraints", "constraint"),
    ("indexes", "index"),
    ("definitions", "definition"),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the database's schema (`old`) and the app's (`new`) disagree about. `name` is empty for a whole table."""

    kind: Kind
    part: Part
    table: str
    name: str
    old: Any = None
    new: Any = None

    @property
    def text(self) -> str:
        """In words, as a line of an error."""
        if self.part == "version":
            return f"The database has fingerprint version {self.old}, this ensue writes {self.new}."
        if self.part == "table":
            where = "the app has, the database not" if self.kind == "added" else "the database has, the app not"
            return f"Table {self.table}: {where}."
        if self.kind == "changed":
            return f"{self.part.capitalize()} {self._full}: is {self.old} in the database, {self.new} in the app."
        if self.kind == "added":
            return f"{self.part.capitalize()} {self._full}: new in the app ({self.new})."
        return f"{self.part.capitalize()} {self._full}: the database has it ({self.old}), the app not."

    @property
    def _full(self) -> str:
        return f"{self.table}.{self.name}" if self.part in ("column", "definition") else f"{self.name} of {self.table}"


def differences(old: Fingerprint, new: Fingerprint) -> tuple[Difference, ...]:
    """What must change for a database with the fingerprint `old` to have `new`."""
    return tuple(_differences(old, new))


def _differences(old: Fingerprint, new: Fingerprint) -> Iterator[Difference]:
    if old.get("version") != new["version"]:
        yield Difference("changed", "version", "", "", old.get("version"), new["version"])
        return
    before: Mapping[str, Any] = old["tables"]
    after: Mapping[str, Any] = new["tables"]
    for table in sorted({*before, *after}):
        if table not in before:
            yield Difference("added", "table", table, "")
        elif table not in after:
            yield Difference("removed", "table", table, "")
        else:
            for key, part in _PARTS:
                yield from _items(part, table, before[table][key], after[table][key])


def _items(part: Part, table: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Difference]:
    for name in sorted({*old, *new}):
        if name not in old:
            yield Difference("added", part, table, name, None, new[name])
        elif name not in new:
            yield Difference("removed", part, table, name, old[name])
        elif old[name] != new[name]:
            yield Difference("changed", part, table, name, old[name], new[name])
