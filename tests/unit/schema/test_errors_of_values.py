"""What a schema refuses of values and of what stands beside them: states, links taken for numbers, mistaken members."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from ensue import (
    Average,
    Computed,
    Count,
    Entity,
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
