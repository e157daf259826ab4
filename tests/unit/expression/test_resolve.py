"""What the resolver makes of paths and literals, and the text of every error that a user can get from it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, cast
from uuid import UUID

import pytest

from ensue.errors import DeclarationError, ExpressionError, Origin, PlannedError
from ensue.expression import semantics
from ensue.expression.nodes import Call, Children, Column, Constant, Exists, Follow, Node, Parameter
from ensue.expression.records import CollectionType, FieldType, LinkType, Member
from ensue.expression.resolve import lift, resolve, resolve_hops, trace
from ensue.expression.sql import lower
from ensue.expression.trace import Path, Root, match, now, total
from ensue.expression.types import ValueType


class Status(Enum):
    DRAFT = "draft"
    DONE = "done"


STATUS = ValueType("enum", Status, values=("draft", "done"))
MEMBERS: dict[str, dict[str, Member]] = {
    "Post": {
        "title": FieldType(semantics.STR, optional=False),
        "likes": FieldType(semantics.INT, optional=False),
        "rank": FieldType(semantics.FLOAT, optional=True),
        "price": FieldType(semantics.decimal(2), optional=False),
        "at": FieldType(semantics.DATETIME, optional=False),
        "day": FieldType(ValueType("date", date), optional=False),
        "key": FieldType(ValueType("uuid", UUID), optional=False),
        "open": FieldType(semantics.BOOL, optional=True),
        "status": FieldType(STATUS, optional=False),
        "size": FieldType(ValueType("literal", str, values=("s", "m")), optional=False),
        "extra": FieldType(ValueType("json", dict), optional=False),
        "author": LinkType("User", optional=False),
        "editor": LinkType("User", optional=True),
        "comments": CollectionType("Comment", (Children("Comment", "post"),)),
    },
    "User": {
        "name": FieldType(semantics.STR, optional=False),
        "team": LinkType("Team", optional=False),
        "posts": CollectionType("Post", (Children("Post", "author"),)),
        "profile": CollectionType("Profile", (Children("Profile", "user"),), single=True),
    },
    "Team": {"name": FieldType(semantics.STR, optional=False)},
    "Profile": {"bio": FieldType(semantics.STR, optional=False)},
    "Comment": {
        "score": FieldType(semantics.INT, optional=False),
        "post": LinkType("Post", optional=False),
        "author": LinkType("User", optional=False),
    },
    "Like": {
        "user": LinkType("User", optional=False),
        "source": LinkType("User", optional=False, name="user"),
    },
}


class Types:
    def member(self, record: str, name: str) -> Member | None:
        return FieldType(semantics.INT, optional=False) if name == "id" else MEMBERS[record].get(name)

    def names(self, record: str) -> tuple[str, ...]:
        return ("id", *MEMBERS[record])


class Record:
    """Stands for a record: all that the language asks of one is its id and the names of its classes."""

    def __init__(self, key: int | None) -> None:
        self.key = key

    def __ensue_id__(self) -> int | None:
        return self.key


class User(Record):
    pass


class Post(Record):
    pass


Post_ = Path(Root("Post"))


def node(function: Callable[[Any], Any], record: str = "Post", **options: Any) -> Node:
    expr, root = trace(function, record)
    return resolve(expr, record, Types(), root=root, **options)


def column(name: str, *path: str, depth: int = 0, optional: bool = False, type_: ValueType = semantics.INT) -> Column:
    return Column(path, name, type_, optional, depth)


# --- Paths ------------------------------------------------------------------------------------------------------------


def test_a_path_becomes_the_column_at_its_end() -> None:
    assert node(lambda p: p.author.team.name) == column("name", "author", "team", type_=semantics.STR)


def test_an_optional_link_makes_all_behind_it_optional() -> None:
    assert node(lambda p: p.editor.team.name).optional


def test_a_link_is_its_own_column_and_so_is_its_id() -> None:
    assert node(lambda p: p.author) == node(lambda p: p.author.id) == column("author")
    assert node(lambda p: p.author.team.id) == column("team", "author")


def test_the_record_itself_is_its_id() -> None:
    assert node(lambda p: p) == column("id")


def test_an_alias_of_a_link_becomes_its_own_name() -> None:
    assert node(lambda like: like.source, "Like") == column("user")
    assert node(lambda like: like.source.name, "Like") == column("name", "user", type_=semantics.STR)


def test_class_paths_and_paths_by_name_start_at_the_record() -> None:
    by_name = resolve(match("author.id", "=", 7), "Post", Types())
    assert by_name == resolve(Post_.author == 7, "Post", Types())


def test_aliases_of_the_record_are_accepted() -> None:
    assert resolve(Path(Root("Base"), ("title",)), "Post", Types(), aliases=["Base"]).type == semantics.STR


def test_any_pushes_a_scope() -> None:
    found = node(lambda p: p.comments.any(lambda c: (c.score > 3) & (c.author == p.author)))
    assert isinstance(found, Exists)
    assert found.hops == (Children("Comment", "post"),)
    assert isinstance(found.condition, Call)
    assert found.condition.args[1] == Call("eq", (column("author"), column("author", depth=1)), semantics.BOOL, False)


def test_any_goes_over_links_and_collections() -> None:
    found = node(lambda p: p.author.posts.comments.any())
    assert isinstance(found, Exists)
    assert found.hops == (Follow("author", "User"), Children("Post", "author"), Children("Comment", "post"))


def test_hops_lead_to_a_record_type() -> None:
    assert resolve_hops(Post_.author.posts, "Post", Types()) == (
        (Follow("author", "User"), Children("Post", "author")),
        "Post",
    )


# --- Literals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "value", "type_"),
    [
        (lambda p: p.rank == 3, 3.0, semantics.FLOAT),
        (lambda p: p.likes == 3.0, 3, semantics.INT),
        (lambda p: p.price == 3, Decimal("3.00"), semantics.decimal(2)),
        (lambda p: p.price == Decimal("1.50000"), Decimal("1.50"), semantics.decimal(2)),
        (lambda p: p.price == Decimal("1.555"), Decimal("1.555"), semantics.decimal(3)),
        (lambda p: p.status == "done", Status.DONE, STATUS),
        (lambda p: p.status == Status.DONE, Status.DONE, STATUS),
        (lambda p: p.author == User(7), 7, semantics.INT),
        (lambda p: p.author.id == User(7), 7, semantics.INT),
        (lambda p: p.author == 7, 7, semantics.INT),
        (lambda p: p.at == datetime.fromisoformat("2026-01-01T02:00+02:00"), datetime(2026, 1, 1, tzinfo=UTC), None),
    ],
)
def test_a_literal_takes_the_type_that_it_meets(function: Any, value: Any, type_: ValueType | None) -> None:
    found = node(function)
    assert isinstance(found, Call)
    literal = found.args[1]
    assert isinstance(literal, Constant)
    assert str(literal.value) == str(value)
    assert type_ is None or literal.type == type_


def test_an_expected_type_casts() -> None:
    found = node(lambda p: p.likes, expected=semantics.FLOAT)
    assert found == Call("cast", (column("likes"),), semantics.FLOAT, False)
    assert node(lambda p: p.title, expected=semantics.STR) == column("title", type_=semantics.STR)


def test_now_is_what_the_caller_says() -> None:
    instant = datetime(2026, 1, 1, tzinfo=UTC)
    found = resolve(Post_.at < now, "Post", Types(), now=instant)
    assert isinstance(found, Call)
    assert found.args[1] == Constant(instant, semantics.DATETIME)


def test_lift_makes_queries_equal_that_differ_in_values() -> None:
    one, values = lift(node(lambda p: (p.likes > 3) & p.title.in_(["a", "b"])))
    two, _ = lift(node(lambda p: (p.likes > 9) & p.title.in_(["c"])))
    assert one == two
    assert values == (3, ["a", "b"])
    assert lift(node(lambda p: p.likes == 1), start=4)[0] == Call(
        "eq", (column("likes"), Parameter(4, semantics.INT)), semantics.BOOL, False
    )


# --- Errors -----------------------------------------------------------------------------------------------------------

ERRORS: list[tuple[str, Callable[[Any], Any]]] = [
    ("Post has no 'titel' (in Post.titel). Did you mean title?", lambda p: p.titel == "x"),
    ("User has no 'zzz' (in Post.author.zzz). It has: id, name, posts, profile, team.", lambda p: p.author.zzz),
    ("Post.title is a value (str): 'size' can't follow it in Post.title.size.", lambda p: p.title.size == 3),
    (
        "so Post.comments.score has no single value here. Declare an AnyOf, Count or Max over comments on Post and",
        lambda p: p.comments.score > 3,
    ),
    (
        (
            "so only the conditions and orders of reads can follow Post.author.profile.bio. Declare this on Profile "
            "instead, whose user leads to the User."
        ),
        lambda p: p.author.profile.bio == "x",
    ),
    ("Post.title is a value (str), expected a link or a collection in Post.title.", lambda p: p.title.any()),
    ("`.any` needs a collection; Post is the record itself.", lambda p: p.any()),
    (
        "The path User.name starts at User; expected Post, the record type that is asked about. Follow a link",
        lambda p: Path(Root("User"), ("name",)) == p.title,
    ),
    (
        "The path Other.x starts at the parameter of another lambda; use the parameter of this one.",
        lambda p: Path(Root.parameter("Other"), ("x",)) == p.title,
    ),
    ("`&` takes bool, found Post.likes, which is int. Compare it with something.", lambda p: p.open & p.likes),
    ("`.any` takes bool, found _.score, which is int.", lambda p: p.comments.any(lambda c: c.score)),
    (
        "takes two numbers, or two of str, datetime, date, uuid or bytes; found str and int.",
        lambda p: p.title < p.likes,
    ),
    ("found json and json", lambda p: p.extra == p.extra),
    (
        "found enum Status and enum Status. Members of an enum have no order here",
        lambda p: p.status < Status.DONE,
    ),
    ("found float and decimal(2). Use Decimal values beside a decimal.", lambda p: p.rank + p.price),
    (
        "found datetime and datetime. The difference of two instants is no value type: compare them, or add",
        lambda p: p.at - p.at,
    ),
    ("found str and timedelta", lambda p: p.title + timedelta(days=1)),
    ("`.upper()` in Post.likes.upper() takes str; found int.", lambda p: p.likes.upper()),
    ("`-` in -Post.title takes a number; found str.", lambda p: -p.title),
    ("found bool and int", lambda p: p.open == 1),
    ("found int and bool", lambda p: p.likes == True),  # noqa: E712
    ("has the naive datetime datetime.datetime(2026, 1, 1, 0, 0)", lambda p: p.at == datetime(2026, 1, 1)),  # noqa: DTZ001
    ("found datetime and date", lambda p: p.at == date(2026, 1, 1)),
    ("the very first or last; for never use None", lambda p: p.at == datetime.max.replace(tzinfo=UTC)),
    ("has a str with a NUL character, which no database can hold as text. Expected str.", lambda p: p.title == "a\0"),
    ("has a str with half of a surrogate pair, which is no text.", lambda p: p.title == "\ud800"),
    ("which needs more than 64 bits. Expected int.", lambda p: p.likes == 2**63),
    ("has the float nan, which is not finite.", lambda p: p.rank == float("nan")),
    ("has the decimal NaN, which is not finite.", lambda p: p.price == Decimal("nan")),
    ("has the decimal 1E+30, which has more than 18 digits.", lambda p: p.price == Decimal("1e30")),
    ("found decimal(2) and float. Use Decimal values beside a decimal.", lambda p: p.price > 0.1),
    (
        "Post.status == 'gone' has 'gone', which is none of 'draft', 'done' (did you mean 'done'?).",
        lambda p: p.status == "gone",
    ),
    ("has 'l', which is none of 's', 'm'.", lambda p: p.size == "l"),
    ("has a value of list, which is no type of the expression language. Expected str.", lambda p: p.title == ["a"]),
    ("has None as an operand; test for it with `== None` or `.is_null()`. Expected int.", lambda p: p.likes + None),
    (
        "takes two values of one kind (json has no equality); found int and timedelta.",
        lambda p: p.likes == timedelta(1),
    ),
    ("has a record of User that has no id yet: create it first.", lambda p: p.author == User(None)),
    ("has a record of Post where a record of User is due.", lambda p: p.author == Post(3)),
    (
        "has None among the values of .in_(), which no value equals; add `| x.is_null()`",
        lambda p: p.likes.in_([None]),
    ),
    ("has values of several types in .in_(): int and str.", lambda p: p.likes.in_([1, "a"])),
    ("found str and int", lambda p: p.title.in_([1])),
    (
        "takes values of the operand's own kind (json has no equality); found json.",
        lambda p: p.extra.in_(["a"]),
    ),
    ("has 22 decimals; expected at most 18.", lambda p: p.price * p.price * Decimal("0.123456789012345678")),
]


@pytest.mark.parametrize(("text", "function"), ERRORS, ids=[text[:40] for text, _ in ERRORS])
def test_errors_say_what_and_what_to_do(text: str, function: Any) -> None:
    with pytest.raises(DeclarationError) as caught:
        node(function, origin=Origin("shop.py", 12))
    assert text in str(caught.value)
    assert str(caught.value).endswith("(shop.py:12)")


TRACES: list[tuple[str, Any]] = [
    ("`and`, `or`, `not`, `if`, `in` and chained comparisons don't work on it.", lambda p: p.a and p.b),
    ("`in` does not work on an expression. Write `expression.in_(values)`.", lambda p: 3 in p.a),
    ("can't be iterated over", lambda p: list(p.a)),
    ("can't be traced as an expression (TypeError: ", lambda p: len(p.title)),
    ("returned True (bool); expected an expression made from its parameter", lambda p: True),
    ("returned a dict; expected an expression", lambda p: {}),
    ("belongs in `Custom(compute=..., uses=...)`.", lambda p: "x".join(p.title)),
]


@pytest.mark.parametrize(("text", "function"), TRACES)
def test_a_function_that_is_no_expression_is_refused(text: str, function: Any) -> None:
    with pytest.raises(ExpressionError) as caught:
        trace(function, "Post", what="where", origin=Origin("shop.py", 3))
    assert text in str(caught.value)
    assert "unction given as where" in str(caught.value)
    assert str(caught.value).endswith("(shop.py:3)")


def test_an_async_function_is_no_expression() -> None:
    async def condition(p: Any) -> bool:
        return bool(p)

    with pytest.raises(ExpressionError, match="is async; expected an expression"):
        trace(condition, "Post", what="where")


def test_what_is_planned_is_refused() -> None:
    with pytest.raises(PlannedError, match="`now` in an expression that is stored is planned"):
        node(lambda p: p.at < now)
    with pytest.raises(PlannedError, match="`total` in an expression is planned"):
        node(lambda p: total(p.likes))


def test_an_expected_type_is_held_to() -> None:
    with pytest.raises(ExpressionError, match=r"The expression Post\.title is str; expected int\."):
        node(lambda p: p.title, expected=semantics.INT)


def test_upper_is_refused_inside_postgresql() -> None:
    with pytest.raises(DeclarationError, match=r"`\.upper\(\)` can't run inside PostgreSQL, where it could differ"):
        lower(Call("upper", (Constant("x", semantics.STR),), semantics.STR, False), None, "postgresql")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda: Path(Root("Post"), ("likes",)).in_(cast("Any", 3)), r"Post\.likes\.in_\(3\) was given no list"),
        (lambda: match(cast("Any", 3), "=", 3), "the path 3; expected names"),
        (lambda: match("likes", cast("Any", 3), 3), "the operator 3; expected one of"),
    ],
)
def test_what_is_no_operand_is_refused_at_once(write: Callable[[], Any], told: str) -> None:
    with pytest.raises(ExpressionError, match=told):
        write()


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        (
            (Path(Root("Post"), ("likes",)) + 1 > 3) & ~(Path(Root("Post"), ("title",)) == "x"),
            "((Post.likes + 1) > 3) & (~(Post.title == 'x'))",
        ),
        (-Path(Root("Post"), ("likes",)), "-Post.likes"),
        (Path(Root("Post"), ("title",)).upper().in_(["A"]), "Post.title.upper().in_(['A'])"),
        (Path(Root("Post"), ("title",)).is_null() | (now > now), "Post.title.is_null() | (now > now)"),
        (Path(Root("Post"), ("comments",)).any(lambda c: c.score > 3), "Post.comments.any(_.score > 3)"),
    ],
)
def test_an_expression_is_shown_as_it_was_written(expression: Any, shown: str) -> None:
    assert repr(expression) == shown
