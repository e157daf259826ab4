"""Reads on real databases, each form against a naive evaluation in Python, each in one statement."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from ensue.engine.read import count, find, find_one, from_json, get, read_globals, select_fields, to_json
from ensue.errors import DeclarationError, InternalError, NotFound, NotLoaded, UsageError
from ensue.expression.trace import match, now
from tests.unit.read.blog import (
    COMMENTS,
    LIKES,
    POST_TAGS,
    POSTS,
    START,
    TAGS,
    USERS,
    Color,
    Comment,
    Like,
    Options,
    Post,
    Profile,
    Site,
    Tag,
    User,
    World,
)

Rows = list[dict[str, Any]]


def by_id(rows: Rows, id_: int | None) -> dict[str, Any]:
    return next(row for row in rows if row["id"] == id_)


def where(rows: Rows, **values: Any) -> Rows:
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def nulls_last(rows: Rows, name: str, *, descending: bool = False) -> Rows:
    """Ordered by a column, ties by id."""
    given = sorted((row for row in rows if row[name] is not None), key=lambda row: row["id"])
    given.sort(key=lambda row: row[name], reverse=descending)
    return given + sorted((row for row in rows if row[name] is None), key=lambda row: row["id"])


def ids(records: list[Any]) -> list[int]:
    return [record.id for record in records]


async def found(blog: World, condition: Any) -> list[int]:
    return ids(await blog.read(find(blog.reader, Post, condition)))


# --- What is selected -------------------------------------------------------------------------------------------------


async def test_default_selection_is_own_columns_and_references(blog: World) -> None:
    posts = await blog.read(find(blog.reader, Post))
    assert [(p.id, p.title, p.rank, p.author.id, p.editor and p.editor.id) for p in posts] == [
        (p["id"], p["title"], p["rank"], p["author_id"], p["editor_id"]) for p in POSTS
    ]
    assert isinstance(posts[0].author, User)
    with pytest.raises(NotLoaded, match="name"):
        _ = posts[0].author.name
    with pytest.raises(NotLoaded, match="comments"):
        _ = posts[0].comments


async def test_fields_replace_the_default(blog: World) -> None:
    post = await blog.read(find_one(blog.reader, Post, Post.id == 4, fields=[Post.title]))
    assert to_json(post) == {"id": 4, "title": "post 4"}


BY_NAME: dict[str, tuple[list[Any], list[Any]]] = {
    "property": ([Post.title], ["title"]),
    "reference": ([Post.author], ["author"]),
    "longer path": ([Post.author.name], ["author.name"]),
    "shape of one": ([Post.author.fields(User.name, User.email)], [["author", ["name", "email"]]]),
    "own columns of one": ([Post.author.fields()], ["author.*"]),
    "collection": ([Post.comments], ["comments"]),
    "shape of many": ([Post.comments.fields(Comment.text)], [["comments", ["text"]]]),
    "path through many": ([Post.comments.fields(Comment.author.fields(User.name))], ["comments.author.name"]),
    "own and more": ([Post, Post.author.name], ["*", "author.name"]),
    "single": ([Post.author.fields(User.profile.fields(Profile.big))], [["author", [["profile", ["big"]]]]]),
}


async def test_by_name_is_the_same(blog: World) -> None:
    for form, (traced, named) in BY_NAME.items():
        left = await blog.read(find(blog.reader, Post, fields=traced))
        right = await blog.read(find(blog.reader, "Post", fields=named))
        assert [to_json(record) for record in left] == [to_json(record) for record in right], form
    assert len(blog.statements) == 2 * len(BY_NAME)


def shown_user(id_: int | None, name: str) -> Any:
    return None if id_ is None else {"id": id_, name: by_id(USERS, id_)[name]}


def shown_reply(comment: dict[str, Any]) -> dict[str, Any]:
    author_id = by_id(POSTS, comment["post_id"])["author_id"]
    return {"id": comment["id"], "post": {"id": comment["post_id"], "author": shown_user(author_id, "name")}}


async def test_deep_selection_is_one_statement(blog: World) -> None:
    posts = await blog.read(
        find(
            blog.reader,
            Post,
            fields=[
                Post.title,
                Post.author.fields(User.name),
                Post.editor.fields(User.email),
                Post.comments.fields(
                    Comment.text,
                    Comment.author.name,
                    Comment.replies.fields(Comment.score, Comment.replies.fields(Comment.post.author.name)),
                ),
                Post.tags.fields(Tag.label),
                Post.liked_by.fields(User.name),
            ],
        )
    )

    expected = [
        {
            "id": p["id"],
            "title": p["title"],
            "author": shown_user(p["author_id"], "name"),
            "editor": shown_user(p["editor_id"], "email"),
            "comments": [
                {
                    "id": c["id"],
                    "text": c["text"],
                    "author": shown_user(c["author_id"], "name"),
                    "replies": [
                        {
                            "id": r["id"],
                            "score": r["score"],
                            "replies": [shown_reply(x) for x in where(COMMENTS, parent_id=r["id"])],
                        }
                        for r in where(COMMENTS, parent_id=c["id"])
                    ],
                }
                for c in where(COMMENTS, post_id=p["id"])
            ],
            "tags": sorted(
                (
                    {"id": r["target_id"], "label": by_id(TAGS, r["target_id"])["label"]}
                    for r in where(POST_TAGS, source_id=p["id"])
                ),
                key=lambda tag: tag["id"],
            ),
            "liked_by": [shown_user(like["user_id"], "name") for like in where(LIKES, post_id=p["id"])],
        }
        for p in POSTS
    ]
    assert [to_json(post) for post in posts] == expected
    assert len(blog.statements) == 1


async def test_through_is_a_bag(blog: World) -> None:
    (post,) = await blog.read(find(blog.reader, Post, Post.id == 4, fields=[Post.commenters]))
    assert ids(post.commenters) == sorted(c["author_id"] for c in where(COMMENTS, post_id=4)) == [1, 1, 2]


async def test_relation_is_a_record(blog: World) -> None:
    likes = await blog.read(find(blog.reader, Like, Like.user == 1, fields=[Like.weight, Like.post.title]))
    assert [(like.weight, like.post.title) for like in likes] == [(10, "post 1"), (30, "post 4")]
    rows = await blog.read(
        find(blog.reader, "Like", match("source.id", "=", 1), fields=["id", ["target", ["id", "title"]]])
    )
    assert [(row.id, row.target.title) for row in rows] == [(1, "post 1"), (3, "post 4")]
    plain = await blog.read(find(blog.reader, "Post_tags", match("target.label", "=", "a")))
    assert [(row.source.id, row.target.id) for row in plain] == [(1, 1), (4, 1)]
    assert await blog.read(find(blog.reader, Post.tags.relation, match("target.label", "=", "a"))) == plain
    with pytest.raises(UsageError, match="is no record type; expected a class, a name"):
        await blog.read(count(blog.reader, Post.author.relation))  # type: ignore[attr-defined]


async def test_both_sides_of_one_to_one(blog: World) -> None:
    await blog.insert("Profile", [profile(id=5, user_id=2)])
    blog.statements.clear()
    users = await blog.read(find(blog.reader, User, fields=[User.profile.fields(Profile.big, Profile.user.name)]))
    assert [to_json(user)["profile"] for user in users] == [
        None,
        {"id": 5, "big": 1, "user": {"id": 2, "name": "ann"}},
        None,
    ]
    assert len(blog.statements) == 1


# --- Per parent -------------------------------------------------------------------------------------------------------


async def test_condition_order_and_limit_apply_per_parent(blog: World) -> None:
    shape = Post.comments.fields(
        Comment.score, where=Comment.score > 0, order_by=[Comment.score.desc(), Comment.at.desc()], limit=2
    )
    posts = await blog.read(find(blog.reader, Post, fields=[shape], order_by=[Post.title.desc()], limit=3, offset=1))
    expected = []
    for post in sorted(POSTS, key=lambda p: p["title"], reverse=True)[1:4]:
        comments = [c for c in where(COMMENTS, post_id=post["id"]) if c["score"] > 0]
        comments.sort(key=lambda c: (-c["score"], -c["at"].timestamp()))
        expected.append((post["id"], [c["id"] for c in comments[:2]]))
    assert [(p.id, ids(p.comments)) for p in posts] == expected


async def test_limits_at_every_level(blog: World) -> None:
    inner = Comment.replies.fields(Comment.text, order_by=[Comment.id.desc()], limit=1)
    shape = Post.comments.fields(Comment.text, inner, order_by=["-score", "author.name"], limit=2)
    posts = await blog.read(find(blog.reader, Post, fields=[shape], limit=2, order_by=[Post.author.name, Post.id]))
    expected = []
    for post in sorted(POSTS, key=lambda p: (by_id(USERS, p["author_id"])["name"].encode(), p["id"]))[:2]:
        comments = sorted(
            where(COMMENTS, post_id=post["id"]),
            key=lambda c: (-c["score"], by_id(USERS, c["author_id"])["name"].encode(), c["id"]),
        )[:2]
        expected.append([(c["id"], [r["id"] for r in where(COMMENTS, parent_id=c["id"])][-1:]) for c in comments])
    assert [[(c.id, ids(c.replies)) for c in p.comments] for p in posts] == expected
    assert len(blog.statements) == 1


async def test_page_of_a_bag_keeps_its_repeats(blog: World) -> None:
    shape = Post.commenters.fields(User.posts.fields(Post.title), order_by=[User.name], limit=3)
    (post,) = await blog.read(find(blog.reader, Post, Post.id == 4, fields=[shape]))
    assert [(user.id, ids(user.posts)) for user in post.commenters] == [(2, [3, 5]), (1, [1, 2]), (1, [1, 2])]


# --- Order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("descending", [False, True])
async def test_nulls_are_last_either_way(blog: World, descending: bool) -> None:
    order = Post.rank.desc() if descending else Post.rank
    expected = [post["id"] for post in nulls_last(POSTS, "rank", descending=descending)]
    assert ids(await blog.read(find(blog.reader, Post, order_by=[order]))) == expected
    assert ids(await blog.read(find(blog.reader, "Post", order_by=["-rank" if descending else "rank"]))) == expected
    paged = await blog.read(find(blog.reader, Post, order_by=[order], fields=[Post.comments], limit=4))
    assert ids(paged) == expected[:4]
    through = await blog.read(find(blog.reader, User, User.id == 1, fields=[User.posts.fields(order_by=[order])]))
    assert ids(through[0].posts) == [post for post in expected if by_id(POSTS, post)["author_id"] == 1]


async def test_order_over_an_optional_reference(blog: World) -> None:
    posts = await blog.read(find(blog.reader, Post, order_by=[Post.editor.name.desc()]))
    assert ids(posts) == [3, 2, 4, 1, 5]


async def test_text_is_ordered_by_code_point(blog: World) -> None:
    users = await blog.read(find(blog.reader, User, order_by=[User.name]))
    assert [user.name for user in users] == ["Zoë 🦊", "ann", "bob"]


async def test_pages_are_stable(blog: World) -> None:
    pages = [ids(await blog.read(find(blog.reader, Comment, limit=3, offset=offset))) for offset in (0, 3, 6, 9)]
    assert pages == [[1, 2, 3], [4, 5, 6], [7], []]
    assert await blog.read(find(blog.reader, Comment, limit=0)) == []
    assert ids(await blog.read(find(blog.reader, Comment, offset=5))) == [6, 7]


# --- Conditions -------------------------------------------------------------------------------------------------------


def commented(test: Callable[[dict[str, Any]], bool]) -> set[int]:
    return {comment["post_id"] for comment in COMMENTS if test(comment)}


def author(row: dict[str, Any]) -> dict[str, Any]:
    return by_id(USERS, row["author_id"])


CONDITIONS: dict[str, tuple[Any, Callable[[dict[str, Any]], bool]]] = {
    "path": (Post.author.name == "bob", lambda p: author(p)["name"] == "bob"),
    "optional path": (Post.editor.name == "bob", lambda p: p["editor_id"] == 1),
    "not of optional path": (~(Post.editor.name == "bob"), lambda p: p["editor_id"] != 1),
    "record": (Post.author == User.ref(2), lambda p: p["author_id"] == 2),
    "id": (Post.author == 2, lambda p: p["author_id"] == 2),
    "not the record": (Post.editor != User.ref(2), lambda p: p["editor_id"] != 2),
    "one of records": (Post.author.in_([User.ref(2), 3]), lambda p: p["author_id"] in (2, 3)),
    "one of none": (Post.id.in_([]), lambda _: False),
    "no record": (Post.editor.is_null(), lambda p: p["editor_id"] is None),
    "none": (Post.rank == None, lambda p: p["rank"] is None),  # noqa: E711
    "complement": (~(Post.rank > 5), lambda p: not (p["rank"] is not None and p["rank"] > 5)),
    "any": (Post.comments.any(lambda c: c.score > 3), lambda p: p["id"] in commented(lambda c: c["score"] > 3)),
    "any at all": (Post.comments.any(), lambda p: p["id"] in commented(lambda _: True)),
    "none of them": (
        ~Post.comments.any(lambda c: c.score > 3),
        lambda p: p["id"] not in commented(lambda c: c["score"] > 3),
    ),
    "any over path": (
        Post.comments.any(lambda c: c.author.name == "ann"),
        lambda p: p["id"] in commented(lambda c: author(c)["name"] == "ann"),
    ),
    "negation over a path is per root": (
        ~Post.comments.any(lambda c: c.author.name == "ann"),
        lambda p: p["id"] not in commented(lambda c: author(c)["name"] == "ann"),
    ),
    "any with some not": (
        Post.comments.any(lambda c: ~(c.author.name == "ann")),
        lambda p: p["id"] in commented(lambda c: author(c)["name"] != "ann"),
    ),
    "enclosing": (
        Post.comments.any(lambda c: c.author == Post.author),
        lambda p: any(c["author_id"] == p["author_id"] for c in where(COMMENTS, post_id=p["id"])),
    ),
    "enclosing path": (
        Post.comments.any(lambda c: c.text < Post.editor.name),
        lambda p: (
            p["editor_id"] is not None
            and any(
                c["text"].encode() < by_id(USERS, p["editor_id"])["name"].encode()
                for c in where(COMMENTS, post_id=p["id"])
            )
        ),
    ),
    "nested": (
        Post.comments.any(lambda c: c.replies.any(lambda r: (r.author == c.author) & (r.score > Post.rank))),
        lambda p: any(
            r["author_id"] == c["author_id"] and p["rank"] is not None and r["score"] > p["rank"]
            for c in where(COMMENTS, post_id=p["id"])
            for r in where(COMMENTS, parent_id=c["id"])
        ),
    ),
    "n:n": (Post.tags.any(lambda t: t.label == "a"), lambda p: bool(where(POST_TAGS, source_id=p["id"], target_id=1))),
    "through": (Post.liked_by.any(lambda u: u.name == "bob"), lambda p: bool(where(LIKES, post_id=p["id"], user_id=1))),
    "from a path": (
        Post.author.posts.any(lambda other: other.rank == 7),
        lambda p: any(other["rank"] == 7 for other in where(POSTS, author_id=p["author_id"])),
    ),
    "match": (match("author.name", "=", "bob"), lambda p: author(p)["name"] == "bob"),
    "match in": (match("rank", "in", [5, 8]), lambda p: p["rank"] in (5, 8)),
    "either": ((Post.rank == 7) | Post.title.in_(["post 1", "x"]), lambda p: p["rank"] == 7 or p["title"] == "post 1"),
}


async def test_conditions_agree_with_python(blog: World) -> None:
    for name, (condition, holds) in CONDITIONS.items():
        expected = [post["id"] for post in POSTS if holds(post)]
        assert await found(blog, condition) == expected, name
        assert await found(blog, ~condition) == [post["id"] for post in POSTS if not holds(post)], name
        assert await blog.read(count(blog.reader, Post, condition)) == len(expected), name
        # Again, from the cache; and below a collection, on a page.
        assert await found(blog, condition) == expected, name
        users = await blog.read(find(blog.reader, User, fields=[User.posts.fields(where=condition)], limit=9))
        assert sorted(id_ for user in users for id_ in ids(user.posts)) == expected, name
    assert len(blog.statements) == 5 * len(CONDITIONS)


async def test_now_is_the_clock(blog: World) -> None:
    early = now + timedelta(microseconds=20)
    for seconds, expected in ((0.0, [1, 2]), (1.0, [1, 2, 3, 4, 5, 6, 7])):
        blog.reader.clock.advance(seconds=seconds)  # type: ignore[union-attr]
        assert ids(await blog.read(find(blog.reader, Comment, Comment.at <= early))) == expected


async def test_literals_of_a_repeated_read_are_its_own(blog: World) -> None:
    for rank, expected in ((5, [1, 4]), (7, [3]), (7.0, [3]), (7.5, []), (4, [])):
        assert await found(blog, Post.rank == rank) == expected
    for titles in (["post 1"], ["post 2", "post 3"], []):
        assert await found(blog, Post.title.in_(titles)) == [int(title[-1]) for title in titles]
    for user in (1, 2, 3):
        condition = (Post.author == User.ref(user)) & Post.comments.any(lambda c, user=user: c.author == user)
        assert await found(blog, condition) == [
            p["id"] for p in POSTS if p["author_id"] == user and where(COMMENTS, post_id=p["id"], author_id=user)
        ]
    for micros in (7, 21):
        condition = Comment.at - timedelta(microseconds=micros) >= START
        assert ids(await blog.read(find(blog.reader, Comment, condition))) == [
            c["id"] for c in COMMENTS if c["id"] * 7 >= micros
        ]


# --- Values -----------------------------------------------------------------------------------------------------------


def profile(**values: Any) -> dict[str, Any]:
    return {
        "user_id": 1,
        "big": 1,
        "ratio": 1.0,
        "fine": Decimal("0.000000001"),
        "mood": "up",
        "options": Options(1),
        **values,
    }


PROFILES = [
    profile(
        id=2**53 + 1,
        user_id=1,
        big=2**63 - 1,
        ratio=0.1 + 0.2,
        price=Decimal("-90071992547409931.25"),
        fine=Decimal("1234567.123456789"),
        active=True,
        seen=datetime(1901, 2, 3, 4, 5, 6, 789012, tzinfo=UTC),
        born=date(1, 2, 3),
        token=UUID("12345678-1234-5678-1234-567812345678"),
        raw=b"\x00\xff'\"",
        color=Color.BLUE,
        mood="down",
        data={"a": 2**60, "b": [1, 2.5, None, {"ü": '"\\'}]},
        options=Options(3, ["x", "\n"]),
    ),
    profile(
        id=2,
        user_id=2,
        big=-(2**63),
        ratio=5e-324,
        price=Decimal("0.00"),
        fine=Decimal("-0.000000001"),
        active=False,
        raw=b"",
        data={},
    ),
    profile(id=3, user_id=3, ratio=1e300, seen=datetime(9999, 12, 31, 23, 59, 59, 999998, tzinfo=UTC)),
]
NAMES = ("big", "ratio", "price", "fine", "active", "seen", "born", "token", "raw", "color", "mood", "data", "options")


async def fill_profiles(blog: World) -> None:
    await blog.insert("Profile", PROFILES)
    await blog.insert("Post", [{"id": 10 + n, "title": "p", "author_id": n} for n in (1, 2, 3)])


def check_profile(record: Any, row: dict[str, Any]) -> None:
    for name in NAMES:
        value = getattr(record, name)
        assert value == row.get(name), name
        assert type(value) is type(row.get(name)), name
        assert str(value) == str(row.get(name)), name


async def test_every_value_type_plain_and_nested(blog: World) -> None:
    await fill_profiles(blog)
    plain = await blog.read(find(blog.reader, Profile))
    nested = await blog.read(
        find(blog.reader, User, fields=[User.posts.fields(Post.author.fields(User.profile.fields()))])
    )
    for row in PROFILES:
        check_profile(next(record for record in plain if record.id == row["id"]), row)
        user = next(user for user in nested if user.id == row["user_id"])
        check_profile(user.posts[0].author.profile, row)
        assert user.posts[0].author.profile.id == row["id"]


async def test_json_form_round_trips(blog: World) -> None:
    await fill_profiles(blog)
    users = await blog.read(find(blog.reader, User, fields=[User, User.profile, User.posts.fields(Post, Post.tags)]))
    for user in users:
        data = to_json(user)
        back = from_json(blog.reader.model, "User", data)
        assert to_json(back) == data
        assert back == user
        check_profile(back.profile, next(row for row in PROFILES if row["user_id"] == user.id))
        assert [post.author.id for post in back.posts] == [user.id] * len(back.posts)


async def test_text_survives_nesting(blog: World) -> None:
    (post,) = await blog.read(
        find(blog.reader, Post, Post.id == 2, fields=[Post.comments.fields(Comment.author.fields())])
    )
    assert (post.comments[0].author.name, post.comments[0].author.email) == (USERS[2]["name"], USERS[2]["email"])


# --- The other reads --------------------------------------------------------------------------------------------------


async def test_get_and_find_one(blog: World) -> None:
    assert (await blog.read(get(blog.reader, Post, 3))).title == "post 3"
    with pytest.raises(NotFound, match=r"no Post with the id 99.*find_one"):
        await blog.read(get(blog.reader, "Post", 99))
    assert await blog.read(find_one(blog.reader, Post, Post.id == 99)) is None
    assert (await blog.read(find_one(blog.reader, Post, order_by=[Post.id.desc()]))).id == 5


async def test_globals(blog: World) -> None:
    with pytest.raises(InternalError, match="0 rows instead of one"):
        await blog.read(read_globals(blog.reader, Site))
    await blog.insert("Site", [{"id": 1, "total": 7}])
    site: Any = await blog.read(read_globals(blog.reader, Site))
    assert site.total == 7
    with pytest.raises(DeclarationError, match="takes a Globals class, and Post is not one"):
        await blog.read(read_globals(blog.reader, Post))


async def test_select_fields(blog: World) -> None:
    records = await blog.read(select_fields(blog.reader, Post, [1, 3, 99], [Post.author.name], own=True))
    assert {id_: (post.title, post.author.name) for id_, post in records.items()} == {
        1: ("post 1", "bob"),
        3: ("post 3", "ann"),
    }
    inputs = await blog.read(select_fields(blog.reader, Post, [1], [Post.title]))
    assert to_json(inputs[1]) == {"id": 1, "title": "post 1"}
    assert await blog.read(select_fields(blog.reader, Post, [], [Post.title])) == {}
    assert len(blog.statements) == 2


async def test_random_selections_agree_with_python(blog: World) -> None:
    """Paths of links and collections at random, against dictionaries and loops."""
    steps: dict[str, dict[str, tuple[str, Callable[[dict[str, Any]], Any]]]] = {
        "User": {"posts": ("Post", lambda u: where(POSTS, author_id=u["id"]))},
        "Tag": {
            "posts": ("Post", lambda t: [by_id(POSTS, r["source_id"]) for r in where(POST_TAGS, target_id=t["id"])])
        },
        "Post": {
            "author": ("User", author),
            "editor": ("User", lambda p: None if p["editor_id"] is None else by_id(USERS, p["editor_id"])),
            "comments": ("Comment", lambda p: where(COMMENTS, post_id=p["id"])),
            "tags": ("Tag", lambda p: [by_id(TAGS, r["target_id"]) for r in where(POST_TAGS, source_id=p["id"])]),
            "liked_by": ("User", lambda p: [by_id(USERS, r["user_id"]) for r in where(LIKES, post_id=p["id"])]),
        },
        "Comment": {
            "post": ("Post", lambda c: by_id(POSTS, c["post_id"])),
            "parent": ("Comment", lambda c: None if c["parent_id"] is None else by_id(COMMENTS, c["parent_id"])),
            "replies": ("Comment", lambda c: where(COMMENTS, parent_id=c["id"])),
        },
    }
    label = {"User": "name", "Tag": "label", "Post": "title", "Comment": "text"}
    draw = random.Random(7)

    def tree(record: str, depth: int) -> dict[str, Any]:
        chosen = (
            draw.sample(sorted(steps[record]), k=draw.randint(0 if depth < 4 else 1, min(2, len(steps[record]))))
            if depth
            else []
        )
        return {name: tree(steps[record][name][0], depth - 1) for name in chosen}

    def fields(record: str, below: dict[str, Any]) -> list[Any]:
        return [label[record], *([name, fields(steps[record][name][0], rest)] for name, rest in below.items())]

    def naive(record: str, below: dict[str, Any], row: Any) -> Any:
        if row is None:
            return None
        if isinstance(row, list):
            return [naive(record, below, item) for item in sorted(row, key=lambda item: item["id"])]
        made = {"id": row["id"], label[record]: row[label[record]]}
        return made | {
            name: naive(steps[record][name][0], rest, steps[record][name][1](row)) for name, rest in below.items()
        }

    for _ in range(25):
        below = tree("Post", 4)
        posts = await blog.read(find(blog.reader, "Post", fields=fields("Post", below), limit=draw.choice([None, 9])))
        assert [to_json(post) for post in posts] == naive("Post", below, POSTS)
    assert len(blog.statements) == 25
