"""`python -m examples.uploads`: a picture is uploaded past the server, and the app hears of it once.

Runs on a bucket in memory; with `S3_ENDPOINT`, `S3_BUCKET`, `S3_ACCESS_KEY_ID` and `S3_SECRET_ACCESS_KEY` set, on a real
one, which the "client" then talks to over HTTP.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

import httpx2

from ensue import App, Context, Effect, Entity, Integration, Maybe, Property, side_effect
from ensue.integrations.object_storage import MemoryObjects, ObjectStorage, StoredObject, Upload

PICTURE = b"not much of a picture"


class User(Entity):
    name: Property[str]
    avatar: Maybe[StoredObject] = Maybe(default=None)


class Told(Integration):
    """Says what became of uploads."""

    @side_effect(StoredObject, on="update", of=[StoredObject.status])
    async def tell(self, effect: Effect[StoredObject]) -> None:
        print(f"{effect.record.filename} is {effect.record.status}")


app = App(
    user=User,
    integrations={"files": ObjectStorage(content_types=["image/*"]), "told": Told()},
    database="sqlite:///:memory:",
)


async def send(files: ObjectStorage, upload: Upload) -> None:
    """What a browser does with the answer of `create_upload`."""
    if isinstance(files.objects, MemoryObjects):
        return await files.objects.upload(upload.url, PICTURE, upload.headers)
    async with httpx2.AsyncClient() as client:
        answer = await client.request(upload.method, upload.url, content=PICTURE, headers=dict(upload.headers))
    answer.raise_for_status()
    return None


async def main(environ: Mapping[str, str] = os.environ) -> None:
    """Upload, confirm, download, delete."""
    settings = {"S3_ENDPOINT": "memory://", "S3_BUCKET": "pictures", **environ}
    async with app.run(env=settings) as run:
        files = run.integrations.members["files"]
        assert isinstance(files, ObjectStorage)
        ann = await run.controller.store.create(User(name="Ann"))
        ctx = Context(user=ann, controller=run.controller)
        upload = await files.create_upload(ctx, "image/png", len(PICTURE), "me.png")
        print(f"upload to {upload.url.partition('?')[0]}")
        await send(files, upload)
        print(await files.confirm_upload(ctx, upload.object_id))
        await run.controller.store.update(User, ann.id, avatar=StoredObject.ref(upload.object_id))
        download = await files.download_url(ctx, upload.object_id)
        print(f"download from {download.url.partition('?')[0]}")
        await files.delete_object(ctx, upload.object_id)
        await run.delivery.drain()


if __name__ == "__main__":
    asyncio.run(main())
