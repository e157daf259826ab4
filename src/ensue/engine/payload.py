"""The payload of an effect read back: the JSON text that `commit` wrote with the cause, as a `MutationEvent`.

Decides what is refused: another version, a record type that is gone. The images themselves are `json_form`'s.
Invariant: the event is equal to the one that was written, also in another process.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ensue.engine.read.json_form import from_json
from ensue.errors import InternalError
from ensue.schema.event import MutationEvent
from ensue.schema.model import Change, Model
from ensue.store.effect_table import PAYLOAD_VERSION


class _Payload(msgspec.Struct, frozen=True, kw_only=True):
    """The object as it stands in the table; `v` is its version."""

    v: int
    type: Change
    record_name: str
    record: dict[str, Any]
    old_record: dict[str, Any] | None
    changed: list[str]


def decode_payload(model: Model, text: str) -> MutationEvent[Any]:
    """The event that `enqueuing.collect.effect_payload` wrote.

    Raises `InternalError` for another version or a record type that is gone.
    """
    payload = msgspec.json.decode(text, type=_Payload)
    if payload.v != PAYLOAD_VERSION:
        raise InternalError(
            f"An effect's payload has version {payload.v}; this ensue reads version {PAYLOAD_VERSION}. Deliver it "
            f"with the version that wrote it."
        )
    if payload.record_name not in model.records:
        raise InternalError(
            f"An effect is about the record type {payload.record_name!r}, which this app no longer has. Restore it "
            f"or discard the effect."
        )
    name, old = payload.record_name, payload.old_record
    return MutationEvent(
        payload.type,
        name,
        from_json(model, name, payload.record),
        None if old is None else from_json(model, name, old),
        frozenset(payload.changed),
    )
