"""An app as an ASGI application, which serves by itself or mounted in another one.

Decides routes, the life of what serves, and how every failure is answered. Leaves what is behind a route to `calls`,
`websocket`, `openapi` and `health`. Invariants: every answer has a request id, every error the same shape; an app
that is not running is answered for with 503 and what to do, never with a traceback.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Unpack

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from ensue.clock import SystemClock
from ensue.errors import Rejected, Unavailable
from ensue.integrations.api import ANSWER_HEADERS
from ensue.observation.scrape import may_read
from ensue.server.answers import ErrorAnswer, Refusal, answer_to, encode, log_failure
from ensue.server.body import read_body
from ensue.server.docs.page import DOCS_PAGE, DOCS_POLICY
from ensue.server.logs import accepted_id, new_id, request_id
from ensue.server.options import AsgiOptions, ServerOptions
from ensue.server.serving import Serving
from ensue.server.webhooks import WebhookRoute
from ensue.server.websocket import Client
from ensue.telemetry import NOTHING, Switchboard, Telemetry, Under

if TYPE_CHECKING:
    from ensue.app import App

logger = logging.getLogger("ensue.server")

NOT_RUNNING: Final = ErrorAnswer(
    503,
    "not_running",
    "The app was not started. A mounted application's lifespan is not run by its host: "
    "write `async with app:` around the `yield` of the host's lifespan, where `app` is the ensue App.",
)
_TOLD: Final = {
    "/api/interactions/": "{name}",
    "/api/integrations/": "{namespace}/{name}",
    "/api/webhooks/": "{namespace}/{path}",
}
_HTTP_ERRORS: Final = {
    401: ("not_authenticated", ""),
    403: ("not_allowed", ""),
    404: ("unknown_route", "There is nothing at this path. /openapi.json lists the paths, if the app serves it."),
    405: ("method_not_allowed", "This path has no such method; the header Allow says which it has."),
}


def create_asgi(app: App, **options: Unpack[AsgiOptions]) -> Server:
    """`app` as an ASGI application; `options` are those of `ServerOptions`. Its lifespan runs the app unless it runs.

    >>> application = create_asgi(app, authenticate=user_of_token, cors_origins=["https://app.example"])
    """
    return Server(app, ServerOptions(**options))


class Server:
    """The ASGI application."""

    def __init__(self, app: App, options: ServerOptions) -> None:
        self.app = app
        self.options = options
        self._serving: Serving | None = None
        self._stopwatch = SystemClock()
        routes: list[BaseRoute] = [
            WebhookRoute(self._webhook),
            Route("/api/interactions/{name}", self._interaction, methods=["POST"]),
            Route("/api/integrations/{namespace}/{name}", self._api, methods=["POST"]),
            Route("/health", self._health, methods=["GET"]),
            WebSocketRoute("/ws", self._websocket),
            Route("/ws", self._no_websocket, methods=["GET"]),
        ]
        if options.metrics:
            routes.append(Route("/metrics", self._metrics, methods=["GET"]))
        if options.docs:
            routes += [
                Route("/openapi.json", self._openapi, methods=["GET"]),
                Route("/docs", self._docs, methods=["GET"]),
            ]
        router = Router(routes, redirect_slashes=False, lifespan=self._lifespan)
        self._inner: ASGIApp = _TellingErrors(router)
        if options.cors_origins:
            self._inner = CORSMiddleware(
                self._inner,
                allow_origins=tuple(options.cors_origins),
                allow_methods=("GET", "POST"),
                allow_headers=("Authorization", "Content-Type", "Idempotency-Key", "X-Request-Id"),
                expose_headers=("X-Request-Id", "Retry-After"),
                # With "*" a browser must not send cookies: else every site could act for the user.
                allow_credentials="*" not in options.cors_origins,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A host's handlers of exceptions would answer ours in its own shape.
        scope = {"app": self, **{key: value for key, value in scope.items() if key != "starlette.exception_handlers"}}
        if scope["type"] == "http":
            await self._logged(scope, receive, send)
        else:
            await self._inner(scope, receive, send)

    async def _logged(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give the request its id, and log how it was answered."""
        id_ = accepted_id(_header(scope, b"x-request-id"))
        token = request_id.set(id_)
        began = self._stopwatch.monotonic_seconds()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", id_.encode())]}
            await send(message)

        run = self.app.running
        telemetry: Telemetry = Switchboard() if run is None else run.telemetry
        try:
            with _told(telemetry, scope, id_) as activity:
                await self._inner(scope, receive, send_with_id)
                activity.note(status=status)
                activity.end_as("error" if status >= 500 else "ok")
        finally:
            milliseconds = round((self._stopwatch.monotonic_seconds() - began) * 1000, 2)
            more = {"method": scope["method"], "path": scope["path"], "status": status, "duration_ms": milliseconds}
            logger.info("%s %s %d", scope["method"], scope["path"], status, extra=more)
            request_id.reset(token)

    # --- Life ---------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            if self.app.running is None:
                await stack.enter_async_context(self.app)
            # At once, so that options that don't fit the app are an error at start.
            self._current()
            stack.push_async_callback(self._stop_serving)
            yield

    def _current(self) -> Serving:
        """What serves the run of the app. Raises `Refusal` if there is none."""
        run = self.app.running
        if run is None:
            self._serving = None
            raise NotRunning
        if self._serving is None or self._serving.run is not run:
            self._serving = Serving(run, self.options)
            if self.options.metrics:
                # At once, so that what happens before the first scrape is counted.
                _ = run.metrics
        return self._serving

    async def _stop_serving(self) -> None:
        serving, self._serving = self._serving, None
        if serving is not None:
            await serving.close()

    # --- Routes -------------------------------------------------------------------------------------------------------

    async def _interaction(self, request: Request) -> Response:
        serving = self._current()
        name = request.path_params["name"]
        serving.calls.payload(name)
        user = await serving.user_of(request)
        body = await read_body(request, bytes_max=self.options.body_limit_bytes)
        key = request.headers.get("idempotency-key")
        return _json(await serving.calls.interaction(name, body, user=user, idempotency_key=key, request=request))

    async def _api(self, request: Request) -> Response:
        serving = self._current()
        user = await serving.user_of(request)
        body = await read_body(request, bytes_max=self.options.body_limit_bytes)
        names = request.path_params
        answer = _json(await serving.calls.api(names["namespace"], names["name"], body, user=user, request=request))
        for name, value in request.scope.get(ANSWER_HEADERS, ()):
            answer.headers.append(name, value)
        return answer

    async def _webhook(self, namespace: str, path: str, request: Request, /) -> Response:
        answer = await self._current().webhooks.take(namespace, path, request)
        if isinstance(answer, ErrorAnswer):
            return error_response(answer, request_id.get())
        return _json(encode(answer))

    async def _openapi(self, request: Request) -> Response:
        servers = [{"url": request.scope.get("root_path", "") or "/"}]
        return _json(encode({**self._current().document, "servers": servers}))

    async def _docs(self, _: Request) -> Response:
        headers = {"content-security-policy": DOCS_POLICY, "x-content-type-options": "nosniff"}
        return HTMLResponse(DOCS_PAGE, headers=headers)

    async def _health(self, request: Request) -> Response:
        serving = self._current()
        report = await serving.health.report()
        strict = request.query_params.get("strict", "") not in ("", "0")
        fit = report.healthy if strict else report.usable
        try:
            known = await serving.user_of(request) is not None
        except (Rejected, Unavailable):
            known = False
        return _json(encode(report.body(details=known)), 200 if fit else 503)

    async def _metrics(self, request: Request) -> Response:
        if not may_read(self.options.metrics_token, request.headers.get("authorization")):
            raise Refusal(401, "not_authenticated", "Metrics are for those who have their token.")
        page, content_type = await self._current().run.metrics.page(request.headers.get("accept", ""))
        return Response(page, headers={"content-type": content_type, "cache-control": "no-store"})

    async def _no_websocket(self, _: Request) -> Response:
        text = "Here is a WebSocket; the request asks for none. A proxy in between has to pass on the header Upgrade."
        answer = ErrorAnswer(HTTPStatus.UPGRADE_REQUIRED, "websocket_only", text)
        return error_response(answer, request_id.get(), {"upgrade": "websocket", "connection": "upgrade"})

    async def _websocket(self, websocket: WebSocket) -> None:
        try:
            await Client(websocket, self._current()).run()
        except Refusal as refusal:
            if "websocket.http.response" in websocket.scope.get("extensions", {}):
                await websocket.send_denial_response(error_response(refusal.answer, new_id()))
            else:
                await websocket.close()


