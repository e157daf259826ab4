"""What is wrong with names, types, links and collections: one test per message."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest

from ensue.app import App
from ensue.errors import DeclarationError
from ensue.expression.trace import now
from ensue.schema.computations.computed import Computed
from ensue.schema.computations.transform import Transform
from ensue.schema.entity import Entity, Relation
from ensue.schema.freeze import freeze
from ensue.schema.interaction import Interaction
from ensue.schema.property import Property
from ensue.schema.relation import Inverse, Many, Maybe, One, Through
from ensue.schema.schema import Schema
from tests.unit.schema.cases import Cases

case = Cases()


# --- Names ------------------------------------------------------------------------------------------------------------


@case("A.b: Usr is not known here, nor among the app's record types. Did you mean 'User'?")
def unknown_target() -> Any:
    class User(Entity):
        name: Property[str]

    class A(Entity):
        b: One[Usr]  # noqa: F821

    return A, User


@case("A has no 'titel'")
def unknown_name_in_an_expression() -> Any:
    class A(Entity):
        title: Property[str]
        shout = Computed[str](lambda a: a.titel)

    return A


@case("two record types are called 'A'")
def one_name_twice() -> Any:
    class A(Entity):
        x: Property[str]

    first = A

    class A(Entity):  # type: ignore[no-redef]
        y: Property[str]

    return first, A


@case("and HTTPLog would both have the table 'http_log'")
def one_table_twice() -> Any:
    class HttpLog(Entity):
        x: Property[str]

    class HTTPLog(Entity):
        x: Property[str]

    return HttpLog, HTTPLog


@case("names with ensue_ belong to the framework")
def a_table_of_the_framework() -> Any:
    class EnsueLog(Entity):
        x: Property[str]

    return EnsueLog


@case("would have the table 'sqlite_log', and names with sqlite_ belong to SQLite. Rename it")
def a_table_of_sqlite() -> Any:
    class SqliteLog(Entity):
        x: Property[str]

    return SqliteLog


@case(f"would have the table 'a{'x' * 54}', a name of 55 bytes; expected at most 54")
def a_table_with_a_long_name() -> Any:
    return Entity.define(f"A{'x' * 54}", x=Property[str])


@case("a name of 64 bytes; expected at most 63, as PostgreSQL cuts what is longer. Rename it")
def a_column_with_a_long_name() -> Any:
    return Entity.define("A", **{"é" * 32: Property[str], "é" * 31: Property[str]})


@case("a name of 52 bytes; expected at most 51")
def a_derived_column_with_a_long_name() -> Any:
    derived = {"d" * 52: Computed[str](lambda a: a.x), "d" * 51: Computed[str](lambda a: a.x)}
    return Entity.define("A", x=Property[str], **derived)


@case("A.metadata: 'metadata' is reserved")
def reserved() -> Any:
    class A(Entity):
        metadata: Property[str]

    return A


@case("A.user: 'user' is reserved")
def reserved_in_an_interaction() -> Any:
    class A(Interaction):
        user: str  # type: ignore[assignment]

    return A


@case("A.desc: 'desc' is an attribute of every expression")
def an_attribute_of_expressions() -> Any:
    class A(Entity):
        desc: Property[str]

    return A


@case("A.n__sum: 'n__sum' starts with an underscore or holds two in a row")
def a_hidden_column() -> Any:
    class A(Entity):
        n__sum: Property[int]

    return A


@case("A.b_id: its column 'b_id' is that of A.b too")
def one_column_twice() -> Any:
    class A(Entity):
        b: Maybe[A]
        b_id: Property[int]

    return A


@case("B is a subclass of A, which has records of its own. Make A abstract=True")
def a_subclass_of_a_concrete_one() -> Any:
    class A(Entity):
        x: Property[str]

    class B(A):
        y: Property[str]

    return A, B


# --- Types ------------------------------------------------------------------------------------------------------------


@case("A.x: the type complex is not supported; expected str, int,")
def unsupported_type() -> Any:
    class A(Entity):
        x: Property[complex]

    return A


@case("A.x: the type Strin is not known here")
def unknown_type() -> Any:
    class A(Entity):
        x: Property[Strin]  # noqa: F821

    return A


@case("A.x: the annotation 'str' declares nothing. Write Property[…]")
def plain_annotation() -> Any:
    class A(Entity):
        x: str

    return A


@case("A.x: it has no type. Write `name: Property[str]`")
def no_type() -> Any:
    class A(Entity):
        x: Property

    return A


@case("a Decimal says how many decimals it has: write Property(scale=2)")
def decimal_without_scale() -> Any:
    class A(Entity):
        x: Property[Decimal]

    return A


@case("scale= belongs to Decimal properties")
def scale_of_another() -> Any:
    class A(Entity):
        x: Property[int] = Property(scale=2)

    return A


@case("the payload type")
def unknown_payload() -> Any:
    class Thing:
        pass

    class A(Interaction):
        thing: Thing

    return A


@case("A.x: default='y' is no int")
def wrong_default() -> Any:
    class A(Entity):
        x: Property[int] = Property(default="y")  # type: ignore[assignment]

    return A


@case("default=None, but the type int has no None. Add `| None`")
def none_default() -> Any:
    class A(Entity):
        x: Property[int] = Property(default=None)  # type: ignore[assignment]

    return A


@case("default=now belongs to a datetime property")
def now_default_of_another() -> Any:
    class A(Entity):
        x: Property[int] = Property(default=now)  # type: ignore[assignment]

    return A


@case("default= is a function with the argument 'a'; expected one without")
def default_with_argument() -> Any:
    class A(Entity):
        x: Property[int] = Property(default=lambda a: a)  # type: ignore[misc]

    return A


@case("default= is async; expected a plain function")
def async_default() -> Any:
    async def later() -> int:
        return 3

    class A(Entity):
        x: Property[int] = Property(default=later)  # type: ignore[arg-type]

    return A


@case("check= must be a condition (bool); the expression gives int")
def check_of_a_number() -> Any:
    class A(Entity):
        x: Property[int] = Property(check=lambda v: v + 1)

    return A


@case("unique=('x', 'z') names 'z', which is no property or link of it")
def unknown_unique() -> Any:
    class A(Entity, unique=[("x", "z")]):
        x: Property[int]

    return A


@case("names 'n', which is derived; unique on derived columns is refused")
def derived_unique() -> Any:
    class A(Entity, unique=[("n",)]):
        x: Property[int]
        n = Computed[int](lambda a: a.x + 1)

    return A


# --- Links and collections --------------------------------------------------------------------------------------------


@case("inverse='pst': Comment has no such member. Did you mean 'post'?")
def unknown_inverse() -> Any:
    class Post(Entity):
        comments = Many(lambda: Comment, inverse="pst")

    class Comment(Entity):
        post: One[Post]

    return Post, Comment


@case("inverse='text': Comment.text does not lead back to Post.comments; expected a One or Maybe of Post")
def wrong_inverse() -> Any:
    class Post(Entity):
        comments = Many(lambda: Comment, inverse="text")

    class Comment(Entity):
        text: Property[str]
        post: One[Post]

    return Post, Comment


@case("Post.comments: the other side is not clear: Comment has 2 that could be it: post, quoted. Name it with inverse=")
def missing_inverse() -> Any:
    class Post(Entity):
        comments = Many(lambda: Comment)

    class Comment(Entity):
        post: One[Post]
        quoted: One[Post]

    return Post, Comment


@case("the other side is not clear: Tag has none that leads to Post")
def no_other_side() -> Any:
    class Post(Entity):
        tags = Many(lambda: Tag)

    class Tag(Entity):
        name: Property[str]

    return Post, Tag


@case("B.a already has the other side A.first. Remove one of them")
def two_for_one_link() -> Any:
    class A(Entity):
        first = Many(lambda: B, inverse="a")
        second = Many(lambda: B, inverse="a")

    class B(Entity):
        a: One[A]

    return A, B


@case("Inverse is the other side of a one-to-one: write user: One[User] = One(unique=True)")
def inverse_of_many() -> Any:
    class User(Entity):
        profile = Inverse(lambda: Profile, inverse="user")

    class Profile(Entity):
        user: One[User]

    return User, Profile


@case("on_delete is given here and at B.a. Leave it at B.a")
def on_delete_twice() -> Any:
    class A(Entity):
        items = Many(lambda: B, inverse="a", on_delete="cascade")

    class B(Entity):
        a: One[A] = One(on_delete="cascade")

    return A, B


@case("on_delete='detach' needs an optional link: declare it as Maybe")
def detach_of_a_required_one() -> Any:
    class A(Entity):
        b: One[A] = One(on_delete="detach")

    return A


@case("on_delete='drop': expected one of cascade, restrict, detach")
def unknown_on_delete() -> Any:
    class A(Entity):
        b: One[A] = One(on_delete="drop")  # type: ignore[arg-type]

    return A


@case("Like is a Relation and needs two required links")
def a_relation_with_one_link() -> Any:
    class User(Entity):
        name: Property[str]

    class Like(Relation):
        user: One[User]

    return User, Like


@case("A.b: it does not say to what it links. Write One[User]")
def a_link_to_nothing() -> Any:
    class A(Entity):
        b: One

    return A


@case("the second argument of Through must give a link of the member")
def through_nothing() -> Any:
    class A(Entity):
        items = Many(lambda: B, inverse="a")
        more = Through(items, lambda b: b)

    class B(Entity):
        a: One[A]

    return A, B


@case("A.items: name 'Bee' is not defined")
def an_unknown_class_in_a_lambda() -> Any:
    class A(Entity):
        items = Many(lambda: Bee, inverse="a")  # type: ignore[name-defined]  # noqa: F821

    return A


@case("Base is abstract: relations to it and queries over it are planned")
def a_link_to_an_abstract_entity() -> Any:
    class Base(Entity, abstract=True):
        x: Property[str]

    class A(Entity):
        base: One[Base]

    return A


# --- Values that can't stand beside their annotation --------------------------------------------------------------------


@case("A.x: it is annotated as a Property and given 5. Write Property(default=5)")
def a_plain_value_as_a_default() -> Any:
    class A(Entity):
        x: Property[int] = 5  # type: ignore[assignment]

    return A


@case("A.b: it is annotated as a Maybe and given None. Write Maybe(default=None)")
def none_as_the_default_of_a_link() -> Any:
    class B(Entity):
        y: Property[int]

    class A(Entity):
        b: Maybe[B] = None  # type: ignore[assignment]

    return A, B


@case("A.b: it is annotated as a Maybe and given One. Write Maybe(…)")
def a_link_of_another_kind() -> Any:
    class B(Entity):
        y: Property[int]

    class A(Entity):
        b: Maybe[B] = One(unique=True)  # type: ignore[assignment]

    return A, B


@case("A.y: it is annotated as a Property and given Computed. What is derived has no annotation")
def an_annotated_computation() -> Any:
    class A(Entity):
        x: Property[int]
        y: Property[int] = Computed[int](lambda a: a.x)  # type: ignore[assignment]

    return A


@pytest.mark.parametrize("name", list(case.declare))
def test_one_problem(name: str) -> None:
    case.check(name)


# --- What an app and a class are given --------------------------------------------------------------------------------


class Known(Entity):
    name: Property[str]


class Rename(Interaction):
    name: str


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"entities": ["Known"]}, "App(entities=…): found 'Known'; expected a class that inherits from Entity"),
        ({"entities": [Rename]}, "App(entities=…): found Rename, which is an Interaction; expected a class"),
        ({"interactions": [Known]}, "App(interactions=…): found Known, which is an Entity; expected a class"),
        ({"globals": [Known]}, "App(globals=…): found Known, which is an Entity; expected a class"),
        ({"user": int}, "App(user=…): found int; expected a class that inherits from Entity"),
    ],
)
def test_an_app_given_something_else(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(message)):
        Schema.collect(**given)


def test_a_registry_given_something_else() -> None:
    schema = Schema()
    with pytest.raises(
        DeclarationError, match="found Known, which is an Entity; expected a class that inherits from Inter"
    ):
        schema.interactions.add(Known)  # type: ignore[arg-type]


@pytest.mark.parametrize("unique", [["name"], ("name", "day"), "name"])
def test_unique_without_tuples(unique: Any) -> None:
    with pytest.raises(DeclarationError, match="expected a list of tuples of names"):

        class Day(Entity, unique=unique):
            name: Property[str]
            day: Property[int]


def test_unique_of_an_abstract_entity_holds_for_those_declared_under_it() -> None:
    class Base(Entity, abstract=True, unique=[("name", "day")]):
        name: Property[str]
        day: Property[int]

    class Entry(Base, unique=[("day", "kind")]):
        kind: Property[str]

    model = freeze(Schema.collect(entities=[Entry]))
    assert model.records["Entry"].unique == (("name", "day"), ("day", "kind"))


def test_an_abstract_entity_derives_from_nothing() -> None:
    with pytest.raises(DeclarationError, match="an abstract entity has no records to derive"):

        class Base(Entity, abstract=True, derived=Transform(Rename, lambda e: {"name": e.name})):
            name: Property[str]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"entities": Known}, "App(entities=Known): expected several. Write App(entities=[Known])."),
        ({"interactions": 7}, "App(interactions=7): expected several. Write App(interactions=[7])."),
        ({"integrations": ["x"]}, "App(integrations=['x']): expected a mapping of namespaces to integrations"),
    ],
)
def test_an_app_given_one_where_several_are_due(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(message)):
        App(**given)
