"""One app's declarations: what is found, what may be changed and when, and what they become."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, cast

import msgspec
import pytest

from ensue.errors import DeclarationError, UsageError
from ensue.expression.nodes import Call, Children, Column, Follow
from ensue.schema.computations.aggregate import Average, Count, Sum
from ensue.schema.computations.computed import Computed
from ensue.schema.computations.custom import Custom
from ensue.schema.computations.machine import Mutation, State, StateMachine, Transition
from ensue.schema.computations.transform import Transform
from ensue.schema.effect import SideEffect, declarations, side_effect
from ensue.schema.entity import Entity, Globals, Relation
from ensue.schema.freeze import freeze
from ensue.schema.interaction import Interaction
from ensue.schema.model import Aggregate, CustomModel, EdgeUse, FieldModel, Formula, Machine, Model
from ensue.schema.property import Property
from ensue.schema.reference import record_model_of
from ensue.schema.relation import Inverse, Many, Maybe, One, Ref, Through
from ensue.schema.schema import Schema
from ensue.schema.written.names import snake_case


class Item(Entity):
    name: Property[str]
    price: Property[Decimal] = Property(scale=2, default=Decimal("1.00"))
    note: Property[str | None]
    owner: Maybe[Person] = Maybe(default=None)
    tags = Many(lambda: Label, inverse="items")
    tag_names = Count(tags, where=lambda t: t.name == "new")


class Label(Entity):
    name: Property[str]
    items = Many(lambda: Item, inverse="tags")


class Person(Entity):
    name: Property[str]
    items = Many(lambda: Item, inverse="owner")
    labels = Through(items, lambda i: i.tags)
    spent = Sum(items, lambda i: i.price)
    card = Inverse(lambda: Card, inverse="person")
    new_labels = Count(labels, where=lambda t: t.name == "new")


class Card(Entity):
    person: One[Person] = One(unique=True, on_delete="cascade")


class Buy(Interaction):
    item: Ref[Item]
    count: int = 1


class Shop(Globals):
    items = Count(lambda: Item)


def computation(model: Model, record: str, name: str) -> Any:
    return model.records[record].fields[name].computation


def test_everything_reachable_is_found() -> None:
    model = freeze(Schema.collect(entities=[Card], globals=[Shop]))
    assert set(model.records) == {"Card", "Person", "Item", "Label", "Item_tags", "Shop"}


def test_through_leads_over_all_hops() -> None:
    model = freeze(Schema.collect(entities=[Person]))
    found = computation(model, "Person", "new_labels")
    assert isinstance(found, Aggregate)
    assert (found.edge, found.host_path) == ("Item_tags", ("source", "owner"))
    assert found.hops == (Children("Item", "owner"), Children("Item_tags", "source"), Follow("target", "Label"))
    assert isinstance(found.where, Call)
    assert found.where.args[0] == Column(
        ("target",), "name", model.records["Label"].fields["name"].type, optional=False
    )


def test_a_plain_relation_of_many_to_many() -> None:
    model = freeze(Schema.collect(entities=[Label]))
    record = model.records["Item_tags"]
    assert (record.kind, record.implicit, record.table) == ("relation", True, "item_tags")
    assert record.unique == (("source", "target"),)
    assert {link.name: (link.target, link.column, link.on_delete) for link in record.links.values()} == {
        "source": ("Item", "source_id", "cascade"),
        "target": ("Label", "target_id", "cascade"),
    }
    for reference in (Item.tags.relation, Label.items.relation, "Item_tags", record.cls):
        assert record_model_of(model, reference) is record
    with pytest.raises(UsageError, match=r"no record type 'Itm'. Did you mean 'Item'"):
        record_model_of(model, "Itm")
    with pytest.raises(UsageError, match="is no record type; expected a class"):
        record_model_of(model, Item.name)


def test_a_one_to_one_and_its_deletion() -> None:
    model = freeze(Schema.collect(entities=[Card]))
    link = model.records["Card"].links["person"]
    assert (link.unique, link.on_delete, link.inverse) == (True, "cascade", "card")
    card = model.records["Person"].collections["card"]
    assert (card.single, card.hops) == (True, (Children("Card", "person"),))
    assert model.records["Item"].links["owner"].on_delete == "detach"


def test_an_aggregate_over_a_link_that_may_be_missing_counts_members_only() -> None:
    class Team(Entity):
        seats = Many(lambda: Seat, inverse="team")
        people = Through(seats, lambda s: s.person)
        size = Count(people)

    class Seat(Entity):
        team: One[Team]
        person: Maybe[Person]

    model = freeze(Schema.collect(entities=[Team, Seat, Person]))
    found = computation(model, "Team", "size")
    assert isinstance(found.where, Call)
    assert found.where.op == "not"


def test_interactions_become_events() -> None:
    model = freeze(Schema.collect(user=Person, interactions=[Buy]))
    record = model.records["Buy"]
    assert (record.kind, record.table) == ("event", "ensue_event_buy")
    assert list(record.fields) == ["at", "count"]
    assert [(link.name, link.optional, link.on_delete) for link in record.links.values()] == [
        ("user", True, None),
        ("item", False, None),
    ]
    assert list(model.interactions["Buy"].payload) == ["item", "count"]
    assert model.user == "Person"


def test_an_interaction_that_only_reads_has_no_events() -> None:
    class ListItems(Interaction, reads=lambda: Item):
        limit: int = 10

    model = freeze(Schema.collect(interactions=[ListItems]))
    assert "ListItems" not in model.records
    assert model.interactions["ListItems"].reads == "Item"
    assert list(model.interactions["ListItems"].payload) == ["limit"]


def test_types_and_defaults() -> None:
    class Color(Enum):
        RED = "red"
        BLUE = "blue"

    class Details(msgspec.Struct):
        size: int

    class Thing(Entity):
        color: Property[Color] = Property(default=Color.RED)
        size: Property[Literal["s", "m"]]
        details: Property[Details]
        raw: Property[dict[str, Any]] = Property(default=dict)
        price: Property[Decimal | None] = Property(scale=2)
        quoted: Property[int]
        worst = Computed[int](lambda t: t.quoted + 1)

    fields = freeze(Schema.collect(entities=[Thing])).records["Thing"].fields
    kinds = {name: (field.type.kind, field.optional) for name, field in fields.items()}
    assert kinds == {
        "color": ("enum", False),
        "size": ("literal", False),
        "details": ("json", False),
        "raw": ("json", False),
        "price": ("decimal", True),
        "quoted": ("int", False),
        "worst": ("int", False),
    }
    assert fields["color"].type.values == ("red", "blue")
    assert fields["raw"].default is dict


def test_an_abstract_entity_lends_its_members() -> None:
    class Task(Entity, abstract=True):
        status: Property[str] = Property(default="new")
        shown = Computed[str](lambda t: t.status.upper())

    class Picture(Task):
        prompt: Property[str]

    class Video(Task):
        length: Property[int]

    schema = Schema.collect(entities=[Picture, Video, Task])
    assert list(schema.subclasses(Task)) == [Picture, Video]
    assert [item.__name__ for item in schema.entities] == ["Picture", "Video"]
    model = freeze(schema)
    assert list(model.records["Picture"].fields) == ["status", "shown", "prompt"]
    assert model.records["Video"].abstract == ("Task",)


def test_two_apps_do_not_see_each_other() -> None:
    first, second = Schema.collect(entities=[Item]), Schema.collect(entities=[Item])
    first.entity(Item).add_property("rank", Property[int | None])
    first.property(Item, "name").computation = Custom(initial=lambda r: "x")
    one, two = freeze(first), freeze(second)
    assert "rank" in one.records["Item"].fields
    assert "rank" not in two.records["Item"].fields
    assert isinstance(computation(one, "Item", "name"), CustomModel)
    assert computation(two, "Item", "name") is None
    assert one.records["Item_tags"].cls is not two.records["Item_tags"].cls


def test_after_freeze_the_schema_is_closed() -> None:
    schema = Schema.collect(entities=[Item])
    freeze(schema)
    for change in (
        lambda: schema.entities.add(Card),
        lambda: schema.entity("Item").add_property("rank", Property[int]),
        lambda: setattr(schema.property("Item", "name"), "computation", Count(Item.tags)),
    ):
        with pytest.raises(UsageError, match="Change it in an integration's `configure`"):
            change()


def test_registries() -> None:
    schema = Schema.collect(user=Person, interactions=[Buy], globals=[Shop])
    assert schema.entities.get("Item") is Item
    assert schema.interactions.get("Buy") is Buy
    assert list(schema.globals) == [Shop]
    assert list(schema.relations) == []
    assert Item in schema.entities
    with pytest.raises(DeclarationError, match=r"There is no entity 'Itm'. Did you mean 'Item'"):
        schema.entities.get("Itm")
    with pytest.raises(DeclarationError, match="This app has no record type 'Itm'"):
        schema.entity("Itm")
    with pytest.raises(DeclarationError, match=r"Item has no property 'nme'. Did you mean 'name'"):
        schema.property(schema.entity("Item"), "nme")
    with pytest.raises(DeclarationError, match="Item already has 'name'"):
        schema.entity(Item).add_property("name", Property[str])
    with pytest.raises(DeclarationError, match=r"expected Property\[…\]"):
        schema.entity(Item).add_property("rank", 3)
    with pytest.raises(DeclarationError, match="Item: 'a rank' is no name"):
        schema.entity(Item).add_property("a rank", Property[int])
    with pytest.raises(DeclarationError, match=r"subclasses\('Item'\): expected the class that they inherit from"):
        schema.subclasses(cast("Any", "Item"))


def test_what_a_property_is_computed_by_can_be_read_and_must_be_a_computation() -> None:
    schema = Schema.collect(entities=[Item])
    name = schema.property(Item, "name")
    assert name.computation is None
    name.computation = given = Custom(initial=lambda r: "x")
    assert name.computation is given
    for wrong in (None, "x", lambda item: item.name):
        with pytest.raises(DeclarationError, match=r"Item.name.computation = .*: expected a computation"):
            name.computation = wrong
    with pytest.raises(DeclarationError, match=r"Item.tags is a link, and only properties are computed"):
        schema.property(Item, "tags").computation = Count(Item.tags)


def test_what_is_wrong_with_a_computation_that_was_given_to_a_property_is_told_with_its_line() -> None:
    schema = Schema.collect(entities=[Item])
    schema.property(Item, "name").computation = Computed[int](lambda item: item.id + 1)
    with pytest.raises(DeclarationError, match=r"Item\.name: the expression gives int, but str was declared") as told:
        freeze(schema)
    [problem] = told.value.problems
    assert problem.origin is not None
    assert problem.origin.file == __file__


def test_an_entity_without_a_class_statement() -> None:
    event = Entity.define(
        "TaskEvent", task_id=Property[int], status=Property[str], item=Maybe[Item], n=Property(default=3)
    )
    schema = Schema.collect(entities=[event])
    record = freeze(schema).records["TaskEvent"]
    assert list(record.fields) == ["task_id", "status", "n"]
    assert record.links["item"].target == "Item"
    assert record.origin.file == __file__
    assert event(task_id=3, status="x").task_id == 3


def test_an_aggregate_over_a_path_can_be_added() -> None:
    schema = Schema.collect(entities=[Person])
    schema.entity(Person).add_property("thing_count", Count(Person.items, where=lambda i: i.price > 3))
    found = computation(freeze(schema), "Person", "thing_count")
    assert (found.edge, found.host_path) == ("Item", ("owner",))


def test_state_machines() -> None:
    node = State("status", value=lambda last, event: event.record.name or last)

    class Order(Entity):
        status: Property[str] = Property(default="queued")
        count: Property[int]
        state = StateMachine(
            initial="open",
            transitions=[
                Transition(("open", "paid"), "paid", on=Buy, record=lambda e: e.item),
                Transition("*", "gone", on=Mutation(Item, "update", of=[Item.name]), record=lambda e: e.record),
            ],
        )

    schema = Schema.collect(user=Person, entities=[Order])
    schema.property(Order, "status").computation = StateMachine(
        states=[node],
        initial=node,
        transitions=[
            Transition(node, node, on=Mutation("Item", "create", where={"name": "x", "note": None}), record=lambda e: 1)
        ],
    )
    fields = freeze(schema).records["Order"].fields
    state, status = fields["state"], fields["status"]
    assert isinstance(state.computation, Machine)
    assert state.computation.states == ("open", "paid", "gone")
    assert state.default == "open"
    assert [(t.sources, t.target, t.trigger.event, t.trigger.of) for t in state.computation.transitions] == [
        (("open", "paid"), "paid", True, ()),
        (("*",), "gone", False, ("name",)),
    ]
    assert status.default == "queued"
    assert isinstance(status.computation, Machine)
    assert set(status.computation.values) == {"status"}
    where = status.computation.transitions[0].trigger.where
    assert isinstance(where, Call)
    assert [argument.op for argument in where.args if isinstance(argument, Call)] == ["eq", "is_null"]


def test_a_machine_and_what_derives_from_it_are_no_cycle() -> None:
    class Job(Entity):
        parts = Many(lambda: Step, inverse="job")
        state = StateMachine(
            initial="open",
            transitions=[
                Transition(
                    "open", "done", on=Mutation("Step", "update", where=lambda s: s.over), record=lambda e: e.job
                )
            ],
        )

    class Step(Entity):
        job: One[Job]
        over = Computed[bool](lambda s: s.job.state == "done")

    assert freeze(Schema.collect(entities=[Job])).records["Step"].fields["over"].type.kind == "bool"


def test_what_a_custom_watches() -> None:
    class Cart(Entity):
        label: Property[str]
        owner: One[Person]
        lines = Many(lambda: Line, inverse="cart")
        seal = Custom[str](
            compute=lambda cart, inputs: "x",
            uses=lambda c: [c.label, c.owner.name, c.lines.fields(Line.count, Line.item.name)],
        )

    class Line(Entity):
        cart: One[Cart]
        item: One[Item]
        count: Property[int]

    found = computation(freeze(Schema.collect(entities=[Cart, Line, Item])), "Cart", "seal")
    assert isinstance(found, CustomModel)
    assert [(column.path, column.field) for column in found.columns] == [((), "label"), (("owner",), "name")]
    edge = found.edges[0]
    assert isinstance(edge, EdgeUse)
    assert (edge.edge, edge.host_path) == ("Line", ("cart",))
    assert [(column.path, column.field) for column in edge.columns] == [((), "count"), (("item",), "name")]


def test_derived_records() -> None:
    class Bought(Entity, derived=Transform(Buy, lambda e: {"item": e.item, "count": e.count})):
        item: One[Item]
        count: Property[int]

    class Receipt(Entity, derived=Transform(lambda: Bought, lambda b: {"bought": b, "item": b.item, "n": b.count * 2})):
        bought: One[Bought]
        item: One[Item]
        n: Property[float]

    class Echo(Entity, derived=Transform(lambda: Bought, compute=lambda b: {"n": 1})):
        n: Property[int]

    model = freeze(Schema.collect(user=Person, entities=[Receipt, Echo]))
    bought, receipt, echo = (model.records[name].transform for name in ("Bought", "Receipt", "Echo"))
    assert bought is not None
    assert (bought.source, bought.event, bought.mapping) == ("Buy", True, None)
    assert receipt is not None
    assert receipt.mapping is not None
    assert receipt.mapping["bought"] == Column((), "id", model.records["Buy"].fields["count"].type, optional=False)
    assert receipt.mapping["n"].type.kind == "float"
    assert echo is not None
    assert (echo.event, echo.mapping) == (False, None)


async def publish(_: Any) -> None: ...


def test_side_effects() -> None:
    effect = SideEffect(
        "publish",
        Item.tags.relation,
        on={"create", "delete"},
        content=publish,
        where=lambda r: r.target.name == "new",
        order_by=lambda r: r.source.id,
    )
    passing = SideEffect("hint", Item, on="create", content=publish, delivery="after_commit")
    model = freeze(Schema.collect(entities=[Item]), side_effects={"channels.publish": effect, "channels.hint": passing})
    found = model.effects["channels.publish"]
    assert (found.name, found.record, found.on) == ("channels.publish", "Item_tags", frozenset({"create", "delete"}))
    assert isinstance(found.order_by, Column)
    assert (found.order_by.path, found.order_by.field) == ((), "source")
    assert found.durable
    assert not model.effects["channels.hint"].durable
    assert found.options["timeout_seconds"] == 30.0


def test_a_marked_method_becomes_a_side_effect() -> None:
    class Channels:
        @side_effect(Item, on="create", fields=[Item.name], of=[Item.name])
        async def publish(self, effect: Any) -> None: ...

    (declaration,) = declarations(Channels.publish)
    effect = declaration.bind("publish", Channels().publish)
    assert effect.on == frozenset({"create"})
    assert effect.origin.file == __file__
    assert freeze(Schema.collect(entities=[Item]), side_effects={"c.publish": effect}).effects["c.publish"].of == (
        "name",
    )


def test_what_a_relation_declares_of_its_own() -> None:
    class Friend(Relation, unique=[("since",)]):
        one: One[Person]
        other: One[Person]
        since: Property[int]
        label = Computed[str](lambda f: f.source.name + f.target.name)

    record = freeze(Schema.collect(entities=[Friend])).records["Friend"]
    assert record.unique == (("one", "other"), ("since",))
    assert (record.source, record.target) == ("one", "other")
    assert isinstance(record.fields["label"].computation, Formula)


def test_averages_of_nothing_are_none() -> None:
    class Box(Entity):
        items = Many(lambda: Thing, inverse="box")
        mean = Average(items, lambda t: t.size)

    class Thing(Entity):
        box: One[Box]
        size: Property[int | None]

    field = freeze(Schema.collect(entities=[Box])).records["Box"].fields["mean"]
    assert isinstance(field, FieldModel)
    assert (field.type.kind, field.optional) == ("float", True)


@pytest.mark.parametrize(
    ("name", "table"),
    [("Post", "post"), ("HTTPRequest", "http_request"), ("Post_tags", "post_tags"), ("UserV2", "user_v2")],
)
def test_table_names(name: str, table: str) -> None:
    assert snake_case(name) == table


def test_importing_ensue_brings_no_database_nor_server() -> None:
    code = "import ensue, sys; print([m for m in ('sqlalchemy', 'starlette', 'apsw', 'asyncpg') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
