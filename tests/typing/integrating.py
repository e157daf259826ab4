"""Integrations and the app, as the documentation shows them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from ensue import (
    AggregatedIntegration,
    App,
    Context,
    Controller,
    Custom,
    Effect,
    Entity,
    ErrorClass,
    Integration,
    Interaction,
    MutationEvent,
    One,
    Property,
    Relation,
    Schema,
    SideEffect,
    StateMachine,
    api,
    env,
    side_effect,
)


class User(Entity):
    name: Property[str]


class Message(Entity):
    text: Property[str]
    sender: One[User]
    urgent: Property[bool] = Property(default=False)


class Channel(Entity):
    name: Property[str]


class ChannelMessage(Relation):
    channel: One[Channel]
    message: One[Message]


class Say(Interaction):
    text: str


class Live(Entity):
    url: Property[str | None]


class AsyncTask(Entity, abstract=True):
    prompt: Property[str]


class Redis:
    async def publish(self, channel: str, text: str) -> None: ...


def connect(url: str) -> AbstractAsyncContextManager[Redis]:
    raise NotImplementedError(url)


class RedisChannels(Integration):
    redis_url: str = env("REDIS_URL", default="redis://localhost:6379")
    token: str = env("TOKEN")

    def classify(self, error: BaseException) -> ErrorClass | None:
        return "throttled" if isinstance(error, TimeoutError) else None

    async def configure(self, schema: Schema) -> None:
        schema.entities.add(Live)
        schema.property(Live, "url").computation = Custom(initial=self.sign)
        schema.entity("Task").add_property("status", StateMachine(initial="queued", transitions=[]))
        for task in schema.subclasses(AsyncTask):
            schema.entity(task).add_property("progress", Property[int])

    def sign(self, record: Any) -> str:
        return f"{self.redis_url}/{record.id}"

    async def setup(self, controller: Controller) -> None:
        self.redis = await self.enter(connect(self.redis_url))
        self.handles.websockets.on_connect(self.subscribe_user)

    async def subscribe_user(self, connection: Any) -> None: ...

    @side_effect(ChannelMessage, on="create", fields=[ChannelMessage.message.sender.name])
    async def publish(self, effect: Effect[ChannelMessage]) -> None:
        await self.redis.publish(str(effect.record.channel.id), effect.json())

    @side_effect(
        Message,
        on={"create", "update"},
        of=[Message.text],
        where=lambda m: m.urgent,
        delivery="durable",
        order_by=lambda m: m.sender.id,
    )
    async def alarm(self, effect: Effect[Message]) -> None:
        event: MutationEvent[Message] = effect.event
        print(event.old_record, event.changed)

    @side_effect(Message, on="create")  # type error: the method takes the effect of another record
    async def mistaken(self, effect: Effect[Channel]) -> None: ...

    @api(allow_anonymous=False)
    async def query_status(self, ctx: Context, task_id: int) -> str:
        return f"{ctx.user} {task_id} {self.token}"

    def create_side_effects(self) -> list[SideEffect]:
        return [SideEffect("more", Message, on={"create", "update", "delete"}, content=self.alarm)]

    async def cleanup(self) -> None: ...


app = App(
    user=User,
    entities=[Message, ChannelMessage],
    interactions=[Say],
    integrations={
        "channels": RedisChannels(redis_url="redis://elsewhere"),
        "more": AggregatedIntegration({"one": RedisChannels, "two": RedisChannels()}),
    },
    database="sqlite:///app.db",
)


async def main() -> None:
    async with app:
        await app.controller.dispatch(Say(text="hi"), user=7)
        await app.controller.dispatch(Say(txt="hi"), user=7)  # type error
