"""Outgoing webhooks: changes of the app, told to whoever gave a URL for them.

Decides the settings, the calls by which endpoints are managed, and who may make them. Leaves messages, attempts and
addresses to modules of their own. Invariants: telling an event and calling an endpoint are separate effects, so one
dead endpoint holds up nobody else's deliveries; what is retried, and when, is in the records, for everybody to see.
"""

from __future__ import annotations

import inspect
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import msgspec

from ensue.errors import DeclarationError, InvalidValue, NotFound, Problem, Rejected
from ensue.expression.trace import match
from ensue.integrations.api import api
from ensue.integrations.contract import Integration
from ensue.integrations.http_out.addresses import AddressPolicy
from ensue.integrations.http_out.calls import DeliveryInfo, EndpointInfo, NewSecret
from ensue.integrations.http_out.deliveries import Deliveries
from ensue.integrations.http_out.events import (
    PATTERN,
    TEST_EVENT,
    Event,
    OnUpdate,
    body_of,
    change_of,
    check_names,
    effect_name,
    owners,
    told,
)
from ensue.integrations.http_out.records import (
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEndpointEvent,
    add_records,
)
from ensue.integrations.http_out.schedule import Patience
from ensue.integrations.http_out.signature import secret_text
from ensue.integrations.http_out.signing import Signing
from ensue.integrations.http_out.urls import url_problem
from ensue.integrations.running.repeated import repeated
from ensue.integrations.settings.environment import WRONG_SETTING, env
from ensue.schema.delivery import Target
from ensue.schema.effect import Effect, SideEffect
from ensue.schema.entity import Entity
from ensue.schema.interaction import Context
from ensue.schema.schema import Schema

if TYPE_CHECKING:
    from ensue.engine.controller import Controller

SECRET_BYTES_MIN = 32
CALLED_AT_ONCE = 64
PRUNE_SECONDS = 3_600.0
PAGE_MAX = 200
ENDPOINTS_MAX = 100
PATTERNS_MAX = 100

