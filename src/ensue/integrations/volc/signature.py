"""The signature of a request to Volcengine: HMAC-SHA256, version 4. Sans I/O.

Decides which headers a request is sent with, for an instant that the caller gives. Leaves sending to the caller, who
sends the query as `canonical_query` writes it. Invariant: equal, byte for byte, to what the vendor's own packages make
of the same request at the same instant.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

ALGORITHM: Final = "HMAC-SHA256"
_UNRESERVED: Final = "-_.~"
_SIGNED: Final = frozenset({"content-type", "content-md5", "host"})
_PLAIN_PORTS: Final = frozenset({"80", "443"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who signs, and for which service in which region. The secret is in no repr."""

    access_key: str
    secret_key: str = field(repr=False)
    region: str
    service: str
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A request; `path` and `query` as they are before any encoding, `headers` with at least `Host`."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""


def signed_headers(request: Unsigned, credentials: Credentials, at: datetime) -> dict[str, str]:
    """All headers of the request, with those that the signature adds.

    >>> request = Unsigned("GET", "/", {"Action": "Ping"}, {"Host": "visual.volcengineapi.com"})
    >>> signed_headers(request, Credentials("AK", "SK", "cn-north-1", "cv"), datetime(2026, 1, 1, tzinfo=UTC))["X-Date"]
    '20260101T000000Z'
    """
    date_time = at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(request.body).hexdigest()
    headers = {**request.headers, "X-Date": date_time, "X-Content-Sha256": digest}
    if credentials.session_token:
        headers["X-Security-Token"] = credentials.session_token
    signed = {name.lower(): value for name, value in headers.items() if _is_signed(name.lower())}
    signed["host"] = _host(signed.get("host", ""))
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    path = quote(request.path or "/", safe=f"/{_UNRESERVED}")
    canonical = "\n".join((request.method, path, canonical_query(request.query), lines, names, digest))
    scope = f"{date_time[:8]}/{credentials.region}/{credentials.service}/request"
    text = "\n".join((ALGORITHM, date_time, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    signature = _hmac(_key(credentials, date_time[:8]), text).hex()
    credential = f"Credential={credentials.access_key}/{scope}"
    headers["Authorization"] = f"{ALGORITHM} {credential}, SignedHeaders={names}, Signature={signature}"
    return headers


def canonical_query(query: Mapping[str, str]) -> str:
    """The query as it is signed and sent: sorted, every character but the unreserved ones escaped.

    >>> canonical_query({"b": "1 2", "a": "~+*"})
    'a=~%2B%2A&b=1%202'
    """
    pairs = sorted((quote(name, safe=_UNRESERVED), quote(value, safe=_UNRESERVED)) for name, value in query.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


def _is_signed(name: str) -> bool:
    return name in _SIGNED or name.startswith("x-")


def _host(host: str) -> str:
    name, _, port = host.partition(":")
    return name if port in _PLAIN_PORTS else host


def _key(credentials: Credentials, date: str) -> bytes:
    key = credentials.secret_key.encode()
    for part in (date, credentials.region, credentials.service, "request"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
