"""Where in a result row each selected value stands, and the generated function that turns rows into records.

Decides the Python side of a read; leaves the SQL that fills the positions to `build`. Invariant: a layout and the
statement made with it agree position by position, and decoding does no look-up by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ensue.engine.collector import held_for
from ensue.schema.model import Model, RecordModel

Decoder = Callable[[Any], Any]
Decode = Callable[[Sequence[Any]], list[Any]]


@dataclass(slots=True)
class Value:
    """A property. `decode` is None when the value is already what Python sees; it is never called with None."""

    name: str
    position: int
    decode: Decoder | None
    optional: bool


@dataclass(slots=True)
class Layout:
    """The positions of one record. `links` lie in the same row, a collection is a JSON array of its own."""

    record: RecordModel
    id: int
    values: list[Value] = field(default_factory=list[Value])
    references: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    links: list[tuple[str, Layout]] = field(default_factory=list[tuple[str, "Layout"]])
    collections: list[tuple[str, int, Rows]] = field(default_factory=list[tuple[str, int, "Rows"]])


@dataclass(slots=True)
class Rows:
    """A sequence of rows of `width` positions, each one `layout`."""

    layout: Layout
    width: int


def compile_decode(rows: Rows, model: Model, make_record: Callable[..., Any]) -> Decode:
    """The function from result rows to records.

    One comprehension with everything in local names: decoding is the largest part of a big read.
    """
    writer = _Writer(make_record, model)
    source = f"def decode(rows):\n    return {writer.rows(rows, 'rows', nested=False)}\n"
    exec(compile(source, "<decode>", "exec"), writer.names)  # noqa: S102  # the source holds member names as literals only
    decode: Decode = writer.names["decode"]
    return _uncollected(decode)


NESTED_ROWS = 50
"""A row of a read may hold this many below it, as far as is known before decoding."""


def _uncollected(decode: Decode) -> Decode:
    """Decode without the garbage collector, which on a big result would go over what is being built again and again.

    Measured on a big result: four fifths of the time.
    """

    def quietly(rows: Sequence[Any]) -> list[Any]:
        with held_for(len(rows) * NESTED_ROWS):
            return decode(rows)

    return quietly


class _Writer:
    """Writes the expression for a row, and collects what its names stand for."""

    def __init__(self, make_record: Callable[..., Any], model: Model) -> None:
        self.names: dict[str, Any] = {"make": make_record, "model": model, "load": msgspec.json.decode}
        self._given: dict[int, str] = {}
        self._levels = 0

    def rows(self, rows: Rows, source: str, *, nested: bool) -> str:
        self._levels += 1
        prefix = f"r{self._levels}_"
        target = "".join(f"{prefix}{position}, " for position in range(rows.width))
        return f"[{self.record(rows.layout, prefix, nested=nested)} for {target.rstrip()} in {source}]"

    def record(self, layout: Layout, prefix: str, *, nested: bool) -> str:
        entries = [f"'id': {prefix}{layout.id}"]
        entries += [f"{value.name!r}: {self._value(value, prefix)}" for value in layout.values]
        entries += [f"{name!r}: {prefix}{position}" for name, position in layout.references]
        for name, link in layout.links:
            entries.append(
                f"{name!r}: None if {prefix}{link.id} is None else {self.record(link, prefix, nested=nested)}"
            )
        for name, position, rows in layout.collections:
            source = f"{prefix}{position}" if nested else f"load({prefix}{position})"
            entries.append(f"{name!r}: {self.rows(rows, source, nested=True)}")
        return f"make({self._name('C', layout.record.cls)}, {{{', '.join(entries)}}}, model)"

    def _value(self, value: Value, prefix: str) -> str:
        given = f"{prefix}{value.position}"
        if value.decode is None:
            return given
        decoded = f"{self._name('d', value.decode)}({given})"
        return f"None if {given} is None else {decoded}" if value.optional else decoded

    def _name(self, letter: str, thing: Any) -> str:
        name = self._given.setdefault(id(thing), f"{letter}{len(self._given)}")
        self.names[name] = thing
        return name
