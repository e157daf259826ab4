"""Applications of the agreement tests with a few rows in every table, so that every kind of derived column holds something."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import date
from decimal import Decimal
from typing import Any

from ensue.app import App, AppRun
from tests.agreement import schemas as s


@contextlib.asynccontextmanager
async def running(schema: s.FixedSchema, url: str) -> AsyncIterator[AppRun]:
    """The run of an app of `schema` on a database, filled."""
    app = App(entities=schema.entities, interactions=schema.interactions, globals=schema.globals, database=url)
    async with app.run() as run:
        await FILL[schema.name](run.controller)
        yield run


async def _blog(controller: Any) -> None:
    store = controller.store
    ann = await store.create(s.User(name="ann", email="a", verified=True, fame=3))
    bob = await store.create(s.User(name="bob", email="b"))
    for n in range(3):
        post = await store.create(s.Post(title=f"p{n}", author=ann, editor=bob if n else None))
        for m in range(n + 1):
            await store.create(s.Comment(text="t", score=m + 4, approved=m > 0, post=post, author=ann, reviewer=bob))
        await store.create(s.Like(user=bob, post=post))
        tag = await store.create(s.Tag(name=f"t{n}", weight=n))
        await store.link(s.Post.tags, post, tag)


async def _shop(controller: Any) -> None:
    store = controller.store
    ann = await store.create(s.Customer(name="ann", region="n"))
    await store.create(s.Profile(customer=ann, points=4))
    root = await store.create(s.Category(name="a", rank=5))
    leaf = await store.create(s.Category(name="b", rank=2, parent=root))
    for n in range(2):
        product = await store.create(s.Product(name=f"p{n}", price=Decimal("1.25"), category=leaf))
        order = await store.create(s.Order(customer=ann, placed_on=date(2026, 1, 1 + n)))
        await store.create(s.Line(order=order, product=product, quantity=2 + n, price=Decimal("0.40")))
    await controller.dispatch(s.PayOrder(order=order))


async def _club(controller: Any) -> None:
    store = controller.store
    city = await store.create(s.City(name="c", big=True))
    vip = await store.create(s.Person(name="v", vip=True, age=40, city=city))
    for n in range(2):
        person = await store.create(s.Person(name=f"p{n}", age=20 + n, friend=vip, city=city))
        group = await store.create(s.Group(name=f"g{n}", kind="open"))
        member = await store.create(
            s.Member(
                person=person, group=group, weight=4 + n, share=0.1 * n, level=s.Level.FULL, since=date(2026, 2, 1)
            )
        )
        await store.create(s.Member(person=vip, group=group, share=0.7))
        await store.create(s.Message(member=member, text="m", flagged=True, urgent=True))


FILL = {"blog": _blog, "shop": _shop, "club": _club}
