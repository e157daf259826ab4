"""The values that options take, as argparse's `type=`.

Decides what is accepted and what is said of anything else: what was given, what is expected, and an example. Leaves what needs
the app, such as whether it has a side effect of that name, to the commands. Invariant: no secret of a URL is shown.
"""

from __future__ import annotations

import math
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from ensue.schema.written.names import suggestion

INTEGER_MAX = 2**63 - 1
BROKER_SCHEMES = ("nats", "tls", "ws", "wss")


def whole(expected: str, *, least: int = 1, most: int = INTEGER_MAX) -> Callable[[str], int]:
    """A whole number in a range."""

    def convert(text: str) -> int:
        # Nineteen digits are more than a database can hold; Python refuses to read thousands of them.
        if not re.fullmatch(r"[0-9]{1,19}", text) or not least <= int(text) <= most:
            raise _wrong(text, expected)
        return int(text)

    return convert


def number(expected: str, *, least: float, most: float = math.inf, open_below: bool = False) -> Callable[[str], float]:
    """A finite number in a range; `least` itself is outside with `open_below`."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise _wrong(text, expected) from None
        if not math.isfinite(value) or not least <= value <= most or (open_below and value == least):
            raise _wrong(text, expected)
        return value

    return convert


def one_of(values: Sequence[str]) -> Callable[[str], str]:
    """One of a few words; capital letters or small ones are the same."""

    def convert(text: str) -> str:
        for value in values:
            if value.lower() == text.strip().lower():
                return value
        close = suggestion(text, values) if text else ""
        raise _wrong(text, f"one of {', '.join(values)}." + (close if close.startswith(" Did") else ""))

    return convert


def words(expected: str) -> Callable[[str], str]:
    """Any text that says something."""

    def convert(text: str) -> str:
        if not text.strip():
            raise _wrong(text, expected)
        return text

    return convert


def broker(text: str) -> str:
    """The address of a broker, or several with commas between them."""
    for part in text.split(","):
        try:
            url = urlsplit(part.strip())
            fits = url.scheme in BROKER_SCHEMES and url.hostname and (url.port or 1)
        except ValueError:
            fits = False
        if not fits:
            shown = re.sub(r"[^/,]*@", "<hidden>@", text)
            raise _wrong(shown, "the address of a NATS server, such as nats://localhost:4222 or tls://broker:4222")
    return text


def _wrong(text: str, expected: str) -> ArgumentTypeError:
    return ArgumentTypeError(f"{text!r} was given; expected {expected}")


port = whole("a port from 0 to 65535, such as 8000; 0 takes a free one", least=0, most=65535)
limit = whole("how many to list, 1 or more, such as 100")
times = whole("how many times, 1 or more, such as 10")
effect_id = whole("the number of an effect, such as 12; `ensue effects list` shows them")
message_id = whole("the number of a message, such as 12; `ensue inbox list` shows them")
share = number("a share above 0 and up to 1, such as 0.01", least=0, most=1, open_below=True)
# Less than one a day would reach beyond what a database counts in time.
rate = number("how many a second, from 0.00001 on, such as 10", least=0.00001)
interval = number("seconds from 0.1 to 86400, such as 2", least=0.1, most=86_400)
grace = number("seconds from 0 to 86400, such as 15", least=0, most=86_400)
lease = number("seconds from 1 to 86400, such as 30", least=1, most=86_400)
host = words("the name or the address of a network interface, such as 127.0.0.1 or 0.0.0.0")
