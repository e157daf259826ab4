"""ARCHITECTURE.md speaks of code that is there: its map is complete, its tests and functions exist."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import REPOSITORY

PAGE = (REPOSITORY / "ARCHITECTURE.md").read_text()
SOURCE = REPOSITORY / "src" / "ensue"
_SECTION = re.compile(r"^### `src/ensue(?:/([\w/]+))?`")


def part(heading: str) -> str:
    """The text below a heading of the second level."""
    return PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def mapped() -> set[str]:
    """The paths of the modules in the code map, from `src/ensue`."""
    found: set[str] = set()
    for section in re.split(r"^(?=### )", part("Code map"), flags=re.MULTILINE)[1:]:
        heading = _SECTION.match(section)
        assert heading is not None
        # The last section joins several packages and gives each module its own.
        folder = f"{heading[1]}/" if heading[1] and "`, `" not in section.partition("\n")[0] else ""
        found |= {folder + name for name in re.findall(r"`([\w/]+\.py)`", section)}
    return found


def test_the_map_is_the_code() -> None:
    modules = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if path.name != "__init__.py"}
    assert sorted(mapped() ^ modules) == []


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", PAGE))))
def test_the_tests_that_hold_invariants_exist(named: str) -> None:
    path, _, name = named.partition("::")
    assert re.search(rf"def {name}\(", (REPOSITORY / path).read_text())


def test_every_invariant_has_a_test() -> None:
    rows = part("Invariants, and what holds them").strip().splitlines()[2:]
    assert len(rows) > 20
    assert all("`tests/" in row for row in rows)


@pytest.mark.parametrize("life", ["interaction", "effect", "message from outside"])
def test_the_functions_in_a_life_exist(life: str) -> None:
    source = "\n".join(path.read_text() for path in SOURCE.rglob("*.py"))
    names = re.findall(r"`([A-Za-z_][\w.]*)`", part(f"Life of one {life}"))
    assert len(names) > 15
    for name in names:
        assert re.search(rf"\b{name.rpartition('.')[2]}\b", source), name
