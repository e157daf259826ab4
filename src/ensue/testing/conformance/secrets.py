"""The secrets among an integration's settings, and whether a text shows one.

Decides what counts as secret: settings marked or named so, and passwords in URLs. Invariant: a secret's value never
appears in what is said about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast
from urllib.parse import quote, urlsplit

from ensue.integrations.contract import Integration

_LENGTH_MIN = 6


def secrets_of(integration: Integration) -> list[tuple[str, str]]:
    """Name and value of every secret that `integration` has in this run.

    Raises `AssertionError` for one too short to be looked for: it would be found in any text.
    """
    found: list[tuple[str, str]] = []
    for name, setting in integration.__ensue_settings__.items():
        value: object = getattr(integration, name, None)
        for text in _texts(value):
            if setting.secret:
                found.append((name, text))
            elif (password := _password(text)) is not None:
                found.append((name, password))
    short = sorted({name for name, text in found if len(text) < _LENGTH_MIN})
    assert not short, f"give {', '.join(short)} test values of at least {_LENGTH_MIN} characters, unlike any other text"
    return found


def shows(text: str, secret: str) -> bool:
    """Whether `text` has `secret` in it, plain or as in a URL."""
    return secret in text or quote(secret, safe="") in text


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, bytes):
        return [value.decode("latin-1")]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [text for item in cast("Iterable[object]", value) for text in _texts(item)]
    return []


def _password(text: str) -> str | None:
    try:
        return urlsplit(text).password if "://" in text else None
    except ValueError:
        return None
