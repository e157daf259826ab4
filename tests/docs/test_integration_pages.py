"""Pages of integrations run as they stand there."""

from __future__ import annotations

import pytest

from tests.docs.pages import DOCS, run_page


@pytest.mark.parametrize("name", ["object_storage", "redis_channels", "temporal", "volc_stream"])
async def test_a_page_runs_in_order(name: str) -> None:
    await run_page(DOCS / "integrations" / f"{name}.md")
