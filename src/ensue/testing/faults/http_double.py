"""An HTTP service on a real socket that answers as a test's script says, and records what it was asked.

Decides which answer a request gets: the route's queue first, then its lasting answer. Leaves the wire to `http_wire`
and what an answer is to `answer`. Invariants: every request is recorded before it is answered; with an idempotency
header, a key whose request was accepted is answered again from memory and works once.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ensue.errors import UsageError
from ensue.testing.faults.answer import Answer, as_answer
from ensue.testing.faults.http_wire import BadRequest, RecordedRequest, head_of, read_request
from ensue.testing.faults.listener import Peer, abort

WAIT_SECONDS = 10.0


@dataclass(slots=True)
class _Route:
    """Which requests are meant, and what they get."""

    name: str
    method: str
    segments: tuple[str, ...]
    query: dict[str, str]
    queued: deque[Any] = field(default_factory=deque[Any])
    lasting: Any = None
    has_lasting: bool = False

    def match(self, request: RecordedRequest) -> dict[str, str] | None:
        """What the `{name}` segments stand for, or None if another request is meant."""
        if self.method not in ("*", request.method) or not self.query.items() <= request.query.items():
            return None
        found = _segments(request.path)
        if self.segments[-1:] == ("*",):
            found = (*found[: len(self.segments) - 1], "*") if len(found) >= len(self.segments) - 1 else found
        if len(found) != len(self.segments):
            return None
        values: dict[str, str] = {}
        for wanted, given in zip(self.segments, found, strict=True):
            if wanted.startswith("{") and wanted.endswith("}"):
                values[wanted[1:-1]] = given
            elif wanted != given:
                return None
        return values


class HttpDouble(Peer):
    """A service for tests, at `url`; an async context manager.

    A route is `"POST /tasks/{id}"`: a method (or `*`), a path whose `{name}` segments match anything and whose last
    segment may be `*` for the rest, and if need be a query that the request's must include (`"POST /?Action=Submit"`).
    `on` gives it a lasting answer, `queue` answers that are used once each, before that. An answer is an `Answer`, its
    content (a dict is sent as JSON), or a function of the `RecordedRequest` that gives one, async or not.

    With `idempotency_header` the service folds requests by that header, as payment services do: after an accepted
    request the same key gets the same answer, whole, and no work is done.

    >>> async with HttpDouble(idempotency_header="Idempotency-Key") as service:
    ...     service.on("POST /pictures", {"id": "p1"})
    ...     service.queue("POST /pictures", Answer.throttled(2), Answer.ok({"id": "p1"}).lost())
    ...     ...
    ...     assert service.accepted_keys == {"picture:1": 1}

    A request that no route is for gets 404 and is in `unexpected`; a function that raises makes it a 500 and is raised
    when the double is left.
    """

    def __init__(self, *, idempotency_header: str | None = None, host: str = "127.0.0.1") -> None:
        self.requests: list[RecordedRequest] = []
        self.accepted: list[RecordedRequest] = []
        self.folded: list[RecordedRequest] = []
        self.unexpected: list[RecordedRequest] = []
        self.connections = 0
        self._header = idempotency_header
        self._remembered: dict[tuple[str, str], Answer] = {}
        self._routes: dict[str, _Route] = {}
        super().__init__(host=host)
        self._hearing = asyncio.Event()
        self._hearing.set()

    @property
    def url(self) -> str:
        """`http://host:port`, without a slash at the end."""
        return f"http://{self.address}"

    @property
    def accepted_keys(self) -> Counter[str]:
        """How often work was accepted for each idempotency key; without the header, nothing."""
        if self._header is None:
            return Counter()
        return Counter(request.headers[self._header] for request in self.accepted if self._header in request.headers)

    def on(self, route: str, answer: Any, /) -> None:
        """Answer every request to `route` with `answer`, once its queue is empty. A second call replaces the first."""
        found = self._route(route)
        found.lasting, found.has_lasting = answer, True

    def queue(self, route: str, *answers: Any) -> None:
        """Answer the next requests to `route` with these, in order."""
        self._route(route).queued.extend(answers)

    def waiting(self, route: str, /) -> int:
        """How many queued answers of `route` were not used yet."""
        return len(self._route(route).queued)

    def sent(self, route: str, /) -> list[RecordedRequest]:
        """The requests to `route` so far, in order."""
        wanted = _parse_route(route)
        return [request for request in self.requests if wanted.match(request) is not None]

    def forget(self) -> None:
        """Forget what was recorded and remembered; routes stay as they are."""
        for recorded in (self.requests, self.accepted, self.folded, self.unexpected):
            recorded.clear()
        self._remembered.clear()

    def refuse(self) -> None:
        """Drop all connections and refuse new ones, as if the service was down."""
        self._listener.refuse()
        self._listener.reset_all()

    def black_hole(self) -> None:
        """Accept connections and hear nothing: requests are neither recorded nor answered until `heal`."""
        self._hearing.clear()

    def heal(self) -> None:
        """Accept connections again, at the same address, and hear what was sent meanwhile."""
        self._hearing.set()
        self._listener.listen()

    async def until(self, met: Callable[[HttpDouble], object], *, seconds_max: float = WAIT_SECONDS) -> None:
        """Wait until `met(self)` is true: `await service.until(lambda it: len(it.accepted) == 3)`.

        It is asked after each request. Raises `TimeoutError` with what was recorded.
        """
        await self._until(lambda: met(self), seconds_max, self._seen)

    def _seen(self) -> str:
        seen = [f"{request.method} {request.target}" for request in self.requests]
        return f"the service has recorded {seen or 'no request'}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            try:
                request = await read_request(reader, writer)
            except (BadRequest, ValueError) as failure:
                text = str(failure).encode()
                writer.write(head_of(400, {"Connection": "close"}, len(text)) + text)
                await writer.drain()
                return
            if request is None:
                return
            await self._hearing.wait()
            answer = await self._answer(request)
            going_on = await _deliver(answer, request, reader, writer)
            if not going_on or request.headers.get("connection", "").lower() == "close":
                return

    async def _answer(self, request: RecordedRequest) -> Answer:
        route, request = self._find(request)
        self.requests.append(request)
        try:
            return await self._decide(route, request)
        finally:
            self._changed.set()

    async def _decide(self, route: _Route | None, request: RecordedRequest) -> Answer:
        if route is None or not (route.queued or route.has_lasting):
            self.unexpected.append(request)
            return Answer.failing(404, f"Nothing answers {request.method} {request.target} here.")
        key = None if self._header is None else request.headers.get(self._header)
        if key is not None and (known := self._remembered.get((route.name, key))) is not None:
            self.folded.append(request)
            return known
        answer = await self._scripted(route, request)
        if answer.accepted:
            self.accepted.append(request)
            if key is not None:
                self._remembered[route.name, key] = replace(answer, arrival="whole", delay_seconds=0.0, drip_bytes=None)
        return answer

    async def _scripted(self, route: _Route, request: RecordedRequest) -> Answer:
        chosen = route.queued.popleft() if route.queued else route.lasting
        if not callable(chosen):
            return as_answer(chosen)
        try:
            found = chosen(request)
            return as_answer(await found if inspect.isawaitable(found) else found)
        except Exception as failure:  # noqa: BLE001 - raised when the double is left
            failure.add_note(f"This happened in the function that answers {route.name}.")
            self._listener.failures.append(failure)
            return Answer.failing(500)

    def _find(self, request: RecordedRequest) -> tuple[_Route | None, RecordedRequest]:
        for route in self._routes.values():
            values = route.match(request)
            if values is not None:
                return route, replace(request, values=values)
        return None, request

    def _route(self, text: str) -> _Route:
        if text not in self._routes:
            self._routes[text] = _parse_route(text)
        return self._routes[text]


async def _deliver(
    answer: Answer, request: RecordedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Send what arrives of `answer`; whether the connection goes on."""
    if answer.delay_seconds:
        await asyncio.sleep(answer.delay_seconds)
    if answer.arrival == "withheld":
        while await reader.read(65_536):
            pass
        return False
    if answer.arrival == "lost":
        abort(writer)
        return False
    body = b"" if request.method == "HEAD" or answer.status in (204, 304) else answer.body
    writer.write(head_of(answer.status, answer.headers, len(answer.body)))
    if answer.arrival == "half":
        writer.write(body[: len(body) // 2])
        await writer.drain()
        return False
    await _write_body(answer, body, writer)
    return True


async def _write_body(answer: Answer, body: bytes, writer: asyncio.StreamWriter) -> None:
    if answer.drip_bytes is None:
        writer.write(body)
        await writer.drain()
        return
    for start in range(0, len(body), answer.drip_bytes):
        writer.write(body[start : start + answer.drip_bytes])
        await writer.drain()
        await asyncio.sleep(answer.drip_seconds)


def _parse_route(text: str) -> _Route:
    method, separator, target = text.partition(" ")
    if not separator or not target.startswith("/") or (method != "*" and not method.isupper()):
        raise UsageError(
            f'The route {text!r} of an HttpDouble is not as expected: a method or *, a space, and a path, "POST /tasks".'
        )
    parts = urlsplit(target)
    return _Route(text, method, _segments(parts.path), dict(parse_qsl(parts.query, keep_blank_values=True)))


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.strip("/").split("/"))
