"""What became of a submission that raised an error: refused, never sent, or nobody knows. Pure.

Decides by what an error says of itself: ensue's own classes, an HTTP status, or a connection that was never made.
Invariant: whatever is not known to have been refused or kept from being sent may have been accepted.
"""

from __future__ import annotations

from typing import Final, Literal

from ensue.effects.retry import http_status, never_connected
from ensue.errors import Rejected, Unavailable, UnknownOutcome

End = Literal["refused", "not taken", "unknown"]

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
    status = http_status(error)
    if status is None:
        return "not taken" if never_connected(error) else "unknown"
    if status in _TAKE_LATER:
        return "not taken"
    return "refused" if status in _REFUSALS else "unknown"
