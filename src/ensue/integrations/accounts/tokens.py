"""The tokens of accounts: what they say, and how they are made and read, without I/O.

Decides their text and their keys. Leaves which are still good to sessions and records. Three kinds, all authenticated
by HMAC-SHA256 with a key of their own: an access token says who one is until when (`a1.user.session.expires.mac`), a
refresh token names the session and the generation that it continues (`r1.session.generation.mac`), a one-time token
names its record (`o1.id.mac`). The MACs of the last two cover a salt of their record, so neither the database nor the
secret alone is enough to make one.

This is no JWT on purpose: there is one issuer and one reader, so an algorithm, a type and claims to choose from would
be choices for an attacker only, and it needs no further library. Invariant: nothing of a token is believed before its
MAC was compared, in constant time, with each secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ensue.errors import Rejected

SECRET_BYTES_MIN = 32
NUMBER_DIGITS_MAX = 19


@dataclass(frozen=True, slots=True)
class Claims:
    """What an access token says: the ids of user and session, and the second (since 1970) at which it ends."""

    user: int
    session: int
    expires: int


@dataclass(frozen=True, slots=True)
class Refresh:
    """What a refresh token names, before its MAC could be compared, for which the session's salt is needed."""

    session: int
    generation: int
    mac: str


@dataclass(frozen=True, slots=True)
class OneTime:
    """What a one-time token names, before its MAC could be compared."""

    id: int
    mac: str


class Tokens:
    """Makes and reads tokens. The first secret makes, all of them read, so that a secret can be replaced.

    >>> tokens = Tokens([b"0" * 32])
    >>> text = tokens.access(Claims(user=7, session=3, expires=2_000_000_000))
    >>> tokens.read_access(text, now=datetime(2026, 1, 1, tzinfo=UTC)).user
    7
    """

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._keys = {
            purpose: [hmac.digest(secret, f"ensue accounts {purpose}".encode(), hashlib.sha256) for secret in secrets]
            for purpose in ("access", "refresh", "once", "subject")
        }

    def __repr__(self) -> str:
        return "Tokens(…)"

    def access(self, claims: Claims) -> str:
        """An access token."""
        content = f"a1.{claims.user}.{claims.session}.{claims.expires}"
        return f"{content}.{self._mac('access', content)}"

    def read_access(self, text: str, *, now: datetime) -> Claims:
        """What an access token says. Raises `Rejected("not_authenticated")` if it is forged or has expired."""
        content, _, mac = text.rpartition(".")
        numbers = _numbers(content, "a1", 3)
        if numbers is None or not self._is_mac("access", content, mac):
            raise Rejected("not_authenticated", "This access token was not issued here. Sign in.")
        claims = Claims(*numbers)
        if claims.expires <= now.timestamp():
            raise Rejected("not_authenticated", "The access token has expired. Refresh it, or sign in again.")
        return claims

    def refresh(self, session: int, generation: int, salt: str) -> str:
        """The refresh token of a session's generation: always the same, so a lost answer can be given again."""
        content = f"r1.{session}.{generation}"
        return f"{content}.{self._mac('refresh', f'{content}.{salt}')}"

    def is_refresh(self, token: Refresh, salt: str) -> bool:
        """Whether the token was issued for the session with this salt, in whichever generation."""
        return self._is_mac("refresh", f"r1.{token.session}.{token.generation}.{salt}", token.mac)

    def once(self, purpose: str, id: int, salt: str) -> str:
        """The token by which the record `id` can be used for `purpose`."""
        return f"o1.{id}.{self._mac('once', f'{purpose}.{id}.{salt}')}"

    def is_once(self, token: OneTime, purpose: str, salt: str) -> bool:
        """Whether the token was issued for that record and purpose."""
        return self._is_mac("once", f"{purpose}.{token.id}.{salt}", token.mac)

    def subject(self, kind: str, of: str) -> str:
        """A name for counting attempts of `of`, which it doesn't tell."""
        return self._mac("subject", f"{kind}\0{of}")

    def _mac(self, purpose: str, content: str) -> str:
        return _text(hmac.digest(self._keys[purpose][0], content.encode(), hashlib.sha256))

    def _is_mac(self, purpose: str, content: str, mac: str) -> bool:
        # As bytes: compare_digest takes no text beyond ASCII, which anybody may send. All keys, whichever fits.
        given = mac.encode("utf-8", "replace")
        macs = [_text(hmac.digest(key, content.encode(), hashlib.sha256)).encode() for key in self._keys[purpose]]
        return sum(hmac.compare_digest(given, expected) for expected in macs) > 0


def read_refresh(text: str) -> Refresh | None:
    """What a refresh token names; None if it is none."""
    content, _, mac = text.rpartition(".")
    numbers = _numbers(content, "r1", 2)
    return None if numbers is None else Refresh(numbers[0], numbers[1], mac)


def read_once(text: str) -> OneTime | None:
    """What a one-time token names; None if it is none."""
    content, _, mac = text.rpartition(".")
    numbers = _numbers(content, "o1", 1)
    return None if numbers is None else OneTime(numbers[0], mac)


def digest(token: str) -> str:
    """How a token is kept. It has 256 random bits, so a plain hash can't be searched."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def same(one: str, other: str) -> bool:
    """Whether two digests are equal, in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())


def _numbers(content: str, kind: str, count: int) -> list[int] | None:
    head, *parts = content.split(".")
    fits = all(part.isascii() and part.isdigit() and len(part) <= NUMBER_DIGITS_MAX for part in parts)
    if head != kind or len(parts) != count or not fits:
        return None
    found = [int(part) for part in parts]
    return found if all(number < 2**63 for number in found) else None


def _text(mac: bytes) -> str:
    return base64.urlsafe_b64encode(mac).decode().rstrip("=")
