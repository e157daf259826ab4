"""The slow model against examples worked out by hand: it decides what is right, so it must be right itself."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from ensue.errors import ConstraintViolated, InternalError, NotFound, Origin
from ensue.expression.nodes import Call, Children, Column, Constant, Exists, Node, Operator
from ensue.expression.types import ValueType
from ensue.schema.model import (
    Aggregate,
    AggregateKind,
    CollectionModel,
    FieldModel,
    Formula,
    InteractionModel,
    LinkModel,
    Machine,
    Model,
    RecordModel,
    TransformModel,
    TransitionModel,
    Trigger,
)
from ensue.testing.slow_model import SlowModel
from ensue.testing.slow_values import aggregate, agree, evaluate

INT = ValueType("int", int)
STR = ValueType("str", str)
BOOL = ValueType("bool", bool)
FLOAT = ValueType("float", float)
DATE = ValueType("date", date)
MONEY = ValueType("decimal", Decimal, scale=2)
HERE = Origin("test", 1)


def column(*names: str, type_: ValueType = INT) -> Column:
    return Column(names[:-1], names[-1], type_, optional=True)


def call(op: Operator, *args: Node, type_: ValueType = BOOL) -> Call:
    return Call(op, args, type_, optional=False)


def constant(value: Any, type_: ValueType = INT) -> Constant:
    return Constant(value, type_)


def given(name: str, type_: ValueType, **options: Any) -> FieldModel:
    return FieldModel(name, type_, options.pop("optional", True), **options)


def edges(
    name: str,
    kind: AggregateKind,
    edge: str,
    *path: str,
    value: Node | None = None,
    where: Node | None = None,
    type_: ValueType = INT,
) -> FieldModel:
    return FieldModel(name, type_, optional=True, computation=Aggregate(kind, edge, path, (), where, value))


def record(name: str, *members: FieldModel | LinkModel | CollectionModel, **options: Any) -> RecordModel:
    return RecordModel(
        name,
        options.pop("kind", "entity"),
        object,
        name.lower(),
        {item.name: item for item in members if isinstance(item, FieldModel)},
        {item.name: item for item in members if isinstance(item, LinkModel)},
        {item.name: item for item in members if isinstance(item, CollectionModel)},
        **options,
    )


def model(*records: RecordModel, interactions: Mapping[str, InteractionModel] | None = None) -> Model:
    return Model({item.name: item for item in records}, interactions or {}, {}, None)


VERIFIED = call("and", column("author", "verified", type_=BOOL), call("gt", column("score"), constant(3)))

BLOG = model(
    record(
        "User", given("name", STR), given("verified", BOOL, default=False), edges("posts", "count", "Post", "author")
    ),
    record(
        "Post",
        given("title", STR),
        LinkModel("author", "User", optional=False, on_delete="cascade"),
        LinkModel("editor", "User", optional=True, on_delete="detach"),
        edges("comments", "count", "Comment", "post"),
        edges("score", "sum", "Comment", "post", value=column("score")),
        edges("mean", "average", "Comment", "post", value=column("score"), type_=FLOAT),
        edges("best", "max", "Comment", "post", value=column("score")),
        edges("worst", "min", "Comment", "post", value=column("score")),
        edges("flagged", "any", "Comment", "post", value=column("flagged", type_=BOOL), type_=BOOL),
        edges("all_flagged", "every", "Comment", "post", value=column("flagged", type_=BOOL), type_=BOOL),
        edges("trusted", "count", "Comment", "post", where=VERIFIED),
        FieldModel(
            "heading",
            STR,
            optional=False,
            computation=Formula(
                call(
                    "concat",
                    call("concat", column("title", type_=STR), constant(" by ", STR), type_=STR),
                    column("author", "name", type_=STR),
                    type_=STR,
                )
            ),
        ),
    ),
    record(
        "Comment",
        given("score", INT),
        given("flagged", BOOL),
        LinkModel("post", "Post", optional=True, on_delete="cascade"),
        LinkModel("author", "User", optional=True, on_delete="restrict"),
    ),
    record(
        "Post_tags",
        LinkModel("source", "Post", optional=False, on_delete="cascade"),
        LinkModel("target", "Tag", optional=False, on_delete="cascade"),
        kind="relation",
        source="source",
        target="target",
        unique=(("source", "target"),),
        implicit=True,
    ),
    record(
        "Tag",
        given("slug", STR, unique=True),
        edges("score", "sum", "Post_tags", "target", value=column("source", "score")),
    ),
    record(
        "Site", edges("posts", "count", "Post"), edges("score", "sum", "Post", value=column("score")), kind="globals"
    ),
)


def blog() -> SlowModel:
    slow = SlowModel(BLOG)
    slow.create_many("User", [(1, {"name": "ann", "verified": True}), (2, {"name": "bob"})])
    slow.create_many("Post", [(1, {"title": "x", "author": 1}), (2, {"title": "y", "author": 2, "editor": 1})])
    slow.create_many(
        "Comment",
        [
            (1, {"score": 5, "flagged": True, "post": 1, "author": 1}),
            (2, {"score": None, "flagged": None, "post": 1, "author": 1}),
            (3, {"score": 2, "flagged": False, "post": 1, "author": 2}),
            (4, {"score": 9, "flagged": True, "post": 2, "author": None}),
        ],
    )
    return slow


def test_aggregates_of_a_filled_host_and_of_an_empty_one() -> None:
    slow = blog()
    slow.create("Post", 3, {"title": "z", "author": 1})
    derived = slow.derive()["Post"]
    assert derived[1] == {
        "comments": 3,
        "score": 7,
        "mean": 3.5,
        "best": 5,
        "worst": 2,
        "flagged": True,
        "all_flagged": False,
        "trusted": 1,
        "heading": "x by ann",
    }
    assert (derived[2]["trusted"], derived[2]["all_flagged"], derived[2]["heading"]) == (0, True, "y by bob")
    empty = {name: derived[3][name] for name in ("comments", "score", "mean", "best", "flagged", "all_flagged")}
    assert empty == {"comments": 0, "score": 0, "mean": None, "best": None, "flagged": False, "all_flagged": True}


def test_reparenting_the_crossed_record_and_the_filter_are_followed() -> None:
    slow = blog()
    slow.update("Comment", 4, {"post": 1, "author": 1})
    assert slow.derive()["Post"][1]["trusted"] == 2
    slow.update("User", 1, {"verified": False})
    assert slow.derive()["Post"][1]["trusted"] == 0
    slow.update("Comment", 4, {"post": None})
    assert [slow.value("Post", row, "comments") for row in (1, 2)] == [3, 0]


def test_globals_and_aggregates_over_links_stand_on_other_aggregates() -> None:
    slow = blog()
    slow.create_many("Tag", [(1, {"slug": "a"}), (2, {"slug": "b"})])
    slow.link("Post_tags", 1, 1)
    slow.link("Post_tags", 2, 1)
    assert slow.derive()["Site"][1] == {"posts": 2, "score": 16}
    assert [slow.value("Tag", row, "score") for row in (1, 2)] == [16, 0]
    slow.unlink("Post_tags", 1, 1)
    assert slow.value("Tag", 1, "score") == 9
    with pytest.raises(NotFound):
        slow.unlink("Post_tags", 1, 1)


def test_a_deletion_cascades_detaches_and_is_restricted() -> None:
    slow = blog()
    before = slow.image()
    with pytest.raises(ConstraintViolated):
        slow.delete("User", 2)  # its comment 3 stands on post 1, which stays
    assert slow.image() == before
    slow.delete("Comment", 3)
    slow.delete("User", 2)
    assert set(slow.tables.rows["Post"]) == {1}
    assert set(slow.tables.rows["Comment"]) == {1, 2}
    slow.create("Post", 4, {"title": "w", "author": 1, "editor": 1})
    slow.create("User", 5, {"name": "eve"})
    slow.update("Post", 4, {"author": 5})
    slow.update_many("Comment", [(1, {"author": None}), (2, {"author": None})])
    slow.delete("User", 1)
    assert slow.image()["Post"][4]["editor"] is None
    assert slow.tables.rows["Comment"] == {}


def test_a_deletion_that_takes_its_restriction_along_is_called_contested() -> None:
    slow = blog()
    slow.update("Comment", 3, {"post": 2})
    slow.update("Comment", 4, {"author": 2})
    removal = slow.removal("User", [2])
    assert removal.contested
    assert set(removal.rows) == {("User", 2), ("Post", 2), ("Comment", 3), ("Comment", 4)}


def test_unique_values_and_references_are_checked_and_a_refused_batch_leaves_nothing() -> None:
    slow = blog()
    slow.create("Tag", 1, {"slug": "a"})
    for rows in ([(2, {"slug": "b"}), (3, {"slug": "a"})], [(2, {"slug": "c"}), (2, {"slug": "d"})]):
        with pytest.raises(ConstraintViolated):
            slow.create_many("Tag", rows)
    slow.create_many("Tag", [(4, {"slug": None}), (5, {"slug": None})])
    with pytest.raises(ConstraintViolated):
        slow.update("Tag", 4, {"slug": "a"})
    with pytest.raises(ConstraintViolated):
        slow.create("Comment", 9, {"post": 77})
    assert set(slow.tables.rows["Tag"]) == {1, 4, 5}


def test_a_snapshot_brings_back_what_was_written_and_never_an_id() -> None:
    slow = blog()
    snapshot, before = slow.snapshot(), slow.image()
    fresh = slow.allocate("Post")
    slow.create("Post", fresh, {"title": "n", "author": 1})
    slow.delete("Comment", 1)
    slow.restore(snapshot)
    assert slow.image() == before
    assert slow.allocate("Post") > fresh


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (call("eq", column("n"), column("n")), False),
        (call("ne", column("n"), column("n")), True),
        (call("not", call("lt", column("n"), constant(3))), True),
        (call("not", column("flag", type_=BOOL)), True),
        (call("and", column("flag", type_=BOOL), constant(True, BOOL)), False),
        (call("in", column("n"), constant((1, 2))), False),
        (call("is_null", column("n")), True),
        (call("or_else", column("n"), constant(4), type_=INT), 4),
        (call("add", column("n"), constant(4), type_=INT), None),
        (call("div", constant(7), constant(2), type_=FLOAT), 3.5),
        (call("div", constant(7), constant(0), type_=FLOAT), None),
        (call("mul", constant(Decimal("1.25"), MONEY), constant(3), type_=MONEY), Decimal("3.75")),
        (call("neg", constant(3), type_=INT), -3),
        (call("upper", constant("straße", STR), type_=STR), "STRASSE"),
        (column("author", "name", type_=STR), None),
        (call("lt", constant("Z", STR), constant("a", STR)), True),
    ],
)
def test_the_value_of_an_expression(node: Node, expected: Any) -> None:
    one = model(
        record("T", given("n", INT), given("flag", BOOL), LinkModel("author", "T", optional=True), given("name", STR))
    )
    slow = SlowModel(one)
    slow.create("T", 1, {})
    assert evaluate(node, slow.tables, ("T", 1)) == expected


def test_exists_sees_the_reached_row_and_the_one_it_started_from() -> None:
    slow = blog()
    higher = call("gt", column("score"), Column((), "id", INT, optional=False, depth=1))
    reached = Exists((Children("Comment", "post"),), higher, BOOL)
    assert [evaluate(reached, slow.tables, ("Post", row)) for row in (1, 2)] == [True, True]
    slow.update_many("Comment", [(row, {"score": 1}) for row in (1, 2, 3, 4)])
    assert [evaluate(reached, slow.tables, ("Post", row)) for row in (1, 2)] == [False, False]


@pytest.mark.parametrize(
    ("kind", "values", "type_", "expected"),
    [
        ("sum", [], MONEY, Decimal(0)),
        ("sum", [Decimal("0.10"), None, Decimal("0.20")], MONEY, Decimal("0.30")),
        ("sum", [None], INT, 0),
        ("average", [None], FLOAT, None),
        ("average", [None, 1, 2], FLOAT, 1.5),
        ("average", [Decimal("0.10"), Decimal("0.20")], FLOAT, 0.15),
        ("min", [None, date(2026, 2, 1), date(2026, 1, 1)], DATE, date(2026, 1, 1)),
        ("max", ["b", "é", None, "a"], STR, "é"),
        ("any", [None, False], BOOL, False),
        ("every", [True, None], BOOL, False),
        ("every", [], BOOL, True),
        ("count", [None, None], INT, 2),
    ],
)
def test_the_value_of_an_aggregate(kind: AggregateKind, values: list[Any], type_: ValueType, expected: Any) -> None:
    assert agree(aggregate(kind, values, type_), expected)


def test_agree_tolerates_the_order_of_float_sums_and_nothing_else() -> None:
    assert agree(0.1 + 0.2, 0.3)
    assert not agree(0.3, 0.3001)
    assert not agree(None, 0)
    assert not agree(True, 1)


# --- State machines, interactions and derived records --------------------------------------------------------


def transition(sources: str, target: str, trigger: Trigger, record: Any) -> TransitionModel:
    return TransitionModel(tuple(sources.split()), target, trigger, record, HERE)


def shop() -> SlowModel:
    paid = Trigger("Payment", "create", where=call("eq", column("kind", type_=STR), constant("ok", STR)))
    machine = Machine(
        ("pending", "paid", "closed"),
        "pending",
        (
            transition("pending", "paid", paid, lambda e: e.order),
            transition(
                "pending paid", "closed", Trigger("Payment", "create"), lambda e: e.record.order and e.record.order.id
            ),
            transition("*", "pending", Trigger("Reopen", "create", event=True), lambda e: [e.order, None]),
        ),
        {},
    )
    follower = Machine(
        ("quiet", "told"),
        "quiet",
        (transition("*", "told", Trigger("Order", "update", of=("status",)), lambda e: e.record.customer),),
        {
            "told": lambda last, event: f"{last}+{event.old_record.status}>{event.status}",
            "quiet": lambda last, event: "q",
        },
    )
    return SlowModel(
        model(
            record("Customer", FieldModel("told", STR, optional=False, computation=follower)),
            record(
                "Order",
                FieldModel("status", STR, optional=False, computation=machine),
                LinkModel("customer", "Customer", optional=False, on_delete="cascade"),
                edges("open", "count", "Payment", "order"),
            ),
            record("Payment", given("kind", STR), LinkModel("order", "Order", optional=True, on_delete="cascade")),
            record("Reopen", LinkModel("order", "Order", optional=False, on_delete=None), kind="event"),
            record(
                "Note",
                LinkModel("order", "Order", optional=True, on_delete="detach"),
                given("text", STR, default="reopened"),
                transform=TransformModel("Reopen", True, None, lambda e: {"order": e.order}, HERE),
            ),
            interactions={"Reopen": InteractionModel("Reopen", object, None)},
        )
    )


def test_the_first_declared_matching_transition_is_taken_once_per_event() -> None:
    slow = shop()
    slow.create("Customer", 1, {})
    slow.create_many("Order", [(1, {"customer": 1}), (2, {"customer": 1})])
    assert slow.derive()["Order"][1] == {"status": "pending", "open": 0}
    slow.create("Payment", 1, {"kind": "ok", "order": 1})
    assert slow.value("Order", 1, "status") == "paid"
    slow.create_many("Payment", [(2, {"kind": "ok", "order": 1}), (3, {"kind": "no", "order": 2}), (4, {"kind": "ok"})])
    assert [slow.value("Order", row, "status") for row in (1, 2)] == ["closed", "closed"]
    slow.create("Payment", 5, {"kind": "ok", "order": 1})
    assert slow.value("Order", 1, "status") == "closed"


def test_a_machine_moves_on_what_another_machine_writes() -> None:
    slow = shop()
    slow.create("Customer", 1, {})
    assert slow.value("Customer", 1, "told") == "q"
    slow.create("Order", 1, {"customer": 1})
    slow.create("Payment", 1, {"kind": "ok", "order": 1})
    assert slow.value("Customer", 1, "told") == "q+pending>paid"


def test_an_interaction_creates_records_and_moves_machines() -> None:
    slow = shop()
    slow.create("Customer", 1, {})
    slow.create("Order", 1, {"customer": 1})
    slow.create("Payment", 1, {"kind": "no", "order": 1})
    created = slow.dispatch("Reopen", {"order": 1})
    assert created == [("Note", 1)]
    assert slow.image()["Note"] == {1: {"text": "reopened", "order": 1}}
    assert slow.value("Order", 1, "status") == "pending"


def test_a_traced_transform_keeps_one_record_per_source() -> None:
    slow = SlowModel(
        model(
            record("Message", given("text", STR), edges("notes", "count", "Note", "message")),
            record(
                "Note",
                LinkModel("message", "Message", optional=False, on_delete="cascade"),
                given("text", STR),
                given("seen", BOOL, default=False),
                transform=TransformModel(
                    "Message", False, {"message": column("id"), "text": column("text")}, None, HERE
                ),
            ),
        )
    )
    slow.create_many("Message", [(1, {"text": "a"}), (2, {"text": "b"})])
    notes = slow.image()["Note"]
    assert [note["text"] for note in notes.values()] == ["a", "b"]
    first = next(iter(notes))
    slow.update("Note", first, {"seen": True})
    slow.update("Message", 1, {"text": "c"})
    assert slow.image()["Note"][first] == {"message": 1, "text": "c", "seen": True}
    assert slow.derive()["Message"] == {1: {"notes": 1}, 2: {"notes": 1}}
    slow.delete("Message", 1)
    assert [note["text"] for note in slow.image()["Note"].values()] == ["b"]


def test_a_cycle_is_an_error_and_not_an_endless_loop() -> None:
    one = call("add", call("or_else", column("a"), constant(0), type_=INT), constant(1), type_=INT)
    slow = SlowModel(model(record("T", FieldModel("a", INT, optional=False, computation=Formula(one)))))
    slow.create("T", 1, {})
    with pytest.raises(InternalError, match="cycle"):
        slow.derive()
