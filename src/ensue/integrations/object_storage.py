"""Object storage: clients upload to and download from an S3 bucket directly, and records say what is there.

Decides who gets which address, when an upload counts as done, and what is cleaned up. Leaves signing to
`storage.presign`, the bucket to `storage.s3`, and what an object is for to the app, which links to `StoredObject`.
Invariants: an upload is done when the bucket says so, not when somebody claims it, and that is told once, whoever
noticed first: the client, a notification, or the end of its time; what is deleted in the app is deleted in the bucket by
a durable effect, so a dead bucket delays it.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from ensue.errors import ConstraintViolated, DeclarationError, NotFound, Problem, Rejected, UsageError
from ensue.integrations.api import api
from ensue.integrations.contract import Health, Integration
from ensue.integrations.http_client import check_http_url
from ensue.integrations.inbound.message import Inbound
from ensue.integrations.inbound.webhook import Webhook, WebhookOptions
from ensue.integrations.settings.environment import WRONG_SETTING, env
from ensue.integrations.storage.notification import BearerToken, created_keys
from ensue.integrations.storage.objects import LISTED_AT_ONCE, MemoryObjects, ObjectInfo, Objects, StorageUnavailable
from ensue.integrations.storage.presign import Bucket, Credentials, Request
from ensue.integrations.storage.records import StorageEvent, StorageSweep, StoredObject
from ensue.integrations.storage.uploads import (
    INLINE,
    Download,
    Upload,
    check_upload,
    disposition,
    event_for,
    new_key,
)
from ensue.schema.delivery import Target
from ensue.schema.effect import Effect, SideEffect
from ensue.schema.interaction import Context

if TYPE_CHECKING:
    from ensue.engine.controller import Controller
    from ensue.schema.schema import Schema

__all__ = [
    "Action",
    "Download",
    "MemoryObjects",
    "ObjectStorage",
    "StorageEvent",
    "StorageUnavailable",
    "StoredObject",
    "Upload",
]

Action = Literal["upload", "confirm", "download", "delete"]

GRACE = timedelta(minutes=10)
"""How long after its address has expired an upload may still be under way: the time of expiry is that of its start."""

MEMORY = "memory://"
SIGNED_FOR_MAX = timedelta(days=7)
"""Longer than this S3 takes no signed address."""

_BUCKET = re.compile(r"[A-Za-z0-9._-]+")
_CONTENT_TYPE = re.compile(r"(?:[A-Za-z0-9.+-]+|\*)/(?:[A-Za-z0-9.+-]+|\*)")

logger = logging.getLogger("ensue.integrations.object_storage")


class ObjectStorage(Integration):
    """Uploads and downloads over signed addresses of an S3 bucket; `endpoint="memory://"` keeps objects in memory.

    `client_endpoint` is where clients reach the server, if that differs from where we do. `public_url` stands before the
    key of an object in the addresses that `put` gives, if the bucket can be read by anybody there. Objects of clients are
    kept under `prefix`. With `sweep_every`, objects under it that no record speaks for are deleted once they are older
    than `orphans_after`. `notification_token` opens the webhook `uploaded` to the server's notifications.

    >>> ObjectStorage(bucket="photos", content_types=["image/*"], size_max=5_000_000)
    """

    bucket: str = env("S3_BUCKET")
    endpoint: str = env("S3_ENDPOINT", default="")
    client_endpoint: str = env("S3_CLIENT_ENDPOINT", default="")
    public_url: str = env("S3_PUBLIC_URL", default="")
    region: str = env("S3_REGION", default="us-east-1")
    access_key_id: str = env("S3_ACCESS_KEY_ID", default="", secret=False)
    secret_access_key: str = env("S3_SECRET_ACCESS_KEY", default="")
    session_token: str = env("S3_SESSION_TOKEN", default="")
    path_style: bool | None = env("S3_PATH_STYLE", default=None)
    notification_token: str = env("S3_NOTIFICATION_TOKEN", default="")
    prefix: str = env("S3_PREFIX", default="uploads/")
    content_types: Sequence[str] = ("*/*",)
    size_max: int = env("S3_SIZE_MAX", default=100 * 1024 * 1024)
    upload_lifetime: timedelta = env("S3_UPLOAD_LIFETIME", default=timedelta(minutes=15))
    download_lifetime: timedelta = env("S3_DOWNLOAD_LIFETIME", default=timedelta(minutes=5))
    orphans_after: timedelta = env("S3_ORPHANS_AFTER", default=timedelta(days=1))
    sweep_every: timedelta | None = env("S3_SWEEP_EVERY", default=None)

    async def configure(self, schema: Schema) -> None:
        for record in (StoredObject, StorageEvent, StorageSweep):
            schema.entities.add(record)

    async def setup(self, controller: Controller) -> None:
        self._check_settings()
        self._controller = controller
        self._store = controller.store
        self.objects: Objects = await self.enter(self._open(), name="objects")
        await self.objects.check()
        if self.sweep_every is not None:
            await self._start_sweeping(self.sweep_every)

    async def health(self) -> Health:
        return self.objects.health()

    # --- For clients ----------------------------------------------------------------------------------------------------

    async def allow(self, ctx: Context, action: Action, item: StoredObject | None) -> bool:
        """Who may do what; override it for other rules. Here: an object is its owner's; an upload has no `item` yet."""
        return item is None or (ctx.user is not None and item.owner_id == _id_of(ctx.user))

    @api()
    async def create_upload(self, ctx: Context, content_type: str, size: int, filename: str = "") -> Upload:
        """An address to upload one object to: exactly `size` bytes of this type, with the headers given."""
        await self._require(ctx, "upload", None)
        check_upload(content_type, size, filename, allowed=self.content_types, size_max=self.size_max)
        expires_at = self.clock.now() + self.upload_lifetime
        item = StoredObject(
            storage=self.namespace,
            key=new_key(self.prefix, filename, uuid.uuid4().hex),
            filename=filename,
            content_type=content_type,
            size=size,
            owner_id=_id_of(ctx.user),
            expires_at=expires_at,
        )
        item = await self._store.create(item)
        headers = {"content-type": content_type, "content-length": str(size), "if-none-match": "*"}
        url = self.objects.address(Request("PUT", item.key, headers), self.upload_lifetime)
        return Upload(object_id=item.id, method="PUT", url=url, headers=headers, expires_at=expires_at)

    @api()
    async def confirm_upload(self, ctx: Context, object_id: int) -> str:
        """Look whether the object is there, as announced; gives its status. Asking again is harmless."""
        item = await self._found(ctx, "confirm", object_id)
        return await self.complete(item)

    @api()
    async def download_url(self, ctx: Context, object_id: int, inline: bool = False) -> Download:
        """An address to download the object from; with `inline` a browser may show it, if its type is harmless."""
        item = await self._found(ctx, "download", object_id)
        if item.status != "uploaded":
            raise Rejected(
                "not_uploaded", f"Object {object_id} is {item.status}; only uploaded ones can be downloaded."
            )
        how = disposition(item.filename, inline=inline and item.content_type in INLINE)
        query = {"response-content-disposition": how, "response-content-type": item.content_type}
        url = self.objects.address(Request("GET", item.key, query=query), self.download_lifetime)
        return Download(url=url, expires_at=self.clock.now() + self.download_lifetime)

    @api()
    async def delete_object(self, ctx: Context, object_id: int) -> None:
        """Delete the object; its record stays and says so."""
        item = await self._found(ctx, "delete", object_id)
        if item.status in ("pending", "uploaded"):
            await self._store.create(StorageEvent(object=item, what="deleted"))

    def create_webhooks(self) -> list[Webhook]:
        if not self.notification_token:
            return []
        options = WebhookOptions(verify=BearerToken(token=self.notification_token))
        return [Webhook("uploaded", self._notified, options)]

    # --- For other integrations -----------------------------------------------------------------------------------------

    async def put(self, key: str, data: bytes, content_type: str) -> str:
        """Store `data` and give its address, which anybody can read only if the bucket says so; else see `link`.

        Repeating it is harmless. Raises `UsageError` for a key under `prefix`, which is for clients.
        """
        if key.startswith(self.prefix):
            raise UsageError(
                f"{self.namespace}.put({key!r}): keys that start with {self.prefix!r} are for uploads of clients, and "
                "what no record speaks for is deleted there. Take another one."
            )
        await self.objects.put(key, data, content_type)
        return f"{self.public_url.rstrip('/')}/{key}" if self.public_url else self.objects.url(key)

    async def get(self, key: str) -> bytes:
        """The bytes of an object. Raises `NotFound`."""
        found = await self.objects.get(key)
        if found is None:
            raise NotFound(f"There is no object {key!r} in the bucket {self.bucket!r}.")
        return found[0]

    def link(self, key: str, *, expires: timedelta | None = None) -> str:
        """An address at which the object can be read for `expires`, by default `download_lifetime`."""
        return self.objects.address(Request("GET", key), expires or self.download_lifetime)

    async def complete(self, item: StoredObject) -> str:
        """Ask the bucket for a pending object and tell what was found, once, whoever asks; gives the status."""
        if item.status == "pending":
            found = await self.objects.head(item.key)
            if found is None:
                return item.status
            await self._tell(event_for(item, found))
            item = await self._store.get(StoredObject, item.id)
        return item.status

    async def sweep(self, *, older_than: timedelta | None = None) -> list[str]:
        """Delete the objects under `prefix` that no record speaks for and that are older; gives their keys."""
        before = self.clock.now() - (older_than or self.orphans_after)
        removed: list[str] = []
        async for page in self.objects.list(self.prefix):
            old = [item for item in page if item.modified_at < before]
            orphans = await self._orphans(old)
            await self.objects.delete(orphans)
            removed += orphans
        if removed:
            logger.info("%s: %d objects that no record speaks for were deleted", self.namespace, len(removed))
        return removed

    # --- Effects --------------------------------------------------------------------------------------------------------

    def create_side_effects(self) -> list[SideEffect]:
        name, over = self.namespace, ("deleted", "expired", "refused")
        # One bucket: if it is down, all of them wait.
        target = Target(name)
        effects = [
            SideEffect(
                "settle",
                StoredObject,
                on="create",
                where=lambda item: item.storage == name,
                delay=self.upload_lifetime + GRACE,
                content=self._settle,
                target=target,
            ),
            SideEffect(
                "remove",
                StoredObject,
                on="update",
                of=[StoredObject.status],
                where=lambda item: (item.storage == name) & item.status.in_(over),
                content=self._remove,
                target=target,
            ),
            SideEffect(
                "remove_with_record",
                StoredObject,
                on="delete",
                where=lambda item: item.storage == name,
                content=self._remove,
                target=target,
            ),
        ]
        if self.sweep_every is not None:
            effects.append(
                SideEffect(
                    "sweep",
                    StorageSweep,
                    on="create",
                    where=lambda item: item.storage == name,
                    delay=self.sweep_every,
                    timeout_seconds=600.0,
                    content=self._sweep,
                    target=target,
                )
            )
        return effects

    async def _settle(self, effect: Effect[StoredObject]) -> None:
        """The time for the upload is over: it is there unnoticed, or expired; what came after a deletion goes."""
        try:
            item = await self._store.get(StoredObject, effect.record.id)
        except NotFound:
            item = None
        if item is not None and item.status == "pending" and await self.complete(item) == "pending":
            await self._tell(StorageEvent(object=item, what="expired"))
        elif item is None or item.status not in ("pending", "uploaded"):
            await self.objects.delete([effect.record.key])

    async def _remove(self, effect: Effect[StoredObject]) -> None:
        await self.objects.delete([effect.record.key])

    async def _sweep(self, effect: Effect[StorageSweep]) -> None:
        removed = await self.sweep()
        await self._next_sweep(effect.record.number + 1, removed=len(removed))
        await self._store.delete_many(
            StorageSweep, (StorageSweep.storage == self.namespace) & (StorageSweep.number < effect.record.number)
        )

    async def _start_sweeping(self, every: timedelta) -> None:
        """The first one; or the next, if whatever was to make it has been given up."""
        found = await self._store.find(
            StorageSweep, StorageSweep.storage == self.namespace, order_by=[StorageSweep.number.desc()], limit=1
        )
        if not found or found[0].created_at < self.clock.now() - 3 * every:
            await self._next_sweep(found[0].number + 1 if found else 1, removed=0)

    async def _next_sweep(self, number: int, *, removed: int) -> None:
        # Another process, or an earlier attempt, may have made it.
        with suppress(ConstraintViolated):
            await self._store.create(StorageSweep(storage=self.namespace, number=number, removed=removed))

    async def _notified(self, message: Inbound) -> None:
        """Webhook: the server says that objects were created."""
        keys = created_keys(message.json(), self.bucket)
        for start in range(0, len(keys), LISTED_AT_ONCE):
            named = (StoredObject.storage == self.namespace) & StoredObject.key.in_(
                keys[start : start + LISTED_AT_ONCE]
            )
            for item in await self._store.find(StoredObject, named & (StoredObject.status == "pending")):
                await self.complete(item)

    # --- Details --------------------------------------------------------------------------------------------------------

    async def _tell(self, event: StorageEvent) -> None:
        """The one event that ends an upload: of several that are told at once, or again, one is kept."""
        await self._controller.receive(f"{self.namespace}/ended", str(event.object.id), event)

    async def _orphans(self, listed: Sequence[ObjectInfo]) -> list[str]:
        keys = [item.key for item in listed]
        if not keys:
            return []
        kept = StoredObject.key.in_(keys) & StoredObject.status.in_(["pending", "uploaded"])
        known = {item.key for item in await self._store.find(StoredObject, kept, fields=[StoredObject.key])}
        return [key for key in keys if key not in known]

    async def _found(self, ctx: Context, action: Action, object_id: int) -> StoredObject:
        item = await self._store.find_one(
            StoredObject, (StoredObject.id == object_id) & (StoredObject.storage == self.namespace)
        )
        # Whether it exists is nobody's business who may not use it.
        if item is None or not await self.allow(ctx, action, item):
            raise NotFound(f"There is no object {object_id} that you may {action}.")
        return item

    async def _require(self, ctx: Context, action: Action, item: StoredObject | None) -> None:
        if not await self.allow(ctx, action, item):
            raise Rejected("not_allowed", f"You may not {action} here.")

    def _check_settings(self) -> None:
        for setting in ("endpoint", "client_endpoint", "public_url"):
            if getattr(self, setting) not in ("", MEMORY):
                check_http_url(self, setting)
        if not _BUCKET.fullmatch(self.bucket):
            raise self._wrong(
                f"has the bucket {self.bucket!r}; expected letters, digits, dots, hyphens and underscores."
            )
        if self.size_max < 1:
            raise self._wrong(f"has size_max={self.size_max}; expected bytes, 1 or more.")
        for setting in ("upload_lifetime", "download_lifetime"):
            lifetime: timedelta = getattr(self, setting)
            if not timedelta(seconds=1) <= lifetime <= SIGNED_FOR_MAX:
                raise self._wrong(
                    f"has {setting}={lifetime}; expected 1 second to 7 days, which is as long as S3 lets."
                )
        if self.sweep_every is not None and self.sweep_every <= timedelta(0):
            raise self._wrong(f"has sweep_every={self.sweep_every}; expected a time above 0, or None.")
        kinds = self.content_types
        # A text is a sequence too, of letters.
        wrong = kinds if isinstance(kinds, str) else [kind for kind in kinds if not _CONTENT_TYPE.fullmatch(kind)]
        if wrong:
            raise self._wrong(f"has the content types {wrong!r}; expected a list of such as 'image/png' or 'image/*'.")

    def _open(self) -> AbstractAsyncContextManager[Objects]:
        if self.endpoint == MEMORY:
            return nullcontext(MemoryObjects(self.clock))
        if not self.access_key_id or not self.secret_access_key:
            raise self._wrong("has no keys: set access_key_id (S3_ACCESS_KEY_ID) and secret_access_key.")
        if "*" in self.prefix or not self.prefix.endswith("/"):
            raise self._wrong(f"has the prefix {self.prefix!r}; expected one that ends with '/'.")
        try:
            # Only who uses S3 needs its client installed.
            from ensue.integrations.storage.s3 import S3Objects
        except ImportError as failure:
            raise self._wrong(f"needs the S3 client: pip install 'ensue[s3]' ({failure}).") from failure
        credentials = Credentials(self.access_key_id, self.secret_access_key, self.session_token)
        ours = self.endpoint or f"https://s3.{self.region}.amazonaws.com"
        return S3Objects(
            self._place(ours), credentials, client_bucket=self._place(self.client_endpoint or ours), clock=self.clock
        )

    def _place(self, endpoint: str) -> Bucket:
        # Amazon wants the bucket in the host; most servers of one's own know it in the path only.
        path_style = bool(self.endpoint) if self.path_style is None else self.path_style
        return Bucket(endpoint.rstrip("/"), self.bucket, region=self.region, path_style=path_style)

    def _wrong(self, text: str) -> DeclarationError:
        return DeclarationError(Problem(WRONG_SETTING, f"{self.namespace} (ObjectStorage) {text}"))


def _id_of(user: Any) -> int | None:
    return None if user is None else user if isinstance(user, int) else user.id
