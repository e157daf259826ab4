"""An effect on its way through a broker: what is written into a message, and read out of it.

Decides the form, which has a version. Leaves brokers to their modules. Invariant: what is read equals what was written,
also in another process of another release.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from ensue.clock import to_micros
from ensue.effects.target import EffectRow
from ensue.errors import InternalError

VERSION: Final = 1


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    v: int
    id: int
    name: str
    key: str
    record: str
    record_id: int
    payload: str
    enqueued_at: datetime
    trace: str | None = None


def to_message(row: EffectRow, at: datetime) -> bytes:
    """The bytes that carry `row`; `at` is its instant if it has none."""
    message = _Message(
        v=VERSION,
        id=row.id,
        name=row.name,
        key=row.key,
        record=row.record,
        record_id=row.record_id,
        payload=row.payload,
        enqueued_at=row.enqueued_at or at,
        trace=row.trace,
    )
    return msgspec.json.encode(message)


def message_id(row: EffectRow) -> str:
    """By which a stream recognises a repeat of `row`: its key. What an operator starts anew is no repeat."""
    return f"{row.key}@{to_micros(row.enqueued_at)}" if row.anew and row.enqueued_at is not None else row.key


def from_message(data: bytes, *, attempt: int) -> EffectRow:
    """The effect in a message, as its `attempt`-th attempt. Raises `InternalError` for what is no such message."""
    try:
        message = msgspec.json.decode(data, type=_Message)
    except msgspec.DecodeError as error:
        raise InternalError(
            f"A message of the relay's stream is no effect: {error}. Give the stream to effects alone."
        ) from error
    if message.v != VERSION:
        raise InternalError(
            f"A relayed effect has version {message.v}; this ensue reads version {VERSION}. Consume it with the version "
            "that handed it over."
        )
    return EffectRow(
        id=message.id,
        name=message.name,
        key=message.key,
        record=message.record,
        record_id=message.record_id,
        payload=message.payload,
        attempt=attempt,
        enqueued_at=message.enqueued_at,
        trace=message.trace,
    )
