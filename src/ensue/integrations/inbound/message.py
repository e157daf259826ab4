"""`Inbound`: a message from outside as an integration gets it, already verified and never parsed for it.

Decides how headers are looked up and which of them are kept. Invariant: the body is the bytes that were sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from ensue.errors import InvalidValue

_NEVER_KEPT: Final = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key", "x-auth-token"})


class Headers(Mapping[str, str]):
    """Headers, whatever the case of their names. Their values are not shown in a repr.

    >>> Headers({"Webhook-Id": "1"})["webhook-id"]
    '1'
    """

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        self._values = {name.lower(): value for name, value in (given or {}).items()}

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({', '.join(self._values)})"

    def kept(self) -> dict[str, str]:
        """Those that may be stored: all but credentials, as text that can be written as JSON."""
        return {_written(name): _written(value) for name, value in self._values.items() if name not in _NEVER_KEPT}


def _written(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def lookup(headers: Mapping[str, str], name: str) -> str | None:
    """The header `name`, whatever its case, of any mapping."""
    if isinstance(headers, Headers):
        return headers.get(name)
    return next((value for key, value in headers.items() if key.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message from outside.

    `id` is the sender's own name for it, `endpoint` who took it (`"shop.paid"`), `received_at` when (UTC). Events can be
    late, repeated under another id, or out of order: what is in the body was true when it was sent.
    """

    id: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    received_at: datetime
    endpoint: str

    def json(self) -> Any:
        """The body as JSON. Raises `InvalidValue`."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # The decoder's words give a position, never the content.
            raise InvalidValue(f"The body of {self.endpoint} message {self.id} is no JSON: {error}.") from None
