"""Uploads from promise to end, told once whoever notices first; deletes that outlast a dead bucket; orphans."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from ensue import (
    App,
    DeclarationError,
    Effect,
    Entity,
    Integration,
    InvalidValue,
    Maybe,
    NotFound,
    Property,
    Rejected,
    UsageError,
    side_effect,
)
from ensue.clock import ManualClock
from ensue.integrations.inbound.message import Inbound
from ensue.integrations.object_storage import ObjectStorage, StorageEvent, StoredObject
from ensue.integrations.storage.notification import created_keys
from ensue.testing import AppHarness, RecordedDelivery
from tests.integrations.object_storage.conftest import Place

# All in one process: its server takes seconds to start.
pytestmark = pytest.mark.xdist_group("s3")

PNG = b"\x89PNG"


class User(Entity):
    name: Property[str]
    avatar: Maybe[StoredObject] = Maybe(default=None)


class Told(Integration):
    """What an app hears of uploads."""

    async def setup(self, controller: object) -> None:
        self.heard: list[tuple[str, str]] = []

    @side_effect(StoredObject, on="update", of=[StoredObject.status])
    async def moved(self, effect: Effect[StoredObject]) -> None:
        self.heard.append((effect.record.key, effect.record.status))

    @side_effect(StorageEvent, on="create")
    async def event(self, effect: Effect[StorageEvent]) -> None:
        self.heard.append(("event", effect.record.what))


def app(**settings: Any) -> App:
    return App(user=User, integrations={"files": ObjectStorage(**settings), "told": Told()})


@asynccontextmanager
async def running(
    environment: dict[str, str] | None = None, *, database: str = "sqlite:///:memory:", **settings: Any
) -> AsyncIterator[tuple[AppHarness, Any, User]]:
    """The app with somebody in it; on a bucket in memory, unless the environment says which."""
    chosen = environment or {"S3_ENDPOINT": "memory://", "S3_BUCKET": "bucket"}
    # A real server looks at the time in a signature.
    clock = ManualClock(datetime.now(UTC))
    async with AppHarness(app(**settings), env=chosen, clock=clock, database=database) as harness:
        yield harness, harness.integration("files"), await harness.store.create(User(name="Ann"))


async def promised(harness: AppHarness, user: User, data: bytes = PNG, **payload: Any) -> Any:
    given = {"content_type": "image/png", "size": len(data), "filename": "me.png", **payload}
    return await harness.call("files", "create_upload", user=user, **given)


async def test_from_the_promise_to_the_end_on_every_place(place: Place) -> None:
    async with running(place.environment) as (harness, files, ann):
        client = Place(files.objects, {})
        upload = await promised(harness, ann)
        confirm = {"user": ann, "object_id": upload.object_id}
        assert await harness.call("files", "confirm_upload", **confirm) == "pending"
        await client.upload(upload.url, PNG, upload.headers)
        assert await harness.call("files", "confirm_upload", **confirm) == "uploaded"
        assert await harness.call("files", "confirm_upload", **confirm) == "uploaded"
        await harness.drain()
        item = await harness.store.get(StoredObject, upload.object_id)
        told = harness.integration("told").heard
        assert sorted(told) == sorted([("event", "uploaded"), (item.key, "uploaded")])

        download = await harness.call("files", "download_url", **confirm)
        assert await client.download(download.url) == PNG

        await harness.store.update(User, ann.id, avatar=item)
        await harness.call("files", "delete_object", **confirm)
        await harness.drain()
        assert await files.objects.head(item.key) is None
        assert (await harness.store.get(StoredObject, item.id)).status == "deleted"
        with pytest.raises(Rejected, match="deleted"):
            await harness.call("files", "download_url", **confirm)


async def test_other_integrations_put_and_get(place: Place) -> None:
    async with running(place.environment) as (_, files, _):
        url = await files.put("pictures/1.png", PNG, "image/png")
        assert await files.put("pictures/1.png", PNG, "image/png") == url
        assert url.endswith("/pictures/1.png")
        assert await files.get("pictures/1.png") == PNG
        assert await Place(files.objects, {}).download(files.link("pictures/1.png")) == PNG
        with pytest.raises(NotFound):
            await files.get("pictures/2.png")
        with pytest.raises(UsageError, match="uploads/"):
            await files.put("uploads/x", PNG, "image/png")


async def test_a_public_address_is_the_one_that_was_set() -> None:
    async with running(public_url="https://cdn.example.com/") as (_, files, _):
        assert await files.put("a.png", PNG, "image/png") == "https://cdn.example.com/a.png"


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"content_type": "text/html"}, "content_type"),
        ({"content_type": "image/png\r\nx-amz-acl: public-read"}, "content_type"),
        ({"content_type": "image"}, "content_type"),
        ({"size": 0}, "size"),
        ({"size": 1001}, "size"),
        ({"filename": "x" * 256}, "filename"),
        ({"filename": "a\r\nb"}, "filename"),
    ],
)
async def test_what_may_not_be_uploaded_is_refused(payload: dict[str, Any], field: str) -> None:
    async with running(content_types=["image/*"], size_max=1000) as (harness, _, ann):
        with pytest.raises(InvalidValue) as refused:
            await promised(harness, ann, **payload)
        assert list(refused.value.fields) == [field]
        assert await harness.store.count(StoredObject) == 0


async def test_a_key_has_nothing_of_the_client_in_it() -> None:
    async with running() as (harness, _, ann):
        upload = await promised(harness, ann, filename="../../etc/passwd?x.SVG")
        item = await harness.store.get(StoredObject, upload.object_id)
        assert item.key.startswith("uploads/")
        assert item.key.endswith(".svg")
        assert "passwd" not in item.key + upload.url
        assert item.filename == "../../etc/passwd?x.SVG"


async def test_an_object_is_its_owners() -> None:
    async with running() as (harness, files, ann):
        bob = await harness.store.create(User(name="Bob"))
        upload = await promised(harness, ann)
        await files.objects.upload(upload.url, PNG, upload.headers)
        for name in ("confirm_upload", "download_url", "delete_object"):
            with pytest.raises(NotFound):
                await harness.call("files", name, user=bob, object_id=upload.object_id)
            with pytest.raises(Rejected):
                await harness.call("files", name, user=None, object_id=upload.object_id)


async def test_a_client_that_forgets_to_confirm_is_noticed_and_one_that_never_came_expires() -> None:
    async with running() as (harness, files, ann):
        forgot, never = await promised(harness, ann), await promised(harness, ann)
        await files.objects.upload(forgot.url, PNG, forgot.headers)
        await harness.drain()
        assert harness.integration("told").heard == []
        harness.clock.advance(seconds=26 * 60)
        await harness.drain()
        status = {item.id: item.status for item in await harness.store.find(StoredObject)}
        assert status == {forgot.object_id: "uploaded", never.object_id: "expired"}
        with pytest.raises(PermissionError):
            await files.objects.upload(never.url, PNG, never.headers)


async def test_a_deleted_upload_that_came_after_all_goes_when_its_time_is_over() -> None:
    async with running() as (harness, files, ann):
        upload = await promised(harness, ann)
        await harness.call("files", "delete_object", user=ann, object_id=upload.object_id)
        await harness.drain()
        await files.objects.upload(upload.url, PNG, upload.headers)
        assert len(files.objects.objects) == 1
        harness.clock.advance(seconds=26 * 60)
        await harness.drain()
        assert files.objects.objects == {}


async def test_what_differs_from_the_announcement_is_refused_and_deleted() -> None:
    async with running() as (harness, files, ann):
        upload = await promised(harness, ann)
        item = await harness.store.get(StoredObject, upload.object_id)
        # As on a server that doesn't look at signed headers.
        await files.objects.put(item.key, PNG * 2, "image/png")
        assert await harness.call("files", "confirm_upload", user=ann, object_id=item.id) == "refused"
        await harness.drain()
        assert files.objects.objects == {}


async def test_deletes_wait_for_a_dead_bucket_and_go_with_the_record() -> None:
    async with running() as (harness, files, ann):
        uploads = [await promised(harness, ann) for _ in range(2)]
        for upload in uploads:
            await files.objects.upload(upload.url, PNG, upload.headers)
            await harness.call("files", "confirm_upload", user=ann, object_id=upload.object_id)
        files.objects.down = True
        assert not (await files.health()).up
        await harness.call("files", "delete_object", user=ann, object_id=uploads[0].object_id)
        await harness.store.delete(StoredObject, uploads[1].object_id)
        await harness.drain()
        assert len(files.objects.objects) == 2
        files.objects.down = False
        await harness.drain(waiting=True)
        assert files.objects.objects == {}


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_all_who_notice_an_upload_at_once_tell_of_it_once(database: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"{database}_url")
    async with running(database=url) as (harness, files, ann):
        upload = await promised(harness, ann)
        await files.objects.upload(upload.url, PNG, upload.headers)
        item = await harness.store.get(StoredObject, upload.object_id)
        await asyncio.gather(
            *(harness.call("files", "confirm_upload", user=ann, object_id=item.id) for _ in range(8)),
            *(files._notified(notification(item.key)) for _ in range(4)),
        )
        harness.clock.advance(seconds=60)
        await harness.drain()
        assert await harness.store.count(StorageEvent) == 1
        assert sorted(harness.integration("told").heard) == sorted([("event", "uploaded"), (item.key, "uploaded")])


def notification(key: str, bucket: str = "bucket") -> Inbound:
    record = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}
    body = msgspec.json.encode({"Records": [record]})
    return Inbound("1", body, {}, datetime.now(UTC), "files.uploaded")


async def test_the_servers_notification_completes_an_upload() -> None:
    async with running(notification_token="a-token") as (harness, files, ann):
        upload, other = await promised(harness, ann), await promised(harness, ann)
        await files.objects.upload(upload.url, PNG, upload.headers)
        item = await harness.store.get(StoredObject, upload.object_id)
        told = notification(item.key)

        async def deliver(token: str, body: bytes) -> Any:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            return await harness.receive("files.uploaded", RecordedDelivery(body, headers), sign=False)

        with pytest.raises(Rejected, match="bad_signature"):
            await deliver("another", told.body)
        assert (await harness.store.get(StoredObject, item.id)).status == "pending"
        await deliver("a-token", notification("no/such/key").body)
        await deliver("a-token", notification(item.key, bucket="another").body)
        await deliver("a-token", b'{"Records": [{"eventName": 7}, 3], "detail-type": "Object Created"}')
        assert (await harness.store.get(StoredObject, item.id)).status == "pending"
        await deliver("a-token", told.body)
        await deliver("a-token", told.body)
        assert (await harness.store.get(StoredObject, item.id)).status == "uploaded"
        # A notification is a hint: nothing is there under this key.
        await deliver("a-token", notification((await harness.store.get(StoredObject, other.object_id)).key).body)
        assert (await harness.store.get(StoredObject, other.object_id)).status == "pending"
        assert await harness.store.count(StorageEvent) == 1


def test_keys_of_notifications_in_both_forms() -> None:
    record = {"eventName": "s3:ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": {"key": "a+b%2Fc"}}}
    removed = {"eventName": "s3:ObjectRemoved:Delete", "s3": record["s3"]}
    assert created_keys({"Records": [record, record, removed]}, "b") == ["a b/c"]
    event = {"detail-type": "Object Created", "detail": {"bucket": {"name": "b"}, "object": {"key": "a+b"}}}
    assert created_keys(event, "b") == ["a+b"]
    assert created_keys(event, "another") == []
    for strange in (None, [], "x", {"Records": None}, {"Records": [None]}, {"detail-type": "Object Created"}):
        assert created_keys(strange, "b") == []


async def test_orphans_are_swept_and_nothing_else() -> None:
    async with running() as (harness, files, ann):
        kept = await promised(harness, ann)
        await files.objects.upload(kept.url, PNG, kept.headers)
        await harness.call("files", "confirm_upload", user=ann, object_id=kept.object_id)
        await files.put("elsewhere/a.png", PNG, "image/png")
        for number in range(3):
            await files.objects.put(f"uploads/old/{number}", PNG, "image/png")
        harness.clock.advance(seconds=25 * 3600)
        await files.objects.put("uploads/new", PNG, "image/png")
        assert await files.sweep() == [f"uploads/old/{number}" for number in range(3)]
        item = await harness.store.get(StoredObject, kept.object_id)
        assert sorted(files.objects.objects) == sorted(["elsewhere/a.png", "uploads/new", item.key])


async def test_sweeping_goes_on_by_itself() -> None:
    hour = timedelta(hours=1)
    async with running(sweep_every=hour, orphans_after=hour) as (harness, files, _):
        for number in range(4):
            await files.objects.put(f"uploads/{number}", PNG, "image/png")
            harness.clock.advance(seconds=2 * 3600)
            await harness.drain()
            assert files.objects.objects == {}
        found = await harness.store.find("StorageSweep")
        assert [item.number for item in found] == [4, 5]
        # Another process that starts makes no second chain.
        await files._start_sweeping(hour)
        assert await harness.store.count("StorageSweep") == 2


async def test_two_buckets_keep_apart() -> None:
    both = {"one": ObjectStorage(bucket="a"), "two": ObjectStorage(bucket="b")}
    async with AppHarness(App(user=User, integrations=both), env={"S3_ENDPOINT": "memory://"}) as harness:
        ann = await harness.store.create(User(name="Ann"))
        upload = await harness.call("one", "create_upload", user=ann, content_type="image/png", size=4)
        with pytest.raises(NotFound):
            await harness.call("two", "confirm_upload", user=ann, object_id=upload.object_id)
        await harness.integration("one").objects.upload(upload.url, PNG, upload.headers)
        assert await harness.call("one", "confirm_upload", user=ann, object_id=upload.object_id) == "uploaded"


async def test_records_can_be_counted_and_linked() -> None:
    class Album(Entity):
        title: Property[str]

    class Photo(Entity):
        file: Maybe[StoredObject]

    photos = App(entities=[Album, Photo], user=User, integrations={"files": ObjectStorage()})
    async with AppHarness(photos, env={"S3_ENDPOINT": "memory://", "S3_BUCKET": "b"}) as harness:
        assert await harness.store.find(Photo, Photo.file.status == "uploaded") == []


async def test_settings_that_are_missing_or_wrong_are_said() -> None:
    for environment, text in (
        ({"S3_ENDPOINT": "http://127.0.0.1:1"}, "S3_BUCKET"),
        ({"S3_BUCKET": "b"}, "S3_ACCESS_KEY_ID"),
        ({"S3_BUCKET": "b", "S3_ACCESS_KEY_ID": "k", "S3_SECRET_ACCESS_KEY": "s", "S3_PREFIX": "x"}, "prefix"),
    ):
        with pytest.raises(DeclarationError, match=text):
            async with AppHarness(app(), env=environment):
                raise AssertionError("started")


KEYS = {"S3_BUCKET": "b", "S3_ACCESS_KEY_ID": "k", "S3_SECRET_ACCESS_KEY": "s", "S3_ENDPOINT": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"S3_ENDPOINT": "nonsense"}, "endpoint is 'nonsense'; expected https://host"),
        ({"S3_CLIENT_ENDPOINT": "s3.example.com"}, "client_endpoint is"),
        ({"S3_PUBLIC_URL": "ftp://cdn.example.com"}, "public_url is"),
        ({"S3_ENDPOINT": "https://me:hidden@"}, "endpoint is a URL with credentials"),
        ({"S3_BUCKET": "my photos"}, "has the bucket 'my photos'"),
        ({"S3_SIZE_MAX": "0"}, "size_max=0"),
        ({"S3_UPLOAD_LIFETIME": "0s"}, "upload_lifetime=0:00:00"),
        ({"S3_DOWNLOAD_LIFETIME": "8d"}, "download_lifetime=8 days"),
        ({"S3_SWEEP_EVERY": "0s"}, "sweep_every=0:00:00"),
    ],
)
async def test_settings_that_mean_nothing_are_said_at_the_start(environment: dict[str, str], text: str) -> None:
    with pytest.raises(DeclarationError, match=text) as told:
        async with AppHarness(app(), env={**KEYS, **environment}):
            raise AssertionError("started")
    assert "hidden" not in str(told.value)


@pytest.mark.parametrize("kinds", ["image/*", ["image"], ["image/png; charset=x"], [""]])
async def test_content_types_that_match_nothing_are_said_at_the_start(kinds: Any) -> None:
    files = App(user=User, integrations={"files": ObjectStorage(content_types=kinds)})
    with pytest.raises(DeclarationError, match="has the content types"):
        async with AppHarness(files, env={"S3_ENDPOINT": "memory://", "S3_BUCKET": "b"}):
            raise AssertionError("started")


async def test_a_dead_server_does_not_keep_the_app_from_starting_and_no_secret_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    environment = {
        "S3_ENDPOINT": "http://127.0.0.1:1",
        "S3_BUCKET": "b",
        "S3_ACCESS_KEY_ID": "k",
        "S3_SECRET_ACCESS_KEY": "a-secret-that-nobody-sees",
    }
    async with running(environment) as (harness, files, ann):
        assert not (await files.health()).up
        upload = await promised(harness, ann)
        assert upload.url.startswith("http://127.0.0.1:1/b/uploads/")
        await harness.call("files", "delete_object", user=ann, object_id=upload.object_id)
        await harness.drain()
        assert "a-secret" not in caplog.text + repr(files) + (await files.health()).detail
