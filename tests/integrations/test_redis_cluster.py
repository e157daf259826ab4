"""Channels over a real Redis Cluster: across its servers, and over the restart of one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ensue.integrations.channels.redis_cluster import ClusterBus
from tests.redis_cluster import RedisClusterServers

from .channel_app import FakeStore, Process, places, texts, told, until

CHANNELS = range(1, 13)


@pytest.fixture
def cluster() -> Iterator[RedisClusterServers]:
    with RedisClusterServers() as servers:
        yield servers


async def test_over_the_restart_of_one_server_its_channels_go_on_and_others_never_stop(
    cluster: RedisClusterServers,
) -> None:
    store = FakeStore({(user, channel) for user in (1, 2) for channel in CHANNELS})
    async with Process(store, redis_url=cluster.url) as one, Process(store, redis_url=cluster.url) as other:
        ann, bob = await one.connect(1), await other.connect(2)
        assert set(places(ann)) == set(CHANNELS)
        for channel in CHANNELS:
            await other.send(channel, f"{channel}")
        every = {f"{channel}" for channel in CHANNELS}
        await until(lambda: set(texts(ann)) == set(texts(bob)) == every)
        homes = {channel: cluster.node_of(f"ensue:channel:{channel}") for channel in CHANNELS}
        assert len(set(homes.values())) == 3, "every server has some of the channels"

        node = homes[1]
        node.kill()
        await until(lambda: not (one.channels.bus.health().up or other.channels.bus.health().up))
        node.start()
        cluster.until_complete()
        await until(lambda: one.channels.bus.health().up and other.channels.bus.health().up, seconds=15)
        for channel in CHANNELS:
            await one.send(channel, f"{channel} again")
        lost = {channel for channel in CHANNELS if homes[channel] is node}
        went_on = {f"{channel} again" for channel in CHANNELS} - {f"{channel} again" for channel in lost}
        await until(lambda: went_on <= set(texts(ann)) and went_on <= set(texts(bob)))
        await until(lambda: lost <= {*places(ann, "gap")} and lost <= {*places(bob, "gap")})
    assert set(places(ann, "gap")) == lost, "whoever kept its log has no gap"


async def test_a_slot_that_moves_is_followed(cluster: RedisClusterServers) -> None:
    store = FakeStore({(1, 1)})
    async with Process(store, redis_url=cluster.url) as process:
        ann = await process.connect(1)
        await process.send(1, "before")
        await until(lambda: texts(ann) == ["before"])
        source = cluster.node_of("ensue:channel:1")
        target = next(node for node in cluster.nodes if node is not source)
        cluster.move("ensue:channel:1", source, target)
        bus = process.channels.bus
        assert isinstance(bus, ClusterBus)
        await until(lambda: bus._homes["ensue:channel:1"].endswith(f":{target.port}"), seconds=15)
        await until(lambda: bus.health().up, seconds=15)
        await process.send(1, "after")
        await until(lambda: "after" in texts(ann) or bool(told(ann, "gap")))
        await process.send(1, "and on")
        await until(lambda: texts(ann)[-1] == "and on")


async def test_an_app_starts_without_its_cluster_and_finds_it_later(cluster: RedisClusterServers) -> None:
    for node in cluster.nodes:
        node.kill()
    async with Process(FakeStore({(1, 1)}), redis_url=cluster.url) as process:
        ann = await process.connect(1)
        assert told(ann, "joined") == [{"type": "joined", "channels": []}]
        assert "does not answer" in (await process.channels.health()).detail
        for node in cluster.nodes:
            node.start()
        cluster.until_complete()
        await until(lambda: 1 in places(ann), seconds=15)
        await process.send(1, "hello")
        await until(lambda: texts(ann) == ["hello"])
