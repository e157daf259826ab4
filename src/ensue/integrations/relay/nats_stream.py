"""JetStream as a relay: a stream for effects, one for those that are dead, and a bucket of attempts.

Decides their names and settings, and how the client's errors are told. Invariants: handing over returns after the
stream has stored the message; by its message id JetStream drops a repeat within the window; what could be handed over
can be buried, with as much of its error as there is room for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, cast

from ensue.errors import Rejected, Unavailable, UsageError
from ensue.schema.delivery import Nats

CONNECT_SECONDS: Final = 5
ANSWER_SECONDS: Final = 5.0
FETCH_SECONDS: Final = 1.0
PING_SECONDS: Final = 5
MESSAGE_ID: Final = "Nats-Msg-Id"
HEADER_CLASS, HEADER_TEXT = "Ensue-Error-Class", "Ensue-Error"


class JetStream:
    """A connection to the relay `nats`, with its streams there. Made by `connect_relay`."""

    def __init__(self, nats: Nats, client: Any) -> None:
        self._nats = nats
        self._client = client
        self._stream: Any = client.jetstream(timeout=ANSWER_SECONDS)
        self._attempts: Any = None

    @property
    def connected(self) -> bool:
        """Whether the server is there at the moment; the client reconnects by itself."""
        return bool(self._client.is_connected)

    async def prepare(self) -> None:
        """Make the streams and the bucket unless they are there."""
        from nats.js.api import KeyValueConfig, RetentionPolicy, StorageType, StreamConfig

        window = self._nats.duplicate_window_seconds
        kept = StreamConfig(
            name=self._nats.stream,
            subjects=[f"{self._nats.subject}.>"],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            duplicate_window=window,
        )
        dead = StreamConfig(
            name=f"{self._nats.stream}_DEAD",
            subjects=[f"{self._nats.subject}-dead.>"],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            duplicate_window=window,
        )
        for config in (kept, dead):
            await self._make(config)
        bucket = f"{self._nats.stream}_ATTEMPTS"
        try:
            self._attempts = await self._stream.key_value(bucket)
        except _not_found():
            config = KeyValueConfig(bucket=bucket, history=1, ttl=ATTEMPTS_KEPT_SECONDS, storage=StorageType.FILE)
            self._attempts = await self._stream.create_key_value(config=config)

    async def _make(self, config: Any) -> None:
        try:
            await self._stream.stream_info(config.name)
        except _not_found():
            await self._stream.add_stream(config)

    # --- Handing over -------------------------------------------------------------------------------------------------

    async def publish(self, name: str, id_: str, data: bytes) -> str:
        """Store a message for the effect `name`; answers its place (`ENSUE:42`). Raises `Unavailable`."""
        return await self._publish(f"{self._nats.subject}.{name}", id_, data, {})

    async def bury(self, name: str, id_: str, data: bytes, *, error: tuple[str, str]) -> None:
        """Store a message that no worker could deliver, with the class and text of its last error, if they fit."""
        room = int(self._client.max_payload) - len(data) - _size({MESSAGE_ID: id_})
        await self._publish(f"{self._nats.subject}-dead.{name}", id_, data, _error_headers(error, room))

    async def _publish(self, subject: str, id_: str, data: bytes, headers: Mapping[str, str]) -> str:
        if not self.connected:
            # The client would keep it for later; it is kept in the table already.
            raise Unavailable("NATS is not connected at the moment.", retryable=True)
        from nats.errors import MaxPayloadError
        from nats.js.errors import NoStreamResponseError

        with told():
            given = {MESSAGE_ID: id_, **headers}
            if _size(given) + len(data) > self._client.max_payload:
                # The client counts the data alone; the server counts headers as well, and hangs up.
                raise MaxPayloadError
            try:
                answer = await self._stream.publish(subject, data, timeout=ANSWER_SECONDS, headers=given)
            except NoStreamResponseError:
                await self.prepare()
                raise
        return f"{answer.stream}:{answer.seq}"

    # --- Taking -------------------------------------------------------------------------------------------------------

    async def subscribe(self, name: str, *, lease_seconds: float, at_once: int) -> Any:
        """The pull subscription that all workers of the effect `name` share."""
        return await self._subscribe(f"{self._nats.subject}.{name}", name, lease_seconds, at_once)

    async def subscribe_dead(self, *, lease_seconds: float) -> Any:
        """The pull subscription to everything that is dead."""
        return await self._subscribe(f"{self._nats.subject}-dead.>", "dead", lease_seconds, 100)

    async def _subscribe(self, subject: str, name: str, lease_seconds: float, at_once: int) -> Any:
        from nats.js.api import AckPolicy, ConsumerConfig

        dead = subject.endswith("-dead.>")
        with told():
            try:
                return await self._stream.pull_subscribe(
                    subject,
                    durable="ensue-" + name.replace(".", "-"),
                    stream=f"{self._nats.stream}_DEAD" if dead else self._nats.stream,
                    config=ConsumerConfig(
                        ack_policy=AckPolicy.EXPLICIT,
                        ack_wait=lease_seconds,
                        max_deliver=-1,
                        max_ack_pending=at_once * 100,
                    ),
                )
            except _not_found() as error:
                # Somebody deleted it while we were connected; what is handed over needs one.
                await self.prepare()
                raise Unavailable("The relay's stream was gone, and was made anew.", retryable=True) from error

    async def fetch(self, subscription: Any, count: int) -> Sequence[Any]:
        """Messages that are there, or that come within a second. Raises `Unavailable`."""
        try:
            with told():
                return await subscription.fetch(count, timeout=FETCH_SECONDS)
        except Unavailable as error:
            # The client raises its own, or the language's, depending on where the time ended.
            if isinstance(error.__cause__, TimeoutError) and self.connected:
                return ()
            raise

    # --- Attempts -----------------------------------------------------------------------------------------------------

    async def attempts(self, key: str) -> int:
        """How many attempts of an effect were used up."""
        with told():
            try:
                found = await self._attempts.get(_bucket_key(key))
            except _not_found():
                return 0
        return int(found.value or b"0")

    async def note_attempts(self, key: str, attempts: int) -> None:
        """Remember that so many were used up."""
        with told():
            await self._attempts.put(_bucket_key(key), str(attempts).encode())

    async def forget_attempts(self, key: str) -> None:
        """It is over."""
        with told():
            await self._attempts.delete(_bucket_key(key))

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()


ATTEMPTS_KEPT_SECONDS: Final = 30 * 86_400


@asynccontextmanager
async def connect_relay(nats: Nats) -> AsyncGenerator[JetStream]:
    """A connection to `nats` that comes back by itself after outages. Raises `Unavailable` if there is none at first."""
    try:
        import nats as library
    except ModuleNotFoundError as error:
        raise UsageError(f"relay=Nats(…) needs the NATS client: pip install 'ensue[nats]' ({error}).") from error
    connect: Any = cast("Any", library).connect
    with told():
        async with asyncio.timeout(CONNECT_SECONDS):
            client = await connect(
                nats.url,
                name="ensue relay",
                connect_timeout=CONNECT_SECONDS,
                ping_interval=PING_SECONDS,
                max_outstanding_pings=2,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.5,
                error_cb=_quiet,
            )
    relay = JetStream(nats, client)
    try:
        with told():
            await relay.prepare()
        yield relay
    finally:
        await relay.close()


@contextmanager
def told() -> Generator[None]:
    """The client's errors as `Unavailable`: all of them pass, once the server is back."""
    import nats.errors
    import nats.js.errors

    try:
        yield
    except _not_found():
        raise
    except nats.errors.MaxPayloadError as error:
        raise Rejected(
            "effect_too_large",
            "NATS takes no message of this size. Raise the server's max_payload, or store large values elsewhere and "
            "let the effect read them by reference.",
        ) from error
    except (nats.errors.Error, OSError, nats.js.errors.Error, TimeoutError) as error:
        text = f"NATS did not answer as it should: {type(error).__name__} {error}".rstrip()
        raise Unavailable(text, retryable=True) from error


