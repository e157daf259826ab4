"""A JetStream pull consumer as a source.

Decides the consumer's settings and how a message is called. Leaves reconnecting to the loop: this client never does so
by itself, as what it had fetched would be uncertain. Invariant: all processes pull from one durable consumer, which
gives each message to one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import nats
import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig

from ensue.integrations.inbound.consumer import ConsumerOptions, NatsPlace
from ensue.integrations.inbound.consuming.source import CONNECT_SECONDS, Delivered, SourceLost

PING_SECONDS: Final = 5
MESSAGE_ID: Final = "Nats-Msg-Id"


_connect: Any = cast("Any", nats).connect


class NatsSource:
    """See `Source`."""

    def __init__(self, place: NatsPlace, options: ConsumerOptions, *, endpoint: str) -> None:
        self._place = place
        self._options = options
        self._durable = place.durable or f"ensue-{endpoint.replace('.', '-')}"
        self._client: Any = None
        self._subscription: Any = None
        self._origin = ""

    async def connect(self) -> None:
        """Connect and bind the durable consumer, which is made if it is not there."""
        self._client = await _connect(
            self._options.url,
            allow_reconnect=False,
            # The first connection would be tried sixty times otherwise.
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=int(CONNECT_SECONDS),
            ping_interval=PING_SECONDS,
            max_outstanding_pings=2,
            name=self._durable,
            error_cb=_quiet,
        )
        stream = self._client.jetstream(timeout=CONNECT_SECONDS)
        name = self._place.stream or await stream.find_stream_name_by_subject(self._place.subject)
        # Made anew under the same name, a stream counts from 1 again: what it counts is not what was counted before.
        made = (await stream.stream_info(name)).created
        self._origin = f"{name}@{made:%Y%m%dT%H%M%S.%f}"
        self._subscription = await stream.pull_subscribe(
            self._place.subject,
            durable=self._durable,
            stream=name,
            config=ConsumerConfig(
                ack_policy=AckPolicy.EXPLICIT, ack_wait=self._options.redeliver_seconds, max_deliver=-1
            ),
        )

    async def fetch(self, count: int, seconds: float) -> Sequence[Delivered]:
        """Whatever there is, or what comes meanwhile."""
        try:
            found = await self._subscription.fetch(count, timeout=seconds)
        except nats.errors.TimeoutError:
            if self._client.is_closed:
                raise SourceLost("the connection to NATS was lost") from None
            return ()
        return [self._delivered(message) for message in found]

    async def acknowledge(self, items: Sequence[Delivered]) -> None:
        """`+ACK`; one that is lost on the way means a redelivery, which is recognised."""
        for item in items:
            await item.ticket.ack()

    async def postpone(self, item: Delivered, seconds: float) -> bool:
        """`-NAK` with a delay."""
        await item.ticket.nak(delay=seconds)
        return True

    async def give_back(self, items: Sequence[Delivered]) -> None:
        """`-NAK`: others get it at once."""
        for item in items:
            await item.ticket.nak()

    async def close(self) -> None:
        """Flush what was acknowledged, and disconnect."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _delivered(self, message: Any) -> Delivered:
        headers: dict[str, str] = dict(message.headers or {})
        id_ = headers.get(MESSAGE_ID) or f"{self._origin}:{message.metadata.sequence.stream}"
        return Delivered(id_, message.data, headers, message)


async def _quiet(_: Exception) -> None:
    """The client's errors reach the loop by the calls that fail; it would print them otherwise."""
