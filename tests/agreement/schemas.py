"""Three applications in which every kind of computation stands on every kind of relation, between them.

The blog is the one of the documentation, with references that can be empty; the shop stacks sums on sums and moves
machines; the club computes on link rows, over two links at once, over null, and derives records from records.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Literal

from ensue import (
    AnyOf,
    Average,
    Computed,
    Count,
    Entity,
    EveryOf,
    Globals,
    Interaction,
    Inverse,
    Many,
    Max,
    Maybe,
    Min,
    Mutation,
    One,
    Property,
    Ref,
    Relation,
    StateMachine,
    Sum,
    Through,
    Transform,
    Transition,
    now,
)

# --- The blog ---------------------------------------------------------------------------------------------------------


class Post(Entity):
    title: Property[str]
    author: One[User] = One(on_delete="cascade")
    editor: Maybe[User] = Maybe(default=None)
    tags = Many(lambda: Tag, inverse="posts")
    comments = Many(lambda: Comment, inverse="post")
    likes = Many(lambda: Like, inverse="post")
    liked_by = Through(likes, lambda like: like.user)

    comment_count = Count(comments)
    approved_score = Sum(comments, lambda c: c.score, where=lambda c: c.approved)
    mean_score = Average(comments, lambda c: c.score)
    best = Max(comments, lambda c: c.score)
    latest = Max(comments, lambda c: c.at, where=lambda c: ~c.flagged)
    flagged = AnyOf(comments, lambda c: c.flagged)
    clean = EveryOf(comments, lambda c: ~c.flagged)
    trusted_comments = Count(comments, where=lambda c: c.author.verified & (c.score > 3))
    untrusted_comments = Count(comments, where=lambda c: ~(c.author.verified & (c.score > 3)))
    reviewed_score = Sum(comments, lambda c: c.score, where=lambda c: c.reviewer.verified | c.reviewer.name.is_null())
    heading = Computed[str](lambda p: p.title + " by " + p.author.name)
    edited = Computed[str](lambda p: p.editor.name.or_else("nobody").upper())
    tag_count = Count(tags)
    tag_weight = Sum(tags, lambda t: t.weight, where=lambda t: t.name != "a")
    fans = Count(liked_by, where=lambda u: u.verified)
    fame = Sum(liked_by, lambda u: u.fame.or_else(0))


class User(Entity):
    name: Property[str]
    email: Property[str] = Property(unique=True)
    verified: Property[bool] = Property(default=False)
    fame: Property[int | None] = Property(default=None)
    posts = Many(lambda: Post, inverse="author")
    edits = Many(lambda: Post, inverse="editor")
    likes = Many(lambda: Like, inverse="user")
    post_count = Count(posts)
    edit_count = Count(edits, where=lambda p: p.author.verified)
    comments_received = Sum(posts, lambda p: p.comment_count)
    best_post = Max(posts, lambda p: p.approved_score)
    liked_length = Count(likes, where=lambda like: like.post.comment_count > 0)


class Comment(Entity):
    text: Property[str]
    score: Property[int] = Property(default=0)
    approved: Property[bool] = Property(default=False)
    flagged: Property[bool] = Property(default=False)
    at: Property[datetime] = Property(default=now)
    post: One[Post] = One(on_delete="cascade")
    author: One[User] = One(on_delete="cascade")
    reviewer: Maybe[User] = Maybe(default=None)


class Like(Relation):
    user: One[User] = One(on_delete="cascade")
    post: One[Post] = One(on_delete="cascade")
    at: Property[datetime] = Property(default=now)


class Tag(Entity):
    name: Property[str]
    weight: Property[int] = Property(default=1)
    posts = Many(lambda: Post, inverse="tags")
    post_count = Count(posts)
    comment_total = Sum(posts, lambda p: p.comment_count, where=lambda p: p.author.verified)
    best_title = Max(posts, lambda p: p.title)


class Site(Globals):
    total_posts = Count(lambda: Post)
    total_score = Sum(lambda: Comment, lambda c: c.score)
    best_comment = Max(lambda: Comment, lambda c: c.score, where=lambda c: c.author.verified)
    mean_comments = Average(lambda: Post, lambda p: p.comment_count)
    all_verified = EveryOf(lambda: User, lambda u: u.verified)


# --- The shop ---------------------------------------------------------------------------------------------------------


class Customer(Entity):
    name: Property[str]
    region: Property[str | None] = Property(default=None)
    orders = Many(lambda: Order, inverse="customer")
    profile = Inverse(lambda: Profile, inverse="customer")
    order_count = Count(orders)
    total = Sum(orders, lambda o: o.total)
    paid_total = Sum(orders, lambda o: o.total, where=lambda o: o.status == "paid")
    mean_total = Average(orders, lambda o: o.total)
    biggest = Max(orders, lambda o: o.total, where=lambda o: o.line_count > 0)
    first_on = Min(orders, lambda o: o.placed_on)
    last_at = Max(orders, lambda o: o.placed_at)
    settled = EveryOf(orders, lambda o: o.status.in_(["paid", "refunded"]))


class Profile(Entity):
    customer: One[Customer] = One(unique=True, on_delete="cascade")
    points: Property[int | None] = Property(default=None)
    headline = Computed[str](lambda p: p.customer.name + "!")
    rich = Computed[bool](lambda p: (p.customer.total > Decimal("1.00")) & (p.points > 2))


class Category(Entity):
    name: Property[str]
    rank: Property[int | None] = Property(default=None)
    parent: Maybe[Category] = Maybe(default=None, on_delete="restrict")
    children = Many(lambda: Category, inverse="parent")
    products = Many(lambda: Product, inverse="category")
    child_count = Count(children)
    best_rank = Max(children, lambda c: c.rank)
    product_value = Sum(products, lambda p: p.price)
    sold = Sum(products, lambda p: p.sold)
    siblings_named = Count(children, where=lambda c: (c.parent.name == "a") & (c.parent.rank > c.rank))


class Product(Entity):
    name: Property[str] = Property(unique=True)
    price: Property[Decimal] = Property(scale=2)
    category: Maybe[Category] = Maybe(default=None)
    lines = Many(lambda: Line, inverse="product")
    sold = Sum(lines, lambda line: line.quantity)
    place = Computed[str](lambda p: p.category.parent.name.or_else("-"))


class PaymentEvent(Entity):
    kind: Property[str]
    order: Maybe[Order] = Maybe(default=None)


class PayOrder(Interaction):
    order: Ref[Order]


class CancelOrder(Interaction):
    order: Ref[Order]


class Order(Entity):
    customer: Maybe[Customer] = Maybe(default=None)
    placed_on: Property[date | None] = Property(default=None)
    placed_at: Property[datetime] = Property(default=now)
    lines = Many(lambda: Line, inverse="order")
    line_count = Count(lines)
    total = Sum(lines, lambda line: line.price * line.quantity)
    discounted = Sum(lines, lambda line: line.amount - line.discount.or_else(Decimal("0.00")))
    catalogue = Sum(
        lines, lambda line: line.product.price * line.quantity, where=lambda line: line.product.category.rank > 0
    )
    status = StateMachine(
        initial="pending",
        transitions=[
            Transition("pending", "paid", on=PayOrder, record=lambda e: e.order),
            Transition(("pending", "paid"), "cancelled", on=CancelOrder, record=lambda e: e.order),
            Transition(
                "pending",
                "paid",
                on=Mutation(PaymentEvent, "create", where=lambda e: e.kind == "a"),
                record=lambda e: e.record.order,
            ),
            Transition(
                "paid",
                "refunded",
                on=Mutation(PaymentEvent, "create", where=lambda e: e.kind == "a"),
                record=lambda e: e.record.order,
            ),
            Transition(
                "*",
                "failed",
                on=Mutation(PaymentEvent, "create", where=lambda e: e.kind == "b"),
                record=lambda e: e.record.order,
            ),
            Transition("failed", "pending", on=Mutation(PaymentEvent, "delete"), record=lambda e: e.record.order),
        ],
    )


class Line(Entity):
    order: One[Order] = One(on_delete="cascade")
    product: One[Product]
    quantity: Property[int] = Property(default=1)
    price: Property[Decimal] = Property(scale=2)
    discount: Property[Decimal | None] = Property(scale=2, default=None)
    amount = Computed(lambda line: line.price * line.quantity)


class Shop(Globals):
    revenue = Sum(lambda: Customer, lambda c: c.total)
    best = Max(lambda: Order, lambda o: o.total)
    paid = Count(lambda: Order, where=lambda o: o.status == "paid")
    mean_total = Average(lambda: Customer, lambda c: c.total)
    first_on = Min(lambda: Order, lambda o: o.placed_on)
    unranked = AnyOf(lambda: Category, lambda c: c.rank.is_null())


# --- The club ---------------------------------------------------------------------------------------------------------


class Level(Enum):
    GUEST = "guest"
    FULL = "full"


class City(Entity):
    name: Property[str]
    big: Property[bool | None] = Property(default=None)


class Person(Entity):
    name: Property[str]
    vip: Property[bool | None] = Property(default=None)
    age: Property[int | None] = Property(default=None)
    city: Maybe[City] = Maybe(default=None)
    friend: Maybe[Person] = Maybe(default=None)
    memberships = Many(lambda: Member, inverse="person")
    weight = Sum(memberships, lambda m: m.weight)
    clubs = Count(memberships, where=lambda m: m.group.kind == "open")
    messages_sent = Sum(memberships, lambda m: m.message_count)


class Group(Entity):
    name: Property[str]
    kind: Property[Literal["open", "closed"]]
    members = Many(lambda: Member, inverse="group")
    people = Through(members, lambda m: m.person)
    size = Count(members)
    weight = Sum(members, lambda m: m.weight)
    heavy = Count(members, where=lambda m: m.weight > 3)
    full = Count(members, where=lambda m: m.level == Level.FULL)
    urban = Count(members, where=lambda m: m.person.city.big)
    rural = Count(members, where=lambda m: ~m.person.city.big)
    mixed = Sum(
        members, lambda m: m.weight * m.person.age.or_else(1), where=lambda m: m.person.friend.vip | (m.weight == 2)
    )
    all_vip = EveryOf(members, lambda m: m.person.vip)
    any_vip = AnyOf(members, lambda m: m.person.vip)
    youngest = Min(people, lambda p: p.age)
    oldest = Max(members, lambda m: m.person.age, where=lambda m: m.since.is_null())
    mean_share = Average(members, lambda m: m.share)
    shares = Sum(members, lambda m: m.share.or_else(0.0))
    last_since = Max(members, lambda m: m.since)
    chatty = Sum(members, lambda m: m.message_count)
    urgent = AnyOf(members, lambda m: m.all_urgent & (m.message_count > 0))


class Member(Relation):
    person: One[Person] = One(on_delete="cascade")
    group: One[Group] = One(on_delete="cascade")
    weight: Property[int] = Property(default=1)
    share: Property[float | None] = Property(default=None)
    level: Property[Level] = Property(default=Level.GUEST)
    since: Property[date | None] = Property(default=None)
    messages = Many(lambda: Message, inverse="member")
    message_count = Count(messages)
    all_urgent = EveryOf(messages, lambda m: m.urgent)
    label = Computed[str](lambda m: m.person.name + "@" + m.group.name)


class Message(Entity):
    member: One[Member] = One(on_delete="cascade")
    text: Property[str]
    flagged: Property[bool] = Property(default=False)
    urgent: Property[bool | None] = Property(default=None)
    notifications = Many(lambda: Notification, inverse="message")
    notification_count = Count(notifications, where=lambda n: n.flagged)


class Notification(
    Entity,
    derived=Transform(
        lambda: Message,
        lambda m: {"message": m, "text": m.text, "flagged": m.flagged, "group_name": m.member.group.name},
    ),
):
    message: One[Message] = One(on_delete="cascade")
    text: Property[str]
    flagged: Property[bool]
    group_name: Property[str]


class Club(Globals):
    members = Count(lambda: Member)
    alerts = Count(lambda: Notification, where=lambda n: n.flagged & (n.message.member.weight > 1))
    shares = Sum(lambda: Member, lambda m: m.share.or_else(0.0))
    oldest = Max(lambda: Person, lambda p: p.age)
    all_urgent = EveryOf(lambda: Message, lambda m: m.urgent)


# --- All three --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FixedSchema:
    """What an `App` of one of the applications is made of."""

    name: str
    entities: tuple[type[Any], ...]
    globals: tuple[type[Any], ...]
    interactions: tuple[type[Any], ...] = ()

    def __str__(self) -> str:
        return self.name


BLOG = FixedSchema("blog", (Post, User, Comment, Like, Tag), (Site,))
SHOP = FixedSchema(
    "shop", (Customer, Profile, Category, Product, PaymentEvent, Order, Line), (Shop,), (PayOrder, CancelOrder)
)
CLUB = FixedSchema("club", (City, Person, Group, Member, Message, Notification), (Club,))
FIXED = (BLOG, SHOP, CLUB)
