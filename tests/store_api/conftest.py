"""Fixtures of the store's tests: `blog` is a filled blog on a database of each kind in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.unit.read.blog import World, fill, world


@pytest_asyncio.fixture
async def empty_blog(database_url: str) -> AsyncIterator[World]:
    async with world(database_url) as made:
        yield made


@pytest_asyncio.fixture
async def blog(empty_blog: World) -> World:
    await fill(empty_blog)
    return empty_blog
