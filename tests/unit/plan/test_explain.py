"""Explanations of every kind of computation, held in golden files on both dialects.

After a wanted change: `python -m tests.unit.plan.test_explain` writes the files anew.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ensue import Custom, Entity, Globals, Interaction, Property, Transform
from ensue.errors import UsageError
from ensue.plan.compile import compile_plan
from ensue.plan.explain import explain
from ensue.plan.plan import Plan
from ensue.schema.freeze import freeze
from ensue.schema.schema import Schema
from ensue.store.driver import Dialect
from tests.agreement import schemas
from tests.unit.plan import blog

GOLDEN = Path(__file__).parent / "golden"
DIALECTS: Sequence[Dialect] = ("sqlite", "postgresql")


class Link(Entity):
    path: Property[str]
    url: Property[str] = Property(default="")
    signed = Custom[str](compute=lambda record, inputs: record.path + "?signed", uses=lambda link: [link.path])


def compiled(entities: Sequence[type[Any]], globals_: Sequence[type[Globals]], dialect: Dialect, **more: Any) -> Plan:
    return compile_plan(freeze(Schema.collect(entities=entities, globals=globals_, **more)), dialect)


def blog_text(dialect: Dialect) -> str:
    plan = compiled(blog.ENTITIES, (blog.Site,), dialect, user=blog.User)
    names = [
        f"{record.name}.{field.name}"
        for record in plan.records.values()
        for field in record.model.fields.values()
        if field.computation is not None
    ]
    return _joined(plan, ["Post", *names])


def other_text(dialect: Dialect) -> str:
    shop = compiled(schemas.SHOP.entities, schemas.SHOP.globals, dialect, interactions=schemas.SHOP.interactions)
    club = compiled(schemas.CLUB.entities, schemas.CLUB.globals, dialect)
    link = compiled((Link,), (), dialect)
    return "".join(
        [
            _joined(shop, ["Order.status", "Line.amount", "Product.place"]),
            _joined(club, ["Notification", "Notification.text", "Group.mixed", "Group.shares"]),
            _joined(link, ["Link.signed", "Link.path"]),
        ]
    )


def _joined(plan: Plan, names: Sequence[str]) -> str:
    text = ("-" * 100 + "\n").join(explain(plan, name) for name in names)
    # The folder differs from machine to machine, and lines move when something is added above.
    return re.sub(r"\S*/(\w+\.py):\d+", r"\1:…", text)


TEXTS = {"blog": blog_text, "other": other_text}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", TEXTS)
def test_explanations_are_as_agreed(name: str, dialect: Dialect) -> None:
    assert TEXTS[name](dialect) == (GOLDEN / f"{name}.{dialect}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_column_and_record_can_be_explained(dialect: Dialect) -> None:
    for schema in schemas.FIXED:
        plan = compiled(schema.entities, schema.globals, dialect, interactions=schema.interactions)
        for record in plan.records.values():
            assert explain(plan, record.name).startswith(f"{record.name}: ")
            for name in record.model.fields:
                text = explain(plan, f"{record.name}.{name}")
                assert re.search(r"declared at \S+\.py:\d+|declared at :0", text), text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Pots.title", "no record type 'Pots' to explain. Did you mean 'Post'?"),
        ("Post.approved_scor", "no property 'approved_scor' to explain. Did you mean 'approved_score'?"),
        ("Post.", "no property '' to explain. There is: "),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        explain(compiled(blog.ENTITIES, (blog.Site,), "sqlite"), name)


def test_says_when_it_reads_again() -> None:
    plan = compiled(blog.ENTITIES, (blog.Site,), "sqlite")
    assert "Re-reads: never" in explain(plan, "Post.approved_score")
    assert "Re-reads: comment.reread, for hosts that lose the value that is the max" in explain(plan, "Post.best")


class Follow(Interaction):
    path: str


class Copy(Entity, derived=Transform(lambda: Link, compute=lambda link: {"path": link.path})):
    path: Property[str]


class Followed(Entity, derived=Transform(Follow, lambda event: {"path": event.path})):
    path: Property[str]


def test_what_a_function_derives_is_not_said_to_be_given_by_writes() -> None:
    plan = compiled((Link, Copy, Followed), (), "sqlite", interactions=(Follow,))
    assert "  given by the Transform's function; see explain Copy\n" in explain(plan, "Copy.path")
    text = "  stored: given by the Transform at first, then by writes; see explain Followed\n"
    assert text in explain(plan, "Followed.path")


if __name__ == "__main__":
    for made, write in TEXTS.items():
        for chosen in DIALECTS:
            (GOLDEN / f"{made}.{chosen}.txt").write_text(write(chosen), encoding="utf-8")
