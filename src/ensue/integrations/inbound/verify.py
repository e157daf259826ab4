"""Who sent a webhook: the signature schemes, without I/O.

Decides when a message is genuine, and what its sender calls it. Leaves reading requests to the server and telling the
time to its caller. Invariants: signatures are computed over the bytes as they came, compared in constant time, with
every secret and every signature whatever matched before; a header that can't be read is `Rejected("malformed")`, a
signature that doesn't fit `Rejected("bad_signature")`, and neither says more.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Protocol, TypeAlias, cast, get_args

from ensue.clock import to_micros, whole_micros
from ensue.errors import DeclarationError, Rejected
from ensue.integrations.inbound.identify import MALFORMED, Identify, check_identify, identify
from ensue.integrations.inbound.message import lookup

BAD_SIGNATURE: Final = "bad_signature"
TOLERANCE: Final = timedelta(minutes=5)
SIGNATURES_MAX: Final = 16
_HEADER_LENGTH_MAX: Final = 8192
_PLACES: Final = re.compile(r"(\{body\}|\{timestamp\}|\{id\})")

Secrets: TypeAlias = str | Sequence[str]
"""One secret, or several while they are being changed: any of them will do."""
Algorithm: TypeAlias = Literal["sha1", "sha256", "sha384", "sha512"]
Encoding: TypeAlias = Literal["hex", "base64"]
_ALGORITHMS: Final = get_args(Algorithm)
_ENCODINGS: Final = get_args(Encoding)


class Verifier(Protocol):
    """Decides whether a message is genuine. May be called with the same message again."""

    def verify(self, body: bytes, headers: Mapping[str, str], now: datetime) -> str:
        """The sender's own, unique id of the message. Raises `Rejected`; names of `headers` are looked up in any case."""
        ...


@dataclass(frozen=True, kw_only=True)
class StandardWebhooks:
    """The scheme of standardwebhooks.com: HMAC-SHA256 over id, timestamp and body, within 5 minutes either way.

    `secret` is `whsec_` and base64. `prefix="svix"` reads the older names of the same headers.

    >>> StandardWebhooks(secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    StandardWebhooks(prefix='webhook', tolerance=datetime.timedelta(seconds=300))
    """

    secret: Secrets = field(repr=False)
    prefix: str = "webhook"
    tolerance: timedelta = TOLERANCE

    def check(self) -> None:
        """Raises `DeclarationError` for a secret that is none, or a tolerance that is no time."""
        for secret in _several(self, self.secret):
            _standard_key(secret)
        _check_tolerance(self, self.tolerance)

    def verify(self, body: bytes, headers: Mapping[str, str], now: datetime) -> str:
        """The header `webhook-id`."""
        id_ = _header(headers, f"{self.prefix}-id")
        timestamp = _header(headers, f"{self.prefix}-timestamp")
        _check_time(timestamp, now, self.tolerance)
        given: list[bytes] = []
        for item in _header(headers, f"{self.prefix}-signature").split(" "):
            version, comma, text = item.partition(",")
            if not comma:
                raise _malformed()
            if version == "v1":
                given.append(_base64(text))
        keys = [_standard_key(secret) for secret in _several(self, self.secret)]
        _require(keys, b".".join((_bytes(id_), _bytes(timestamp), body)), given, "sha256")
        return id_


