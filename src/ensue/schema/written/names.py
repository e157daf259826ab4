"""Names and descriptions: which names are taken, how they are written in the database, and what was probably meant.

Decides reserved words and spelling, and which docstring is about a class; whether two names clash is for `check`. Invariant:
nothing but what is given decides.
"""

import difflib
import inspect
import re
from collections.abc import Iterable

from ensue.expression.trace import Path

ENTITY_RESERVED = frozenset({"id", "ref", "define", "fields", "source", "target", "metadata"})
INTERACTION_RESERVED = frozenset({"id", "at", "user", "allow"})
EXPRESSION_NAMES = frozenset(name for name in dir(Path) if not name.startswith("_")) | {"relation"}
"""Attributes of every expression: a member of this name could not be reached in `Post.author.<name>`."""

MUTATION_NAMES = frozenset({"type", "record_name", "record", "old_record", "changed"})

_NUMBERS = re.compile(r"\d+")
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake_case(name: str) -> str:
    """The name of a table for a class.

    >>> snake_case("HTTPRequestLog"), snake_case("Post_tags")
    ('http_request_log', 'post_tags')
    """
    return _WORDS.sub("_", name).lower()


def suggestion(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'title'?"`, what there is instead, or nothing."""
    names = sorted({item for item in known if not item.startswith("_")})
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" There is: {', '.join(names)}." if names else ""


def misspelt(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `name` surely was to be; names that differ in their numbers only are different ones.

    >>> misspelt("pendng", ["pending"]), misspelt("step_2", ["step_1"]), misspelt("paid", ["pending"])
    ('pending', None, None)
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.8)
    return close[0] if close and _NUMBERS.sub("", close[0]) != _NUMBERS.sub("", name) else None


def described(cls: type, root: type) -> str:
    """The docstring of `cls`, or of the nearest class above it; not that of `root`, which is about all of them."""
    for each in cls.__mro__[: cls.__mro__.index(root)]:
        if each.__doc__:
            return inspect.cleandoc(each.__doc__)
    return ""


def name_problem(name: str, reserved: frozenset[str]) -> str | None:
    """Why `name` can't be the name of a member, or None."""
    if name in reserved:
        return f"{name!r} is reserved. Choose another name."
    if name in EXPRESSION_NAMES:
        return f"{name!r} is an attribute of every expression, so it can't be a member's. Choose another name."
    if name.startswith("_") or "__" in name:
        return (
            f"{name!r} starts with an underscore or holds two in a row, which hidden columns do. Choose another name."
        )
    return None
