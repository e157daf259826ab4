"""What an audit found, and how it is told.

Invariant: a finding names its record, its column and both values, so that nobody has to run the audit again to know what it meant.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

SHOWN_MAX: Final = 50


@dataclass(frozen=True, slots=True)
class Finding:
    """A stored value that is not what its definition gives.

    `id` is None for a derived record that is missing altogether (`column` is then `ensue_source`, `right` the id of its source).
    `right` is None where it can't be known (a state that no machine declares, a counter below zero outside the sample).
    """

    record: str
    id: int | None
    column: str
    stored: Any
    right: Any
    repaired: bool = False

    def __str__(self) -> str:
        if self.id is None:
            text = f"{self.record} derived from {self.right} is missing"
        elif self.column == "ensue_source":
            text = f"{self.record} {self.id} derives from {self.stored!r}, which does not have it"
        else:
            text = f"{self.record} {self.id}.{self.column} holds {self.stored!r}, expected {self.right!r}"
        return f"{text} (repaired)" if self.repaired else text


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The result of one audit. `checked`: rows looked at, by record type. `unchecked`: columns that only Python code can check."""

    findings: tuple[Finding, ...]
    checked: Mapping[str, int]
    unchecked: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def repaired(self) -> bool:
        """Whether everything that was found has been repaired (also if nothing was)."""
        return all(finding.repaired for finding in self.findings)


def format_report(report: AuditReport) -> str:
    """The report as text for a terminal; at most 50 findings are spelled out."""
    rows = sum(report.checked.values())
    lines = [str(finding) for finding in report.findings[:SHOWN_MAX]]
    if len(report.findings) > SHOWN_MAX:
        lines.append(f"… and {len(report.findings) - SHOWN_MAX} more")
    if report.unchecked:
        lines.append(f"Not checked, as only their Python code knows what is right: {', '.join(report.unchecked)}")
    found = "everything derived is right" if report.clean else f"{len(report.findings)} wrong value(s)"
    lines.append(f"{rows} row(s) of {len(report.checked)} record type(s) checked: {found}.")
    return "\n".join(lines)
