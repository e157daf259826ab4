"""Word from an S3 server that objects were created: what its messages look like and who may send them, without I/O.

Decides which keys a message names, in the form of S3 (MinIO and others send the same) and in that of EventBridge.
Invariant: a message is a hint only; whoever uses it asks the server whether the object is there.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, cast
from urllib.parse import unquote_plus

from ensue.errors import DeclarationError, Rejected


@dataclass(frozen=True, kw_only=True)
class BearerToken:
    """The sender shows a secret, `Authorization: Bearer …`, as servers of S3 notifications do; several while changing it.

    Nothing is signed: use it over TLS, for messages that are only hints.
    """

    token: str | Sequence[str] = field(repr=False)

    def check(self) -> None:
        """Raises `DeclarationError` without a token."""
        if not self._tokens() or not all(self._tokens()):
            raise DeclarationError("BearerToken has no token; expected one that nobody can guess.")

    def verify(self, body: bytes, headers: Mapping[str, str], now: datetime) -> str:
        """A digest of the body. Raises `Rejected("bad_signature")`."""
        shown = next((value for name, value in headers.items() if name.lower() == "authorization"), "")
        given = shown.removeprefix("Bearer ").encode()
        # All are compared, so that the time taken doesn't say which one it was.
        fits = [hmac.compare_digest(token.encode(), given) for token in self._tokens()]
        if not any(fits):
            raise Rejected("bad_signature")
        return f"sha256:{sha256(body).hexdigest()}"

    def _tokens(self) -> Sequence[str]:
        return [self.token] if isinstance(self.token, str) else self.token


def created_keys(message: Any, bucket: str) -> list[str]:
    """The keys of the objects in `bucket` that `message` says were created, without repeats; what it can't read is none.

    >>> created_keys({"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"},
    ...     "object": {"key": "a+b%21"}}}]}, "b")
    ['a b!']
    """
    return list(dict.fromkeys(key for name, key in _created(message) if name == bucket))


def _created(message: Any) -> Iterator[tuple[str, str]]:
    if _get(message, "detail-type") == "Object Created":
        yield _text(message, "detail", "bucket", "name"), _text(message, "detail", "object", "key")
    records: Any = _get(message, "Records")
    for record in cast("list[Any]", records) if isinstance(records, list) else ():
        if _text(record, "eventName").removeprefix("s3:").startswith("ObjectCreated:"):
            yield _text(record, "s3", "bucket", "name"), unquote_plus(_text(record, "s3", "object", "key"))


def _text(found: Any, *path: str) -> str:
    for name in path:
        found = _get(found, name)
    return found if isinstance(found, str) else ""


def _get(found: Any, name: str) -> Any:
    return found.get(name) if isinstance(found, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
