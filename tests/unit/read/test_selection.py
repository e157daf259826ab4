"""What `fields=` and `order_by=` accept, and what they say about the rest."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from ensue.engine.read.selection import Selection, select
from ensue.errors import DeclarationError
from ensue.expression.trace import Path, Root
from tests.unit.read.blog import Comment, Post, User, make_model

MODEL = make_model()


def shown(selection: Selection) -> dict[str, Any]:
    """A selection as nested dictionaries, references as None."""
    names: dict[str, Any] = dict.fromkeys(selection.fields, "value")
    names |= {name: None if below.id_only else shown(below) for name, below in selection.links.items()}
    return names | {name: [shown(below.selection)] for name, below in selection.collections.items()}


def selected(*fields: Any) -> dict[str, Any]:
    return shown(select(MODEL, MODEL.records["Post"], fields))


def test_fields_of_one_record_merge() -> None:
    fields = (Post.author.name, Post.author.fields(User.email), "author.posts.title", Post.author)
    assert selected(*fields) == {"author": {"name": "value", "email": "value", "posts": [{"title": "value"}]}}


def test_the_id_alone_is_a_reference() -> None:
    assert selected("id", "author.id", Post.editor.fields(User.id)) == {"author": None, "editor": None}


def test_the_parameter_of_a_lambda_is_the_record() -> None:
    post = Path(Root.parameter())
    assert selected(post.title, post.comments.fields(Comment.text)) == {
        "title": "value",
        "comments": [{"text": "value"}],
    }


def test_a_limited_list_takes_further_fields() -> None:
    shape = Post.comments.fields(Comment.text, limit=3)
    selection = select(
        MODEL, MODEL.records["Post"], [shape, Post.comments.fields(Comment.score), "comments.author.name"]
    )
    assert selection.collections["comments"].limits is shape
    assert shown(selection) == {"comments": [{"text": "value", "score": "value", "author": {"name": "value"}}]}


REFUSED: dict[str, tuple[Any, str]] = {
    "unknown": (["titel"], r"Post has no field 'titel'\. Did you mean 'title'\?"),
    "unknown below": (["author.nam"], r"User has no field 'nam'\. Did you mean 'name'\?"),
    "nothing like it": (["xyz"], r"It has: id, title, rank, author, editor, tags,"),
    "below a value": (["title.length"], r"Post\.title is a value; nothing can be selected below it"),
    "no list": (Post.title, r"expected a list of fields\. Write `fields=\[Post\.title\]`"),
    "text as list": ("title", r"expected a list of fields"),
    "no field": ([3], r"A field of Post is 3 \(int\); expected a property"),
    "condition as field": ([Post.title == "x"], r"A field of Post is Post.title == 'x' "),
    "another's path": ([Comment.text], r"The field Comment\.text starts at Comment, but is selected of Post"),
    "another's path below": ([Post.comments.fields(Post.title)], r"starts at Post, but is selected of Comment"),
    "another's class": ([User], r"The field User is a class, but what is selected of is Post"),
    "limit on one": (
        [Post.author.fields(limit=3)],
        r"Post\.author leads to one record: `where`, `order_by` and `limit`",
    ),
    "limit on single": (["title", Post.author.profile.fields(limit=3)], r"User\.profile leads to one record"),
    "twice": (
        [Post.comments.fields(limit=3), Post.comments.fields(order_by=[Comment.at])],
        r"Post\.comments is selected twice, each time with a condition, order or limit",
    ),
    "too deep": ([".".join(["author", "posts"] * 4)], r"9 records deep; at most 8"),
    "too wide": (
        [".".join(["comments", *steps, "text"]) for steps in itertools.product(("parent", "replies"), repeat=5)],
        r"name 64 record selections; at most 60",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    fields, message = REFUSED[name]
    with pytest.raises(DeclarationError, match=message) as caught:
        select(MODEL, MODEL.records["Post"], fields)
    assert caught.value.problems[0].code == "E0120"
