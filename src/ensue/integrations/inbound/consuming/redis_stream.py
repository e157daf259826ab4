"""A consumer group of a Redis stream as a source.

Decides how entries become messages, and when those of processes that are gone are taken over. Invariants: an entry is
acknowledged by id and never removed, which is its stream's owner's matter; a consumer's name is removed from the group
only while nothing is pending for it; what waits here for its next attempt stays ours, however long that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

import msgspec
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from ensue.clock import SystemClock
from ensue.integrations.inbound.consumer import ConsumerOptions, RedisPlace
from ensue.integrations.inbound.consuming.source import CONNECT_SECONDS, FETCH_SECONDS_MAX, Delivered

CLAIM_EVERY_SECONDS_MAX: Final = 15.0
FORGOTTEN_MILLISECONDS: Final = 3_600_000
_PREFIX: Final = "ensue-"
# In one step: between a look at what is pending and the removal, an entry could be delivered to it, and be lost.
_REMOVE: Final = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
return 0
"""


class RedisSource:
    """See `Source`."""

    def __init__(self, place: RedisPlace, options: ConsumerOptions, *, endpoint: str) -> None:
        self._place = place
        self._options = options
        self._group = place.group or f"ensue:{endpoint}"
        self._name = f"{_PREFIX}{uuid4().hex}"
        self._stopwatch = SystemClock()
        self._client: Any = None
        self._claimed_at = float("-inf")
        self._kept: set[bytes] = set()
        self._sound = False

    async def connect(self) -> None:
        """Connect, and make the group (from the beginning of the stream) if it is not there."""
        self._client = redis.asyncio.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            self._options.url,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=FETCH_SECONDS_MAX + 3,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            await self._client.xgroup_create(self._place.stream, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._claimed_at = float("-inf")
        self._kept.clear()
        await self._forget_the_gone()

    async def fetch(self, count: int, seconds: float) -> Sequence[Delivered]:
        """What others left unacknowledged for too long, else what is new."""
        self._sound = False
        redeliver_seconds = self._options.redeliver_seconds
        now = self._stopwatch.monotonic_seconds()
        claim_every_seconds = min(CLAIM_EVERY_SECONDS_MAX, redeliver_seconds / 2)
        if now - self._claimed_at >= claim_every_seconds:
            await self._keep()
            idle = int(redeliver_seconds * 1000)
            _, left, *_ = await self._client.xautoclaim(
                self._place.stream, self._group, self._name, min_idle_time=idle, count=count
            )
            if left:
                self._sound = True
                return [self._delivered(*entry) for entry in left]
            self._claimed_at = now
        # Waiting for what is new must not put off what others left.
        seconds = min(seconds, self._claimed_at + claim_every_seconds - now)
        found = await self._client.xreadgroup(
            self._group, self._name, {self._place.stream: ">"}, count=count, block=max(1, int(seconds * 1000))
        )
        self._sound = True
        return [self._delivered(*entry) for entry in _entries(found)]

    async def _keep(self) -> None:
        """Have what waits here count as delivered just now, or it would be given to somebody before its pause is over."""
        if self._kept:
            await self._client.xclaim(self._place.stream, self._group, self._name, 0, sorted(self._kept), justid=True)

    async def acknowledge(self, items: Sequence[Delivered]) -> None:
        """XACK, all at once."""
        self._kept.difference_update(item.ticket for item in items)
        await self._client.xack(self._place.stream, self._group, *(item.ticket for item in items))

    async def postpone(self, item: Delivered, seconds: float) -> bool:
        """Redis redelivers after a fixed time only, which is put off while the message is kept."""
        self._kept.add(item.ticket)
        return False

    async def give_back(self, items: Sequence[Delivered]) -> None:
        """They stay pending for us until somebody takes them over."""
        self._kept.difference_update(item.ticket for item in items)

    async def close(self) -> None:
        """Leave the group if nothing is pending for us, and disconnect."""
        client, self._client = self._client, None
        if client is None:
            return
        try:
            # A server that was silent just now would hold us up.
            if self._sound:
                await client.eval(_REMOVE, 1, self._place.stream, self._group, self._name)
        finally:
            await client.aclose()

    async def _forget_the_gone(self) -> None:
        for known in await self._client.xinfo_consumers(self._place.stream, self._group):
            name = known["name"].decode()
            if name.startswith(_PREFIX) and not known["pending"] and known["idle"] > FORGOTTEN_MILLISECONDS:
                await self._client.eval(_REMOVE, 1, self._place.stream, self._group, name)

    def _delivered(self, id_: bytes, fields: Mapping[bytes, bytes]) -> Delivered:
        name = self._place.field
        texts = {key.decode("utf-8", "replace"): value for key, value in fields.items()}
        if name is None:
            body = msgspec.json.encode({key: value.decode("utf-8", "replace") for key, value in texts.items()})
            return Delivered(id_.decode(), body, {}, id_)
        headers = {key: value.decode("utf-8", "replace") for key, value in texts.items() if key != name}
        return Delivered(id_.decode(), texts.get(name, b""), headers, id_)


def _entries(found: Any) -> list[tuple[bytes, Mapping[bytes, bytes]]]:
    """The entries of one stream: the client gives a list of streams, or a mapping, by the protocol that is spoken."""
    if not found:
        return []
    if isinstance(found, dict):
        ((batches),) = found.values()  # pyright: ignore[reportUnknownVariableType]
        return [entry for batch in batches for entry in batch]  # pyright: ignore[reportUnknownVariableType]
    return list(found[0][1])
