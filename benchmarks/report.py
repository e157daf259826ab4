"""Lines of results: what was compared, by how much, and whether that reaches its target."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.measure import Series

WIDTHS = (4, 11, 24, 13, 13, 7, 7, 6, 6)
HEADINGS = ("", "database", "what", "ensue", "by hand", "ratio", "target", "", "cpu")


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison. `ensue` and `hand` are per second (of `unit`); `target` is the least that `ratio` should be.

    `cpu` is the same ratio in processor time of this process: on a busy machine it says more, of a server's work nothing.
    """

    workload: str
    database: str
    what: str
    unit: str
    ensue: float | None
    hand: float | None
    ratio: float | None
    target: float | None = None
    note: str = ""
    cpu: float | None = None
    statements: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])

    @property
    def verdict(self) -> str:
        """`ok`, `below`, or nothing where no target is set."""
        if self.target is None or self.ratio is None:
            return ""
        return "ok" if self.ratio >= self.target else "below"

    def text(self) -> str:
        """One line of the table."""
        cells = [self.workload, self.database, self.what, _rate(self.ensue, self.unit), _rate(self.hand, self.unit)]
        cells += [_number(self.ratio), _number(self.target), self.verdict, _number(self.cpu)]
        return _aligned(cells) + (f"  {self.note}" if self.note else "")


def line_of(series: Series, own: str, other: str, **given: object) -> Line:
    """The line that compares two contenders of a series."""
    values: dict[str, object] = {"unit": "op", **given}
    statements = {name: series.statements[name] for name in (own, other)}
    return Line(
        ensue=series.rate(own),
        hand=series.rate(other),
        ratio=series.ratio(own, other),
        cpu=series.ratio(own, other, of="processor"),
        statements=statements,
        **values,
    )


def heading() -> str:
    """The first line of the table."""
    cells = [
        name.ljust(width) if n < 3 else name.rjust(width)
        for n, (name, width) in enumerate(zip(HEADINGS, WIDTHS, strict=True))
    ]
    return " ".join(cells).rstrip()


def _aligned(cells: Sequence[str]) -> str:
    """The first three cells are words, the others numbers."""
    padded = [
        cell.ljust(width) if n < 3 else cell.rjust(width)
        for n, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
    ]
    return " ".join(padded).rstrip()


def statement_lines(lines: Iterable[Line]) -> Iterable[str]:
    """Which statements each side runs per operation."""
    for line in lines:
        for side, counts in line.statements.items():
            listed = " ".join(name if count == 1 else f"{name}*{count:g}" for name, count in counts.items())
            yield f"  {line.workload:4}{line.database:11}{line.what:24}{side:14}{sum(counts.values()):5g}  {listed}"


def write_json(lines: Iterable[Line], path: Path) -> None:
    """Every line with its verdict."""
    path.write_text(json.dumps([{**asdict(line), "verdict": line.verdict} for line in lines], indent=1) + "\n")


def _rate(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f} {unit}/s" if unit in ("op", "row") else f"{value:,.1f} {unit}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