def _size(headers: Mapping[str, str]) -> int:
    """The bytes that the server counts for `headers`."""
    return len(b"NATS/1.0\r\n\r\n") + sum(_line_size(name, text) for name, text in headers.items())


def _line_size(name: str, text: str) -> int:
    return len(f"{name}: {text}\r\n".encode())


def _error_headers(error: tuple[str, str], room: int) -> dict[str, str]:
    """The class of an error if that fits into `room` bytes, and as much of its text as fits besides."""
    kind, text = error[0], error[1].replace("\r", " ").replace("\n", " ")
    room -= _line_size(HEADER_CLASS, kind)
    if room < 0:
        return {}
    left = room - _line_size(HEADER_TEXT, "")
    if left <= 0:
        return {HEADER_CLASS: kind}
    return {HEADER_CLASS: kind, HEADER_TEXT: text.encode()[:left].decode(errors="ignore")}


def _not_found() -> type[Exception]:
    import nats.js.errors

    return cast("Any", nats.js.errors).NotFoundError


def _bucket_key(key: str) -> str:
    """A key as a bucket takes it: letters, digits and a few signs; the others as their numbers."""
    return "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "-_") else f"={ord(letter):x}=" for letter in key
    )


async def _quiet(_: Exception) -> None:
    """Errors reach us by the calls that fail; the client would print them besides."""
