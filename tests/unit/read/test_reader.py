"""The cache of compiled reads, the shape of their SQL, and what is refused before any SQL is made."""

from __future__ import annotations

from typing import Any

import pytest

from ensue.engine.read import Query, Reader, compile_query, find, get
from ensue.engine.read.reads import CACHED_MAX, VARIANTS_MAX
from ensue.errors import DeclarationError, PlannedError
from ensue.expression.trace import Path, Root, now
from tests.unit.read.blog import BlogTables, Comment, Post, Profile, User, make_model

MODEL = make_model()


@pytest.fixture
def reader() -> Reader:
    return Reader(MODEL, BlogTables(MODEL, "sqlite"), "sqlite")


def request(reader: Reader, *args: Any, **options: Any) -> Any:
    """The request that a `find` makes."""
    return find(reader, *args, **options).send(None)


def text(query: Query) -> str:
    compiled, _ = compile_query(MODEL, BlogTables(MODEL, "sqlite"), "sqlite", query)
    return " ".join(compiled.statement.text.split())


# --- The cache --------------------------------------------------------------------------------------------------------


def test_same_structure_is_one_statement(reader: Reader) -> None:
    def ask(title: str, score: int, limit: int) -> Any:
        condition = (Post.title == title) & Post.comments.any(lambda c: c.score > score)
        shape = Post.comments.fields(Comment.text, where=Comment.score == score)
        return request(reader, Post, condition, fields=[Post.title, shape], limit=limit, offset=limit + 1)

    first, second = ask("x", 1, 10), ask("y", 2, 20)
    assert first.statement is second.statement
    assert sorted(map(str, second.params)) == sorted(map(str, ["y", 2, 2, 20, 21]))


def test_class_and_name_share(reader: Reader) -> None:
    by_name = request(reader, "Post", Path(Root(None), ("title",)) == "x").statement
    assert by_name.text == request(reader, Post, Post.title == "x").statement.text


@pytest.mark.parametrize(
    "other",
    [
        {"where": Post.title == "x", "limit": 1},
        {"where": Post.title == "x", "offset": 1},
        {"where": Post.title == "x", "order_by": [Post.title]},
        {"where": Post.title == "x", "fields": [Post.title]},
        {"where": Post.title != "x"},
        {"where": Post.author.name == "x"},
        {"where": Post.title.in_(["x"])},
        {"where": ~(Post.title == "x")},
    ],
)
def test_other_structure_is_another_statement(reader: Reader, other: dict[str, Any]) -> None:
    condition = other.pop("where")
    first = request(reader, Post, Post.title == "x").statement
    assert request(reader, Post, condition, **other).statement.text != first.text


def test_enclosing_parameters_are_told_apart(reader: Reader) -> None:
    inner = Post.comments.any(lambda c: c.replies.any(lambda r: r.score > r.score))
    outer = Post.comments.any(lambda c: c.replies.any(lambda r: r.score > c.score))
    assert request(reader, Post, inner).statement.text != request(reader, Post, outer).statement.text


def test_a_value_of_another_type_makes_another_statement(reader: Reader) -> None:
    whole = request(reader, Post, Post.rank > 3)
    half = request(reader, Post, Post.rank > 3.5)
    assert request(reader, Post, Post.rank > 4).statement is whole.statement
    # Compared as an int, not as a float: above 2**53 that is not the same.
    assert request(reader, Post, Post.rank > 4.0).statement.text == whole.statement.text
    assert request(reader, Post, Post.rank > 4.5).statement is half.statement


def test_a_value_that_does_not_fit_is_refused_every_time(reader: Reader) -> None:
    request(reader, Profile, Profile.mood == "up")
    for _ in range(2):
        with pytest.raises(DeclarationError, match="none of 'up', 'down'"):
            request(reader, Profile, Profile.mood == "sideways")


def test_the_cache_is_bounded(reader: Reader) -> None:
    compiled = reader.compiled
    request(reader, Post)
    kept = next(iter(compiled.values()))
    compiled.update(dict.fromkeys(range(CACHED_MAX), kept))
    request(reader, User)
    assert len(compiled) <= CACHED_MAX + 1
    for scale in range(VARIANTS_MAX + 3):
        request(reader, Profile, Profile.ratio * (Profile.ratio if scale else 1.0) > 1.0)
    assert all(len(variants) <= VARIANTS_MAX for variants in compiled.values())


# --- The shape of the SQL ---------------------------------------------------------------------------------------------


