"""The how-to pages: each is one module, and the `test_` functions in it are run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import DOCS, run_page

PAGES = sorted((DOCS / "how-to").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
async def test_a_page_runs_in_order(page: Path) -> None:
    await run_page(page)
