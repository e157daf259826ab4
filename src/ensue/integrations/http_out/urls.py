"""Which URLs an endpoint may have.

Decides by the text alone, without I/O. Leaves the addresses behind a name to `addresses`. Invariant: a URL is accepted
only if there is one way to read it: where two parsers could differ about its host, it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

CHARACTERS_MAX = 2_000
_PORTS = {"https": 443, "http": 80}
# Printable ASCII without what parsers disagree about: space, quotes, backslash, angle brackets, braces, caret, bar.
_PLAIN = re.compile(r"[!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]+")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")
_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)")
_PLAIN_IPV4 = re.compile(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}")
_BRACKETED = re.compile(r"\[[0-9A-Fa-f:.]+\](:[0-9]+)?")


def url_problem(url: str, *, allow_http: bool = False, ports: Collection[int] = ()) -> str | None:
    """Why `url` can't be an endpoint's; None if it can. `ports` are allowed besides the usual one.

    >>> url_problem("https://user@example.com/")
    'holds a user name or password'
    """
    if len(url) > CHARACTERS_MAX:
        return f"has {len(url)} characters; at most {CHARACTERS_MAX} are allowed"
    if _PLAIN.fullmatch(url) is None:
        return "holds characters that have to be escaped, or nothing"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "can't be read"
    schemes = ("https", "http") if allow_http else ("https",)
    if parts.scheme not in schemes:
        return f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    if "@" in parts.netloc:
        return "holds a user name or password"
    if parts.fragment or url.endswith("#"):
        return "holds a fragment, which is never sent"
    if port is not None and port != _PORTS[parts.scheme] and port not in ports:
        return f"names port {port}, which is not allowed"
    if "[" in parts.netloc:
        return None if _BRACKETED.fullmatch(parts.netloc) else "has a host that can't be read"
    return _host_problem(parts.hostname or "")


def _host_problem(host: str) -> str | None:
    if len(host) > 253 or _NAME.fullmatch(host) is None:
        return "has no host, or one that can't be read"
    last = host.rstrip(".").rpartition(".")[2]
    # 127.1, 0177.0.0.1 and 2130706433 are addresses to some programs and names to others.
    if _NUMERIC.fullmatch(last) and _PLAIN_IPV4.fullmatch(host) is None:
        return "has a host that looks like an address in an unusual form"
    return None
