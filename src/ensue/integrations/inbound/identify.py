"""What a sender calls a message, where the scheme of its signature doesn't say.

Decides how that is found: in a header, in the JSON of the body, by a function, or as a digest of the body. Invariant: the
same message always has the same id, and a message without one is refused rather than given one by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, TypeAlias, cast

import msgspec

from ensue.errors import DeclarationError, Rejected
from ensue.integrations.inbound.message import lookup

Identify: TypeAlias = str | Callable[[bytes, Mapping[str, str]], str] | None
"""`"header:X-Request-Id"`, `"json:event.id"` (a path of names), a function of body and headers, or None: a digest."""

MALFORMED = "malformed"


def check_identify(who: str, how: Identify) -> None:
    """Raises `DeclarationError` unless `how` can be understood."""
    if isinstance(how, str) and how.partition(":")[0] not in ("header", "json"):
        raise DeclarationError(
            f"{who}(id={how!r}): expected 'header:NAME', 'json:path.to.field', a function of body and headers, or None "
            "(then two messages with the same body are one)."
        )


def identify(how: Identify, body: bytes, headers: Mapping[str, str]) -> str:
    """The id. Raises `Rejected("malformed")` if it is not there."""
    if how is None:
        return f"sha256:{sha256(body).hexdigest()}"
    if callable(how):
        found: Any = how(body, headers)
    else:
        kind, _, place = how.partition(":")
        found = lookup(headers, place) if kind == "header" else _in_json(body, place)
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if isinstance(found, str) and found:
        return found
    raise Rejected(MALFORMED, "The message has no id where one is expected.")


def _in_json(body: bytes, path: str) -> Any:
    try:
        found: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    for name in path.split("."):
        found = cast("dict[str, Any]", found).get(name) if isinstance(found, dict) else None
    return found
