"""A small app with everything that a server shows: interactions, a read, an integration with API calls, derived data.

Also run by other processes: `ensue run tests.server.shop:app`, with `SHOP_DATABASE` for the database.
"""

from __future__ import annotations

import asyncio
import os
from datetime import datetime
from enum import Enum
from typing import Any, Literal

import msgspec

from ensue import (
    App,
    Context,
    Count,
    Entity,
    Health,
    Integration,
    Interaction,
    Many,
    One,
    Property,
    Ref,
    Rejected,
    Transform,
    api,
    side_effect,
)
from ensue.schema.effect import Effect


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Place(msgspec.Struct):
    city: str
    street: str = ""


class User(Entity):
    name: Property[str] = Property(unique=True)
    email: Property[str] = Property(default="")


class Post(Entity):
    title: Property[str]
    author: One[User]
    comments = Many(lambda: Comment, inverse="post")
    comment_count = Count(comments)


class AddComment(Interaction):
    """Comment on a post.

    Everybody who is known may.
    """

    post: Ref[Post]
    text: str
    score: int = 0

    async def allow(self, ctx: Context) -> bool:
        if self.text == "boom":
            raise RuntimeError("a secret detail")
        if self.text == "spam":
            raise Rejected("spam", "This looks like spam.", fields={"text": "is spam"})
        return ctx.user is not None


class Comment(
    Entity,
    derived=Transform(AddComment, lambda e: {"text": e.text, "score": e.score, "post": e.post, "author": e.user}),
):
    text: Property[str]
    score: Property[int] = Property(default=0)
    post: One[Post]
    author: One[User]


class Register(Interaction):
    """Become a user."""

    name: str


class Measure(Interaction):
    """Takes one field of each kind."""

    whole: int
    ratio: float
    taken_at: datetime
    colour: Colour
    size: Literal["small", "large"]
    place: Place
    raw: bytes = b""
    note: str | None = None
    post: Ref[Post] | None = None


class ListPosts(Interaction, reads=Post):
    """All posts whose title begins like this."""

    title: str = ""

    async def allow(self, ctx: Context) -> bool:
        return ctx.user is not None and getattr(ctx.user, "id", ctx.user) != 999

    def query(self, ctx: Context) -> dict[str, Any]:
        return {"where": Post.title == self.title} if self.title else {}


class Status(msgspec.Struct):
    task: int
    place: Place | None = None


class Desk(Integration):
    up: bool = True

    async def setup(self, controller: Any) -> None:
        self.calls: list[str] = []
        self.handles.websockets.on_connect(self.greet)

    async def greet(self, connection: Any) -> None:
        if getattr(connection.user, "id", None) == 13:
            raise RuntimeError("not today")
        await connection.send_json({"type": "hello", "user": getattr(connection.user, "id", None)})

    @api()
    async def query_status(self, ctx: Context, task_id: int, places: list[Place] = []) -> Status:  # noqa: B006
        """How a task is."""
        return Status(task_id, places[0] if places else None)

    @api()
    async def since(self, ctx: Context, moment: datetime) -> float:
        return moment.timestamp()

    @api(allow_anonymous=True)
    async def first_post(self, ctx: Context) -> Post | None:
        return await ctx.controller.store.find_one(Post)

    @api(allow_anonymous=True)
    async def slow(self, ctx: Context, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @api(allow_anonymous=True)
    async def broken(self, ctx: Context) -> object:
        return object()

    @side_effect(Comment, on="create")
    async def mail(self, effect: Effect[Comment]) -> None:
        self.calls.append(effect.key)

    async def health(self) -> Health:
        return Health(up=self.up, detail="" if self.up else "the peer at 10.0.0.7 is gone")


def make_app(database: str = "sqlite:///:memory:") -> App:
    """A new app, with an integration of its own."""
    return App(
        user=User,
        entities=[User, Post, Comment],
        interactions=[AddComment, Register, Measure, ListPosts],
        integrations={"desk": Desk()},
        database=database,
    )


def authenticate(connection: Any) -> Any:
    """`Authorization: Bearer user-7`, or `?token=user-7`; one that is no such token is refused."""
    header = connection.headers.get("authorization", "").removeprefix("Bearer ")
    given = header or connection.query_params.get("token", "")
    if not given:
        return None
    if not given.startswith("user-"):
        raise Rejected("not_authenticated", "The token has expired.")
    return User.ref(int(given.removeprefix("user-")))


app = make_app(os.environ.get("SHOP_DATABASE", "sqlite:///:memory:"))
served = app.asgi(authenticate=authenticate)
