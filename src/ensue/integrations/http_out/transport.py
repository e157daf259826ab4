"""Connections to checked addresses: a name is resolved once, every address of it is checked, and one of these is called.

Decides when a connection may be made. Leaves which addresses may be called to `addresses`, finding them to `resolving`,
and HTTP and TLS to httpcore2: the certificate is checked against the name, and SNI and Host are the name's, although the
connection is made to an address. Invariants: between the check of an address and the connection to it, no name is
resolved; what is raised does not tell a name that has no address from one whose address may not be called.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, TypeAlias

import httpcore2
import httpx2

from ensue.integrations.http_out.addresses import AddressPolicy
from ensue.integrations.http_out.resolving import SystemResolver

logger = logging.getLogger("ensue.integrations.http_out")

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a host, as text."""

CONNECTIONS_MAX = 200
KEEPALIVE_SECONDS = 20.0
CONNECT_SECONDS_MAX = 3.0
"""How long one of several addresses may take to connect."""


class AddressRefused(Exception):
    """The host has no address that may be called.

    Whether it has another is not told: whoever names hosts could find out which there are in somebody's inner network.
    """

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} has no address, or one that may not be called.")


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that `policy` allows, and to nothing else."""

    def __init__(self, policy: AddressPolicy, *, resolve: Resolve) -> None:
        self._policy = policy
        self._resolve = resolve
        # Without anyio, which Starlette brings, httpcore2 has another class of this name.
        backend: Any = httpcore2.AnyIOBackend
        self._inner: httpcore2.AsyncNetworkBackend = backend()

    async def connect_tcp(self, host: str, port: int, *more: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        """Resolve, check all, connect to the first that answers. Raises `AddressRefused`, or `httpcore2.ConnectError`."""
        addresses = await self._checked(host, port)
        failure: Exception = AddressRefused(host)
        if len(addresses) > 1:
            # Or one that takes no connection would use up the time of the others.
            options["timeout"] = min(options.get("timeout") or CONNECT_SECONDS_MAX, CONNECT_SECONDS_MAX)
        for text in addresses:
            try:
                return await self._inner.connect_tcp(text, port, *more, **options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _checked(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = await self._resolve(host, port)
        except OSError as error:
            logger.info("%s is not called: the name can't be resolved (%s)", host, error.strerror or error)
            raise AddressRefused(host) from error
        for text in addresses:
            if (why := self._policy.refusal(ipaddress.ip_address(text))) is not None:
                logger.info("%s is not called: an address of it is %s", host, why)
                raise AddressRefused(host)
        return addresses

    async def connect_unix_socket(self, path: str, *more: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        """Refuse: nobody outside is reached by a file."""
        raise AddressRefused(path)

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts to connect."""
        await asyncio.sleep(seconds)


class CheckedTransport(httpx2.AsyncBaseTransport):
    """Requests over a `CheckedBackend`: no proxies, no redirects, no retries, no files."""

    def __init__(self, backend: CheckedBackend, *, ssl_context: ssl.SSLContext) -> None:
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=CONNECTIONS_MAX,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=backend,
        )

    async def __aenter__(self) -> CheckedTransport:
        await self._pool.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._pool.__aexit__(exc_type, exc_value, traceback)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request; raises what httpcore2 raises, and `AddressRefused`."""
        url = httpcore2.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        answer = await self._pool.handle_async_request(
            httpcore2.Request(
                method=request.method,
                url=url,
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx2.Response(status_code=answer.status, headers=answer.headers, stream=_Body(answer))


class _Body(httpx2.AsyncByteStream):
    """The body of an answer, as httpx2 reads it."""

    def __init__(self, answer: httpcore2.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._answer.aiter_stream():
            yield part

    async def aclose(self) -> None:
        await self._answer.aclose()


def checked_transport(policy: AddressPolicy, *, resolve: Resolve | None = None, ca_file: str = "") -> CheckedTransport:
    """A transport that calls only what `policy` allows.

    `ca_file` holds certificates of authorities to trust besides the system's.
    """
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    return CheckedTransport(CheckedBackend(policy, resolve=resolve or SystemResolver()), ssl_context=context)