Url = Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]
Description = Annotated[str, msgspec.Meta(max_length=500)]
Patterns = Annotated[list[str], msgspec.Meta(max_length=PATTERNS_MAX)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX)]
Allow = Callable[[Context], bool | Awaitable[bool]]
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class HttpOut(Integration):
    """Signed webhooks to endpoints that clients register, in the form of Standard Webhooks.

    >>> HttpOut(
    ...     events={"post.created": OnCreate(Post, fields=[Post.author.name], owner=lambda post: post.author)},
    ...     users=User,
    ... )

    With `users` (the app's class of users) everybody manages endpoints of their own; without it they are the app's, and
    `allow(ctx)` says who may manage them. `resolve(host, port)` gives addresses in place of the system's resolver.
    Settings and calls: `docs/integrations/http_out.md`.
    """

    events: Mapping[str, Event]
    users: type[Entity] | None = None
    allow: Allow | None = None
    resolve: Resolve | None = None
    secret: str = env("HTTP_OUT_SECRET")
    previous_secrets: list[str] = env("HTTP_OUT_PREVIOUS_SECRETS", default=[])
    allow_http: bool = env("HTTP_OUT_ALLOW_HTTP", default=False)
    allowed_ports: list[int] = env("HTTP_OUT_ALLOWED_PORTS", default=[])
    allowed_addresses: list[str] = env("HTTP_OUT_ALLOWED_ADDRESSES", default=[])
    ca_file: str = env("HTTP_OUT_CA_FILE", default="")
    deadline: timedelta = env("HTTP_OUT_DEADLINE", default=timedelta(seconds=15))
    max_age: timedelta = env("HTTP_OUT_MAX_AGE", default=timedelta(days=3))
    disable_after: timedelta = env("HTTP_OUT_DISABLE_AFTER", default=timedelta(days=5))
    secret_overlap: timedelta = env("HTTP_OUT_SECRET_OVERLAP", default=timedelta(days=1), secret=False)
    kept: timedelta = env("HTTP_OUT_KEPT", default=timedelta(days=30))

    # --- Life ---------------------------------------------------------------------------------------------------------

    async def configure(self, schema: Schema) -> None:
        check_names(self.events)
        add_records(schema, self.users)

    async def setup(self, controller: Controller) -> None:
        self._policy = self._check_settings()
        try:
            # Only who uses it needs an HTTP client installed.
            from ensue.integrations.http_out.posting import Poster
            from ensue.integrations.http_out.transport import checked_transport
        except ImportError as failure:
            text = f"HttpOut needs an HTTP client: pip install 'ensue[http]' ({failure})."
            raise DeclarationError(Problem(WRONG_SETTING, text)) from failure
        self._store = controller.store
        self._signing = Signing(
            self._store, self.clock, keys=[text.encode() for text in (self.secret, *self.previous_secrets)]
        )
        try:
            transport = checked_transport(self._policy, resolve=self.resolve, ca_file=self.ca_file)
        except OSError as failure:
            text = f"{self.namespace}.ca_file is {self.ca_file!r}, of which no certificates can be read ({failure})."
            raise DeclarationError(Problem(WRONG_SETTING, text)) from failure
        http = await self.enter(transport, name="http")
        self._deliveries = Deliveries(
            self._store,
            self.clock,
            poster=Poster(http, self.clock, deadline_seconds=self.deadline.total_seconds()),
            signing=self._signing,
            patience=Patience(self.max_age, self.disable_after),
            check_url=self._url_problem,
        )
        await self.enter(repeated(self._prune, seconds=PRUNE_SECONDS, name="pruning of webhooks"), name="pruning")

    def create_side_effects(self) -> list[SideEffect]:
        told_effects = [
            SideEffect(
                effect_name(name),
                event.record,
                on=change_of(event),
                content=_async(partial(self._tell, name, event)),
                fields=event.fields,
                of=event.of if isinstance(event, OnUpdate) else (),
                where=event.where,
            )
            for name, event in self.events.items()
        ]
        # Longer than any attempt, which keeps its own deadline.
        timeout = self.deadline.total_seconds() + 30.0
        target = Target(f"{self.namespace}.endpoints", breaker=None)
        return [
            *told_effects,
            SideEffect(
                "send",
                WebhookDelivery,
                on="create",
                content=self.send,
                order_by=lambda delivery: delivery.lane,
                concurrency=CALLED_AT_ONCE,
                timeout_seconds=timeout,
                target=target,
            ),
            SideEffect(
                "send_again",
                WebhookDelivery,
                on="update",
                of=[WebhookDelivery.due_at],
                where=lambda delivery: delivery.state == "pending",
                delay=lambda delivery: delivery.due_at,
                content=self.send,
                concurrency=CALLED_AT_ONCE,
                timeout_seconds=timeout,
                target=target,
            ),
        ]

    # --- Effects ------------------------------------------------------------------------------------------------------

    async def _tell(self, name: str, event: Event, effect: Effect[Any]) -> None:
        """Side effect: an event has happened; make the deliveries of it."""
        body = body_of(name, told(event, effect), at=self.clock.now())
        # A receiver takes the signed text apart at its dots.
        message_id = effect.key.replace(".", "_")
        await self._deliveries.tell(message_id, name, body, owners=owners(event, effect.record))

    async def send(self, effect: Effect[WebhookDelivery]) -> None:
        """Side effect: attempt one delivery; what follows from it is written, and is an effect of its own."""
        await self._deliveries.attempt(effect.record.id, effect.record.due_at)

    # --- Endpoints ----------------------------------------------------------------------------------------------------

    @api()
    async def create_endpoint(
        self, ctx: Context, url: Url, events: Patterns | None = None, description: Description = ""
    ) -> NewSecret:
        """Register an endpoint for these events (names or patterns such as `post.*`; all, without). Its secret is told
        once."""
        owned = await self._permitted(ctx)
        self._check_endpoint(url, events or [])
        if await self._store.count(WebhookEndpoint, owned) >= ENDPOINTS_MAX:
            raise Rejected("too_many_endpoints", f"There are {ENDPOINTS_MAX} endpoints already; delete one first.")
        owner = {} if self.users is None else {"owner": _id(ctx.user)}

        async def work() -> NewSecret:
            row = await self._store.create(
                "WebhookEndpoint", url=url, events=events or [], description=description, **owner
            )
            await self._happened(row.id, "created")
            return NewSecret(row.id, secret_text(await self._signing.begin(row.id)))

        return await self._store.run(work)

    @api()
    async def endpoints(self, ctx: Context) -> list[EndpointInfo]:
        """The endpoints, and how they are."""
        owned = await self._permitted(ctx)
        rows = await self._store.find(WebhookEndpoint, owned, order_by=[WebhookEndpoint.id])
        return [EndpointInfo.of(row) for row in rows]

    @api()
    async def change_endpoint(
        self,
        ctx: Context,
        endpoint: int,
        *,
        url: Url | None = None,
        events: Patterns | None = None,
        description: Description | None = None,
    ) -> EndpointInfo:
        """Change what is given; the rest stays."""
        row = await self._own(ctx, endpoint)
        self._check_endpoint(row.url if url is None else url, events or [])
        given = {"url": url, "events": events, "description": description}
        await self._store.update(
            WebhookEndpoint, row.id, **{name: value for name, value in given.items() if value is not None}
        )
        return EndpointInfo.of(await self._store.get(WebhookEndpoint, row.id))

    @api()
    async def delete_endpoint(self, ctx: Context, endpoint: int) -> bool:
        """Delete an endpoint with its deliveries."""
        await self._store.delete(WebhookEndpoint, (await self._own(ctx, endpoint)).id)
        return True

    @api()
    async def enable_endpoint(self, ctx: Context, endpoint: int, enabled: bool = True) -> EndpointInfo:
        """Switch an endpoint on again, whyever it was off, with nothing held against it; or off."""
        row = await self._own(ctx, endpoint)
        values: dict[str, Any] = {"enabled": enabled, "failures": 0, "failing_since": None, "held_until": None}
        off = {"disabled_reason": "" if enabled else "owner", "disabled_at": None if enabled else self.clock.now()}

        async def work() -> None:
            await self._store.update(WebhookEndpoint, row.id, **values, **off)
            await self._happened(row.id, "enabled" if enabled else "disabled", reason="" if enabled else "owner")

        if row.enabled != enabled or row.failures:
            await self._store.run(work)
        return EndpointInfo.of(await self._store.get(WebhookEndpoint, row.id))

    @api()
    async def rotate_secret(self, ctx: Context, endpoint: int) -> NewSecret:
        """A new secret. For a day, deliveries are signed with the old one too."""
        row = await self._own(ctx, endpoint)

        async def work() -> NewSecret:
            secret = await self._signing.rotate(row.id, overlap=self.secret_overlap)
            await self._happened(row.id, "secret_rotated")
            return NewSecret(row.id, secret_text(secret))

        return await self._store.run(work)

    @api()
    async def test_endpoint(self, ctx: Context, endpoint: int) -> int:
        """Send a `webhook.test` once, also to an endpoint that is off; gives the delivery's id, to look at."""
        row = await self._own(ctx, endpoint)
        body = body_of(TEST_EVENT, {"endpoint": row.id}, at=self.clock.now())
        message_id = f"test_{secrets.token_hex(16)}"
        made = await self._store.run(
            lambda: self._deliveries.make(message_id, TEST_EVENT, body, endpoints=[row.id], test=True)
        )
        return made[0].id

    @api()
    async def deliveries(
        self, ctx: Context, endpoint: int, *, before: int | None = None, limit: Limit = 50
    ) -> list[DeliveryInfo]:
        """The deliveries of an endpoint with their newest attempts, the newest first; go on with `before` an id."""
        row = await self._own(ctx, endpoint)
        condition = WebhookDelivery.endpoint.id == row.id
        if before is not None:
            condition &= WebhookDelivery.id < before
        log = WebhookDelivery.log.fields("*", order_by=[WebhookAttempt.id.desc()], limit=20)
        found = await self._store.find(
            WebhookDelivery,
            condition,
            fields=["*", WebhookDelivery.message.fields("*"), log],
            order_by=[WebhookDelivery.id.desc()],
            limit=limit,
        )
        return [DeliveryInfo.of(delivery) for delivery in found]

    @api()
    async def redeliver(self, ctx: Context, delivery: int) -> bool:
        """Try a delivery that has ended once more, from the beginning."""
        row = await self._store.find_one(WebhookDelivery, WebhookDelivery.id == delivery)
        if row is None:
            raise NotFound(f"There is no WebhookDelivery with id {delivery}.")
        endpoint = await self._own(ctx, row.endpoint.id)
        if row.state == "pending":
            return False
        if not endpoint.enabled:
            raise Rejected("disabled", "The endpoint is disabled. Enable it first.")
        await self._deliveries.again(row.id)
        return True

    # --- What they have in common -------------------------------------------------------------------------------------

    async def _permitted(self, ctx: Context) -> Any:
        """The condition on endpoints that the caller may manage. Raises `Rejected("not_allowed")`."""
        if self.users is not None:
            return match("owner.id", "=", _id(ctx.user))
        allowed = False if self.allow is None else self.allow(ctx)
        if not (await allowed if inspect.isawaitable(allowed) else allowed):
            raise Rejected("not_allowed", "You may not manage webhooks of this app.")
        return WebhookEndpoint.id > 0

    async def _own(self, ctx: Context, endpoint: int) -> WebhookEndpoint:
        owned = await self._permitted(ctx)
        row = await self._store.find_one(WebhookEndpoint, owned & (WebhookEndpoint.id == endpoint))
        if row is None:
            raise NotFound(f"There is no WebhookEndpoint with id {endpoint}.")
        return row

    def _url_problem(self, url: str) -> str | None:
        return url_problem(url, allow_http=self.allow_http, ports=self.allowed_ports)

    def _address_problem(self, url: str) -> str | None:
        try:
            address = ipaddress.ip_address(urlsplit(url).hostname or "")
        except ValueError:
            # A name: what it stands for is looked at with each connection.
            return None
        why = self._policy.refusal(address)
        return None if why is None else f"has an address that may not be called: it is {why}"

    def _check_endpoint(self, url: str, patterns: list[str]) -> None:
        wrong: dict[str, str] = {}
        if (problem := self._url_problem(url) or self._address_problem(url)) is not None:
            wrong["url"] = problem
        strange = [pattern for pattern in patterns if PATTERN.fullmatch(pattern) is None]
        if strange:
            wrong["events"] = f"{strange[0][:100]!r} is no event and no pattern; expected one such as 'post.*'"
        # A pattern may wait for events to come; a name that nothing sends is a slip, and its endpoint would hear nothing.
        elif unknown := [name for name in patterns if "*" not in name and name not in self.events]:
            wrong["events"] = f"{unknown[0][:100]!r} is none of {', '.join(self.events)}"
        if wrong:
            raise InvalidValue("; ".join(f"The {name} {text}" for name, text in wrong.items()), fields=wrong)

    async def _happened(self, endpoint: int, kind: str, reason: str = "") -> None:
        await self._store.create(WebhookEndpointEvent(endpoint=WebhookEndpoint.ref(endpoint), kind=kind, reason=reason))

    def _check_settings(self) -> AddressPolicy:
        wrong: list[Problem] = []
        for name, secret in [("secret", self.secret), *(("previous_secrets", text) for text in self.previous_secrets)]:
            if len(secret.encode()) < SECRET_BYTES_MIN:
                text = f"has {len(secret.encode())} bytes; expected at least {SECRET_BYTES_MIN}, by chance."
                wrong.append(Problem(WRONG_SETTING, f"{self.namespace}.{name} {text}"))
        for name in ("deadline", "max_age", "disable_after", "kept"):
            if getattr(self, name) <= timedelta(0):
                wrong.append(Problem(WRONG_SETTING, f"{self.namespace}.{name} must be longer than nothing."))
        for port in self.allowed_ports:
            if not 0 < port < 2**16:
                wrong.append(Problem(WRONG_SETTING, f"{self.namespace}.allowed_ports has {port}; expected 1 to 65535."))
        policy = AddressPolicy()
        try:
            policy = AddressPolicy.of(self.allowed_addresses)
        except ValueError as error:
            text = f"{self.namespace}.allowed_addresses names what is no network: {error}."
            wrong.append(Problem(WRONG_SETTING, text))
        if wrong:
            raise DeclarationError(wrong)
        return policy

    async def _prune(self) -> None:
        await self._deliveries.prune(older_than=self.kept)
        await self._signing.prune()


def _id(user: Any) -> int:
    return user if isinstance(user, int) else user.id


def _async(function: Callable[[Effect[Any]], Awaitable[None]]) -> Callable[[Effect[Any]], Awaitable[None]]:
    async def content(effect: Effect[Any]) -> None:
        await function(effect)

    return content
