"""A bucket of each kind: in memory, and on a real S3 server."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from ensue.clock import SystemClock
from ensue.integrations.storage.objects import MemoryObjects, Objects
from ensue.integrations.storage.presign import Bucket, Credentials, Request, presign
from ensue.integrations.storage.s3 import S3Objects


@dataclass
class Place:
    """A bucket, and what a client does with its addresses; both raise `PermissionError` for what is refused."""

    objects: Objects
    environment: dict[str, str]

    async def upload(self, url: str, data: bytes, headers: Mapping[str, str]) -> None:
        if isinstance(self.objects, MemoryObjects):
            return await self.objects.upload(url, data, headers)
        async with httpx2.AsyncClient() as client:
            answer = await client.put(url, content=data, headers=dict(headers))
        _require_done(answer)
        return None

    async def download(self, url: str) -> bytes:
        if isinstance(self.objects, MemoryObjects):
            return await self.objects.download(url)
        async with httpx2.AsyncClient() as client:
            answer = await client.get(url)
        _require_done(answer)
        return bytes(answer.content)


def _require_done(answer: Any) -> None:
    if answer.status_code == 404:
        raise FileNotFoundError(answer.text)
    if answer.status_code != 200:
        raise PermissionError(f"{answer.status_code}: {answer.text}")


@dataclass(frozen=True)
class S3:
    """A bucket of this test's own on the S3 server."""

    endpoint: str
    bucket: str
    credentials: Credentials

    @property
    def environment(self) -> dict[str, str]:
        return {
            "S3_ENDPOINT": self.endpoint,
            "S3_BUCKET": self.bucket,
            "S3_ACCESS_KEY_ID": self.credentials.access_key_id,
            "S3_SECRET_ACCESS_KEY": self.credentials.secret_access_key,
        }


@pytest.fixture
def s3(s3_url: str) -> S3:
    parts = urlsplit(s3_url)
    made = S3(
        f"{parts.scheme}://{parts.hostname}:{parts.port}",
        f"test-{uuid.uuid4().hex[:12]}",
        Credentials(parts.username or "", parts.password or ""),
    )
    url = presign(
        Bucket(made.endpoint, made.bucket),
        made.credentials,
        Request("PUT", ""),
        at=datetime.now(UTC),
        expires=timedelta(minutes=1),
    )
    answer = httpx2.put(url)
    assert answer.status_code == 200, answer.text
    return made


@pytest.fixture(params=["memory", "s3"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """A bucket of each kind in turn."""
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "memory":
            yield Place(MemoryObjects(SystemClock()), {"S3_ENDPOINT": "memory://", "S3_BUCKET": "bucket"})
        else:
            s3: S3 = request.getfixturevalue("s3")
            bucket = Bucket(s3.endpoint, s3.bucket)
            objects = S3Objects(bucket, s3.credentials, client_bucket=bucket, clock=SystemClock())
            yield Place(await stack.enter_async_context(objects), s3.environment)
