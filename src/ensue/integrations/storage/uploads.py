"""Uploads and downloads as clients see them, without I/O: what is accepted, how it is named, what is found in the end.

Decides which uploads are refused and what a download's file is called. Invariant: nothing that a client wrote is part of
a key, or of a header unescaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

from ensue.errors import InvalidValue
from ensue.integrations.storage.objects import ObjectInfo
from ensue.integrations.storage.records import StorageEvent, StoredObject

_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
_EXTENSION: Final = re.compile(r"\.[A-Za-z0-9]{1,8}$")
_FILENAME_MAX: Final = 255

INLINE: Final = frozenset(
    {
        *("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"),
        *("video/mp4", "video/webm", "audio/mpeg", "audio/mp4", "audio/ogg", "audio/wav", "text/plain"),
    }
)
"""Types that a browser may show: none of them can run a script on the bucket's site."""


@dataclass(frozen=True, slots=True)
class Upload:
    """How to upload: send the bytes with `method` to `url` with these `headers`, until `expires_at`; then confirm."""

    object_id: int
    method: str
    url: str
    headers: Mapping[str, str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Download:
    """Where to download, until `expires_at`."""

    url: str
    expires_at: datetime


def check_upload(content_type: str, size: int, filename: str, *, allowed: Sequence[str], size_max: int) -> None:
    """Raises `InvalidValue` for what may not be uploaded, with everything that is wrong."""
    wrong: dict[str, str] = {}
    if _TYPE.fullmatch(content_type) is None:
        wrong["content_type"] = "is no content type; expected one such as image/png, without parameters"
    elif not any(_matches(content_type, pattern) for pattern in allowed):
        wrong["content_type"] = f"is not accepted here; expected {', '.join(allowed)}"
    if not 0 < size <= size_max:
        wrong["size"] = f"is {size} bytes; expected 1 to {size_max}"
    if len(filename) > _FILENAME_MAX or not filename.isprintable():
        wrong["filename"] = f"expected at most {_FILENAME_MAX} characters, all of them printable"
    if wrong:
        listed = "; ".join(f"{name} {reason}" for name, reason in wrong.items())
        raise InvalidValue(f"This can't be uploaded: {listed}.", fields=wrong)


def new_key(prefix: str, filename: str, unique: str) -> str:
    """The key of a new object: `unique`, which nobody can guess, and of the file's name its ending only.

    >>> new_key("uploads/", "../../My cat.PNG", "5f3a")
    'uploads/5f/5f3a.png'
    """
    ending = _EXTENSION.search(filename)
    return f"{prefix}{unique[:2]}/{unique}{ending.group().lower() if ending else ''}"


def disposition(filename: str, *, inline: bool) -> str:
    """What a browser is to do with a download: show it, or save it under this name.

    >>> disposition('a "b".png', inline=False)
    "attachment; filename*=UTF-8''a%20%22b%22.png"
    """
    how = "inline" if inline else "attachment"
    return f"{how}; filename*=UTF-8''{quote(filename, safe='')}" if filename else how


def event_for(item: StoredObject, found: ObjectInfo) -> StorageEvent:
    """What became of an announced upload, now that the object is there."""
    # A server may leave the type out; one that gives another was told another.
    fits = found.size == item.size and found.content_type in ("", item.content_type)
    return StorageEvent(
        object=item,
        what="uploaded" if fits else "refused",
        size=found.size,
        content_type=found.content_type,
        etag=found.etag,
    )


def _matches(content_type: str, pattern: str) -> bool:
    if pattern == "*/*":
        return True
    family, _, kind = pattern.partition("/")
    return content_type.startswith(f"{family}/") if kind == "*" else content_type == pattern
