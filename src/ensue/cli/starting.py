"""Being told to stop while an app starts.

Decides that a signal ends the start, however long a peer that says nothing keeps it waiting. Leaves what a signal means
once the app runs to the commands. Invariant: what was entered so far is left in good order.
"""

from __future__ import annotations

import asyncio


class Starting:
    """The start of an app in the current task; set `over` once it has started.

    `stop` is what a signal calls, on the event loop. The first call cancels a start that is under way, and `stopped`
    says so; once it is over, and the second time, it does nothing.
    """

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self.over = False
        self.stopped = False

    def stop(self) -> None:
        """End the start."""
        if not self.over and not self.stopped and self._task is not None:
            self.stopped = True
            self._task.cancel()
