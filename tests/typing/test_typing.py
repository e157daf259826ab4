"""The samples of the documentation check in both type checkers, strictly, and each marked mistake is reported by both.

Decides by lines: the lines with errors must be exactly those that hold `# type error`. One run of each checker.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
SAMPLES = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith(("test_", "__")))
MYPY_LINE = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+):(?:\d+:)? error: (?P<message>.*)$", re.MULTILINE)

Found = dict[tuple[str, int], str]


def marked() -> set[tuple[str, int]]:
    """The lines that must be wrong."""
    return {
        (path.name, number)
        for path in SAMPLES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if "# type error" in line
    }


def run(*command: str) -> str:
    """What a checker prints; it may end with 1, which means that it found something."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def compare(found: Found) -> None:
    """Show what is wrong and not marked, and what is marked and not found."""
    expected = marked()
    assert {place: message for place, message in found.items() if place not in expected} == {}
    assert expected - found.keys() == set()


def test_pyright_accepts_the_samples_and_reports_the_mistakes() -> None:
    report = json.loads(run(sys.executable, "-m", "pyright", "--outputjson", *map(str, SAMPLES)))
    found: Found = {}
    for item in report["generalDiagnostics"]:
        if item["severity"] == "error":
            found[Path(item["file"]).name, item["range"]["start"]["line"] + 1] = item["message"]
    compare(found)


def test_mypy_accepts_the_samples_and_reports_the_mistakes() -> None:
    cache = str(ROOT / ".mypy_cache")
    printed = run(sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--cache-dir", cache, *map(str, SAMPLES))
    found: Found = {}
    for match in MYPY_LINE.finditer(printed):
        found[Path(match["file"]).name, int(match["line"])] = match["message"]
    assert found, printed
    compare(found)
