"""Connections to checked addresses: a name is resolved once, every address of it is checked, and one of these is called.

Decides when a connection may be made. Leaves which addresses may be called to `addresses`, and HTTP and TLS to httpcore2:
the certificate is checked against the name, and SNI and Host are the name's, although the connection is made to an
address. Invariant: between the check of an address and the connection to it, no name is resolved.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, TypeAlias

import httpcore2
import httpx2

from ensue.integrations.http_out.addresses import AddressPolicy

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a host, as text."""

CONNECTIONS_MAX = 200
KEEPALIVE_SECONDS = 20.0


class AddressRefused(Exception):
    """The host has an address that may not be called. The address is not told: it is of somebody's inner network."""


async def resolve_by_system(host: str, port: int) -> list[str]:
    """The addresses of `host`, by the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that `policy` allows, and to nothing else."""

    def __init__(self, policy: AddressPolicy, *, resolve: Resolve = resolve_by_system) -> None:
        self._policy = policy
        self._resolve = resolve
        # Without anyio, which Starlette brings, httpcore2 has another class of this name.
        backend: Any = httpcore2.AnyIOBackend
        self._inner: httpcore2.AsyncNetworkBackend = backend()

    async def connect_tcp(self, host: str, port: int, *more: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        """Resolve, check all, connect to the first that answers. Raises `AddressRefused`, or `httpcore2.ConnectError`."""
        try:
            addresses = await self._resolve(host, port)
        except OSError as error:
            raise httpcore2.ConnectError(f"The name can't be resolved: {error.strerror or error}") from error
        for text in addresses:
            if (why := self._policy.refusal(ipaddress.ip_address(text))) is not None:
                raise AddressRefused(f"{host} has an address that may not be called: it is {why}.")
        failure: Exception = httpcore2.ConnectError(f"{host} has no address.")
        for text in addresses:
            try:
                return await self._inner.connect_tcp(text, port, *more, **options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(self, path: str, *more: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        """Refuse: nobody outside is reached by a file."""
        raise AddressRefused(f"{path} is a file of this machine.")

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
    return CheckedTransport(CheckedBackend(policy, resolve=resolve or resolve_by_system), ssl_context=context)