@dataclass(frozen=True, kw_only=True)
class StripeSignature:
    """Stripe's scheme: the header `Stripe-Signature` with `t=` and `v1=`; the id is that of the event in the body."""

    secret: Secrets = field(repr=False)
    tolerance: timedelta = TOLERANCE
    header: str = "Stripe-Signature"

    def check(self) -> None:
        """Raises `DeclarationError` without a secret, or for a tolerance that is no time."""
        _several(self, self.secret)
        _check_tolerance(self, self.tolerance)

    def verify(self, body: bytes, headers: Mapping[str, str], now: datetime) -> str:
        """The `id` of the event."""
        times: list[str] = []
        given: list[bytes] = []
        for item in _header(headers, self.header).split(","):
            name, sign, value = item.strip().partition("=")
            if not sign:
                raise _malformed()
            if name == "t":
                times.append(value)
            elif name == "v1":
                given.append(_hex(value))
        if len(times) != 1:
            raise _malformed()
        _check_time(times[0], now, self.tolerance)
        _require(_keys(self, self.secret), _bytes(times[0]) + b"." + body, given, "sha256")
        return identify("json:id", body, headers)


@dataclass(frozen=True, kw_only=True)
class GitHubSignature:
    """GitHub's scheme: `X-Hub-Signature-256` over the body, `X-GitHub-Delivery` as id.

    The scheme signs neither time nor id: whoever has seen a delivery can repeat it under another id. Take state from
    GitHub where that matters.
    """

    secret: Secrets = field(repr=False)

    def check(self) -> None:
        """Raises `DeclarationError` without a secret."""
        _several(self, self.secret)

    def verify(self, body: bytes, headers: Mapping[str, str], now: datetime) -> str:
        """The header `X-GitHub-Delivery`."""
        given = _without_prefix(_header(headers, "x-hub-signature-256"), "sha256=")
        _require(_keys(self, self.secret), body, [_hex(given)], "sha256")
        return _header(headers, "x-github-delivery")


@dataclass(frozen=True, kw_only=True)
class HmacSignature:
    """Any scheme with an HMAC in a header.

    `signed` says over what, from `{body}`, `{timestamp}` and `{id}` (then a header); with `{timestamp}` give its header
    (seconds since 1970), which is then checked. `prefix` stands before the signature. Slack's, for example:

    >>> HmacSignature(
    ...     secret="...", header="X-Slack-Signature", prefix="v0=", signed="v0:{timestamp}:{body}",
    ...     timestamp_header="X-Slack-Request-Timestamp", id="json:event_id",
    ... ).header
    'X-Slack-Signature'
    """

    secret: Secrets = field(repr=False)
    header: str
    prefix: str = ""
    signed: str = "{body}"
    encoding: Encoding = "hex"
    algorithm: Algorithm = "sha256"
    timestamp_header: str | None = None
    tolerance: timedelta = TOLERANCE
    id: Identify = None

    def __post_init__(self) -> None:
        check_identify(type(self).__name__, self.id)
        for name, known in (("encoding", _ENCODINGS), ("algorithm", _ALGORITHMS)):
            if getattr(self, name) not in known:
                raise DeclarationError(
                    f"HmacSignature({name}={getattr(self, name)!r}): expected {', '.join(map(repr, known))}."
                )
        if "{id}" in self.signed and not (isinstance(self.id, str) and self.id.startswith("header:")):
            raise DeclarationError(
                f"HmacSignature(signed={self.signed!r}): {{id}} is a header; say which, id='header:…'."
            )
        if "{body}" not in self.signed:
            raise DeclarationError(
                f"HmacSignature(signed={self.signed!r}) leaves the body unsigned; put {{body}} in it."
            )
        if ("{timestamp}" in self.signed) != (self.timestamp_header is not None):
            raise DeclarationError(
                f"HmacSignature(signed={self.signed!r}, timestamp_header={self.timestamp_header!r}): a timestamp counts only "
                "if it is signed. Give both, {timestamp} in signed= and its header, or neither."
            )

    def check(self) -> None:
        """Raises `DeclarationError` without a secret, or for a tolerance that is no time."""
        _several(self, self.secret)
        _check_tolerance(self, self.tolerance)

    def verify(self, body: bytes, headers: Mapping[str, str], now: datetime) -> str:
        """What `id` says."""
        text = _without_prefix(_header(headers, self.header), self.prefix)
        given = _hex(text) if self.encoding == "hex" else _base64(text)
        timestamp = ""
        if self.timestamp_header is not None:
            timestamp = _header(headers, self.timestamp_header)
            _check_time(timestamp, now, self.tolerance)
        # Of the body nothing is read before it is verified.
        signed_id = identify(self.id, b"", headers) if "{id}" in self.signed else ""
        content = b"".join(
            {"{body}": body, "{timestamp}": _bytes(timestamp), "{id}": _bytes(signed_id)}.get(part, part.encode())
            for part in _PLACES.split(self.signed)
        )
        _require(_keys(self, self.secret), content, [given], self.algorithm)
        return signed_id or identify(self.id, body, headers)


