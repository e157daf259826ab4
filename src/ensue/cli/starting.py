"""The start of an app: being told to stop meanwhile, and what its end means for the process.

Decides that a signal ends the start, however long a peer that says nothing keeps it waiting, and that what was made by
its end is not looked through for garbage again, which would stop everything for tens of milliseconds. Leaves what a
signal means once the app runs to the commands. Invariant: what was entered so far is left in good order.
"""

from __future__ import annotations

import asyncio
import gc


class Starting:
    """The start of an app in the current task; call `end` once it has started.

    `stop` is what a signal calls, on the event loop. The first call cancels a start that is under way, and `stopped`
    says so; once it is over, and the second time, it does nothing.
    """

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self.over = False
        self.stopped = False

    def end(self) -> None:
        """The app has started; the process has no other purpose, so what it is made of lasts as long as it does."""
        self.over = True
        gc.collect()
        gc.freeze()

    def stop(self) -> None:
        """End the start."""
        if not self.over and not self.stopped and self._task is not None:
            self.stopped = True
            self._task.cancel()
