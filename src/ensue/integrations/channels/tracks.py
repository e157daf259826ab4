"""How far each followed topic was given to its listeners, and what may be given to them next.

Decides, without I/O, for every message whether it is next, a repeat, or after a hole; leaves reading the log to
`follower`. Invariant: what is given out of one epoch has offsets that count up by one, and where they would not, a gap
is told.
"""

from __future__ import annotations

from typing import NamedTuple

from ensue.integrations.channels.bus import Entry, Page, Stamp

HELD_MAX = 1_000


class Caught(NamedTuple):
    """What a page of the log allows: `entries` to give out, after word of a `gap` if something is lost."""

    entries: list[Entry]
    gap: bool


class Track:
    """One topic. `stamp` is that of the last message given out; None while it is not known where to begin.

    >>> track = Track()
    >>> track.begin(Stamp("e", 4))
    []
    >>> track.received(Stamp("e", 5), "five")
    [Entry(offset=5, text='five')]
    >>> track.received(Stamp("e", 7), "seven"), track.behind
    ([], True)
    """

    def __init__(self) -> None:
        self.stamp: Stamp | None = None
        self.behind = False
        self._held: list[tuple[Stamp, str]] = []

    def begin(self, top: Stamp) -> list[Entry]:
        """Everything after `top` is to be given out; what came meanwhile is, at once."""
        self.stamp = top
        return self._take_held()

    def received(self, stamp: Stamp, text: str) -> list[Entry]:
        """A message has come; gives what may be given out. If the track is `behind` by it, its log must be read."""
        own = self.stamp
        if own is None or self.behind:
            self._held.append((stamp, text))
            if len(self._held) > HELD_MAX:
                # The log has them too.
                self._held.clear()
            return []
        if stamp.epoch == own.epoch and stamp.offset <= own.offset:
            return []
        if stamp != Stamp(own.epoch, own.offset + 1):
            self.behind = True
            self._held = [(stamp, text)]
            return []
        self.stamp = stamp
        return [Entry(stamp.offset, text)]

    def seen(self, top: Stamp) -> bool:
        """The log's last message has this stamp; gives whether it must be read."""
        if self.stamp is not None and top != self.stamp:
            # Being ahead of the log is possible too: the message came after its top was looked up.
            self.behind = self.behind or top.epoch != self.stamp.epoch or top.offset > self.stamp.offset
        return self.behind

    def reading(self) -> Stamp | None:
        """The log is about to be read, after this stamp: it has all that came until now."""
        self._held.clear()
        return self.stamp

    def caught(self, page: Page) -> Caught:
        """The log was read; `behind` is still true if that has to be done again."""
        assert self.stamp is not None
        if not page.whole:
            self.stamp, self.behind = page.top, False
            return Caught(self._take_held(), gap=True)
        entries = [entry for entry in page.entries if entry.offset > self.stamp.offset]
        if entries:
            self.stamp = Stamp(self.stamp.epoch, entries[-1].offset)
        self.behind = self.stamp.offset < page.top.offset
        if not self.behind:
            entries += self._take_held()
        return Caught(entries, gap=False)

    def _take_held(self) -> list[Entry]:
        held, self._held = self._held, []
        return [entry for stamp, text in held for entry in self.received(stamp, text)]
