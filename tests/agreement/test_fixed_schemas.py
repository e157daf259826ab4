"""Three hand-made applications against the slow model, on both databases, however the writes are divided."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cache

import hypothesis
import pytest

from ensue.testing.generate_operations import (
    Condition,
    Create,
    Cross,
    Delete,
    Extreme,
    Increase,
    Link,
    Nested,
    Pick,
    Read,
    Script,
    Update,
    operations,
)
from ensue.testing.slow_agreement import all_at_once, differences, one_by_one
from tests.agreement.running import Bench, Declared, examples
from tests.agreement.schemas import BLOG, FIXED, FixedSchema
from tests.services import Databases

Benches = Callable[[FixedSchema, str], Bench]


@pytest.fixture(scope="module")
def benches(request: pytest.FixtureRequest) -> Iterator[Benches]:
    """An app for each schema and kind of database, made once: every script begins and ends with nothing in it."""
    with ExitStack() as stack:

        @cache
        def bench(schema: FixedSchema, kind: str) -> Bench:
            url = "sqlite:///:memory:"
            if kind == "postgres":
                databases: Databases = request.getfixturevalue("postgres_databases")
                url = stack.enter_context(databases.fresh())
            return stack.enter_context(Bench(Declared(schema.entities, schema.globals, schema.interactions), url))

        yield bench


@pytest.fixture(params=FIXED, ids=str)
def bench(request: pytest.FixtureRequest, benches: Benches, kind: str) -> Bench:
    return benches(request.param, kind)


def test_every_script_leaves_what_the_slow_model_says(bench: Bench) -> None:
    @examples(16, bench.url)
    @hypothesis.given(operations(bench.model))
    def check(script: Script) -> None:
        bench.run(script)

    check()


def test_reads_in_between_see_what_is_right_and_change_nothing(bench: Bench) -> None:
    @examples(6, bench.url)
    @hypothesis.given(operations(bench.model, max_size=6))
    def check(script: Script) -> None:
        quiet, watched = bench.run(script), bench.run(script, reads=True)
        assert [*differences(quiet.image, watched.image)] == []

    check()


def test_the_division_into_transactions_does_not_matter(bench: Bench) -> None:
    @examples(6, bench.url)
    @hypothesis.given(operations(bench.model, max_size=6))
    def check(script: Script) -> None:
        apart, together = bench.run(one_by_one(script)), bench.run(all_at_once(script))
        assert [*differences(apart.image, together.image)] == []

    check()


def test_small_and_bulk_writes_agree(bench: Bench) -> None:
    @examples(6, bench.url)
    @hypothesis.given(operations(bench.model, max_size=6))
    def check(script: Script) -> None:
        small, bulk = bench.run(script, size="small"), bench.run(script, size="bulk")
        # What is refused is refused as a whole call, so a refusal makes the two different on purpose.
        if not small.exceptions and not bulk.exceptions:
            assert [*differences(small.image, bulk.image)] == []

    check()


@pytest.mark.parametrize("schema", FIXED, ids=str)
def test_the_databases_agree_with_each_other(schema: FixedSchema, benches: Benches) -> None:
    one, other = benches(schema, "sqlite"), benches(schema, "postgres")

    @examples(3)
    @hypothesis.given(operations(one.model, max_size=6))
    def check(script: Script) -> None:
        left, right = one.run(script), other.run(script)
        assert left.exceptions == right.exceptions
        assert [*differences(left.image, right.image)] == []

    check()


# --- Cases known to be hard, each once by hand ------------------------------------------------------------------------

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
USERS = Create(
    "User",
    (
        (("name", "a"), ("email", "a@"), ("verified", True)),
        (("name", "b"), ("email", "b@"), ("fame", 3)),
        (("name", "c"), ("email", "c@")),
    ),
    together=True,
)
POSTS = Create(
    "Post", tuple((("title", title), ("author", Pick(0)), ("editor", Pick(2))) for title in "xy"), together=True
)
COMMENTS = Create(
    "Comment",
    tuple(
        (
            ("text", "t"),
            ("score", score),
            ("at", NOON),
            ("post", Pick(post)),
            ("author", Pick(author)),
            ("reviewer", Pick(1)),
        )
        for score, post, author in ((5, 0, 0), (9, 0, 1), (9, 0, 2), (4, 1, 0), (-3, 1, 1))
    ),
    together=True,
)

HARD = {
    "the crossed record changes with its item": (
        Cross("Comment", "author", Pick(1), (("crossed", (("verified", True),)), ("item", (("score", 7),)))),
    ),
    "the crossed record changes, then its item leaves it": (
        Cross(
            "Comment",
            "author",
            Pick(0),
            (
                ("crossed", (("verified", False),)),
                ("repoint", (("author", Pick(1)),)),
                ("crossed", (("verified", True),)),
            ),
        ),
    ),
    "the crossed record is emptied and deleted in one transaction": (
        Cross("Comment", "reviewer", Pick(2), (("crossed", (("verified", True),)), ("repoint", (("reviewer", None),)))),
        Nested((Update("User", Pick(1), (("verified", True),)), Delete("User", Pick(1))), kept=True),
    ),
    "the item moves and its crossed record changes": (
        Nested(
            (Update("Comment", Pick(0), (("post", Pick(1)),)), Update("User", Pick(0), (("verified", False),))),
            kept=True,
        ),
    ),
    "the extremum goes, its tie stays": (
        Extreme("Post", "best", Pick(0), None),
        Extreme("Post", "best", Pick(0), (("score", -1),)),
        Read(),
    ),
    "the extremum moves to another host": (Extreme("Post", "best", Pick(0), (("post", Pick(1)),)),),
    "every edge leaves": (
        Delete("Comment", Condition(("post", "title"), "=", "x")),
        Delete("Comment", Condition(("score",), "is not null", None)),
    ),
    "a condition over what was just derived": (
        Nested(
            (
                Increase("Comment", Pick(0), "score", 3),
                Update("Post", Condition(("best",), ">=", 8), (("title", "z"),)),
                Delete("Comment", Condition(("post", "comment_count"), "<", 3)),
                Update("User", Condition(("post_count",), "=", 2), (("verified", False),)),
            ),
            kept=True,
        ),
    ),
    "a savepoint is rolled back between two writes of one row": (
        Nested(
            (
                Increase("Comment", Pick(0), "score", 1),
                Nested((Increase("Comment", Pick(0), "score", 10), Read(), Delete("Comment", Pick(1))), kept=False),
                Increase("Comment", Pick(0), "score", 1),
                Read(),
            ),
            kept=True,
        ),
    ),
    "a host is created, filled and deleted in one transaction": (
        Nested(
            (
                Create("Post", ((("title", "n"), ("author", Pick(1))),), together=False),
                Update("Comment", Pick(0), (("post", Pick(2)),)),
                Delete("Post", Pick(2)),
            ),
            kept=True,
        ),
    ),
    "links come and go": (
        Create("Tag", ((("name", "a"), ("weight", 2)), (("name", "b"), ("weight", 5))), together=True),
        Nested(
            (
                Link("Post_tags", Pick(0), Pick(0)),
                Link("Post_tags", Pick(0), Pick(1)),
                Link("Post_tags", Pick(0), Pick(0)),
            ),
            kept=True,
        ),
        Nested((Update("Tag", Pick(1), (("weight", 7), ("name", "a"))), Delete("Post", Pick(0))), kept=True),
    ),
}


@pytest.mark.parametrize("case", HARD)
def test_a_hard_case_by_hand(case: str, benches: Benches, kind: str) -> None:
    benches(BLOG, kind).run((USERS, POSTS, COMMENTS, *HARD[case]))
