"""The HTTP client of integrations: one for each, opened in `setup`, replaceable in tests as `"namespace.http"`.

Decides its defaults: no redirects, no proxies of the environment, bounded times and answers. Leaves what is sent to the
integrations. Invariant: importing this needs no HTTP library; using it without one says what to install.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ensue.clock import EPOCH
from ensue.errors import DeclarationError, Problem
from ensue.integrations.settings.environment import WRONG_SETTING

if TYPE_CHECKING:
    import httpx2

    from ensue.integrations.contract import Integration

CONNECT_SECONDS: Final = 5.0
DOWNLOAD_BYTES_MAX: Final = 32 * 1024 * 1024


class TooLarge(ValueError):
    """The answer is larger than anybody here reads."""


def check_http_url(integration: Integration, setting: str) -> None:
    """Refuse a setting that is no address of an HTTP service, which would otherwise fail each call instead of the start.

    Raises `DeclarationError`.
    """
    value: str = getattr(integration, setting)
    if not _is_http_url(value):
        # A URL may hold a password.
        found = "a URL with credentials" if "@" in value else repr(value)
        text = f"{integration.namespace} ({type(integration).__name__}).{setting} is {found}; expected https://host[:port][/path]."
        raise DeclarationError(Problem(WRONG_SETTING, text))


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and " " not in text
    except ValueError:
        return False


async def enter_http(integration: Integration, *, timeout_seconds: float, **options: Any) -> httpx2.AsyncClient:
    """A client that is closed with the integration; `options` are httpx2's."""
    try:
        import httpx2
    except ImportError as failure:
        raise DeclarationError(
            Problem(
                WRONG_SETTING,
                f"{integration.namespace} ({type(integration).__name__}) needs the HTTP client: pip install 'ensue[http]' "
                f"({failure}).",
            )
        ) from failure
    timeout = httpx2.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds))
    return await integration.enter(httpx2.AsyncClient(timeout=timeout, trust_env=False, **options), name="http")


async def download(client: httpx2.AsyncClient, url: str, *, bytes_max: int = DOWNLOAD_BYTES_MAX) -> tuple[bytes, str]:
    """The bytes at `url` and their content type. Raises `TooLarge`, and the client's errors."""
    async with client.stream("GET", url) as response:
        response.raise_for_status()
        found = bytearray()
        async for chunk in response.aiter_bytes():
            found += chunk
            if len(found) > bytes_max:
                raise TooLarge(f"more than {bytes_max} bytes")
        return bytes(found), response.headers.get("content-type", "application/octet-stream").partition(";")[0]


def retry_after_of(response: httpx2.Response, *, default: float) -> float:
    """The seconds of a `Retry-After` header; a date counts from the answer's own `Date`."""
    text = response.headers.get("retry-after", "").strip()
    if text.isdigit():
        return float(text)
    try:
        at, sent = (_instant(response.headers.get(name, "")) for name in ("retry-after", "date"))
    except (TypeError, ValueError):
        return default
    return max(0.0, at - sent)


def _instant(text: str) -> float:
    from email.utils import parsedate_to_datetime

    return (parsedate_to_datetime(text) - EPOCH).total_seconds()
