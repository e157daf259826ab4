"""Orders whose progress customers' own systems are told: `HTTP_OUT_SECRET=… ensue run examples.http_out:served`.

    curl localhost:8000/api/interactions/SignUp --json '{"name": "ann"}'
    curl localhost:8000/api/integrations/hooks/create_endpoint -H 'Authorization: Bearer 1' --json '{"url": "https://…"}'
    curl localhost:8000/api/interactions/PlaceOrder -H 'Authorization: Bearer 1' --json '{"title": "A print"}'

Leaves signing, retrying and the safety of addresses to `HttpOut`: here it is only said what goes out, and to whom. Who
asks is `Bearer <id of a user>`, which is for trying it out; `examples/accounts.py` has logins.
"""

from __future__ import annotations

import os
from typing import Any

from ensue import App, Context, Entity, Interaction, One, Property, Ref, StateMachine, Transform, Transition
from ensue.integrations.http_out import HttpOut, OnCreate, OnUpdate


class SignUp(Interaction):
    name: str


class User(Entity, derived=Transform(SignUp, lambda e: {"name": e.name})):
    name: Property[str]


class PlaceOrder(Interaction):
    title: str

    async def allow(self, ctx: Context) -> bool:
        return ctx.user is not None


class ShipOrder(Interaction):
    order: Ref[Order]


class Order(Entity, derived=Transform(PlaceOrder, lambda e: {"title": e.title, "customer": e.user})):
    title: Property[str]
    customer: One[User]
    status = StateMachine(
        initial="new", transitions=[Transition("new", "shipped", on=ShipOrder, record=lambda e: e.order)]
    )


hooks = HttpOut(
    events={
        "order.placed": OnCreate(Order, fields=[Order.customer.name], owner=lambda order: order.customer),
        "order.moved": OnUpdate(
            Order,
            of=[Order.status],
            data=lambda effect: {"order": effect.record.id, "status": effect.record.status},
            owner=lambda order: order.customer,
        ),
    },
    users=User,
)
app = App(
    user=User,
    entities=[Order],
    interactions=[SignUp, PlaceOrder, ShipOrder],
    integrations={"hooks": hooks},
    database=os.environ.get("DATABASE", "sqlite:///orders.db"),
)


def authenticate(connection: Any) -> User | None:
    """Whoever they say they are."""
    number = connection.headers.get("authorization", "").removeprefix("Bearer ")
    return User.ref(int(number)) if number.isdigit() else None


served = app.asgi(authenticate=authenticate)
