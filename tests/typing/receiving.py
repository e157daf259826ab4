"""What comes in from outside, as the documentation shows it."""

from __future__ import annotations

from ensue import (
    AsUser,
    Controller,
    Entity,
    GitHubSignature,
    HmacSignature,
    Inbound,
    Incoming,
    Integration,
    Interaction,
    NewRecord,
    NoVerification,
    Property,
    Ref,
    StandardWebhooks,
    StripeSignature,
    Webhook,
    WebhookOptions,
    consume,
    env,
    webhook,
)


class Order(Entity):
    title: Property[str]


class PaymentEvent(Entity):
    order_number: Property[int]


class Pay(Interaction):
    order: Ref[Order]


class Payments(Integration):
    secret: str = env("SECRET")

    @webhook(verify=StandardWebhooks(secret=[secret, env("OLD", default="")]))
    async def one(self, message: Inbound) -> Incoming:
        return PaymentEvent(order_number=message.json()["order"])

    @webhook(verify=StripeSignature(secret=secret), path="stripe", max_bytes=2_000_000, defer=True)
    async def several(self, message: Inbound) -> list[PaymentEvent]:
        return [PaymentEvent(order_number=1), PaymentEvent(order_number=2)]

    @webhook(verify=GitHubSignature(secret=env("GITHUB")))
    async def mixed(self, message: Inbound) -> Incoming:
        return [
            AsUser(Pay(order=Order.ref(1)), 7),
            NewRecord("PaymentEvent", {"order_number": 3}),
            Pay(order=Order.ref(2)),
        ]

    @webhook(verify=NoVerification(reason="only from our own network", id=lambda body, headers: headers["x-id"]))
    async def nothing(self, message: Inbound) -> None:
        print(message.id, message.endpoint, message.received_at, message.body, message.headers.get("X-Id"))

    @webhook(verify=StandardWebhooks(secret=secret))  # type error: a message means no number
    async def wrong(self, message: Inbound) -> int:
        return 3

    @webhook(verify="secret")  # type error: no verifier
    async def unverified(self, message: Inbound) -> Incoming: ...

    @consume("nats", subject="payments.*", stream="payments", durable="shop", url=env("NATS"), id="json:id")
    async def by_nats(self, message: Inbound) -> Incoming:
        return Pay(order=Order.ref(1))

    @consume("redis", stream="payments", group="shop", field="body", batch=1)
    async def by_redis(self, message: Inbound) -> PaymentEvent | None:
        return None

    @consume("amqp", queue="payments", max_attempts=3)
    async def by_amqp(self, message: Inbound) -> Incoming: ...

    @consume("amqp", subject="payments")  # type error: a queue
    async def by_subject(self, message: Inbound) -> Incoming: ...

    @consume("nats", subject="payments")  # type error: a message means no text
    async def text(self, message: Inbound) -> str:
        return ""

    def create_webhooks(self) -> list[Webhook]:
        verify = HmacSignature(secret=self.secret, header="X-Mac", algorithm="sha1")
        return [Webhook("more", self.one, WebhookOptions(verify=verify))]

    async def setup(self, controller: Controller) -> None:
        done: bool = await controller.receive("payments.file", "line 1", PaymentEvent(order_number=1), body=b"1")
        await controller.receive("payments.file", "line 2", 3)  # type error
        print(done)
