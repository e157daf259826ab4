"""Object storage as any integration: its life, outages, repeats and secrets, on a real S3 server behind a proxy."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from ensue import App, Controller, Entity, Property
from ensue.integrations.object_storage import ObjectStorage, StoredObject
from ensue.integrations.storage.presign import Bucket, Credentials, Request, presign
from ensue.testing import FaultProxy, IntegrationConformance

# All in one process: its server takes seconds to start.
pytestmark = pytest.mark.xdist_group("s3")


class User(Entity):
    name: Property[str]


class TestObjectStorage(IntegrationConformance[FaultProxy]):
    """What is caused is the deletion of an object; the work is what is gone."""

    @pytest.fixture(autouse=True)
    def server(self, s3_url: str) -> None:
        parts = urlsplit(s3_url)
        self.endpoint = f"{parts.scheme}://{parts.hostname}:{parts.port}"
        self.credentials = Credentials(parts.username or "", parts.password or "")
        self.buckets: dict[FaultProxy, str] = {}
        self.stored: dict[str, list[str]] = {}

    @asynccontextmanager
    async def _peer(self) -> AsyncIterator[FaultProxy]:
        bucket = f"test-{uuid.uuid4().hex[:12]}"
        async with FaultProxy(self.endpoint) as proxy:
            self.buckets[proxy] = bucket
            self.stored[bucket] = []
            await self._ask("PUT", bucket, "")
            yield proxy

    async def _ask(self, method: str, bucket: str, key: str) -> int:
        """The status of a request past the proxy."""
        place = Bucket(self.endpoint, bucket)
        url = presign(place, self.credentials, Request(method, key), at=datetime.now(UTC), expires=timedelta(minutes=1))
        async with httpx2.AsyncClient() as client:
            return int(
                (await client.request(method, url, content=b"x" if key and method == "PUT" else b"")).status_code
            )

    def peer(self) -> AbstractAsyncContextManager[FaultProxy]:
        return self._peer()

    def integration(self, peer: FaultProxy) -> ObjectStorage:
        return ObjectStorage()

    def app(self, integration: ObjectStorage) -> App:
        return App(user=User, integrations={"files": integration})

    def environment(self, peer: FaultProxy) -> Mapping[str, str]:
        return {
            "S3_ENDPOINT": peer.url,
            "S3_BUCKET": self.buckets[peer],
            "S3_ACCESS_KEY_ID": self.credentials.access_key_id,
            "S3_SECRET_ACCESS_KEY": self.credentials.secret_access_key,
        }

    async def cause(self, controller: Controller) -> None:
        # Whose app this is: the integration is what its effects belong to.
        content: Any = controller.model.effects["files.remove"].content
        bucket, key = content.__self__.bucket, f"uploads/{uuid.uuid4().hex}"
        assert await self._ask("PUT", bucket, key) == 200
        self.stored[bucket].append(key)
        expires_at = datetime.now(UTC)
        # Not promised here, so that nothing waits for the end of its time.
        item = await controller.store.create(
            StoredObject(storage="elsewhere", key=key, content_type="text/plain", size=1, expires_at=expires_at)
        )
        await controller.store.update(StoredObject, item.id, storage="files")
        await controller.store.delete(StoredObject, item.id)

    async def work(self, peer: FaultProxy) -> object:
        bucket = self.buckets[peer]
        return sorted([key for key in self.stored[bucket] if await self._ask("HEAD", bucket, key) == 404])
