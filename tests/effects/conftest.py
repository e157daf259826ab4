"""Fixtures of the delivery tests: `world` is a database of each kind in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.effects.world import World


@pytest_asyncio.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with World(database_url) as world:
        yield world
