"""What became of a submission that raised an error: refused, never sent, or nobody knows. Pure.

Decides by what an error says of itself: ensue's own classes, an HTTP status, or a connection that was never made.
Invariant: whatever is not known to have been refused or kept from being sent may have been accepted.
"""

from __future__ import annotations

import socket
from typing import Any, Final, Literal

from ensue.errors import Rejected, Unavailable, UnknownOutcome

End = Literal["refused", "not taken", "unknown"]

# By name, as each HTTP client has classes of its own, and none of them need be installed.
_NEVER_SENT: Final = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "ClientConnectorError"})
_TAKE_LATER: Final = frozenset({408, 425, 429, 503})
_REFUSALS: Final = range(400, 500)


def end_of(error: BaseException) -> End:
    """What an error of `submit` says of the submission.

    >>> end_of(ConnectionRefusedError()), end_of(ConnectionResetError())
    ('not taken', 'unknown')
    """
    if isinstance(error, UnknownOutcome):
        return "unknown"
    if isinstance(error, Rejected):
        return "refused"
    if isinstance(error, Unavailable):
        return "not taken" if error.retryable else "refused"
    if isinstance(error, ConnectionRefusedError | socket.gaierror) or _NEVER_SENT & _names(error):
        return "not taken"
    status = status_of(error)
    if status is None:
        return "unknown"
    if status in _TAKE_LATER:
        return "not taken"
    return "refused" if status in _REFUSALS else "unknown"


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error of any client carries."""
    for holder in (getattr(error, "response", None), error):
        for name in ("status_code", "status"):
            found: Any = getattr(holder, name, None)
            if isinstance(found, int) and not isinstance(found, bool):
                return found
    return None


def _names(error: BaseException) -> frozenset[str]:
    return frozenset(cls.__name__ for cls in type(error).__mro__)
