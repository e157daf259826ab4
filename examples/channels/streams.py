"""Signed addresses for pushing live video, put into every stream by an integration.

Decides how an address is signed and how long it is good for. Leaves what streams there are to the application: whatever
is declared as a `Stream` gets its `url`. Invariant: the key is in no record and no message, only what it signed.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Any

from ensue import Custom, Entity, Integration, Property, Schema, env

LIFETIME = timedelta(hours=1)


class Stream(Entity, abstract=True):
    """A live video stream; `url` is where to push it, given by `StreamUrls`."""

    name: Property[str]
    url: Property[str] = Property(default="")


class StreamUrls(Integration):
    """Gives every stream the address that it is pushed to, signed when the stream is created."""

    domain: str = env("STREAM_DOMAIN", default="push.example.com")
    application: str = env("STREAM_APPLICATION", default="live")
    key: str = env("STREAM_KEY", default="a key for demonstrations")

    async def configure(self, schema: Schema) -> None:
        for stream in schema.subclasses(Stream):
            schema.property(stream, "url").computation = Custom(initial=self.url_of)

    def url_of(self, stream: Any) -> str:
        """The address for a new stream."""
        path = f"/{self.application}/{stream.name}"
        return push_url(self.domain, path, key=self.key, expires_at=self.clock.now() + LIFETIME)


def push_url(domain: str, path: str, *, key: str, expires_at: datetime) -> str:
    """`path` at `domain` as the streaming service takes it: MD5 over path, key and time, as the service prescribes."""
    timestamp = int(expires_at.timestamp())
    signature = hashlib.md5(f"{path}{key}{timestamp}".encode(), usedforsecurity=False).hexdigest()
    return f"rtmp://{domain}{path}?volcTime={timestamp}&volcSecret={signature}"
