"""Tell other processes of commits: which records changed, so that they push to their clients and look for effects.

A NOTIFY inside a transaction would make commits wait for each other, so it is sent after the commit, for all commits of a few
milliseconds at once. It is a hint: lost with the process, it delays others until they look by themselves. On SQLite nothing is
sent, because other processes see the file change.
"""

import asyncio
import logging
from collections.abc import Mapping

import msgspec

from ensue.engine.commit import Commit
from ensue.errors import Unavailable
from ensue.store.driver import Driver
from ensue.store.effect_table import notify_statement
from ensue.store.statement import Run, Work

logger = logging.getLogger("ensue.engine")

PAUSE_SECONDS = 0.02
NOTICE_BYTES_MAX = 7000


class Announcer:
    """Sends what was committed to other processes; `close` sends the rest."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._statement = notify_statement(driver.dialect)
        self._touched: dict[str, set[int]] = {}
        self._sending: asyncio.Task[None] | None = None
        self._closed = False

    def committed(self, commit: Commit) -> None:
        """Remember what a commit touched, and send it soon."""
        if self._statement is None or self._closed or not commit.touched:
            return
        for record, ids in commit.touched.items():
            self._touched.setdefault(record, set()).update(ids)
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._touched:
                touched, self._touched = self._touched, {}
                await self._driver.read(self._notify(notice(touched)))
                if not self._closed:
                    await asyncio.sleep(PAUSE_SECONDS)
        except Unavailable as error:
            logger.warning("other processes were not told of commits: %s", error)
        finally:
            self._sending = None

    def _notify(self, payload: str) -> Work[None]:
        assert self._statement is not None
        yield Run(self._statement, (payload,))

    async def close(self) -> None:
        """Send what is left, and stop."""
        self._closed = True
        if self._sending is not None:
            await self._sending


def notice(touched: Mapping[str, set[int]]) -> str:
    """The touched ids by record type as JSON, or nothing when that is too long for a notification."""
    if sum(map(len, touched.values())) > 1000:
        return ""
    text = msgspec.json.encode({record: sorted(ids) for record, ids in touched.items()}).decode()
    return text if len(text) <= NOTICE_BYTES_MAX else ""
