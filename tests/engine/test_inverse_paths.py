"""Conditions and orders over the other side of a one-to-one, as the types promise them; what is stored can't follow it."""

from __future__ import annotations

import pytest

from ensue import App, Computed, Entity, Inverse, Many, Maybe, One, Property, Store, match
from ensue.errors import DeclarationError


class User(Entity):
    name: Property[str]
    profile = Inverse(lambda: Profile, inverse="user")
    posts = Many(lambda: Post, inverse="author")


class Profile(Entity):
    bio: Property[str]
    rank: Property[int]
    user: One[User] = One(unique=True)
    mentor: Maybe[User] = Maybe(default=None)


class Post(Entity):
    title: Property[str]
    author: One[User]


async def names(store: Store, *where: object, **more: object) -> str:
    return "".join(user.name for user in await store.find(User, *where, **{"order_by": [User.name], **more}))  # type: ignore[call-overload]


async def test_a_read_follows_it_in_conditions_and_orders(database_url: str) -> None:
    async with App(entities=[User, Profile, Post], database=database_url) as app:
        store = app.controller.store
        a, b, c, d = await store.create_many([User(name=name) for name in "abcd"])
        one = await store.create(Profile(user=a, bio="x", rank=1, mentor=c))
        await store.create_many([Profile(user=b, bio="y", rank=5), Profile(user=c, bio="x", rank=3)])
        await store.create_many(
            [Post(title=name, author=user) for name, user in zip("abcd", (a, b, c, d), strict=True)]
        )

        assert await names(store, User.profile.bio == "x") == "ac"
        assert await names(store, ~(User.profile.bio == "x")) == "bd"
        assert await names(store, User.profile.is_null()) == "d"
        assert await names(store, User.profile == one) == "a"
        assert await names(store, User.profile.id > one.id) == "bc"
        assert await names(store, User.profile.mentor == c) == "a"
        assert await names(store, User.profile.mentor.profile.rank == 3) == "a"
        assert await names(store, User.profile.user.name == "b") == "b"
        assert await names(store, match("profile.bio", "=", "x") & match("profile.rank", ">", 1)) == "c"
        assert await names(store, User.posts.any(lambda post: post.author.profile.rank > 2)) == "bc"
        assert await names(store, order_by=[User.profile.rank.desc(), User.id]) == "bcad"
        assert await names(store, order_by=["profile.bio", "-id"]) == "cabd"
        posts = await store.find(Post, Post.author.profile.bio == "x", order_by=[Post.author.profile.rank.desc()])
        assert [post.title for post in posts] == ["c", "a"]
        nested = await store.find(
            User, User.id == a.id, fields=[User.posts.fields(where=Post.author.profile.rank == 1)]
        )
        assert len(nested[0].posts) == 1
        assert await store.count(User, User.profile.rank < 5) == 2
        assert await store.update_many(Post, Post.author.profile.rank >= 3, title="z") == 2
        assert await store.delete_many(Post, Post.author.profile.is_null()) == 1
        assert await store.count(Post, Post.title == "z") == 2


class Guest(Entity):
    badge = Inverse(lambda: Badge, inverse="guest")
    colour = Computed[str](lambda guest: guest.badge.colour)


class Badge(Entity):
    colour: Property[str]
    guest: One[Guest] = One(unique=True)


async def test_what_is_stored_cannot_follow_it() -> None:
    told = r"other side of a one-to-one.* Declare this on Badge instead, whose guest leads to the Guest\."
    with pytest.raises(DeclarationError, match=told):
        async with App(entities=[Guest], database="sqlite:///:memory:"):
            pass
