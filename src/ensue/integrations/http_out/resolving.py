"""Looking names up with the system's resolver, which blocks, in threads that nobody else uses.

Decides how many look-ups there are at a time. Leaves what may be called to `addresses`. Invariants: a resolver that is
slow holds up look-ups of names and nothing else of the process; no look-up keeps the process from ending.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

AT_ONCE = 16


class SystemResolver:
    """Gives the addresses of a host, as text. Raises OSError for what has none.

    >>> await SystemResolver()("localhost", 443)
    ['127.0.0.1']
    """

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._places = asyncio.Semaphore(at_once)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def settle(found: Any, error: OSError | None) -> None:
            # The place is taken until the thread ends, also if nobody waits any more.
            self._places.release()
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(list(dict.fromkeys(str(item[4][0]) for item in found)))

        def look() -> None:
            found: Any = ()
            failure: OSError | None = None
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError as error:
                failure = error
            except UnicodeError as error:
                failure = OSError(str(error))
            with suppress(RuntimeError):  # The loop is closed: there is nobody left to tell.
                loop.call_soon_threadsafe(settle, found, failure)

        try:
            # Not of an executor, whose threads are waited for when the process ends.
            threading.Thread(target=look, name="ensue.http_out.resolve", daemon=True).start()
        except RuntimeError as error:
            self._places.release()
            raise OSError("no thread to look a name up") from error
        return await answer
