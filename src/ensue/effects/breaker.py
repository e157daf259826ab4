"""When calls to a target are to be stopped, judged by what this process saw; pure, instants are passed in.

Decides only that it is enough. Leaves stopping the whole fleet to the row of the target, and closing again to the one
call that is let through. Invariant: what is remembered is bounded, and a call that was answered costs no write anywhere.
"""

from collections import deque
from typing import Final

from ensue.schema.delivery import Breaker

CALLS_KEPT: Final = 1000


class CallWindow:
    """The last calls to one target.

    >>> window = CallWindow(Breaker(consecutive=2))
    >>> window.count(answered=False, now=0.0), window.count(answered=False, now=0.1)
    (False, True)
    """

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._calls: deque[tuple[float, bool]] = deque()
        self._failed = 0
        self._in_a_row = 0

    def count(self, *, answered: bool, now: float) -> bool:
        """Note one call; answers whether the breaker is to open. Having said so, it starts anew."""
        self._calls.append((now, answered))
        self._failed += not answered
        self._in_a_row = 0 if answered else self._in_a_row + 1
        self._forget(now)
        if answered:
            return False
        breaker, calls = self._breaker, len(self._calls)
        share = calls >= breaker.minimum_calls and self._failed >= breaker.failure_share * calls
        if not share and self._in_a_row < breaker.consecutive:
            return False
        self.reset()
        return True

    def reset(self) -> None:
        """Forget all calls."""
        self._calls.clear()
        self._failed = self._in_a_row = 0

    def _forget(self, now: float) -> None:
        calls, start = self._calls, now - self._breaker.window_seconds
        while calls and (calls[0][0] < start or len(calls) > CALLS_KEPT):
            self._failed -= not calls.popleft()[1]
