"""What clients of channels are told, and what they ask: the forms of the messages.

Decides names and forms only. Invariant: a message is the same text for every client that it goes to, so that it is
encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ensue.integrations.channels.bus import Entry, Page


class Position(msgspec.Struct, frozen=True):
    """How far a client has read a channel: everything up to `offset` of `epoch`."""

    channel: int
    epoch: str
    offset: int


class Resumed(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel had after a position. `epoch` and `offset` are where the client is once it has taken it.

    `messages` are as they were pushed. `member` is false, and nothing else means anything, for who is not.
    """

    channel: int
    epoch: str
    offset: int
    member: bool = True
    recovered: bool = False
    more: bool = False
    messages: list[msgspec.Raw] = []

    @classmethod
    def refused(cls, position: Position) -> Resumed:
        """For who is no member."""
        return cls(channel=position.channel, epoch=position.epoch, offset=position.offset, member=False)

    @classmethod
    def of(cls, position: Position, page: Page, *, messages_max: int, characters_max: int) -> Resumed:
        """As much of `page` as fits: the first message of an answer always does."""
        channel, epoch = position.channel, page.top.epoch
        if not page.whole:
            return cls(channel=channel, epoch=epoch, offset=page.top.offset)
        offset, texts = position.offset, list[msgspec.Raw]()
        for entry in page.entries[: max(0, messages_max)]:
            text = message(channel, epoch, entry).encode()
            characters_max -= len(text)
            if characters_max < 0 and (texts or characters_max + len(text) <= 0):
                break
            texts.append(msgspec.Raw(text))
            offset = entry.offset
        more = offset < page.top.offset
        return cls(channel=channel, epoch=epoch, offset=offset, recovered=True, more=more, messages=texts)


def message(channel: int, epoch: str, entry: Entry) -> str:
    """A message of a log, `entry.text` being the JSON object of what it is besides."""
    return f'{{"type":"message","channel":{channel},"epoch":"{epoch}","offset":{entry.offset},{entry.text[1:]}'


def joined(positions: Sequence[Position]) -> str:
    """These channels are live: everything after the position comes."""
    return _text({"type": "joined", "channels": positions})


def left(channels: Sequence[int]) -> str:
    """The client is no longer a member of these."""
    return _text({"type": "left", "channels": channels})


def gap(positions: Sequence[Position]) -> str:
    """Messages before these positions are lost to the client."""
    return _text({"type": "gap", "channels": positions})


def presence_changed(channel: int, joined: Sequence[int], left: Sequence[int]) -> str:
    """These users came to the channel, and these are gone."""
    return _text({"type": "presence", "channel": channel, "joined": joined, "left": left})


def _text(message: dict[str, Any]) -> str:
    return msgspec.json.encode(message).decode()