@dataclass(frozen=True, kw_only=True)
class NoVerification:
    """Takes every message, whoever sent it; `reason` says why that is right here. `id` as for `HmacSignature`.

    >>> NoVerification(reason="the load balancer checks client certificates", id="json:id").reason
    'the load balancer checks client certificates'
    """

    reason: str
    id: Identify = None

    def __post_init__(self) -> None:
        check_identify(type(self).__name__, self.id)
        if not self.reason.strip():
            raise DeclarationError("NoVerification takes messages from anybody; say in reason= why that is right.")

    def verify(self, body: bytes, headers: Mapping[str, str], now: datetime) -> str:
        """What `id` says."""
        return identify(self.id, body, headers)


def _require(keys: Iterable[bytes], content: bytes, given: Sequence[bytes], algorithm: str) -> None:
    """One of `given` must be the HMAC of `content` under one of `keys`; all are computed and compared."""
    if len(given) > SIGNATURES_MAX:
        raise _malformed()
    fits = False
    for key in keys:
        expected = hmac.digest(key, content, algorithm)
        for signature in given:
            fits |= hmac.compare_digest(expected, signature)
    if not fits:
        raise Rejected(BAD_SIGNATURE)


def _check_time(text: str, now: datetime, tolerance: timedelta) -> None:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise _malformed()
    if abs(int(text) * 1_000_000 - to_micros(now)) > whole_micros(tolerance):
        raise Rejected(BAD_SIGNATURE)


def _header(headers: Mapping[str, str], name: str) -> str:
    found = lookup(headers, name) or ""
    if not found or len(found) > _HEADER_LENGTH_MAX:
        raise _malformed()
    return found


def _without_prefix(text: str, prefix: str) -> str:
    if not text.startswith(prefix):
        raise _malformed()
    return text[len(prefix) :]


def _hex(text: str) -> bytes:
    try:
        return binascii.unhexlify(text)
    except ValueError:
        raise _malformed() from None


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise _malformed() from None


def _bytes(text: str) -> bytes:
    """A header as it came: servers decode headers as Latin-1."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise _malformed() from None


def _standard_key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise DeclarationError(
            "A secret of StandardWebhooks is not as expected: whsec_ followed by base64. Take it as the sender shows it."
        )
    return key


def _keys(verifier: object, secrets: Secrets) -> list[bytes]:
    return [secret.encode() for secret in _several(verifier, secrets)]


def _check_tolerance(verifier: object, tolerance: object) -> None:
    if not isinstance(tolerance, timedelta) or tolerance < timedelta(0):
        raise DeclarationError(f"{type(verifier).__name__}(tolerance={tolerance!r}): expected timedelta(minutes=5).")


def _several(verifier: object, secrets: Any) -> list[str]:
    # An empty one among several is one that was not set: the old or the new one, when none is being changed.
    given = list(cast("Sequence[Any]", secrets)) if isinstance(secrets, list | tuple) else [secrets]
    found = [item for item in given if item]
    if not found or not all(isinstance(item, str) for item in found):
        raise DeclarationError(
            f"{type(verifier).__name__} has no secret. Give secret=env('…'), or several while they are being changed."
        )
    return found


def _malformed() -> Rejected:
    return Rejected(MALFORMED)
