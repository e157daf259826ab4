"""What every place that keeps objects must do: one contract, for the double and for a real S3 server."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from ensue import UsageError
from ensue.clock import SystemClock
from ensue.integrations.storage.objects import MemoryObjects, Objects, StorageUnavailable
from ensue.integrations.storage.presign import Bucket, Credentials, Request
from ensue.integrations.storage.s3 import S3Objects
from ensue.testing import FaultProxy
from tests.integrations.object_storage.conftest import S3, Place

# All in one process: its server takes seconds to start.
pytestmark = pytest.mark.xdist_group("s3")

MINUTE = timedelta(minutes=1)
PNG = {"content-type": "image/png", "content-length": "5", "if-none-match": "*"}


async def test_objects_are_kept_replaced_and_deleted(place: Place) -> None:
    objects = place.objects
    assert await objects.get("a/b") is None
    assert await objects.head("a/b") is None
    await objects.put("a/b", b"hello", "text/plain")
    found = await objects.get("a/b")
    assert found is not None
    assert found[0] == b"hello"
    info = await objects.head("a/b")
    assert info == found[1]
    assert info is not None
    assert (info.key, info.size, info.content_type) == ("a/b", 5, "text/plain")
    assert info.etag
    await objects.put("a/b", b"hi", "text/html")
    assert (await objects.head("a/b")).content_type == "text/html"  # type: ignore[union-attr]
    await objects.delete(["a/b", "never/was"])
    await objects.delete(["a/b"])
    assert await objects.head("a/b") is None
    assert objects.health().up


async def test_keys_are_taken_as_they_are(place: Place) -> None:
    keys = ["p/a b.txt", "p/ü~+%41&=?.txt", "p/c/d.e"]
    for key in keys:
        await place.objects.put(key, key.encode(), "text/plain")
    await place.objects.put("other", b"", "text/plain")
    listed = [item.key async for page in place.objects.list("p/") for item in page]
    assert sorted(listed) == sorted(keys)
    for key in keys:
        assert await place.download(place.objects.address(Request("GET", key), MINUTE)) == key.encode()


async def test_an_address_is_good_for_what_was_signed(place: Place) -> None:
    url = place.objects.address(Request("PUT", "u/1", PNG), MINUTE)
    for data, headers in (
        (b"longer", {**PNG, "content-length": "6"}),
        (b"hello", {**PNG, "content-type": "text/html"}),
        (b"hello", {"content-type": "image/png", "content-length": "5"}),
    ):
        with pytest.raises(PermissionError):
            await place.upload(url, data, headers)
    assert await place.objects.head("u/1") is None
    await place.upload(url, b"hello", PNG)
    assert (await place.objects.head("u/1")).content_type == "image/png"  # type: ignore[union-attr]
    # Never a second time: what was confirmed stays what it was.
    with pytest.raises(PermissionError):
        await place.upload(url, b"other", PNG)
    with pytest.raises(PermissionError):
        await place.download(url)
    with pytest.raises(FileNotFoundError):
        await place.download(place.objects.address(Request("GET", "u/2"), MINUTE))
    assert await place.download(place.objects.address(Request("GET", "u/1"), MINUTE)) == b"hello"


async def test_an_address_expires(place: Place) -> None:
    await place.objects.put("a", b"1", "text/plain")
    url = place.objects.address(Request("GET", "a"), timedelta(seconds=1))
    refused = False
    for _ in range(100):
        try:
            await place.download(url)
        except PermissionError:
            refused = True
            break
        await asyncio.sleep(0.1)
    assert refused


async def test_wrong_keys_are_found_out_at_the_start_and_not_shown(s3: S3) -> None:
    bucket = Bucket(s3.endpoint, s3.bucket)
    wrong = Credentials(s3.credentials.access_key_id, "not-the-secret")
    async with S3Objects(bucket, wrong, client_bucket=bucket, clock=SystemClock()) as objects:
        with pytest.raises(UsageError, match=s3.bucket) as refused:
            await objects.check()
    assert "not-the-secret" not in str(refused.value)


async def test_a_bucket_that_is_not_there_is_found_out_at_the_start(s3: S3) -> None:
    bucket = Bucket(s3.endpoint, "another-bucket-than-ours")
    async with S3Objects(bucket, s3.credentials, client_bucket=bucket, clock=SystemClock()) as objects:
        with pytest.raises(UsageError, match="another-bucket-than-ours"):
            await objects.check()


async def test_a_dead_server_is_a_bounded_failure_and_shows_in_health(s3: S3) -> None:
    async with FaultProxy(s3.endpoint) as proxy:
        bucket = Bucket(proxy.url, s3.bucket)
        async with S3Objects(bucket, s3.credentials, client_bucket=bucket, clock=SystemClock()) as objects:
            await objects.check()
            proxy.refuse()
            await objects.check()
            first = objects.health()
            assert not first.up
            assert s3.bucket in first.detail or proxy.url in first.detail
            with pytest.raises(StorageUnavailable):
                await objects.head("a")
            assert objects.health().since == first.since
            proxy.heal()
            assert await objects.head("a") is None
            assert objects.health().up


async def test_leaving_does_not_wait_for_a_silent_server(s3: S3) -> None:
    async with FaultProxy(s3.endpoint) as proxy:
        bucket = Bucket(proxy.url, s3.bucket)
        objects: Objects = S3Objects(bucket, s3.credentials, client_bucket=bucket, clock=SystemClock())
        async with asyncio.timeout(5):
            async with objects:  # type: ignore[attr-defined]
                proxy.black_hole()
                waiting = asyncio.ensure_future(objects.head("a"))
                await asyncio.sleep(0.2)
                waiting.cancel()
        proxy.reset()


async def test_the_double_believes_no_length_but_that_of_what_came() -> None:
    objects = MemoryObjects(SystemClock())
    signed = objects.address(Request("PUT", "a", PNG), MINUTE)
    with pytest.raises(PermissionError, match="in content-length"):
        await objects.upload(signed, b"longer", PNG)
    assert await objects.head("a") is None
