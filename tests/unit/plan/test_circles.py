"""What derives from itself by way of derived records is refused, with a way out that fits."""

from __future__ import annotations

import pytest

from ensue import App, Count, DeclarationError, Entity, Many, One, Property, Transform


class Post(Entity):
    text: Property[str]
    words = Many(lambda: Word, inverse="post")
    word_count = Count(words)


def words(post: Post) -> list[dict[str, object]]:
    return [{"text": word, "post": post} for word in post.text.split()]


class Word(Entity, derived=Transform(lambda: Post, compute=words)):
    text: Property[str]
    post: One[Post]


async def start(entity: type[Entity]) -> None:
    async with App(entities=[entity], database="sqlite:///:memory:").run(deliver=False):
        pass


async def test_a_source_that_derives_from_what_a_function_makes_of_it() -> None:
    with pytest.raises(
        DeclarationError, match=r"The function that makes Word \(declared at .*test_circles.py:\d+\)"
    ) as raised:
        await start(Post)
    assert "Post.word_count" in str(raised.value)
