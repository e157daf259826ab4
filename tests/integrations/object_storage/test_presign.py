"""Signed addresses: the documented example, and the client library as an oracle for everything that keys can hold."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import obstore
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from obstore.store import S3Store

from ensue.integrations.storage.presign import Bucket, Credentials, Request, presign

CREDENTIALS = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
AT = datetime(2013, 5, 24, tzinfo=UTC)


def test_the_documented_example() -> None:
    bucket = Bucket("https://s3.amazonaws.com", "examplebucket", path_style=False)
    url = presign(bucket, CREDENTIALS, Request("GET", "test.txt"), at=AT, expires=timedelta(days=1))
    query = parse_qs(urlsplit(url).query)
    assert url.startswith("https://examplebucket.s3.amazonaws.com/test.txt?")
    assert query["X-Amz-Signature"] == ["aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"]
    assert CREDENTIALS.secret_access_key not in url + repr(CREDENTIALS)


@settings(max_examples=60)
@example(key="a b+c~d*e'(f)/é😀%20&=?#.txt", path_style=True)
@given(
    key=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(
        # What the client library changes, or refuses, in a path before it signs it.
        lambda key: not re.search(r"//|^/|/$|(^|/)\.{1,2}(/|$)", key)
    ),
    path_style=st.booleans(),
)
def test_equal_to_the_client_library(key: str, path_style: bool) -> None:
    bucket = Bucket("https://s3.example.com", "photos", region="eu-west-1", path_style=path_style)
    store = S3Store(
        "photos",
        endpoint=bucket.endpoint if path_style else "https://photos.s3.example.com",
        region="eu-west-1",
        access_key_id=CREDENTIALS.access_key_id,
        secret_access_key=CREDENTIALS.secret_access_key,
        virtual_hosted_style_request=not path_style,
    )
    theirs = obstore.sign(store, "PUT", key, timedelta(minutes=5))
    at = datetime.strptime(parse_qs(urlsplit(theirs).query)["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert _parts(presign(bucket, CREDENTIALS, Request("PUT", key), at=at, expires=timedelta(minutes=5))) == _parts(
        theirs
    )


def _parts(url: str) -> tuple[str, dict[str, list[str]]]:
    return url.partition("?")[0], parse_qs(urlsplit(url).query, strict_parsing=True)


def test_headers_are_bound() -> None:
    bucket = Bucket("http://127.0.0.1:9000", "photos")
    request = Request("PUT", "a", {"Content-Type": "image/png", "content-length": "3"})
    url = presign(bucket, CREDENTIALS, request, at=AT, expires=timedelta(minutes=1))
    other = presign(
        bucket,
        CREDENTIALS,
        Request("PUT", "a", {**request.headers, "content-length": "4"}),
        at=AT,
        expires=timedelta(minutes=1),
    )
    assert parse_qs(urlsplit(url).query)["X-Amz-SignedHeaders"] == ["content-length;content-type;host"]
    assert url != other


def test_a_session_token_is_part_of_the_address() -> None:
    credentials = Credentials("id", "secret", "session/+=")
    url = presign(Bucket("http://s3", "b"), credentials, Request("GET", "a"), at=AT, expires=timedelta(minutes=1))
    assert parse_qs(urlsplit(url).query)["X-Amz-Security-Token"] == ["session/+="]
    assert "session" not in repr(credentials)


@pytest.mark.parametrize("expires", [timedelta(0), timedelta(seconds=-1), timedelta(days=7, seconds=1)])
def test_impossible_times_are_refused(expires: timedelta) -> None:
    with pytest.raises(ValueError, match="7 days"):
        presign(Bucket("http://s3", "b"), CREDENTIALS, Request("GET", "a"), at=AT, expires=expires)
