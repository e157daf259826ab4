"""One client on `/ws`: what it says is run, what concerns it is sent, until one side ends it.

Decides which tasks a connection has and how it ends. Leaves the words to `protocol`, the buffer to
`BufferedConnection`, writing to `flush`, and what is read to `sources`. Invariants: nothing ever waits for a client
but, where the server offers no wire, the one task that sends to it; a request that was begun is finished even if the
client leaves; every connection that was announced to integrations is taken leave of.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec
from starlette.websockets import WebSocket

from ensue.errors import Rejected, Unavailable
from ensue.integrations.connection import Authenticated, BufferedConnection
from ensue.server.answers import ErrorAnswer, Refusal, answer_to, log_failure
from ensue.server.live.sources import RecordSource, source_for
from ensue.server.live.subscriptions import Source
from ensue.server.logs import accepted_id, request_id
from ensue.server.options import ServerOptions
from ensue.server.origin import check_origin
from ensue.server.protocol import (
    ApiRequest,
    Ask,
    Close,
    Conversation,
    Happening,
    InteractionRequest,
    Request,
    Say,
    SubscribeRequest,
    UnsubscribeRequest,
)
from ensue.server.serving import Serving
from ensue.telemetry import NOTHING, Under

logger = logging.getLogger("ensue.server")

CLOSE_SECONDS_MAX: Final = 5.0
FINISH_SECONDS_MAX: Final = 5.0


class _Connection(BufferedConnection):
    """A buffer that says when it is closed, whoever closed it."""

    def __init__(self, options: ServerOptions, *, user: Any, on_close: Callable[[], None]) -> None:
        super().__init__(user=user, messages_max=options.send_messages_max, bytes_max=options.send_bytes_max)
        self._on_close = on_close

    def close(self) -> None:
        super().close()
        self._on_close()


class Client:
    """One WebSocket connection, from its handshake to its end."""

    def __init__(self, websocket: WebSocket, serving: Serving) -> None:
        self.websocket = websocket
        self.serving = serving
        self._id = accepted_id(websocket.headers.get("x-request-id"))
        options = serving.options
        self.conversation = Conversation(self._id, bytes_max=options.body_limit_bytes)
        self.connection = _Connection(options, user=None, on_close=self._buffer_closed)
        self._ending: asyncio.Future[Close | None] = asyncio.get_running_loop().create_future()
        self._credentials: Authenticated | None = None
        self._requests: set[asyncio.Task[None]] = set()
        self._retiring: asyncio.Task[None] | None = None
        self.subscriptions: dict[int | str, _Subscription] = {}

    async def run(self) -> None:
        """Serve the client until it is gone."""
        token = request_id.set(self._id)
        self.serving.enter(self)
        try:
            await self._welcome()
            if self.conversation.state == "open":
                await self._converse()
            await self._say_goodbye()
        finally:
            await self._take_leave()
            await self._finish_requests()
            for subscription in tuple(self.subscriptions.values()):
                subscription.stop()
            self.serving.leave(self)
            request_id.reset(token)

    def happened(self, what: Happening) -> None:
        """Something that may end the connection."""
        close = self.conversation.happened(what)
        if close is not None or self.conversation.state == "closed":
            self._end(close)

    def retire(self, cut: Callable[[], None]) -> None:
        """The server stops: answer what was asked, within bounds, and end the connection with `cut`."""

        async def answered() -> None:
            await asyncio.wait(self._requests, timeout=FINISH_SECONDS_MAX)
            cut()

        if self._requests:
            self._retiring = asyncio.create_task(answered())
        else:
            cut()

    def _end(self, close: Close | None) -> None:
        if not self._ending.done():
            self._ending.set_result(close)

    # --- Coming -------------------------------------------------------------------------------------------------------

    async def _welcome(self) -> None:
        await self.websocket.receive()
        check_origin(self.websocket, self.serving.options)
        # Accepted even where it is refused at once: browsers don't show the code of a refused handshake.
        await self.websocket.accept(headers=[(b"x-request-id", self._id.encode())])
        try:
            self.connection.user, self._credentials = await self.serving.known_of(self.websocket)
        except Rejected:
            return self.happened("unauthenticated")
        except Unavailable as error:
            logger.warning("authenticate() of a WebSocket connection can't be done now: %s", error)
            return self.happened("refused")
        except Exception:
            logger.exception("authenticate() failed for a WebSocket connection")
            return self.happened("failed")
        try:
            await self.serving.run.handles.websockets.connected(self.connection)
        except Exception:
            logger.exception("an on_connect callback refused a WebSocket connection")
            return self.happened("refused")
        return self.happened("accepted")

    # --- Staying ------------------------------------------------------------------------------------------------------

    async def _converse(self) -> None:
        work = [self._listen(), self._beat()]
        if not self.serving.write_directly(self):
            work.append(self._send())
        if self._credentials is not None:
            work.append(self._stay_known(self._credentials))
        tasks = [asyncio.create_task(each) for each in work]
        try:
            # Not awaited with the tasks: it must outlive them, as it holds the code to close with.
            await asyncio.wait([self._ending, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                    logger.error("a WebSocket connection failed", exc_info=error)
                    self.happened("failed")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self.connection.close()
            await self._take_leave()

    async def _listen(self) -> None:
        while True:
            message = await self.websocket.receive()
            if message["type"] == "websocket.disconnect":
                return self.happened("left")
            text = message.get("text")
            if text is None:
                return self.happened("binary")
            output = self.conversation.text_received(text)
            if isinstance(output, Say):
                await self.say(output)
            elif isinstance(output, Ask):
                self._start(output.request)
            elif isinstance(output, Close):
                return self._end(output)

    async def _send(self) -> None:
        try:
            await self.connection.pump(self.websocket.send_text)
        except Exception as error:  # noqa: BLE001  # whatever the server raises for a client that is gone
            logger.debug("sending to a WebSocket client failed: %r", error)
            self.happened("left")

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.serving.options.heartbeat_seconds)
            await self.say(self.conversation.heartbeat())

    async def _stay_known(self, credentials: Authenticated) -> None:
        """Until the credentials end: a connection must not outlive what it was let in for."""
        while True:
            # Before asking: a change that comes meanwhile is a reason to ask again.
            credentials.changed.clear()
            try:
                seconds = await credentials.remaining()
            except Rejected:
                seconds = 0.0
            if seconds <= 0:
                return self.happened("expired")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await credentials.changed.wait()

    async def say(self, say: Say) -> None:
        # A full or closed buffer ends the connection by itself; there is nobody left to tell.
        with contextlib.suppress(Unavailable):
            await self.connection.send_text(say.text)

    def _buffer_closed(self) -> None:
        self.happened("too_slow" if self.connection.overflowed else "left")

    # --- Requests -----------------------------------------------------------------------------------------------------

    def _start(self, request: Request) -> None:
        task = asyncio.create_task(self._answer(request))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _answer(self, request: Request) -> None:
        try:
            with self._told(request):
                answer = await self._run_request(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told what it may know
            found = answer_to(error)
            log_failure("a WebSocket request", error, found)
            await self.say(self.conversation.failed(request, found))
        else:
            if answer is not None:
                await self.say(self.conversation.finished(request, msgspec.Raw(answer)))

    def _told(self, request: Request) -> Under:
        if not isinstance(request, InteractionRequest | ApiRequest):
            return NOTHING
        kind = "interaction" if isinstance(request, InteractionRequest) else "api"
        # A trace that lasts as long as the connection would be of no use: each call has its own, or its caller's.
        carrier = {} if request.traceparent is None else {"traceparent": request.traceparent}
        return self.serving.run.telemetry.activity("call", f"/ws {kind}", carrier=carrier, request_id=self._id)

    async def _run_request(self, request: Request) -> bytes | None:
        """The answer; None if it is given later."""
        calls, user = self.serving.calls, self.connection.user
        if isinstance(request, InteractionRequest):
            key = request.idempotency_key
            return await calls.interaction(
                request.name, request.payload, user=user, idempotency_key=key, request=self.websocket
            )
        if isinstance(request, ApiRequest):
            name = request.name
            return await calls.api(request.namespace, name, request.payload, user=user, request=self.websocket)
        if isinstance(request, UnsubscribeRequest):
            return await self._unsubscribe(request)
        context = self.serving.context(user, self.websocket)
        source = await source_for(self.serving, request, context)
        subscription = _Subscription(self, request, source)
        if self.conversation.state == "open":
            self.subscriptions[request.id] = subscription
            await self.serving.subscribe(source, subscription)
        return None

    async def _unsubscribe(self, request: UnsubscribeRequest) -> bytes:
        subscription = self.subscriptions.get(request.subscription)
        if subscription is None:
            raise Refusal(404, "unknown_subscription", f"There is no subscription {request.subscription!r}.")
        subscription.stop()
        if not subscription.begun:
            text = "The subscription was ended before it began."
            await self.say(self.conversation.failed(subscription.request, ErrorAnswer(409, "unsubscribed", text)))
        self.conversation.subscriptions.discard(request.subscription)
        return b"{}"

    async def _finish_requests(self) -> None:
        if self._requests:
            _, late = await asyncio.wait(self._requests, timeout=FINISH_SECONDS_MAX)
            for task in late:
                task.cancel()

    # --- Going --------------------------------------------------------------------------------------------------------

    async def _take_leave(self) -> None:
        """Tell integrations, once; not only after the goodbye, for which a slow client may be waited for."""
        await self.serving.run.handles.websockets.disconnected(self.connection)

    async def _say_goodbye(self) -> None:
        close = await self._ending
        if close is not None:
            # A client that takes nothing would not take this either.
            await _within(self.websocket.close(close.code, close.reason), CLOSE_SECONDS_MAX)


class _Subscription:
    """One subscription of a client, as `Subscriptions` knows it."""

    def __init__(self, client: Client, request: SubscribeRequest, source: Source) -> None:
        self._client = client
        self.request = request
        self._source = source
        self.begun = False

    async def check(self) -> None:
        source, client = self._source, self._client
        if isinstance(source, RecordSource):
            request, serving = self.request, client.serving
            assert request.record is not None
            assert request.key is not None
            context = serving.context(client.connection.user, client.websocket)
            await serving.gate.check(context, request.record, request.key)

    async def begin(self, data: bytes) -> None:
        self.begun = True
        await self._client.say(self._client.conversation.finished(self.request, msgspec.Raw(data)))

    async def push(self, data: bytes) -> None:
        await self._client.say(self._client.conversation.changed(self.request.id, msgspec.Raw(data)))

    async def end(self, error: Exception) -> None:
        client, answer = self._client, answer_to(error)
        if not answer.is_defect:  # which is logged once for all who subscribed
            log_failure("a subscription", error, answer)
        client.subscriptions.pop(self.request.id, None)
        conversation = client.conversation
        say = conversation.ended(self.request.id, answer) if self.begun else conversation.failed(self.request, answer)
        await client.say(say)

    def stop(self) -> None:
        self._client.subscriptions.pop(self.request.id, None)
        self._client.serving.subscriptions.remove(self._source, self)


async def _within(work: Coroutine[Any, Any, None], seconds: float) -> None:
    task = asyncio.create_task(work)
    _, late = await asyncio.wait([task], timeout=seconds)
    for one in late:
        one.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.debug("closing a WebSocket connection failed: %r", error)
