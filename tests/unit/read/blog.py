"""A blog, as a model made by hand: every kind of link and value type that a read can meet, with rows to read."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ensue.clock import ManualClock
from ensue.engine.read import Reader
from ensue.expression.nodes import Children, Follow
from ensue.expression.sql import compile_statement, sqlalchemy_dialect, sqlite_functions
from ensue.expression.types import ValueType
from ensue.plan.tables import build_tables, column_plans
from ensue.schema.entity import Entity, Globals, Relation
from ensue.schema.model import CollectionModel, FieldModel, LinkModel, Model, RecordModel
from ensue.schema.property import Property
from ensue.schema.relation import Inverse, Many, Maybe, One, Through
from ensue.store.driver import Dialect, Driver
from ensue.store.statement import Run, Statement, Work
from ensue.store.url import open_driver

START = datetime(2026, 1, 1, tzinfo=UTC)


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Options(msgspec.Struct):
    size: int
    names: list[str] = []


class User(Entity):
    name: Property[str]
    email: Property[str | None]
    verified: Property[bool]
    posts = Many(lambda: Post, inverse="author")
    profile = Inverse(lambda: Profile, inverse="user")


class Tag(Entity):
    label: Property[str]
    posts = Many(lambda: Post, inverse="tags")


class Post(Entity):
    title: Property[str]
    rank: Property[int | None]
    author: One[User]
    editor: Maybe[User]
    tags = Many(lambda: Tag, inverse="posts")
    comments = Many(lambda: Comment, inverse="post")
    likes = Many(lambda: Like, inverse="post")
    liked_by = Through(likes, lambda like: like.user)
    commenters = Through(comments, lambda comment: comment.author)


class Comment(Entity):
    text: Property[str]
    score: Property[int]
    at: Property[datetime]
    post: One[Post]
    author: One[User]
    parent: Maybe[Comment]
    replies = Many(lambda: Comment, inverse="parent")


class Like(Relation):
    user: One[User]
    post: One[Post]
    weight: Property[int]


PostTags = Relation.define("Post_tags", source=One[Post], target=One[Tag])


class Profile(Entity):
    user: One[User] = One(unique=True)
    big: Property[int]
    ratio: Property[float]
    price: Property[Decimal | None] = Property(scale=2)
    fine: Property[Decimal] = Property(scale=9)
    active: Property[bool | None]
    seen: Property[datetime | None]
    born: Property[date | None]
    token: Property[UUID | None]
    raw: Property[bytes | None]
    color: Property[Color | None]
    mood: Property[Literal["up", "down"]]
    data: Property[dict[str, Any] | None]
    options: Property[Options]


class Site(Globals):
    pass


STR, INT, BOOL = ValueType("str", str), ValueType("int", int), ValueType("bool", bool)
DATETIME, FLOAT = ValueType("datetime", datetime), ValueType("float", float)
PROFILE = {
    "big": INT,
    "ratio": FLOAT,
    "price?": ValueType("decimal", Decimal, scale=2),
    "fine": ValueType("decimal", Decimal, scale=9),
    "active?": BOOL,
    "seen?": DATETIME,
    "born?": ValueType("date", date),
    "token?": ValueType("uuid", UUID),
    "raw?": ValueType("bytes", bytes),
    "color?": ValueType("enum", Color, values=("red", "blue")),
    "mood": ValueType("literal", str, values=("up", "down")),
    "data?": ValueType("json", dict[str, Any]),
    "options": ValueType("json", Options),
}


def _record(
    cls: type[Any], fields: Mapping[str, ValueType], links: Mapping[str, str] | None = None, **more: Any
) -> RecordModel:
    """`name?` is optional."""
    collections: Sequence[CollectionModel] = more.pop("collections", ())
    unique = more.pop("one_to_one", False)
    return RecordModel(
        more.pop("name", cls.__name__),
        more.pop("kind", "entity"),
        cls,
        more.pop("table", cls.__name__.lower()),
        {
            name.rstrip("?"): FieldModel(name.rstrip("?"), type_, name.endswith("?"), column=name.rstrip("?"))
            for name, type_ in fields.items()
        },
        {
            name.rstrip("?"): LinkModel(
                name.rstrip("?"), target, name.endswith("?"), unique=unique, column=f"{name.rstrip('?')}_id"
            )
            for name, target in (links or {}).items()
        },
        {item.name: item for item in collections},
        **more,
    )


def make_model() -> Model:
    """The blog's model, as freezing its classes makes it."""
    likes = Children("Like", "post")
    records = [
        _record(
            User,
            {"name": STR, "email?": STR, "verified": BOOL},
            collections=[
                CollectionModel("posts", "Post", (Children("Post", "author"),)),
                CollectionModel("profile", "Profile", (Children("Profile", "user"),), single=True),
            ],
        ),
        _record(
            Tag,
            {"label": STR},
            collections=[CollectionModel("posts", "Post", (Children("Post_tags", "target"), Follow("source", "Post")))],
        ),
        _record(
            Post,
            {"title": STR, "rank?": INT},
            {"author": "User", "editor?": "User"},
            collections=[
                CollectionModel(
                    "tags", "Tag", (Children("Post_tags", "source"), Follow("target", "Tag")), relation="Post_tags"
                ),
                CollectionModel("comments", "Comment", (Children("Comment", "post"),)),
                CollectionModel("likes", "Like", (likes,)),
                CollectionModel("liked_by", "User", (likes, Follow("user", "User"))),
                CollectionModel("commenters", "User", (Children("Comment", "post"), Follow("author", "User"))),
            ],
        ),
        _record(
            Comment,
            {"text": STR, "score": INT, "at": DATETIME},
            {"post": "Post", "author": "User", "parent?": "Comment"},
            collections=[CollectionModel("replies", "Comment", (Children("Comment", "parent"),))],
        ),
        _record(
            Like,
            {"weight": INT},
            {"user": "User", "post": "Post"},
            kind="relation",
            source="user",
            target="post",
            table="like",
        ),
        _record(
            PostTags,
            {},
            {"source": "Post", "target": "Tag"},
            kind="relation",
            name="Post_tags",
            table="post_tags",
            implicit=True,
            source="source",
            target="target",
        ),
        _record(Profile, PROFILE, {"user": "User"}, one_to_one=True),
        _record(Site, {"total": INT}, kind="globals"),
    ]
    return Model({record.name: record for record in records}, {}, {}, None)


