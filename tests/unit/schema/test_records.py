"""Instances: what they keep, what they give, and that they never change nor fetch."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from ensue.errors import InvalidValue, NotLoaded, UsageError
from ensue.expression.trace import Path
from ensue.schema.computations.aggregate import Count
from ensue.schema.effect import Effect
from ensue.schema.entity import Entity, Relation, make_record, record_values
from ensue.schema.event import MutationEvent
from ensue.schema.freeze import freeze
from ensue.schema.interaction import Interaction
from ensue.schema.property import Property
from ensue.schema.relation import Many, Maybe, One, Ref
from ensue.schema.schema import Schema


class User(Entity):
    name: Property[str]
    posts = Many(lambda: Post, inverse="author")


class Post(Entity):
    title: Property[str]
    author: One[User]
    editor: Maybe[User] = Maybe(default=None)
    likes = Many(lambda: Like, inverse="post")
    tags = Many(lambda: Tag, inverse="posts")
    like_count = Count(likes)


class Tag(Entity):
    name: Property[str]
    posts = Many(lambda: Post, inverse="tags")


class Like(Relation):
    user: One[User]
    post: One[Post]


class Write(Interaction):
    post: Ref[Post]
    text: str
    score: int = 0
    marks: list[str] = []  # noqa: RUF012  # copied for each
    by: Ref[User] | None = None
    about: Maybe[User] = Maybe(default=None)


SCHEMA = Schema.collect(user=User, entities=[Post], interactions=[Write])
SCHEMA.entity(Post).add_property("extra", Property[int | None])
SCHEMA.entity(Post).add_property("reviewer", Maybe[User])
MODEL = freeze(SCHEMA)


def test_a_record_keeps_what_it_was_given() -> None:
    author = User(name="bob")
    post = Post(title="x", author=author)
    assert post.title == "x"
    assert post.author is author
    assert record_values(post) == {"title": "x", "author": author}


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"there is no 'titel'. Did you mean 'title'"):
        Post(titel="x")  # type: ignore[call-arg]


def test_a_derived_name_is_refused() -> None:
    with pytest.raises(UsageError, match="'like_count' is derived"):
        Post(title="x", like_count=3)  # type: ignore[call-arg]


def test_what_is_not_there_is_not_loaded() -> None:
    with pytest.raises(NotLoaded, match=r"Post\.like_count was not given"):
        _ = Post(title="x").like_count  # type: ignore[call-arg]
    with pytest.raises(NotLoaded, match=r"Post\.title was not loaded. Add it to `fields=`"):
        _ = make_record(Post, {"id": 3}, MODEL).title


def test_a_snapshot_does_not_change() -> None:
    post = Post.ref(3)
    with pytest.raises(AttributeError, match=r"records are snapshots.*store.update\(Post"):
        post.title = "y"  # type: ignore[misc]
    with pytest.raises(AttributeError, match="snapshots"):
        post.nothing = 3  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="snapshots"):
        del post.title


@pytest.mark.parametrize("model", [MODEL, None])
def test_a_link_gives_a_record_in_every_form(model: Any) -> None:
    post = make_record(Post, {"author": 7, "editor": None}, model)
    assert isinstance(post.author, User)
    assert post.author.id == 7
    assert post.author == User.ref(7)
    assert post.editor is None
    with pytest.raises(NotLoaded):
        _ = post.author.name


def test_what_an_app_added_is_read_by_name() -> None:
    post: Any = make_record(Post, {"id": 1, "extra": 3, "reviewer": 7}, MODEL)
    assert post.extra == 3
    assert post.reviewer == User.ref(7)
    with pytest.raises(NotLoaded, match=r"Post\.extra was not loaded"):
        _ = make_record(Post, {"id": 1}, MODEL).extra  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"Post has no 'titel'. Did you mean 'title'"):
        _ = post.titel
    assert not hasattr(Post(title="x"), "extra")  # type: ignore[call-arg]


def test_equality_is_that_of_type_and_id() -> None:
    assert Post.ref(3) == make_record(Post, {"id": 3, "title": "x"}, MODEL)
    assert hash(Post.ref(3)) == hash(make_record(Post, {"id": 3, "title": "x"}, MODEL))
    assert Post.ref(3) != Post.ref(4)
    assert Post.ref(3) != User.ref(3)
    assert Post(title="x") != Post(title="x")  # type: ignore[call-arg]
    assert len({Post.ref(3), Post.ref(3)}) == 1


@pytest.mark.parametrize("again", [lambda r: pickle.loads(pickle.dumps(r)), copy.copy, copy.deepcopy])  # our own
def test_a_record_can_be_pickled_and_copied(again: Callable[[Post], Any]) -> None:
    user = make_record(User, {"id": 7, "name": "ann"}, MODEL)
    post = make_record(Post, {"id": 3, "title": "x", "author": user, "editor": 9, "like_count": 0, "extra": 5}, MODEL)
    made = again(post)
    assert (made, hash(made), made.title, made.extra) == (post, hash(post), "x", 5)
    assert (made.author.name, made.editor.id, made.editor == User.ref(9)) == ("ann", 9, True)
    with pytest.raises(NotLoaded):
        _ = made.likes
    event = again(Write(post=Post.ref(3), text="x"))
    assert (event.text, event.post.id, event.marks) == ("x", 3, [])


def test_a_copy_keeps_the_model_and_shares_no_value() -> None:
    post = make_record(Post, {"id": 3, "reviewer": 4, "extra": {"a": [1]}}, MODEL)
    made: Any = copy.deepcopy(post)
    assert made.reviewer.id == 4
    assert made.extra == {"a": [1]}
    assert made.extra is not post.extra  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # added by the app


def test_the_id() -> None:
    assert Post.ref(3).__ensue_id__() == 3
    with pytest.raises(UsageError, match="has no id: it was not saved"):
        Post(title="x").__ensue_id__()  # type: ignore[call-arg]


def test_repr_shows_what_is_there() -> None:
    assert repr(Post(title="x", author=User.ref(7))) == "Post(title='x', author=User(id=7))"


def test_the_ends_of_a_relation() -> None:
    like = make_record(Like, {"user": 1, "post": 2}, MODEL)
    assert like.source == User.ref(1)
    assert like.target == Post.ref(2)
    tagged = MODEL.records["Post_tags"]
    link: Any = make_record(tagged.cls, {"source": 1, "target": 2}, MODEL)
    assert link.source == Post.ref(1)
    assert link.target == Tag.ref(2)
    assert tagged.cls(source=1, target=2).__class__ is tagged.cls


def test_at_class_level_an_attribute_is_an_expression() -> None:
    assert isinstance(Post.author.name, Path)
    assert repr(Post.author.name == "bob") == "Post.author.name == 'bob'"
    assert repr(Post.id) == "Post.id"
    assert repr(Like.source) == "Like.source"
    with pytest.raises(AttributeError):
        _ = Post.titel  # type: ignore[attr-defined]


def test_a_payload_has_defaults_of_its_own() -> None:
    first, second = Write(post=Post.ref(3), text="x"), Write(post=Post.ref(3), text="x")
    assert (first.score, first.marks, first.by, first.about) == (0, [], None, None)
    assert first.marks is not second.marks
    assert first.post == Post.ref(3)


def test_a_payload_that_is_incomplete() -> None:
    with pytest.raises(InvalidValue, match="Write needs text") as caught:
        Write(post=Post.ref(3))  # type: ignore[call-arg]
    assert caught.value.fields == {"text": "is missing"}
    with pytest.raises(UsageError, match=r"there is no 'txt'. Did you mean 'text'"):
        Write(post=Post.ref(3), txt="x")  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="there is no 'user'"):
        Write(post=Post.ref(3), text="x", user=3)  # type: ignore[call-arg]


def test_user_and_instant_are_there_after_the_dispatch() -> None:
    with pytest.raises(NotLoaded, match=r"Write\.user is given by the dispatch"):
        _ = Write(post=Post.ref(3), text="x").user
    event = make_record(Write, {"id": 9, "user": 7, "post": 3}, MODEL)
    assert event.user == User.ref(7)
    assert event.id == 9
    assert event.post == Post.ref(3)


async def test_everybody_may_by_default() -> None:
    assert await Write(post=Post.ref(3), text="x").allow(None)  # type: ignore[arg-type]


def test_the_attributes_of_an_event_win_over_those_of_its_record() -> None:
    class Task(Entity):
        type: Property[str]
        task_id: Property[int]

    task = make_record(Task, {"id": 1, "type": "x", "task_id": 4}, None)
    event = MutationEvent("create", "Task", task)
    assert event.type == "create"
    assert event.record.type == "x"
    assert event.task_id == 4


def test_an_effect_as_json() -> None:
    post = make_record(Post, {"id": 1, "title": "x", "author": 7, "editor": User.ref(8)}, MODEL)
    effect = Effect(MutationEvent("update", "Post", post, None, frozenset({"title"})), post, "k")
    assert effect.json() == (
        '{"type":"update","record_name":"Post","record":{"id":1,"title":"x","author":{"id":7},"editor":{"id":8}},'
        '"old_record":null,"changed":["title"],"key":"k"}'
    )


@pytest.mark.parametrize("wrong", ["7", None, True, User(name="x")])
def test_a_reference_takes_a_number(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"^User\.ref\(.*\): expected an id, which is a number"):
        User.ref(wrong)
