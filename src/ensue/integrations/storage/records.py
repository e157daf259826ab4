"""What an app knows of its stored objects, as records.

Decides which states an object goes through and what moves it. Leaves bytes to the object storage, and events to the
integration. Invariant: a status moves by a `StorageEvent` alone, and of the events of one upload one moves it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

from ensue.expression.trace import now
from ensue.schema.computations.machine import Mutation, StateMachine, Transition
from ensue.schema.entity import Entity
from ensue.schema.property import Property
from ensue.schema.relation import One

EventType: TypeAlias = Literal["uploaded", "refused", "expired", "deleted"]


def _moves(source: tuple[str, ...], target: EventType) -> Transition:
    created = Mutation("StorageEvent", "create", where={"what": target})
    return Transition(source, target, on=created, record=lambda event: event.object)


class StoredObject(Entity):
    """One object of a bucket, from the promise to upload it on.

    `status` goes from `pending` to `uploaded` when the object is there as announced, to `refused` when it is there and
    differs, to `expired` when it did not come in time, and to `deleted` when it was deleted. Link to it from your own
    records: `picture: Maybe[StoredObject]`. `storage` is the namespace of its integration, `size` in bytes.
    """

    storage: Property[str]
    key: Property[str] = Property(unique=True)
    filename: Property[str] = Property(default="")
    content_type: Property[str]
    size: Property[int]
    owner_id: Property[int | None] = Property(default=None, index=True)
    created_at: Property[datetime] = Property(default=now)
    expires_at: Property[datetime]
    status = StateMachine(
        initial="pending",
        transitions=[
            _moves(("pending",), "uploaded"),
            _moves(("pending",), "refused"),
            _moves(("pending",), "expired"),
            _moves(("pending", "uploaded"), "deleted"),
        ],
    )


class StorageEvent(Entity):
    """What happened to an object. `size`, `content_type` and `etag` are those that were found."""

    object: One[StoredObject] = One(on_delete="cascade")
    what: Property[EventType]
    at: Property[datetime] = Property(default=now)
    size: Property[int | None] = Property(default=None)
    content_type: Property[str] = Property(default="")
    etag: Property[str] = Property(default="")


class StorageSweep(Entity, unique=[("storage", "number")]):
    """One look for orphans; its delivery makes it, and the next one. `removed` is how many were found by the one before."""

    storage: Property[str]
    number: Property[int]
    created_at: Property[datetime] = Property(default=now)
    removed: Property[int] = Property(default=0)
