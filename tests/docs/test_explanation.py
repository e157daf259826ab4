"""The explanation of integrations: what it says is held by a test is held by one that exists."""

from __future__ import annotations

import re

import pytest

from ensue.testing import IntegrationConformance
from tests.docs.pages import DOCS, REPOSITORY

PAGE = (DOCS / "explanation" / "integrations.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", PAGE)))
SUITE = sorted(set(re.findall(r"suite\]\([^)]*\): `(\w+)`", PAGE)))


@pytest.mark.parametrize("named", NAMED)
def test_the_test_exists(named: str) -> None:
    path, _, name = named.partition("::")
    assert re.search(rf"def {name}\(", (REPOSITORY / path).read_text())


@pytest.mark.parametrize("name", SUITE)
def test_the_test_of_the_suite_exists(name: str) -> None:
    assert hasattr(IntegrationConformance, name)


def test_every_row_says_what_holds_it() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| --- ")]
    told = [line for line in rows if "`tests/" in line or "](" in line]
    headings = [line for line in rows if line.startswith(("| what hurts ", "| shape ", "| practice ", "| pitfall "))]
    assert [line for line in rows if line not in told and line not in headings] == []
    assert (len(NAMED) > 40, len(SUITE) > 8, len(told) > 50) == (True, True, True)
