"""Addresses that may be used without keys: AWS Signature Version 4 in the query, without I/O.

Decides what is signed and how an address is written. Leaves time to its caller, and what is worth signing too.
Invariants: every header given is bound, so a request with another value, or without it, is refused by the server; the
secret key is in no address and in no repr.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import quote, urlsplit

ALGORITHM: Final = "AWS4-HMAC-SHA256"
EXPIRES_MAX: Final = timedelta(days=7)
"""What S3 allows at most."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The keys of an account; `session_token` comes with keys that are temporary."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where a bucket is: `endpoint` without a path, and whether the bucket's name is in the path or in the host.

    >>> Bucket("https://s3.eu-west-1.amazonaws.com", "photos", region="eu-west-1", path_style=False).url("a b.png")
    'https://photos.s3.eu-west-1.amazonaws.com/a%20b.png'
    """

    endpoint: str
    name: str
    region: str = "us-east-1"
    path_style: bool = True

    def url(self, key: str) -> str:
        """The address of an object, unsigned."""
        path = quote(key, safe="/~")
        scheme, host = urlsplit(self.endpoint)[:2]
        return f"{scheme}://{host}/{self.name}/{path}" if self.path_style else f"{scheme}://{self.name}.{host}/{path}"


@dataclass(frozen=True, slots=True)
class Request:
    """What an address is to be good for: one method on one object, with these headers and query parameters."""

    method: str
    key: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    query: Mapping[str, str] = field(default_factory=dict[str, str])


def presign(bucket: Bucket, credentials: Credentials, request: Request, *, at: datetime, expires: timedelta) -> str:
    """The address for `request`, good from `at` for `expires` (at most 7 days, in whole seconds).

    Raises `ValueError` for a time that S3 doesn't allow.
    """
    seconds = int(expires.total_seconds())
    if not 1 <= seconds <= EXPIRES_MAX.total_seconds():
        raise ValueError(f"An address can be good for 1 second to 7 days; {expires} is not possible.")
    url = bucket.url(request.key)
    parts = urlsplit(url)
    headers = {
        "host": parts.netloc,
        **{name.lower(): " ".join(value.split()) for name, value in request.headers.items()},
    }
    instant = at.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{instant[:8]}/{bucket.region}/s3/aws4_request"
    query = {
        **request.query,
        "X-Amz-Algorithm": ALGORITHM,
        "X-Amz-Credential": f"{credentials.access_key_id}/{scope}",
        "X-Amz-Date": instant,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": ";".join(sorted(headers)),
    }
    if credentials.session_token:
        query["X-Amz-Security-Token"] = credentials.session_token
    written = "&".join(sorted(f"{_encoded(name)}={_encoded(value)}" for name, value in query.items()))
    canonical = "\n".join(
        (
            request.method,
            parts.path,
            written,
            *(f"{name}:{headers[name]}" for name in sorted(headers)),
            "",
            query["X-Amz-SignedHeaders"],
            "UNSIGNED-PAYLOAD",
        )
    )
    to_sign = "\n".join((ALGORITHM, instant, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    signature = hmac.new(_signing_key(credentials, scope), to_sign.encode(), hashlib.sha256).hexdigest()
    return f"{url}?{written}&X-Amz-Signature={signature}"


def _signing_key(credentials: Credentials, scope: str) -> bytes:
    key = f"AWS4{credentials.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _encoded(text: str) -> str:
    return quote(text, safe="~")
