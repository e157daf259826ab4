"""Where objects are kept: what an integration needs of it, and a double in memory.

Decides the few operations on objects and what an address for a client says. Invariants: deleting what is not there
succeeds, so it can be repeated; an address binds the content type and the exact size of what is uploaded, and never
replaces what is there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import md5
from typing import Protocol
from urllib.parse import parse_qs, quote, urlsplit

from ensue.clock import Clock
from ensue.errors import Unavailable
from ensue.integrations.contract import Health
from ensue.integrations.storage.presign import Request

LISTED_AT_ONCE = 500


class StorageUnavailable(Unavailable):
    """The object storage did not do what it was asked; it may later."""

    code = "E0440"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known of a stored object. `size` in bytes; `content_type` is not known of those in a listing."""

    key: str
    size: int
    etag: str
    modified_at: datetime
    content_type: str = ""


class Objects(Protocol):
    """One bucket. Every call raises `StorageUnavailable` if it can't be done now, within a bound."""

    async def put(self, key: str, data: bytes, content_type: str) -> None:
        """Store `data`, replacing what is there."""
        ...

    async def get(self, key: str) -> tuple[bytes, ObjectInfo] | None:
        """The object, or None."""
        ...

    async def head(self, key: str) -> ObjectInfo | None:
        """What is known of the object, or None."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there are no failure."""
        ...

    def list(self, prefix: str) -> AsyncGenerator[Sequence[ObjectInfo]]:
        """All objects whose key starts with `prefix`, some at a time, in order of their keys."""
        ...

    def address(self, request: Request, expires: timedelta) -> str:
        """An address that may be used without keys, for that long."""
        ...

    def url(self, key: str) -> str:
        """Where the object is, unsigned: to be read by anybody if the bucket is public."""
        ...

    async def check(self) -> None:
        """Whether the bucket can be used. Raises `UsageError` if it refuses us; what is merely down shows in `health`."""
        ...

    def health(self) -> Health:
        """How the last call went."""
        ...


@dataclass(slots=True)
class MemoryObjects:
    """A bucket in memory, for tests: `upload` and `download` are what a client does with an address.

    Set `down` to have every call fail as if nobody answered.
    """

    clock: Clock
    down: bool = False
    objects: dict[str, tuple[bytes, ObjectInfo]] = field(default_factory=dict[str, "tuple[bytes, ObjectInfo]"])
    _requests: dict[str, tuple[Request, datetime]] = field(default_factory=dict[str, "tuple[Request, datetime]"])

    async def put(self, key: str, data: bytes, content_type: str) -> None:
        self._require_up()
        etag = f'"{md5(data, usedforsecurity=False).hexdigest()}"'
        self.objects[key] = data, ObjectInfo(key, len(data), etag, self.clock.now(), content_type)

    async def get(self, key: str) -> tuple[bytes, ObjectInfo] | None:
        self._require_up()
        return self.objects.get(key)

    async def head(self, key: str) -> ObjectInfo | None:
        found = await self.get(key)
        return None if found is None else found[1]

    async def delete(self, keys: Sequence[str]) -> None:
        self._require_up()
        for key in keys:
            self.objects.pop(key, None)

    async def list(self, prefix: str) -> AsyncGenerator[Sequence[ObjectInfo]]:
        self._require_up()
        found = [self.objects[key][1] for key in sorted(self.objects) if key.startswith(prefix)]
        for start in range(0, len(found), LISTED_AT_ONCE):
            yield found[start : start + LISTED_AT_ONCE]

    def address(self, request: Request, expires: timedelta) -> str:
        number = len(self._requests) + 1
        url = f"{self.url(request.key)}?{request.method}={number}"
        self._requests[url] = request, self.clock.now() + expires
        return url

    def url(self, key: str) -> str:
        return f"memory://bucket/{quote(key)}"

    async def check(self) -> None:
        """There is always room."""

    def health(self) -> Health:
        return Health(up=not self.down, detail="is down, as the test wants it" if self.down else "")

    async def upload(self, url: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """What a client does with an upload's address. Raises `PermissionError` for what S3 would refuse."""
        request = self._request("PUT", url)
        # Whatever a client claims: no server takes more or fewer bytes than the length that came with them.
        sent = {name.lower(): value for name, value in (headers or {}).items()} | {"content-length": str(len(data))}
        wrong = [name for name, value in request.headers.items() if sent.get(name.lower()) != value]
        if wrong:
            raise PermissionError(f"the upload differs from what was signed, in {', '.join(wrong)}")
        if request.key in self.objects:
            raise PermissionError("there is an object already, and an upload never replaces one")
        await self.put(request.key, data, sent.get("content-type", "application/octet-stream"))

    async def download(self, url: str) -> bytes:
        """What a client gets from a download's address. Raises `PermissionError` or `FileNotFoundError`."""
        request = self._request("GET", url)
        found = await self.get(request.key)
        if found is None:
            raise FileNotFoundError(request.key)
        return found[0]

    def _request(self, method: str, url: str) -> Request:
        query = parse_qs(urlsplit(url).query)
        request, expires_at = self._requests.get(url, (None, self.clock.now()))
        if request is None or method not in query or expires_at <= self.clock.now():
            raise PermissionError(f"this address is not, or no longer, good for {method}")
        return request

    def _require_up(self) -> None:
        if self.down:
            raise StorageUnavailable("The object storage does not answer: it is down, as the test wants it.")
