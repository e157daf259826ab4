"""Declaring data, as the documentation shows it; both type checkers accept it and report each line marked as an error."""

from __future__ import annotations

from datetime import datetime

from ensue import (
    AnyOf,
    Average,
    Computed,
    Count,
    Entity,
    EveryOf,
    Globals,
    Many,
    Max,
    Maybe,
    One,
    Property,
    Relation,
    Sum,
    Through,
    now,
)


class Post(Entity):
    title: Property[str]
    author: One[User]  # required n:1; the inverse is User.posts
    editor: Maybe[User] = Maybe(default=None)  # optional n:1
    tags = Many(lambda: Tag, inverse="posts")  # n:n: both sides are Many
    comments = Many(lambda: Comment, inverse="post")
    likes = Many(lambda: Like, inverse="post")
    liked_by = Through(likes, lambda like: like.user)

    comment_count = Count(comments)
    approved_score = Sum(comments, lambda c: c.score, where=lambda c: c.approved)
    mean_score = Average(comments, lambda c: c.score)  # None when there are none
    best = Max(comments, lambda c: c.score)
    flagged = AnyOf(comments, lambda c: c.flagged)
    clean = EveryOf(comments, lambda c: ~c.flagged)  # true when there are none
    trusted_comments = Count(comments, where=lambda c: c.author.verified & (c.score > 3))
    heading = Computed[str](lambda p: p.title + " by " + p.author.name)


class User(Entity):
    name: Property[str]
    email: Property[str] = Property(unique=True)
    verified: Property[bool] = Property(default=False)
    posts = Many(lambda: Post, inverse="author")
    likes = Many(lambda: Like, inverse="user")
    post_count = Count(posts)


class Tag(Entity):
    name: Property[str]
    posts = Many(lambda: Post, inverse="tags")


class Comment(Entity):
    text: Property[str]
    score: Property[int] = Property(default=0)
    approved: Property[bool] = Property(default=False)
    flagged: Property[bool] = Property(default=False)
    at: Property[datetime] = Property(default=now)
    post: One[Post]
    author: One[User]


class Like(Relation):  # n:n with its own properties; (user, post) is unique
    user: One[User]  # the first One is also `.source`, the second `.target`
    post: One[Post]
    at: Property[datetime] = Property(default=now)


class Task(Entity, abstract=True):
    status: Property[str] = Property(default="new")
    owner: Maybe[User] = Maybe(default=None)


class Picture(Task):
    prompt: Property[str]


class Site(Globals):
    total_posts = Count(lambda: Post)
    total_score = Sum(lambda: Comment, lambda c: c.score)
    of_text = Sum(lambda: Comment, lambda c: c.text)  # type error: no number


user = User(name="bob", email="bob@example.org")
post = Post(title="x", author=user)

Post(title="x", author=user, comment_count=3)  # type error: not a parameter
post.comment_count = 3  # type error: derived
_ = Post.title < 3  # type error
_ = Post.titel  # type error
post.title = "y"  # type error: records are snapshots
Post(title=3, author=user)  # type error
Post(title="x")  # type error: the author is missing
Post(title="x", author=post)  # type error
_ = post.author.nam  # type error
post.author = user  # type error
picture = Picture(prompt="x", status="y")
picture.status = "z"  # type error
Picture(prompt="x", status=3)  # type error
of_a_subclass = (Picture.status == "new") & (Picture.owner == user) & Picture.id.in_([1, 2])

title: str = post.title
name: str = post.author.name
editor: User | None = post.editor
tags: list[Tag] = post.tags
count: int = post.comment_count
score: int = post.approved_score
mean: float | None = post.mean_score
best: int | None = post.best
flagged: bool = post.flagged
heading: str = post.heading
liked_by: list[User] = post.liked_by
total: int = Site().total_score
not_any: str = Site().total_score  # type error
condition = (Post.author.name == "bob") & (Post.comment_count > 0)
by_link = (Post.author == user) | Post.editor.is_null() | Post.author.in_([user, 7])
of_children = Post.comments.any(lambda c: c.score > 3)
stand_in: User = User.ref(7)
own_id = Post(id=3, title="x", author=stand_in)
relation = Post.tags.relation
ordering = Comment.at.desc()
nothing = Post.editor == None  # noqa: E711  # an expression: there is no editor
