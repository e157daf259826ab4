"""What a schema refuses of values and of what stands beside them: states, links taken for numbers, mistaken members."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import Any, Literal, Optional

import pytest

from ensue import (
    Average,
    Computed,
    Count,
    DeclarationError,
    Entity,
    Interaction,
    Many,
    Maybe,
    Mutation,
    One,
    Property,
    Relation,
    StateMachine,
    Sum,
    Transition,
)
from tests.unit.schema.cases import Cases, freeze_all

case = Cases()


@pytest.mark.parametrize("name", case.declare)
def test_one_problem(name: str) -> None:
    case.check(name)


class Pay(Interaction):
    order: int


# --- States -----------------------------------------------------------------------------------------------------------


@case("User.late: Order.status == 'payed' has 'payed', which is none of 'pending', 'paid' (did you mean 'paid'?)")
def a_state_that_does_not_exist() -> Any:
    class User(Entity):
        orders = Many(lambda: Order, inverse="user")
        late = Count(orders, where=lambda o: o.status == "payed")

    class Order(Entity):
        user: One[User]
        status = StateMachine(initial="pending", states=["pending", "paid"], transitions=[])

    return User, Order


@case("Order.open: Order.status.in_(['pending', 'open']) has 'open', which is none of 'pending'")
def one_of_several_states_that_does_not_exist() -> Any:
    class Order(Entity):
        status = StateMachine(initial="pending", transitions=[])
        open = Computed[bool](lambda o: o.status.in_(["pending", "open"]))

    return Order


@case("Shipment.state: Order.status == 'payd' has 'payd', which is none of 'pending', 'paid' (did you mean 'paid'?)")
def a_pattern_with_a_state_that_does_not_exist() -> Any:
    class Order(Entity):
        status = StateMachine(
            initial="pending",
            states=["pending", "paid"],
            transitions=[],
        )

    class Shipment(Entity):
        state = StateMachine(
            initial="none",
            transitions=[
                Transition(
                    "none",
                    "due",
                    on=Mutation("Order", "update", where={"status": "payd"}),
                    record=lambda e: e.record.id,
                )
            ],
        )

    return Order, Shipment


def test_what_is_ordered_beside_a_state_or_added_to_it_is_any_text() -> None:
    class Order(Entity):
        kind: Property[Literal["a", "b"]]
        status = StateMachine(initial="pending", transitions=[])
        late = Computed[bool](lambda o: o.status > "m")
        shown = Computed[str](lambda o: o.status + "!" + o.kind + "?")

    model = freeze_all(Order)
    assert model.records["Order"].fields["status"].type.values == ("pending",)
    assert model.records["Order"].fields["shown"].type.kind == "str"


# --- Links ------------------------------------------------------------------------------------------------------------


@case("A.total: the value of Sum is a record (a); expected a value of it, such as its `.id`.")
def the_sum_of_a_link() -> Any:
    class A(Entity):
        items = Many(lambda: B, inverse="a")
        total = Sum(items, lambda b: b.a)  # type: ignore[arg-type, return-value]

    class B(Entity):
        a: One[A]

    return A, B


@case("A.mean: the value of Average is a record (a.next); expected a value of it")
def the_mean_of_a_link_further_on() -> Any:
    class A(Entity):
        next: Maybe[A] = Maybe(default=None)
        items = Many(lambda: B, inverse="a")
        mean = Average(items, lambda b: b.a.next)  # type: ignore[arg-type, return-value]

    class B(Entity):
        a: One[A]

    return A, B


@case("B.sum: `+` in B.a + 1 is applied to B.a, which is a record. Compare records with `==` or `.in_()`")
def a_link_with_something_added() -> Any:
    class A(Entity):
        name: Property[str]

    class B(Entity):
        a: One[A]
        sum = Computed[int](lambda b: b.a + 1)

    return A, B


@case("B.more: `>` in B.a > 3 is applied to B.a, which is a record.")
def a_link_in_an_order() -> Any:
    class A(Entity):
        name: Property[str]

    class B(Entity):
        a: One[A]
        more = Computed[bool](lambda b: b.a > 3)

    return A, B


def test_the_ends_of_a_relation_are_its_required_links() -> None:
    class User(Entity):
        name: Property[str]

    class Invitation(Relation):
        guest: One[User]
        by: Maybe[User] = Maybe(default=None)
        host: One[User]

    record = freeze_all((User, Invitation)).records["Invitation"]
    assert (record.source, record.target, record.unique) == ("guest", "host", (("guest", "host"),))
    made = Invitation(guest=User.ref(1), host=User.ref(2))
    assert (made.source.id, made.target.id) == (1, 2)


@case("Invitation is a Relation and needs two required links")
def a_relation_with_one_required_link() -> Any:
    class User(Entity):
        name: Property[str]

    class Invitation(Relation):
        guest: One[User]
        by: Maybe[User] = Maybe(default=None)

    return User, Invitation


@case(
    "B.many: A.items leads to many records, so B.a.items has no single value here. Declare an AnyOf, Count or Max over items on A"
)
def a_collection_in_a_computation() -> Any:
    class A(Entity):
        items = Many(lambda: B, inverse="a")

    class B(Entity):
        a: One[A]
        many = Computed[bool](lambda b: b.a.items == 3)

    return A, B


# --- Machines ---------------------------------------------------------------------------------------------------------


@case(
    "Order.status: no transition leads to 'pendng', from which one starts, and it is not the initial state. Did you mean 'pend"
)
def a_transition_from_nowhere() -> Any:
    class Order(Entity):
        status = StateMachine(
            initial="pending", transitions=[Transition("pendng", "paid", on=Pay, record=lambda e: e.order)]
        )

    return Order, Pay


@pytest.mark.parametrize("source", ["archived", "step_2"])
def test_a_state_that_nothing_leads_to_may_be_one_of_former_times(source: str) -> None:
    class Order(Entity):
        status = StateMachine(
            initial="step_1", transitions=[Transition(source, "done", on=Pay, record=lambda e: e.order)]
        )

    type_ = freeze_all((Order, Pay)).records["Order"].fields["status"].type
    assert type_.values == ("step_1", source, "done")


@case("Order.status: record= of a Transition is 3; expected a function of the event")
def a_target_that_is_no_function() -> Any:
    class Order(Entity):
        status = StateMachine(
            initial="pending",
            transitions=[Transition("pending", "paid", on=Pay, record=3)],  # type: ignore[call-overload]
        )

    return Order, Pay


@case("Order.status: transitions= holds 'paid'; expected a list of Transition(source, target, on=…, record=…)")
def a_transition_that_is_none() -> Any:
    class Order(Entity):
        status = StateMachine(initial="pending", transitions=["paid"])  # type: ignore[call-overload]

    return Order


@case("Order.status: 3 is no state; expected a name or a State")
def a_state_that_is_none() -> Any:
    class Order(Entity):
        status = StateMachine(initial="open", transitions=[Transition(3, "paid", on=Pay, record=id)])  # type: ignore[call-overload]

    return Order, Pay


# --- Members ----------------------------------------------------------------------------------------------------------


@case("A.x: it has no annotation, and what has none is derived. Write `x: Property[int] = Property(default=3)`.")
def a_property_without_an_annotation() -> Any:
    class A(Entity):
        x = Property(default=3)  # pyright: ignore[reportGeneralTypeIssues]
        more = Computed[int](lambda a: a.x + 1)

    return A


@case("B.a: it has no annotation, and what has none is derived. Write `a: Maybe[…] = Maybe(default=None)`.")
def a_link_without_an_annotation() -> Any:
    class B(Entity):
        a = Maybe(default=None)  # type: ignore[var-annotated]

    return B


def test_a_tool_gives_members_without_annotations() -> None:
    made = Entity.define("Made", x=Property(default=3), y=Property[str](default="y"))
    assert {field.name: field.type.kind for field in freeze_all(made).records["Made"].fields.values()} == {
        "x": "int",
        "y": "str",
    }


class Stamped:
    at: Property[int] = Property(default=0)


@case(
    "Note.at: it stands in Stamped, which is a plain class, so it would be lost. Write `class Stamped(Entity, abstract=True)`."
)
def a_member_of_a_plain_class() -> Any:
    class Note(Stamped, Entity):
        text: Property[str]

    return Note


@case("A.xmin: PostgreSQL has a column 'xmin' of its own in every table. Choose another name.")
def a_name_of_the_database() -> Any:
    class A(Entity):
        xmin: Property[int]

    return A


@case("Wide would have 1501 columns; expected at most 1500")
def a_record_that_is_too_wide() -> Any:
    return Entity.define("Wide", **{f"c{number}": Property[int] for number in range(1500)})


@pytest.mark.parametrize("name", ["a b", "", "1", 3])
def test_a_defined_name_is_one(name: Any) -> None:
    with pytest.raises(DeclarationError, match="is no name"):
        Entity.define(name, x=Property[int])


@pytest.mark.parametrize("unique", [3, "ab", ["ab"], [()]])
def test_unique_is_a_list_of_tuples(unique: Any) -> None:
    with pytest.raises(DeclarationError, match="expected a list of tuples of names"):
        type(Entity)("A", (Entity,), {}, unique=unique)  # type: ignore[call-overload]


def test_derived_is_a_transform() -> None:
    with pytest.raises(DeclarationError, match="expected a Transform"):
        type(Entity)("A", (Entity,), {}, derived=3)  # type: ignore[call-overload]


# --- Values -----------------------------------------------------------------------------------------------------------


@case("A.at: default= is the naive datetime datetime.datetime(2020, 1, 1, 0, 0); give it a time zone")
def a_default_without_a_time_zone() -> Any:
    class A(Entity):
        at: Property[datetime] = Property(default=datetime(2020, 1, 1))  # noqa: DTZ001  # the mistake

    return A


@case("A.n: default= is the integer 9223372036854775808, which needs more than 64 bits")
def a_default_that_is_too_large() -> Any:
    class A(Entity):
        n: Property[int] = Property(default=2**63)

    return A


@case("A.kind: default='c' is none of 'a', 'b'.")
def a_default_that_is_none_of_the_values() -> Any:
    class A(Entity):
        kind: Property[Literal["a", "b"]] = Property(default="c")  # type: ignore[arg-type]

    return A


@case("A.n: check= is 3; expected a function of the value")
def a_check_that_is_no_function() -> Any:
    class A(Entity):
        n: Property[int] = Property(check=3)  # type: ignore[call-overload]

    return A


@case("A.n: In the function given as check=: An expression has no truth value in Python")
def a_check_with_and() -> Any:
    class A(Entity):
        n: Property[int] = Property(check=lambda v: v > 3 and v < 5)

    return A


# --- Guards -----------------------------------------------------------------------------------------------------------


@case("Rename.allow is not async. Write `async def allow(self, ctx)`.")
def a_guard_that_is_not_async() -> Any:
    class Rename(Interaction):
        name: str

        def allow(self, ctx: Any) -> bool:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
            return True

    return Rename


@case("Rename.allow takes (self) -> 'bool'; expected (self, ctx: Context) -> bool.")
def a_guard_without_a_context() -> Any:
    class Rename(Interaction):
        name: str

        async def allow(self) -> bool:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
            return True

    return Rename


def test_a_guard_may_be_decorated() -> None:
    def checked(guard: Any) -> Any:
        @functools.wraps(guard)
        def asked(self: Any, ctx: Any) -> Any:
            return guard(self, ctx)

        return asked

    class Rename(Interaction):
        name: str

        @checked
        async def allow(self, ctx: Any) -> bool:
            return True

    assert "Rename" in freeze_all(Rename).interactions


# --- Annotations ------------------------------------------------------------------------------------------------------


@case("A.b: a link says by its kind whether there may be none. Write Maybe[A], or One[A].")
def a_link_to_a_record_or_none() -> Any:
    class A(Entity):
        b: One[A | None]  # type: ignore[type-var]  # pyright: ignore[reportInvalidTypeArguments]

    return A


@case("A.b: a link says by its kind whether there may be none. Write Maybe[A], or One[A].")
def an_optional_link_to_an_optional_record() -> Any:
    class A(Entity):
        b: Maybe[Optional[A]]  # type: ignore[type-var]  # noqa: UP045  # pyright: ignore[reportInvalidTypeArguments]

    return A


def test_a_cycle_is_told_by_its_way() -> None:
    class A(Entity):
        x = Computed[int](lambda a: a.y + 1)
        y = Computed[int](lambda a: a.x + 1)

    with pytest.raises(DeclarationError) as caught:
        freeze_all(A)
    assert [problem.message.partition(" (")[0] for problem in caught.value.problems] == [
        "These computations depend on each other: A.x -> A.y -> A.x"
    ]
