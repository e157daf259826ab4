"""A bus over a Redis Cluster, with sharded pub/sub: each topic lives, with its log, on the server that has its slot.

Decides which server each topic is followed on, and follows it elsewhere when its slot has moved. Leaves each connection
to `redis_link`. Invariants: a topic is followed on one server at a time; whatever may have been missed while it moved is
looked for, since the listener is told `restored` afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import defaultdict
from collections.abc import Collection
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ensue.background import Background
from ensue.clock import Clock
from ensue.integrations.channels import scripts
from ensue.integrations.channels.bus import Limits, Listener
from ensue.integrations.channels.redis_bus import RedisCommands, place
from ensue.integrations.channels.redis_link import FAILURES, SHARDED, Link, connection_options, pool_of
from ensue.integrations.contract import Health

logger = logging.getLogger("ensue.integrations.redis_channels")

LOOK_SECONDS = 1.0
GATHER_SECONDS = 0.1
_SEND = "redis.call(ARGV[1], KEYS[1], ARGV[2])"


class ClusterBus(Background, RedisCommands):
    """An async context manager, as `RedisBus`; the URL names any server of the cluster.

    It is up while it follows on every server that has slots.
    """

    task_name = "ensue.redis_cluster"
    words = SHARDED

    def __init__(self, url: str, *, clock: Clock, limits: Limits, rng: random.Random | None = None) -> None:
        parts = urlsplit(url)
        self._url = parts._replace(scheme=parts.scheme.removesuffix("+cluster"))
        # One retry: after a change of the cluster the first attempt may be told where to go now.
        retry = Retry(NoBackoff(), 1)
        client: Any = RedisCluster.from_url(urlunsplit(self._url), retry=retry, **connection_options())
        super().__init__(client, where=place(url), clock=clock, limits=limits)
        self._rng = rng if rng is not None else random.Random()
        self._links: dict[str, Link] = {}
        self._homes: dict[str, str] = {}
        self._wanted: set[str] = set()
        self._control: str | None = None
        self._lost = Health(up=False, detail="not connected yet", since=clock.now())
        self._known = False
        self._reported = False
        self._look = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._route_or_note()
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        await asyncio.gather(*(link.close() for link in self._links.values()))
        # By themselves too: the client closes nothing before its first command, and looking at the cluster was none.
        await self._client.aclose()
        await self._client.nodes_manager.aclose()
        await self._client.nodes_manager.aclose("startup_nodes")

    def health(self) -> Health:
        if not self._known:
            return self._lost
        down = [link.health for link in self._links.values() if not link.health.up]
        if down:
            return down[0]
        return Health(up=True, detail=f"connected to the {len(self._links)} servers of the cluster at {self._where}")

    async def listen(self, listener: Listener, control: str) -> None:
        self._listener = listener
        self._control = control
        await self.follow([control])

    async def publish(self, topic: str, text: str) -> None:
        await self._ask(topic, self._script(_SEND, [topic], [self.words.publish, scripts.PLAIN + text]))

    async def follow(self, topics: Collection[str]) -> None:
        self._wanted.update(topics)
        if self._known:
            await self._follow_at_home(topics)

    async def unfollow(self, topics: Collection[str]) -> None:
        self._wanted.difference_update(topics)
        by_link: dict[str, list[str]] = defaultdict(list)
        for topic in topics:
            if (home := self._homes.pop(topic, None)) in self._links:
                by_link[home].append(topic)
        await asyncio.gather(*(self._links[home].unfollow(gone) for home, gone in by_link.items()))

    def misplaced(self) -> None:
        """A link found that something is elsewhere now: look at the cluster anew."""
        self._look.set()

    # --- Where everything is ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._look.wait()
            if self._look.is_set() or not self.health().up or self._misplaced_topics():
                self._look.clear()
                await asyncio.sleep(GATHER_SECONDS)
                await self._route_or_note()

    def _misplaced_topics(self) -> list[str]:
        """What the client, which learns of moved slots from its commands, would look for elsewhere."""
        return [topic for topic, home in self._homes.items() if self._home(topic) != home]

    def _home(self, topic: str) -> str | None:
        node: Any = self._client.get_node_from_key(topic)
        return None if node is None else str(node.name)

    async def _route_or_note(self) -> None:
        try:
            moved = await self._route()
        except FAILURES as failure:
            if not self._reported:
                logger.error("the Redis Cluster at %s does not answer: %s; trying again", self._where, failure)
                self._reported = True
            if not self._known:
                detail = f"the Redis Cluster at {self._where} does not answer: {failure}"
                self._lost = Health(up=False, detail=detail, since=self._lost.since)
        except Exception:
            logger.exception("looking at the Redis Cluster at %s failed; it is tried again", self._where)
        else:
            self._reported = False
            if moved and self._listener is not None:
                await self._listener.restored()

    async def _route(self) -> bool:
        """Look where slots are, and follow everything there; gives whether anything moved."""
        await self._client.nodes_manager.initialize()
        primaries = {str(node.name): node for node in self._client.get_primaries()}
        for name in primaries.keys() - self._links.keys():
            self._links[name] = self._open(primaries[name].host, primaries[name].port)
        gone = [self._links.pop(name) for name in self._links.keys() - primaries.keys()]
        self._known = True
        if self._control is not None:
            await self._place_control(self._control)
        await asyncio.gather(*(link.start() for link in self._links.values()), *(link.close() for link in gone))
        moving = [topic for topic in self._wanted if self._homes.get(topic) != self._home(topic)]
        for topic in moving:
            if (old := self._links.get(self._homes.pop(topic, ""))) is not None:
                await old.unfollow([topic])
        await self._follow_at_home(moving)
        return bool(moving)

    async def _place_control(self, control: str) -> None:
        home = self._home(control)
        before = self._homes.get(control)
        for name, link in self._links.items():
            link.control = control if name == home else None
        if before is not None and before != home and self._listener is not None:
            # Word of changes may have been missed on the way.
            await self._listener.reconnected()

    async def _follow_at_home(self, topics: Collection[str]) -> None:
        by_link: dict[str, list[str]] = defaultdict(list)
        for topic in topics:
            home = self._home(topic)
            if home in self._links and topic in self._wanted:
                self._homes[topic] = home
                by_link[home].append(topic)
                if topic == self._control:
                    self._links[home].control = topic
            else:
                self._look.set()
        await asyncio.gather(*(self._links[home].follow(found) for home, found in by_link.items()))

    def _open(self, host: str, port: int) -> Link:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        secret = self._url.netloc.rpartition("@")[0]
        url = urlunsplit(self._url._replace(netloc=f"{secret}@{address}" if secret else address))
        return Link(pool_of(url, retries=0), self, where=address, words=SHARDED, clock=self._clock, rng=self._rng)
