"""A bucket on an S3 server, through obstore.

Decides how long a call may take and what its failures mean. Leaves HTTP, signing of its own requests and multipart
uploads to obstore. Invariants: no call outlives its bound, however dead the server; no message holds a key or a
signature; the event loop never waits, as calls run in threads of this bucket's own. (obstore's own coroutines may abort
the process when it ends: a result that arrives while Python is being torn down.)
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from ensue.clock import Clock
from ensue.errors import UsageError
from ensue.integrations.contract import Health
from ensue.integrations.storage.objects import LISTED_AT_ONCE, ObjectInfo, StorageUnavailable
from ensue.integrations.storage.presign import Bucket, Credentials, Request, presign

T = TypeVar("T")

CONNECT_SECONDS_MAX = 3
CHECK_SECONDS_MAX = 5
ANSWER_SECONDS_MAX = 20
THREADS = 8
_STATUS = re.compile(r"status code: (\d{3})")
_REFUSED = range(400, 405)


class S3Objects:
    """An async context manager. `bucket` is where we reach it, `client_bucket` where clients do, in addresses."""

    def __init__(self, bucket: Bucket, credentials: Credentials, *, client_bucket: Bucket, clock: Clock) -> None:
        self._bucket = bucket
        self._credentials = credentials
        self._client_bucket = client_bucket
        self._clock = clock
        self._health = Health(up=True)
        self._threads: ThreadPoolExecutor | None = None
        self._opened: S3Store | None = None

    async def __aenter__(self) -> Self:
        self._opened = _store(self._bucket, self._credentials)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ensue-s3")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._threads is not None:
            # Not waited for: what still runs ends within its own bound.
            self._threads.shutdown(wait=False, cancel_futures=True)
            # Its connections go with it.
            self._threads = self._opened = None

    @property
    def _store(self) -> S3Store:
        if self._opened is None:
            raise UsageError("This bucket is not open; it is from setup() to cleanup().")
        return self._opened

    async def put(self, key: str, data: bytes, content_type: str) -> None:
        store = self._store
        await self._call(lambda: obstore.put(store, key, data, attributes={"Content-Type": content_type}))

    async def get(self, key: str) -> tuple[bytes, ObjectInfo] | None:
        store = self._store

        def get() -> tuple[bytes, ObjectInfo]:
            found = obstore.get(store, key)
            return bytes(found.bytes()), _info(found.meta, found.attributes)

        return await self._found(get)

    async def head(self, key: str) -> ObjectInfo | None:
        store = self._store

        def head() -> ObjectInfo:
            # Not obstore.head, which leaves the content type out.
            found = obstore.get(store, key, options={"head": True})
            return _info(found.meta, found.attributes)

        return await self._found(head)

    async def delete(self, keys: Sequence[str]) -> None:
        store = self._store

        def delete() -> None:
            # One by one: a request for many is answered with success though some of them failed.
            for key in keys:
                with suppress(FileNotFoundError):
                    obstore.delete(store, key)

        await self._call(delete)

    async def list(self, prefix: str) -> AsyncGenerator[Sequence[ObjectInfo]]:
        pages = self._pages(prefix, LISTED_AT_ONCE)
        while page := await self._call(lambda: next(pages, None)):
            yield [_info(item, {}) for item in page]

    def address(self, request: Request, expires: timedelta) -> str:
        return presign(self._client_bucket, self._credentials, request, at=self._clock.now(), expires=expires)

    def url(self, key: str) -> str:
        return self._client_bucket.url(key)

    async def check(self) -> None:
        """Ask for the first object of the bucket."""
        pages = self._pages(None, 1)
        try:
            async with asyncio.timeout(CHECK_SECONDS_MAX):
                await self._call(lambda: next(pages, None))
        except TimeoutError:
            self._down(f"did not answer within {CHECK_SECONDS_MAX} s")
        except StorageUnavailable as failure:
            if _status(failure) in _REFUSED:
                raise UsageError(
                    f"The bucket {self._bucket.name!r} can't be used. {failure}. Check its name, the region and the keys."
                ) from failure

    def health(self) -> Health:
        return self._health

    def _pages(self, prefix: str | None, size: int) -> Iterator[Sequence[Any]]:
        # obstore types another form of its listing by a package that is not installed.
        listing: Any = cast("Any", obstore).list
        return iter(listing(self._store, prefix, chunk_size=size))

    async def _found(self, work: Callable[[], T]) -> T | None:
        def find() -> T | None:
            try:
                return work()
            except FileNotFoundError:
                return None

        return await self._call(find)

    async def _call(self, work: Callable[[], T]) -> T:
        if self._threads is None:
            raise UsageError("This bucket is not open; it is from setup() to cleanup().")
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (BaseError, OSError) as error:
            raise self._down(f"failed: {type(error).__name__}: {_short(error)}") from error
        self._health = Health(up=True)
        return found

    def _down(self, text: str) -> StorageUnavailable:
        told = f"The object storage at {self._bucket.endpoint} {text}"
        # The first failure of several keeps its instant.
        if self._health.up:
            self._health = Health(up=False, detail=told, since=self._clock.now())
        return StorageUnavailable(told)


def _store(bucket: Bucket, credentials: Credentials) -> S3Store:
    endpoint = bucket.endpoint if bucket.path_style else bucket.url("").rstrip("/")
    token = {"session_token": credentials.session_token} if credentials.session_token else {}
    return S3Store(
        bucket.name,
        endpoint=endpoint,
        region=bucket.region,
        access_key_id=credentials.access_key_id,
        secret_access_key=credentials.secret_access_key,
        virtual_hosted_style_request=not bucket.path_style,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS_MAX),
            "timeout": timedelta(seconds=ANSWER_SECONDS_MAX),
        },
        # Delivery tries again, with its own pauses; once at once is for a connection that had been closed meanwhile.
        retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=CONNECT_SECONDS_MAX)},
        **cast("Any", token),
    )


def _info(meta: Any, attributes: Any) -> ObjectInfo:
    return ObjectInfo(
        meta["path"], meta["size"], meta["e_tag"] or "", meta["last_modified"], attributes.get("Content-Type", "")
    )


def _short(error: BaseException) -> str:
    """The beginning: what follows in obstore's messages is the answer's body, and then for those who debug it."""
    return str(error).strip().partition("\n")[0].partition(": <")[0][:300]


def _status(error: BaseException) -> int | None:
    """The HTTP status that a failure is about; obstore has a class for some of them, of some requests."""
    found = _STATUS.search(str(error))
    return None if found is None else int(found.group(1))
