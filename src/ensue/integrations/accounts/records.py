"""What accounts keep: credentials, sessions, one-time tokens, failed attempts, and what happened.

Decides which records there are and what is in them; an app's class of users is linked to them when its schema is open.
Leaves who writes them to the other modules. Invariants: whatever a secret can be made from, or checked with, is in a
private record, so it is never written as JSON; `AccountEvent` names these by id only.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ensue.errors import DeclarationError
from ensue.expression.trace import now
from ensue.schema.entity import Entity
from ensue.schema.property import Property
from ensue.schema.relation import Link, Maybe, One
from ensue.schema.schema import Schema
from ensue.schema.written.annotation import Names, Written


class AccountCredential(Entity, private=True):
    """How one user proves who they are: `login` (normalised) and the Argon2 hash of the password; linked to `user`."""

    login: Property[str] = Property(unique=True)
    password_hash: Property[str]
    changed_at: Property[datetime] = Property(default=now)


class AccountSession(Entity, private=True):
    """One login: it lives from `started_at` until `expires_at`, or `ended_at`; linked to `user`.

    Its refresh token is made of `salt` and `generation` and kept as `refresh_hash`; each use counts `generation` up.
    """

    started_at: Property[datetime] = Property(default=now)
    expires_at: Property[datetime]
    salt: Property[str]
    generation: Property[int]
    refresh_hash: Property[str]
    rotated_at: Property[datetime] = Property(default=now)
    refresh_expires_at: Property[datetime]
    label: Property[str] = Property(default="")
    address: Property[str] = Property(default="")
    ended_at: Property[datetime | None] = Property(default=None)
    ended_by: Property[str] = Property(default="")


class AccountToken(Entity, private=True):
    """Something that can be done once: `purpose` with the token made of `salt`; linked to `user`, if there is one.

    A registration that waits for its confirmation keeps what it will need then in `login`, `password_hash`, `profile`.
    """

    purpose: Property[str]
    salt: Property[str]
    expires_at: Property[datetime]
    used_at: Property[datetime | None] = Property(default=None)
    login: Property[str] = Property(default="")
    password_hash: Property[str] = Property(default="")
    profile: Property[dict[str, object]] = Property(default=dict)


class AccountAttempt(Entity, private=True):
    """How often somebody tried in vain: `subject` is a keyed hash of an account's login or of a network address."""

    subject: Property[str] = Property(unique=True)
    failures: Property[int] = Property(default=0)
    last_at: Property[datetime] = Property(default=now)
    blocked_until: Property[datetime | None] = Property(default=None)


class AccountEvent(Entity):
    """What happened to an account: `kind` is one of `KINDS`; linked to `user`, if the account is known.

    Written in the transaction of what it tells, and never changed: derive from it, or listen to it with a side effect.
    `session` and `token` are ids of an `AccountSession` and an `AccountToken`.
    """

    kind: Property[str]
    at: Property[datetime] = Property(default=now)
    address: Property[str] = Property(default="")
    session: Property[int | None] = Property(default=None)
    token: Property[int | None] = Property(default=None)


KINDS = (
    "registration_requested",
    "registered",
    "logged_in",
    "log_in_failed",
    "logged_out",
    "logged_out_everywhere",
    "refresh_reused",
    "password_changed",
    "reset_requested",
    "password_reset",
)
"""Every `kind` of `AccountEvent`."""

_LINKS: dict[type[Entity], type[Link]] = {
    AccountCredential: One,
    AccountSession: One,
    AccountToken: Maybe,
    AccountEvent: Maybe,
}


def add_records(schema: Schema, users: type[Entity]) -> None:
    """Add them to an app whose users are `users`; a user that is deleted takes along what is private of it."""
    if AccountCredential in schema.entities:
        raise DeclarationError("There are two Accounts integrations in this app; expected one, for App(user=…).")
    schema.entities.add(AccountAttempt)
    for record, kind in _LINKS.items():
        schema.entities.add(record)
        schema.entity(record).add_property("user", _link(record, kind, users))


def _link(record: type[Entity], kind: type[Link], users: type[Entity]) -> Link:
    on_delete = "detach" if record is AccountEvent else "cascade"
    link: Link
    if kind is One:
        link = One[Any](unique=record is AccountCredential, on_delete=on_delete)
    else:
        link = Maybe[Any](default=None, on_delete=on_delete)
    link.written = Written(users, Names("", {}))
    return link
