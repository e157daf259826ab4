"""One delivery of a webhook, recorded: raw body and headers, in a file that a person can read and change.

Decides the format. Leaves signatures to `signing`. Invariant: what is saved and loaded again has the same body, byte for
byte, whatever an editor did at the end of the file.

The format is that of the message on the wire, one for each file: a line with method and target, lines with headers, an
empty line, and the body. `Content-Length` says where the body ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, cast

import msgspec

from ensue.errors import UsageError
from ensue.testing.faults.http_wire import RecordedRequest

_LENGTH = "content-length"


@dataclass(frozen=True, slots=True)
class RecordedDelivery:
    """A webhook as it came: `body` is the raw bytes, `headers` by the names that the sender gave them.

    >>> delivery = RecordedDelivery(b'{"id": "evt_1"}', {"Content-Type": "application/json"})
    >>> delivery.with_json(id="evt_2").body
    b'{"id":"evt_2"}'
    """

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    method: str = "POST"
    target: str = "/"

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The delivery in a file. Raises `UsageError` that says where the file is not as expected."""
        try:
            return cls.parse(Path(path).read_bytes())
        except UsageError as failure:
            raise UsageError(f"{path}: {failure}") from None

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """The delivery that a file has in it."""
        head, body = _parted(text)
        first, *lines = head.decode("latin-1").splitlines()
        parts = first.split(" ")
        if len(parts) != 2 or not parts[1].startswith("/"):
            raise UsageError(f"line 1 is {first[:80]!r}; expected a method and a target, such as POST /webhooks")
        headers = dict(_header(number, line) for number, line in enumerate(lines, start=2))
        length = next((value for name, value in headers.items() if name.lower() == _LENGTH), str(len(body)))
        if not length.isdigit() or len(body) < int(length) or body[int(length) :].strip():
            raise UsageError(
                f"the body has {len(body)} bytes and Content-Length says {length}; after a change, drop that header"
            )
        kept = {name: value for name, value in headers.items() if name.lower() != _LENGTH}
        return cls(body[: int(length)], kept, parts[0], parts[1])

    @classmethod
    def of(cls, request: RecordedRequest) -> Self:
        """What an `HttpDouble` was sent, as a delivery: for one's own outgoing webhooks."""
        kept = {name: value for name, value in request.headers.pairs if name.lower() != _LENGTH}
        return cls(request.body, kept, request.method, request.target)

    def dump(self) -> bytes:
        """The text of a file that `parse` understands."""
        lines = [f"{self.method} {self.target}", *(f"{name}: {value}" for name, value in self.headers.items())]
        lines.append(f"Content-Length: {len(self.body)}")
        return "\n".join(lines).encode("latin-1") + b"\n\n" + self.body + b"\n"

    def save(self, path: str | Path) -> None:
        """Write the file."""
        Path(path).write_bytes(self.dump())

    def json(self) -> Any:
        """The body decoded from JSON. Raises `UsageError` if it is none."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as failure:
            raise UsageError(f"The body of the recorded delivery is no JSON: {failure}.") from None

    def with_json(self, **changes: Any) -> Self:
        """With some values of the body's JSON object changed; signatures fit no longer until it is signed again."""
        found = self.json()
        if not isinstance(found, dict):
            raise UsageError("The body of the recorded delivery is no JSON object, so it has no values to change.")
        return replace(self, body=msgspec.json.encode({**cast("dict[str, Any]", found), **changes}))

    def with_headers(self, given: Mapping[str, str]) -> Self:
        """With these headers in place of those of the same name, whatever its case."""
        names = {name.lower() for name in given}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in names}
        return replace(self, headers={**kept, **given})

    def header(self, name: str) -> str | None:
        """The header `name`, whatever its case."""
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), None)


def _parted(text: bytes) -> tuple[bytes, bytes]:
    ends = [(text.find(mark), mark) for mark in (b"\r\n\r\n", b"\n\n") if mark in text]
    if not ends:
        raise UsageError("there is no empty line between headers and body")
    at, mark = min(ends)
    return text[:at], text[at + len(mark) :]


def _header(number: int, line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise UsageError(f"line {number} is {line[:40]!r}; expected a header, Name: value")
    return name.strip(), value.strip()