class NotRunning(Refusal):
    """The app is not running."""

    def __init__(self) -> None:
        Exception.__init__(self, NOT_RUNNING.message)
        self.answer = NOT_RUNNING


class _TellingErrors:
    """Answers every error of an HTTP request in the one shape; one after the answer began is left to the server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception as error:
            if started:
                raise
            answer = answer_of_http(error) if isinstance(error, HTTPException) else answer_to(error)
            log_failure(f"{scope['method']} {scope['path']}", error, answer)
            headers = error.headers if isinstance(error, HTTPException) else None
            await error_response(answer, request_id.get(), headers)(scope, receive, send)
        return None


def _told(telemetry: Telemetry, scope: Scope, id_: str) -> Under:
    """Tell of a request that may lead to something; what is only looked at by machines would drown it."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    prefix = next((prefix for prefix in _TOLD if path.startswith(prefix)), None)
    if prefix is None:
        return NOTHING
    route = f"{prefix}{_TOLD[prefix]}"
    carrier = Headers(scope=scope)
    name = f"{scope['method']} {route}"
    return telemetry.activity("request", name, carrier=carrier, method=scope["method"], route=route, request_id=id_)


def answer_of_http(error: HTTPException) -> ErrorAnswer:
    """What Starlette refuses, or an `authenticate` that speaks its language, in our words."""
    code, message = _HTTP_ERRORS.get(error.status_code, ("refused", ""))
    return ErrorAnswer(error.status_code, code, message or str(error.detail))


def error_response(answer: ErrorAnswer, id_: str, headers: Mapping[str, str] | None = None) -> Response:
    """`answer` as an HTTP response."""
    found = dict(headers or {})
    if answer.retry_after_seconds is not None:
        found["retry-after"] = str(answer.retry_after_seconds)
    if answer.status == HTTPStatus.UNAUTHORIZED:
        found["www-authenticate"] = "Bearer"
    if answer.status == HTTPStatus.REQUEST_TIMEOUT:
        # The rest of the request may come yet, for as long as the client likes.
        found["connection"] = "close"
    return _json(encode(answer.body(id_)), answer.status, found)


def _json(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    found = {"x-content-type-options": "nosniff", "cache-control": "no-store", **(headers or {})}
    return Response(body, status, found, media_type="application/json")


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None
