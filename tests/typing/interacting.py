"""Interactions, state machines and derived records, as the documentation shows them."""

from __future__ import annotations

from typing import Any

from ensue import (
    Context,
    Custom,
    DispatchResult,
    Effect,
    Entity,
    Interaction,
    Inverse,
    Mutation,
    MutationEvent,
    One,
    Property,
    Ref,
    Rejected,
    Retry,
    Schema,
    SideEffect,
    State,
    StateMachine,
    Transform,
    Transition,
)


class User(Entity):
    name: Property[str]
    profile = Inverse(lambda: Profile, inverse="user")


class Profile(Entity):
    user: One[User] = One(unique=True)
    text: Property[str | None] = Property(default=None)


class Post(Entity):
    title: Property[str]


class AddComment(Interaction):
    """What a user may do. Its payload is validated and stored as an event; data derives from it."""

    post: Ref[Post]
    text: str
    score: int = 0

    async def allow(self, ctx: Context) -> bool:
        if self.score > 5:
            raise Rejected("too_much", "At most five.")
        known = await ctx.controller.store.find_one(Post, Post.title == self.text)
        if known is None:
            ctx.controller.stor  # type error  # noqa: B018
        return ctx.user is not None


class Comment(
    Entity,
    derived=Transform(AddComment, lambda e: {"text": e.text, "score": e.score, "post": e.post, "author": e.user}),
):
    text: Property[str]
    score: Property[int]
    post: One[Post]
    author: One[User]


class Digest(Entity, derived=Transform(lambda: Comment, lambda c: {"line": c.text, "comment": c})):
    line: Property[str]
    comment: One[Comment]


class PaymentReceived(Interaction):
    order: Ref[Order]


class CancelOrder(Interaction):
    order: Ref[Order]


class ListOrders(Interaction, reads=lambda: Order):
    limit: int = 10


class TaskEvent(Entity):
    task_id: Property[int]
    status: Property[str]


class Order(Entity):
    total: Property[int]
    status = StateMachine(
        initial="pending",
        transitions=[
            Transition("pending", "paid", on=PaymentReceived, record=lambda e: e.order),
            Transition(("pending", "paid"), "cancelled", on=CancelOrder, record=lambda e: e.order),
            Transition(
                "*",
                "synced",
                on=Mutation(TaskEvent, "create", where=lambda e: e.status == "done"),
                record=lambda e: e.task_id,
            ),
        ],
    )


node = State("status", value=lambda last, event: event.record.status or last)
machine = StateMachine(
    states=[node],
    initial=node,
    transitions=[
        Transition(
            node,
            node,
            on=Mutation("TaskEvent", "create", where={"task_type": "Picture"}),
            record=lambda event: event.task_id,
        )
    ],
)
TaskEventLater = Entity.define("TaskEventLater", task_id=Property[str], status=Property[str])


async def publish(effect: Effect[Comment]) -> None:
    event: MutationEvent[Comment] = effect.event
    print(effect.record.text, effect.json(), effect.key, event.type, event.text)


side_effects = [
    SideEffect("publish", Comment, on={"create", "update"}, content=publish, where=lambda c: c.score > 3),
    SideEffect("publish", Comment, on="create", content=publish, of=[Comment.text], retry=Retry(max_attempts=3)),
]


def configure(schema: Schema) -> None:
    schema.entities.add(TaskEvent)
    schema.property(Post, "title").computation = Custom(compute=compute, uses=lambda p: [p.title])
    schema.entity("Order").add_property("state", machine)
    for order in schema.subclasses(Order):
        schema.entity(order).add_property("extra", Property[str])


def compute(record: Any, inputs: Any) -> str:
    return f"{record}{inputs}"


def read(result: DispatchResult[AddComment], order: Order, user: User) -> None:
    text: str = result.event.text
    status: str = order.status
    profile: Profile | None = user.profile
    print(text, status, profile, result.changes, result.replayed)


post = Post(title="x")
AddComment(post=post, text="hi")
AddComment(post=Post.ref(3), text="hi", score=3)
AddComment(post=post, text=3)  # type error
AddComment(text="hi")  # type error: the post is missing
AddComment(post=post, text="hi", user=3)  # type error: not a parameter
Order(total=3, status="paid")  # type error: derived
Transition("a", "b", on=PaymentReceived, record=lambda e: e.orders)  # type error