def test_plain_read_has_no_inner_select() -> None:
    query = Query(MODEL.records["Post"], Post.author.name == "x", [Post.title, Post.author.name], [Post.title], limit=3)
    assert text(query) == (
        "SELECT t0.id AS c0, t0.title AS c1, t1.id AS c2, t1.name AS c3 FROM post AS t0 "
        "LEFT OUTER JOIN user AS t1 ON t1.id = t0.author_id WHERE (t1.name = ?) "
        "ORDER BY (t0.title) ASC, t0.id LIMIT ? OFFSET ?"
    )


def test_page_is_found_before_what_is_below_it() -> None:
    query = Query(MODEL.records["Post"], None, [Post.comments.fields(Comment.text)], [Post.rank.desc()], limit=3)
    assert text(query) == (
        "SELECT t2.id AS c0, (SELECT json_group_array(json_array(s4.c0, s4.c1)) AS json_group_array_1 "
        "FROM (SELECT t3.id AS c0, t3.text AS c1 FROM comment AS t3 WHERE t3.post_id = t2.id "
        "ORDER BY t3.id) AS s4) AS c1 "
        "FROM (SELECT t0.id AS id, (t0.rank) AS k0 FROM post AS t0 "
        "ORDER BY (t0.rank) DESC NULLS LAST, t0.id LIMIT ? OFFSET ?) AS p1 "
        "JOIN post AS t2 ON t2.id = p1.id ORDER BY p1.k0 DESC NULLS LAST, p1.id"
    )


def test_reference_needs_no_join() -> None:
    query = Query(MODEL.records["Post"], Post.author == 1, [Post.author])
    assert (
        text(query) == "SELECT t0.id AS c0, t0.author_id AS c1 FROM post AS t0 WHERE (t0.author_id = ?) ORDER BY t0.id"
    )


def test_order_by_id_is_not_repeated() -> None:
    query = Query(MODEL.records["Post"], fields=["id"], order_by=["-id", "title"])
    assert text(query).endswith("ORDER BY (t0.id) DESC, (t0.title) ASC")


def test_aliases_stay_short_at_any_depth() -> None:
    query = Query(MODEL.records["Post"], fields=[".".join(["author", "posts"] * 3)])
    assert max(len(word) for word in text(query).split()) < 63


# --- Refusals ---------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "unknown name": (("Pots",), {}, r"Pots is no record type of this app\. Did you mean Post\?"),
    "unknown class": ((int,), {}, r"int is no record type of this app\. Give it in `App\(entities=\[…\]\)`"),
    "unknown in condition": (
        (Post, Path(Root("Post"), ("titel",)) == "x"),
        {},
        r"Post has no 'titel'.*Did you mean title\?",
    ),
    "condition is a value": ((Post, Post.title), {}, r"Post\.title is str; expected bool"),
    "value of another type": ((Post, Post.title == 3), {}, r"takes two values of one kind"),
    "order by nothing": ((Post,), {"order_by": [3]}, r"as a field, condition or order; expected an expression"),
    "order by a selection": ((Post,), {"order_by": [Post.fields()]}, r"`order_by` got Shape.*; expected expressions"),
    "order by unknown": ((Post,), {"order_by": ["-titel"]}, r"Post has no 'titel'"),
    "order by collection": ((Post,), {"order_by": [Post.comments.text]}, r"leads to many records"),
    "order by json": ((Profile,), {"order_by": [Profile.data]}, r"which is json and has no order"),
    "negative limit": ((Post,), {"limit": -1}, r"`limit=` got -1; expected a whole number from 0 on"),
    "limit of another type": ((Post,), {"limit": "3"}, r"`limit=` got '3'"),
    "negative offset": ((Post,), {"offset": -1}, r"`offset=` got -1"),
    "nested negative limit": ((Post,), {"fields": [Post.comments.fields(limit=-1)]}, r"`limit=` got -1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(reader: Reader, name: str) -> None:
    args, options, message = REFUSED[name]
    with pytest.raises(DeclarationError, match=message):
        request(reader, *args, **options)
    assert not reader.compiled


def test_now_needs_a_clock(reader: Reader) -> None:
    with pytest.raises(PlannedError, match="`now`"):
        request(reader, Comment, Comment.at < now)


def test_get_refuses_what_is_no_id(reader: Reader) -> None:
    with pytest.raises(DeclarationError, match="takes two values of one kind"):
        get(reader, Post, "x").send(None)
