"""A small shop that hears of payments from outside."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ensue import (
    App,
    Context,
    Count,
    Entity,
    Interaction,
    Many,
    Maybe,
    Mutation,
    One,
    Property,
    Ref,
    Rejected,
    StateMachine,
    Transform,
    Transition,
    now,
)


class User(Entity):
    name: Property[str]


class Order(Entity):
    title: Property[str]
    payments = Many(lambda: Payment, inverse="order")
    payment_count = Count(payments)
    status = StateMachine(
        initial="open",
        transitions=[
            Transition(
                "open", "paid", on=Mutation(lambda: PaymentEvent, "create"), record=lambda event: event.order_number
            )
        ],
    )


class PaymentEvent(Entity):
    order_number: Property[int]
    amount: Property[int] = Property(default=0)
    at: Property[datetime] = Property(default=now)


class Pay(Interaction):
    """Refused for a negative amount, and for an order that is paid."""

    order: Ref[Order]
    amount: int = 0

    async def allow(self, ctx: Context) -> bool:
        if self.amount < 0:
            raise Rejected("negative", "An amount is not negative.")
        return (await ctx.controller.store.get(Order, getattr(self.order, "id", self.order))).payment_count == 0


class Payment(Entity, derived=Transform(Pay, lambda e: {"order": e.order, "amount": e.amount, "by": e.user})):
    order: One[Order]
    amount: Property[int]
    by: Maybe[User] = Maybe(default=None)


def shop(database: str, **options: Any) -> App:
    """The app, on a database."""
    return App(user=User, entities=[Order, Payment, PaymentEvent], interactions=[Pay], database=database, **options)
