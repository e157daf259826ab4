"""The blog of the documentation, with nothing else: what golden files are made from."""

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


class Site(Globals):
    total_posts = Count(lambda: Post)
    total_score = Sum(lambda: Comment, lambda c: c.score)


ENTITIES = (Post, User, Comment, Like, Tag)
