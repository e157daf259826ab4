"""The shop, served."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.server.network import Served, serving_app
from tests.server.shop import make_app


@pytest_asyncio.fixture
async def shop() -> AsyncIterator[Served]:
    """The shop in memory, every record type open to known users."""
    async with serving_app(make_app(), subscribable=["User", "Post", "Comment"]) as served:
        yield served
