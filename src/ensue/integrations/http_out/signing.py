"""The secrets of endpoints: made of a salt by the app's key, so the database alone can't sign anything.

Decides how a secret is made, and which are in force. Leaves the form of signatures to `signature`. Invariants: an
endpoint always has a secret that doesn't expire; after a rotation the old one signs too, until it expires.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import timedelta

from ensue.clock import Clock
from ensue.engine.store import Store
from ensue.errors import InternalError
from ensue.integrations.http_out.records import WebhookEndpoint, WebhookSecret

SECRETS_MAX = 5


class Signing:
    """The secrets of all endpoints. The first key makes new ones; all of them make those that they made before."""

    def __init__(self, store: Store, clock: Clock, *, keys: Sequence[bytes]) -> None:
        self._store = store
        self._clock = clock
        self._keys = {_key_id(key): key for key in keys}
        self._newest = _key_id(keys[0])

    def __repr__(self) -> str:
        return "Signing(…)"

    async def begin(self, endpoint: int) -> bytes:
        """A new secret that doesn't expire, in the caller's transaction."""
        row = await self._store.create(
            WebhookSecret(
                endpoint=WebhookEndpoint.ref(endpoint),
                salt=secrets.token_urlsafe(32),
                key_id=self._newest,
                expires_at=None,
            )
        )
        return self._secret(endpoint, row)

    async def rotate(self, endpoint: int, *, overlap: timedelta) -> bytes:
        """The same; those before it expire after `overlap`, in the caller's transaction."""
        lasting = (WebhookSecret.endpoint.id == endpoint) & WebhookSecret.expires_at.is_null()
        await self._store.update_many(WebhookSecret, lasting, expires_at=self._clock.now() + overlap)
        return await self.begin(endpoint)

    async def in_force(self, endpoint: int) -> list[bytes]:
        """The secrets to sign with, the newest first."""
        now = self._clock.now()
        valid = WebhookSecret.expires_at.is_null() | (WebhookSecret.expires_at > now)
        rows = await self._store.find(
            WebhookSecret,
            (WebhookSecret.endpoint.id == endpoint) & valid,
            order_by=[WebhookSecret.created_at.desc(), WebhookSecret.id.desc()],
            limit=SECRETS_MAX,
        )
        return [self._secret(endpoint, row) for row in rows]

    async def prune(self) -> int:
        """Forget those that have expired."""
        return await self._store.delete_many(WebhookSecret, WebhookSecret.expires_at < self._clock.now())

    def _secret(self, endpoint: int, row: WebhookSecret) -> bytes:
        key = self._keys.get(row.key_id)
        if key is None:
            raise InternalError(
                f"A secret of WebhookEndpoint {endpoint} was made by a key that is no longer given. Add it to "
                "HTTP_OUT_PREVIOUS_SECRETS, or rotate the endpoint's secret."
            )
        return hmac.digest(key, f"ensue webhook secret {endpoint} {row.salt}".encode(), hashlib.sha256)


def _key_id(key: bytes) -> str:
    return hmac.digest(key, b"ensue webhook key id", hashlib.sha256).hex()[:16]
