"""Following topics without a hole: live messages, and the log wherever these are not all.

Decides when a log is read: where a message does not follow the last one, after an outage of the bus, and every now and
then, as the last message of all may be the lost one. Leaves what may be given out to `tracks`. Invariants: a topic is
ready only once it is live and its place in the log is known; of what `deliver` is given out of one log nothing is
missing, repeated or out of order, unless `gap` was told before.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from ensue.background import Background
from ensue.errors import Unavailable
from ensue.integrations.channels.bus import Bus, Entry, Page, Stamp
from ensue.integrations.channels.tracks import Track

logger = logging.getLogger("ensue.integrations.redis_channels")

READ_COUNT = 200
READS_AT_ONCE = 16
RETRY_SECONDS_MAX = 1.0

Deliver = Callable[[str, str, Sequence[Entry]], Awaitable[None]]
Gap = Callable[[Mapping[str, Stamp]], Awaitable[None]]
Ready = Callable[[Collection[str]], Awaitable[None]]


class Follower(Background):
    """An async context manager with a task that reads logs.

    Calls `deliver(topic, epoch, entries)`, `gap({topic: where it goes on})` for what is lost, and `ready(topics)` for
    topics that became ready later than with `follow`.
    """

    task_name = "ensue.follower"

    def __init__(self, bus: Bus, *, deliver: Deliver, gap: Gap, ready: Ready, check_seconds: float) -> None:
        self._bus = bus
        self._deliver = deliver
        self._gap = gap
        self._ready = ready
        self._check_seconds = check_seconds
        self._tracks: dict[str, Track] = {}
        self._due: dict[str, None] = {}
        self._check_due = False
        self._some = asyncio.Event()

    def stamp(self, topic: str) -> Stamp | None:
        """Everything after this is delivered; None while the topic is not ready."""
        track = self._tracks.get(topic)
        return None if track is None else track.stamp

    async def follow(self, topics: Collection[str]) -> None:
        """Returns when the topics are ready. While the bus is down it returns at once, and they become so later."""
        for topic in topics:
            self._tracks.setdefault(topic, Track())
        await self._bus.follow(topics)
        starting = [topic for topic in topics if self.stamp(topic) is None]
        if starting and self._bus.health().up:
            try:
                await self._begin(starting)
            except Unavailable as failure:
                logger.info("the place in the logs of %d topics is not known yet: %s", len(starting), failure)
                self.check()

    async def unfollow(self, topics: Collection[str]) -> None:
        """Deliver these no more."""
        for topic in topics:
            self._tracks.pop(topic, None)
            self._due.pop(topic, None)
        await self._bus.unfollow(topics)

    async def received(self, topic: str, text: str, stamp: Stamp) -> None:
        """The bus brings a message of a log."""
        if (track := self._tracks.get(topic)) is None:
            return
        if entries := track.received(stamp, text):
            await self._deliver(topic, stamp.epoch, entries)
        elif track.behind:
            self._read_soon(topic)

    def check(self) -> None:
        """Messages may have been missed: compare with the logs, now."""
        self._check_due = True
        self._some.set()

    def _read_soon(self, topic: str) -> None:
        self._due[topic] = None
        self._some.set()

    async def _run(self) -> None:
        while True:
            try:
                # Not all processes at the same moment.
                async with asyncio.timeout(self._check_seconds * random.uniform(0.75, 1.25)):
                    await self._some.wait()
            except TimeoutError:
                self._check_due = True
            self._some.clear()
            try:
                await self._work()
            except Unavailable as failure:
                logger.info("reading the logs of channels has to wait: %s", failure)
                await self._pause()
            except Exception:
                logger.exception("reading the logs of channels failed; it is tried again")
                await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(random.uniform(0, RETRY_SECONDS_MAX))
        if self._bus.health().up:
            self._some.set()

    async def _work(self) -> None:
        if self._check_due and self._bus.health().up:
            # Not afterwards: who asks meanwhile wants another look.
            self._check_due = False
            try:
                await self._compare()
            except BaseException:
                self._check_due = True
                raise
        while self._due:
            topics = list(self._due)[:READS_AT_ONCE]
            await asyncio.gather(*(self._read(topic) for topic in topics))

    async def _compare(self) -> None:
        starting = [topic for topic, track in self._tracks.items() if track.stamp is None]
        if starting:
            ready = await self._begin(starting)
            if ready:
                await self._ready(ready)
        tops = await self._bus.tops(tuple(self._tracks))
        for topic, top in tops.items():
            if (track := self._tracks.get(topic)) is not None and track.seen(top):
                self._due[topic] = None

    async def _begin(self, topics: Collection[str]) -> list[str]:
        # After they are live: what is published from here on arrives, and what was before is below the top.
        tops = await self._bus.tops(topics)
        ready: list[str] = []
        for topic, top in tops.items():
            track = self._tracks.get(topic)
            if track is not None and track.stamp is None:
                ready.append(topic)
                if entries := track.begin(top):
                    await self._deliver(topic, top.epoch, entries)
                if track.behind:
                    self._read_soon(topic)
        return ready

    async def _read(self, topic: str) -> None:
        track = self._tracks.get(topic)
        if track is None or (stamp := track.reading()) is None:
            self._due.pop(topic, None)
            return
        page: Page = await self._bus.since(topic, stamp, count=READ_COUNT)
        if self._tracks.get(topic) is not track:
            return
        caught = track.caught(page)
        if not track.behind:
            self._due.pop(topic, None)
        if caught.gap:
            await self._gap({topic: page.top})
        if caught.entries and track.stamp is not None:
            await self._deliver(topic, track.stamp.epoch, caught.entries)