class BlogTables:
    """The tables of a model for one dialect."""

    def __init__(self, model: Model, dialect: Dialect) -> None:
        self.metadata = sa.MetaData()
        build_tables(
            model,
            {name: column_plans(record, dialect) for name, record in model.records.items()},
            self.metadata,
            dialect,
        )
        self._model = model

    def record(self, name: str) -> sa.Table:
        return self.metadata.tables[self._model.records[name].table]


@dataclass
class World:
    """An open database with the blog in it, and the statements that reads made."""

    driver: Driver
    reader: Reader
    tables: BlogTables
    statements: list[Statement] = field(default_factory=list)

    async def read(self, work: Work[Any]) -> Any:
        return await self.driver.read(work)

    async def insert(self, record: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows by column name."""
        table = self.tables.record(record)
        names = [column.name for column in table.columns]
        compiled = compile_statement(sa.insert(table), self.driver.dialect, f"{record}.insert", order=names)
        for row in rows:
            await self.driver.write(_run(compiled.statement, compiled.bind_row([row.get(name) for name in names])))


def _run(statement: Statement, params: Sequence[Any]) -> Work[None]:
    yield Run(statement, params)


@contextlib.asynccontextmanager
async def world(url: str) -> AsyncIterator[World]:
    """An empty blog in the database at `url`."""
    driver = open_driver(url, functions=sqlite_functions())
    model = make_model()
    tables = BlogTables(model, driver.dialect)
    dialect = sqlalchemy_dialect(driver.dialect)
    await driver.open()
    try:
        ddl = [
            Statement("ddl", str(sa.schema.CreateTable(t).compile(dialect=dialect)))
            for t in tables.metadata.sorted_tables
        ]
        await driver.script(ddl)
        made = World(driver, Reader(model, tables, driver.dialect, ManualClock(START)), tables)
        driver.observers.append(lambda statement, _: made.statements.append(statement))
        yield made
    finally:
        await driver.close()


USERS: list[dict[str, Any]] = [
    {"id": 1, "name": "bob", "email": "bob@x", "verified": True},
    {"id": 2, "name": "ann", "email": None, "verified": False},
    {"id": 3, "name": "Zoë 🦊", "email": "z\"o'e\\\n@x", "verified": True},
]
TAGS = [{"id": 1, "label": "a"}, {"id": 2, "label": "b"}, {"id": 3, "label": "c"}]
POSTS = [
    {"id": n, "title": f"post {n}", "rank": rank, "author_id": author, "editor_id": editor}
    for n, rank, author, editor in [(1, 5, 1, None), (2, None, 1, 2), (3, 7, 2, 1), (4, 5, 3, 3), (5, None, 2, None)]
]
COMMENTS = [
    {
        "id": n,
        "text": f"comment {n}",
        "score": score,
        "at": START + timedelta(microseconds=7 * n),
        "post_id": post,
        "author_id": author,
        "parent_id": parent,
    }
    for n, score, post, author, parent in [
        (1, 3, 1, 2, None),
        (2, 9, 1, 1, 1),
        (3, 9, 1, 2, 1),
        (4, -1, 2, 3, None),
        (5, 0, 4, 1, None),
        (6, 4, 4, 1, 5),
        (7, 4, 4, 2, 6),
    ]
]
LIKES = [
    {"id": n, "user_id": user, "post_id": post, "weight": n * 10} for n, user, post in [(1, 1, 1), (2, 3, 1), (3, 1, 4)]
]
POST_TAGS = [
    {"id": n, "source_id": post, "target_id": tag} for n, post, tag in [(1, 1, 3), (2, 1, 1), (3, 3, 2), (4, 4, 1)]
]


async def fill(made: World) -> None:
    """The rows above."""
    tables = [
        ("User", USERS),
        ("Tag", TAGS),
        ("Post", POSTS),
        ("Comment", COMMENTS),
        ("Like", LIKES),
        ("Post_tags", POST_TAGS),
    ]
    for name, rows in tables:
        await made.insert(name, rows)
    made.statements.clear()
