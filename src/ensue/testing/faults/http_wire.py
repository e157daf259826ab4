"""HTTP/1.1 as a test's service needs it: reading requests as they came, writing answers byte by byte.

Decides what of the protocol is understood: bodies of a given length or in chunks, connections that are kept, `Expect`.
Leaves what is answered to the double. Invariant: the body of a recorded request is the bytes that were sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from ensue.errors import UsageError

BODY_BYTES_MAX = 256 * 1024 * 1024


class BadRequest(Exception):
    """What was sent is not HTTP as it is understood here."""


class RequestHeaders(Mapping[str, str]):
    """Headers by name in any case; of a repeated one the values joined by a comma. `pairs` holds them as they came."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.pairs = tuple(pairs)
        self._joined: dict[str, str] = {}
        for name, value in self.pairs:
            key = name.lower()
            self._joined[key] = f"{self._joined[key]}, {value}" if key in self._joined else value

    def __getitem__(self, name: str) -> str:
        return self._joined[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._joined

    def __iter__(self) -> Iterator[str]:
        return iter(self._joined)

    def __len__(self) -> int:
        return len(self._joined)

    def __repr__(self) -> str:
        return f"RequestHeaders({self._joined!r})"


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request as it arrived: `target` is the raw path with its query, `path` the decoded path, `body` the raw bytes.

    `values` are what the `{name}` segments of the route's path stood for.
    """

    method: str
    target: str
    headers: RequestHeaders
    body: bytes
    values: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def path(self) -> str:
        """The path, decoded, without the query."""
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters, decoded; of a repeated one the last."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    def json(self) -> Any:
        """The body decoded from JSON. Raises `UsageError` with the body's beginning if it is none."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as failure:
            raise UsageError(
                f"The body of {self.method} {self.target} is no JSON ({failure}); it begins {self.body[:80]!r}."
            ) from None

    def form(self) -> dict[str, str]:
        """The body decoded as an HTML form's."""
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> RecordedRequest | None:
    """The next request, or None at the end of the connection. Raises `BadRequest`."""
    line = await reader.readline()
    while line == b"\r\n":
        line = await reader.readline()
    if not line:
        return None
    parts = line.decode("latin-1").split()
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequest(f"{line[:80]!r} is no request line")
    headers = RequestHeaders(await _read_headers(reader))
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return RecordedRequest(parts[0], parts[1], headers, await _read_body(reader, headers))


async def _read_headers(reader: asyncio.StreamReader) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    while (line := await reader.readline()) not in (b"\r\n", b"\n", b""):
        name, separator, value = line.decode("latin-1").partition(":")
        if not separator:
            raise BadRequest(f"{line[:80]!r} is no header")
        pairs.append((name, value.strip()))
    return pairs


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return await _read_chunks(reader)
    text = headers.get("content-length", "0")
    if not text.isdigit() or int(text) > BODY_BYTES_MAX:
        raise BadRequest(f"Content-Length: {text[:40]}, expected a number up to {BODY_BYTES_MAX}")
    return await reader.readexactly(int(text))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        size = int((await reader.readline()).split(b";")[0], 16)
        if size == 0:
            while await reader.readline() not in (b"\r\n", b""):
                pass
            return bytes(body)
        if len(body) + size > BODY_BYTES_MAX:
            raise BadRequest(f"a body of more than {BODY_BYTES_MAX} bytes")
        body += await reader.readexactly(size)
        await reader.readline()


def head_of(status: int, headers: Mapping[str, str], length: int) -> bytes:
    """The answer's status line and headers, for a body of `length` bytes."""
    known = {item.value: item.phrase for item in HTTPStatus}
    lines = [f"HTTP/1.1 {status} {known.get(status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if "content-length" not in {name.lower() for name in headers}:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
