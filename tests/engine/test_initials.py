"""Async `Custom(initial=…)`: before the transaction for records that a call names, by an effect for those that arise inside one."""

from __future__ import annotations

import asyncio

import pytest

from ensue import App, Custom, Entity, Interaction, Property, Transform
from ensue.testing import AppHarness


class OpenStream(Interaction):
    name: str


def make_app(calls: list[int]) -> App:
    async def sign(record: Stream) -> str:
        await asyncio.sleep(0)
        calls.append(record.id)
        return f"rtmp://{record.name}?{record.id}"

    class Stream(Entity, derived=Transform(OpenStream, lambda e: {"name": e.name})):
        name: Property[str]
        url = Custom[str](initial=sign)

    return App(entities=[Stream], interactions=[OpenStream])


@pytest.fixture
def calls() -> list[int]:
    return []


async def test_initial_is_awaited_before_the_transaction_of_a_call_that_names_the_record(calls: list[int]) -> None:
    async with AppHarness(make_app(calls)) as harness:
        stream = await harness.store.create("Stream", name="a")
        assert (stream.url, calls) == (f"rtmp://a?{stream.id}", [stream.id])


async def test_a_record_that_arises_in_a_dispatch_has_the_default_until_an_effect_has_computed_it(
    calls: list[int],
) -> None:
    async with AppHarness(make_app(calls)) as harness:
        await harness.controller.dispatch(OpenStream(name="b"))
        (stream,) = await harness.store.find("Stream")
        assert (stream.url, calls) == ("", [])
        await harness.drain()
        (stream,) = await harness.store.find("Stream")
        assert (stream.url, calls) == (f"rtmp://b?{stream.id}", [stream.id])


async def test_a_record_created_in_an_open_transaction_waits_too_and_ids_stay_dense(calls: list[int]) -> None:
    async with AppHarness(make_app(calls)) as harness:
        first = await harness.store.create("Stream", name="a")
        async with harness.store.transaction():
            second = await harness.store.create("Stream", name="c")
            assert second.url == ""
        await harness.drain()
        assert second.id == first.id + 1
        assert (await harness.store.get("Stream", second.id)).url == f"rtmp://c?{second.id}"


async def test_a_rolled_back_record_is_never_computed(calls: list[int]) -> None:
    async with AppHarness(make_app(calls)) as harness:

        async def create_and_fail() -> None:
            async with harness.store.transaction():
                await harness.store.create("Stream", name="c")
                raise LookupError

        with pytest.raises(LookupError):
            await create_and_fail()
        await harness.drain()
        assert calls == []
