"""What is wrong with computations over records: one test per message."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from ensue.errors import DeclarationError
from ensue.expression.trace import now
from ensue.schema.computations.aggregate import AnyOf, Average, Count, Max, Sum
from ensue.schema.computations.computed import Computed
from ensue.schema.computations.custom import Custom
from ensue.schema.computations.transform import Transform
from ensue.schema.entity import Entity, Globals
from ensue.schema.property import Property
from ensue.schema.relation import Many, One, Through
from tests.unit.schema.cases import Cases, freeze_all

case = Cases()


# --- Computations -----------------------------------------------------------------------------------------------------


@case("These computations depend on each other: A.x -> B.y -> A.x (A.x at ")
def a_cycle() -> Any:
    class A(Entity):
        bs = Many(lambda: B, inverse="a")
        x = Sum(bs, lambda b: b.y)

    class B(Entity):
        a: One[A]
        y = Computed[int](lambda b: b.a.x + 1)

    return A, B


@case("a Decimal that a function computes needs a number of decimals, which can't be written here")
def a_decimal_of_a_function() -> Any:
    class A(Entity):
        n: Property[int]
        x = Custom[Decimal](compute=lambda a, _: Decimal(a.n), uses=lambda a: [a.n])

    return A


def test_expressions_over_a_collection_that_is_wrong_itself_are_read_all_the_same() -> None:
    class User(Entity):
        posts = Many(lambda: Post, inverse="author")
        count = Count(posts, where=lambda p: p.titel == "x")
        total = Sum(posts, lambda p: p.title, where=lambda p: p.titel == "x")

    class Post(Entity):
        title: Property[str]
        author: One[Nobody]  # type: ignore[name-defined]  # noqa: F821  # the mistake

    with pytest.raises(DeclarationError) as caught:
        freeze_all((User, Post))
    found = "\n".join(problem.message for problem in caught.value.problems)
    assert "Post.author: Nobody is not known here" in found
    assert "User.count: Post has no 'titel'" in found
    assert "User.total: Sum takes an int, float or Decimal; the expression gives str" in found
    assert "User.total: Post has no 'titel'" in found
    assert len(caught.value.problems) == 4


def test_a_computed_decimal_has_the_scale_of_its_expression() -> None:
    class Item(Entity):
        price: Property[Decimal] = Property(scale=2)
        shown = Computed[Decimal](lambda i: i.price * 2)

    assert freeze_all(Item).records["Item"].fields["shown"].type.scale == 2


@case("These computations depend on each other: A.x -> A.y -> A.x")
def a_cycle_over_a_custom() -> Any:
    class A(Entity):
        x = Custom[int](compute=lambda a, _: 3, uses=lambda a: [a.y])
        y = Computed[int](lambda a: a.x + 1)

    return A


@case("These computations depend on each other: Post.m -> Copy.n -> Post.m")
def a_cycle_over_a_transform() -> Any:
    class Post(Entity):
        copies = Many(lambda: Copy, inverse="post")
        m = Sum(copies, lambda c: c.n)

    class Copy(Entity, derived=Transform(lambda: Post, lambda p: {"post": p, "n": p.m})):
        post: One[Post]
        n: Property[int]

    return Post, Copy


@case("The function given as Computed returned 3 (int); expected an expression made from its parameter")
def an_opaque_function() -> Any:
    class A(Entity):
        x: Property[int]
        y = Computed[int](lambda a: 3)

    return A


@case("An expression has no truth value in Python: `and`, `or`, `not`, `if`")
def a_python_and() -> Any:
    class A(Entity):
        x: Property[bool]
        y = Computed[bool](lambda a: a.x and a.x)

    return A


@case("where= is async, but it is traced as an expression once")
def an_async_where() -> Any:
    async def where(b: Any) -> Any:
        return b.x

    class A(Entity):
        bs = Many(lambda: B, inverse="a")
        n = Count(bs, where=where)

    class B(Entity):
        a: One[A]
        x: Property[bool]

    return A, B


@case("A.n: where= must be a condition (bool); the expression gives int")
def a_where_that_is_no_condition() -> Any:
    class A(Entity):
        bs = Many(lambda: B, inverse="a")
        n = Count(bs, where=lambda b: b.x)  # type: ignore[arg-type, return-value]

    class B(Entity):
        a: One[A]
        x: Property[int]

    return A, B


@case("Sum takes an int, float or Decimal; the expression gives str")
def a_sum_of_text() -> Any:
    class A(Entity):
        bs = Many(lambda: B, inverse="a")
        n = Sum(bs, lambda b: b.x)  # type: ignore[type-var]

    class B(Entity):
        a: One[A]
        x: Property[str]

    return A, B


@case("Sum takes no value that can be None. Write `.or_else(0)`")
def a_sum_of_an_optional() -> Any:
    class A(Entity):
        bs = Many(lambda: B, inverse="a")
        n = Sum(bs, lambda b: b.x)  # type: ignore[type-var]

    class B(Entity):
        a: One[A]
        x: Property[int | None]

    return A, B


@case("Average takes an int, float or Decimal")
def an_average_of_instants() -> Any:
    class A(Entity):
        bs = Many(lambda: B, inverse="a")
        n = Average(bs, lambda b: b.x)  # type: ignore[arg-type, return-value]

    class B(Entity):
        a: One[A]
        x: Property[datetime]

    return A, B


@case("Max takes a value that has an order")
def the_largest_truth() -> Any:
    class A(Entity):
        bs = Many(lambda: B, inverse="a")
        n = Max(bs, lambda b: b.x)

    class B(Entity):
        a: One[A]
        x: Property[bool]

    return A, B


@case("the condition of AnyOf must be a condition (bool)")
def any_of_numbers() -> Any:
    class A(Entity):
        bs = Many(lambda: B, inverse="a")
        n = AnyOf(bs, lambda b: b.x)  # type: ignore[arg-type, return-value]

    class B(Entity):
        a: One[A]
        x: Property[int]

    return A, B


@case("it is over all of B; a record's computation is over one of its collections")
def over_an_entity_in_a_record() -> Any:
    class B(Entity):
        x: Property[int]

    class A(Entity):
        n = Count(lambda: B)

    return A, B


@case("it is over a collection of another class; expected one of B's own")
def over_another_ones_collection() -> Any:
    class A(Entity):
        bs = Many(lambda: B, inverse="a")

    bs = A.__dict__["bs"]

    class B(Entity):
        a: One[A]
        n = Count(bs)

    return A, B


@case("the expression gives str, but int was declared")
def another_type_than_declared() -> Any:
    class A(Entity):
        x: Property[str]
        y = Computed[int](lambda a: a.x)

    return A


@case("the expression can be None, but the declared type can't")
def optional_where_none_is_not_declared() -> Any:
    class A(Entity):
        x: Property[str | None]
        y = Computed[str](lambda a: a.x)

    return A


@case("Computed asks a collection (`.any`) inside of a computation, which is planned")
def any_in_a_computation() -> Any:
    class A(Entity):
        bs = Many(lambda: B, inverse="a")
        y = Computed[bool](lambda a: a.bs.any(lambda b: b.x))

    class B(Entity):
        a: One[A]
        x: Property[bool]

    return A, B


@case("Computed follows 3 links (a.a.a.x); more than 2 are planned")
def a_long_way() -> Any:
    class A(Entity):
        a: One[A]
        x: Property[int]
        y = Computed[int](lambda a: a.a.a.a.x)

    return A


@case("it is over the collection of an n:n's members, which is planned")
def over_members_of_members() -> Any:
    class A(Entity):
        tags = Many(lambda: Tag, inverse="items")
        notes = Through(tags, lambda t: t.notes)
        n = Count(notes)

    class Tag(Entity):
        items = Many(lambda: A, inverse="tags")
        notes = Many(lambda: Note, inverse="tag")

    class Note(Entity):
        tag: One[Tag]

    return A, Tag, Note


@case("`now` in an expression that is stored is planned; as a default it works")
def a_question_of_time() -> Any:
    class A(Entity):
        at: Property[datetime]
        late = Computed[bool](lambda a: a.at < now)

    return A


@case("Site.x: a stored property in a Globals class is planned")
def a_stored_global() -> Any:
    class Site(Globals):
        x: Property[int]

    return Site


@case("Custom(compute=…) or Custom(incremental=…) says what it reads: give uses=")
def a_custom_without_uses() -> Any:
    class A(Entity):
        x = Custom[int](compute=lambda a, _: 3)

    return A


@case("Custom has no type. Write Custom[str](…)")
def a_custom_without_type() -> Any:
    class A(Entity):
        x = Custom(initial=lambda a: 3)

    return A


@case("Custom() has no function")
def a_custom_without_function() -> Any:
    class A(Entity):
        x = Custom[int]()

    return A


@case("uses= must give a list of fields; it gave a Path")
def uses_of_one_field() -> Any:
    class A(Entity):
        y: Property[int]
        x = Custom[int](compute=lambda a, _: 3, uses=lambda a: a.y)

    return A


@pytest.mark.parametrize("name", list(case.declare))
def test_one_problem(name: str) -> None:
    case.check(name)
