"""What is wrong with state machines, derived records and side effects: one test per message."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from ensue.errors import DeclarationError, PlannedError
from ensue.expression.trace import Path, Root, Shape
from ensue.schema.computations.computed import Computed
from ensue.schema.computations.machine import Mutation, State, StateMachine, Transition
from ensue.schema.computations.transform import Transform
from ensue.schema.effect import SideEffect, side_effect
from ensue.schema.entity import Entity, Globals, Keep
from ensue.schema.interaction import Activity, Interaction, define_type
from ensue.schema.property import Property
from ensue.schema.relation import Many, Maybe, One, Ref
from ensue.schema.schema import Schema
from tests.unit.schema.cases import Cases, freeze_all

case = Cases()


# --- State machines ---------------------------------------------------------------------------------------------------


class Go(Interaction):
    count: int


@case("'dne' is no state of A.status. Did you mean 'done'?")
def an_unknown_state() -> Any:
    class A(Entity):
        status = StateMachine(
            initial="open", states=["open", "done"], transitions=[Transition("open", "dne", on=Go, record=lambda e: 1)]
        )

    return A


@case("the initial state 'opn' is not among states=. Did you mean 'open'?")
def an_unknown_initial_state() -> Any:
    class A(Entity):
        status = StateMachine(initial="opn", states=["open", "done"], transitions=[])

    return A


@case("two transitions from 'open' on the same Go lead to 'done' (line ")
def an_ambiguous_transition() -> Any:
    class A(Entity):
        status = StateMachine(
            initial="open",
            transitions=[
                Transition("open", "done", on=Go, record=lambda e: 1),
                Transition("open", "closed", on=Go, record=lambda e: 1),
            ],
        )

    return A


@case("there is no record type 'Evnt'. Did you mean 'Event'?")
def an_unknown_trigger() -> Any:
    class Event(Entity):
        x: Property[int]

    class A(Entity):
        status = StateMachine(
            initial="open", transitions=[Transition("open", "done", on=Mutation("Evnt", "create"), record=lambda e: 1)]
        )

    return A, Event


@case("where={'type': …} is ambiguous: on the event, 'type' is the MutationEvent's own attribute and not Event's")
def a_pattern_of_the_event_itself() -> Any:
    class Event(Entity):
        type: Property[str]

    class A(Entity):
        status = StateMachine(
            initial="open",
            transitions=[
                Transition("open", "done", on=Mutation(Event, "create", where={"type": "x"}), record=lambda e: 1)
            ],
        )

    return A, Event


@case("Mutation(Event, 'upsert'): expected one of create, update, delete")
def an_unknown_change() -> Any:
    class Event(Entity):
        x: Property[int]

    class A(Entity):
        status = StateMachine(
            initial="open",
            transitions=[
                Transition("open", "done", on=Mutation(Event, "upsert"), record=lambda e: 1)  # type: ignore[arg-type]
            ],
        )

    return A


@case("of=['y']: Event has no such field")
def an_unknown_field_of_a_trigger() -> Any:
    class Event(Entity):
        x: Property[int]

    class A(Entity):
        status = StateMachine(
            initial="open",
            transitions=[Transition("open", "done", on=Mutation("Event", "update", of=["y"]), record=lambda e: 1)],
        )

    return A, Event


@case("on=Event is a record type; expected an interaction, or Mutation(Event, 'create')")
def a_record_as_trigger() -> Any:
    class Event(Entity):
        x: Property[int]

    class A(Entity):
        status = StateMachine(
            initial="open",
            transitions=[Transition("open", "done", on=Event, record=lambda e: 1)],  # type: ignore[arg-type, call-overload]
        )

    return A


@case("Mutation(Go): it is an interaction; write on=Go")
def an_interaction_as_mutation() -> Any:
    class A(Entity):
        status = StateMachine(
            initial="open", transitions=[Transition("open", "done", on=Mutation("Go", "create"), record=lambda e: 1)]
        )

    return A, Go


@case("what is the value at the start? The property is int")
def a_machine_without_a_start() -> Any:
    class A(Entity):
        n = StateMachine[int](
            states=[node := State("n", value=lambda last, event: 3)],
            initial=node,
            transitions=[Transition(node, node, on=Go, record=lambda e: 1)],
        )

    return A


# --- Transforms and side effects --------------------------------------------------------------------------------------


class Source(Entity):
    text: Property[str]
    size: Property[int | None]


@case("B has no 'txt'. Did you mean 'text'?")
def a_mapping_of_an_unknown_name() -> Any:
    class B(Entity, derived=Transform(lambda: Source, lambda s: {"text": s.text, "txt": s.text})):
        text: Property[str]

    return B, Source


@case("the mapping gives no text; B needs it")
def an_incomplete_mapping() -> Any:
    class B(Entity, derived=Transform(lambda: Source, lambda s: {})):
        text: Property[str]

    return B, Source


@case("the mapping's value can be None, but it can't")
def a_mapping_that_may_be_none() -> Any:
    class B(Entity, derived=Transform(lambda: Source, lambda s: {"n": s.size})):
        n: Property[int]

    return B, Source


@case("it links to B, but the mapping gives a Source")
def a_mapping_to_another_record() -> Any:
    class B(Entity, derived=Transform(lambda: Source, lambda s: {"b": s})):
        b: Maybe[B]

    return B, Source


@case("the mapping gave str; expected dict(field=expression, …). Use compute=")
def a_mapping_that_is_none() -> Any:
    class B(Entity, derived=Transform(lambda: Source, lambda s: "x")):  # type: ignore[arg-type, return-value]
        text: Property[str]

    return B, Source


@case("the mapping over a record type is traced and can't be async. Use compute=")
def an_async_mapping() -> Any:
    async def later(s: Any) -> Any:
        return {"text": s.text}

    class B(Entity, derived=Transform(lambda: Source, later)):  # type: ignore[call-overload]
        text: Property[str]

    return B, Source


@case("its source List only reads (reads=…)")
def a_source_that_only_reads() -> Any:
    class List(Interaction, reads=Source):
        limit: int

    class B(Entity, derived=Transform(List, lambda e: {"n": e.limit})):
        n: Property[int]

    return B


async def content(_: Any) -> None: ...


@case("side effect 'x.y': its content is not async")
def a_side_effect_that_is_not_async() -> Any:
    return Source, {"x.y": SideEffect("y", Source, on="create", content=lambda e: None)}  # type: ignore[arg-type, return-value]


@case("side effect 'x.y': fields=[Source.txt]: Source has no 'txt'. Did you mean 'text'?")
def an_unknown_field_of_a_side_effect() -> Any:
    source: Any = "Source"
    return Source, {"x.y": SideEffect("y", source, on="create", content=content, fields=[_path("txt")])}


@case("side effect 'x.y': fields=['txt']: Source has no 'txt'. Did you mean 'text'?")
def an_unknown_field_by_name_of_a_side_effect() -> Any:
    return Source, {"x.y": SideEffect("y", "Source", on="create", content=content, fields=["size", "txt"])}


@case("side effect 'x.y': fields=[Other.name]: Other.name starts at Other, and is selected of Source")
def a_field_of_another_record_in_a_side_effect() -> Any:
    fields: Any = [Shape(None, (Path(Root("Other"), ("name",)),))]
    return Source, {"x.y": SideEffect("y", "Source", on="create", content=content, fields=fields)}


@case("side effect 'x.y': fields=[['text', ['size']]]: a property has no fields of its own")
def a_field_of_a_property_in_a_side_effect() -> Any:
    return Source, {"x.y": SideEffect("y", "Source", on="create", content=content, fields=[["text", ["size"]]])}


@case("side effect 'x.y': of=['nothing']: Source has no such field")
def an_unknown_change_of_a_side_effect() -> Any:
    return Source, {"x.y": SideEffect("y", "Source", on="create", content=content, of=["nothing"])}


@case("side effect 'x.y': of='text': expected a list of fields, of=[…].")
def one_change_of_a_side_effect_by_itself() -> Any:
    return Source, {"x.y": SideEffect("y", "Source", on="create", content=content, of="text")}


@case("side effect 'x.y': fields=Source.text: expected a list of fields, fields=[…].")
def one_field_of_a_side_effect_by_itself() -> Any:
    return Source, {"x.y": SideEffect("y", "Source", on="create", content=content, fields=_path("text"))}


@case("side effect 'x.a b': its name 'a b' must be letters, digits, '_', '-', '.' and ':'.")
def a_side_effect_with_a_name_of_two_words() -> Any:
    return Source, {"x.a b": SideEffect("a b", "Source", on="create", content=content)}


@case("side effect 'x.y': its content takes () besides self; expected one parameter: `async def content(effect)`.")
def a_content_without_a_parameter() -> Any:
    async def nothing() -> None: ...

    taken: Any = nothing
    return Source, {"x.y": SideEffect("y", "Source", on="create", content=taken)}


@case("side effect 'x.y': verify= takes (effect, key) besides self; expected one parameter")
def a_question_with_two_parameters() -> Any:
    async def asked(effect: Any, key: str) -> bool:
        return bool(key)

    question: Any = asked
    return Source, {"x.y": SideEffect("y", "Source", on="create", content=content, verify=question)}


@case("side effect 'x.y': relay= is str; expected Nats(url), or a function of the integration that gives one.")
def a_relay_that_is_an_address() -> Any:
    relay: Any = "nats://broker"
    return Source, {"x.y": SideEffect("y", "Source", on="create", content=content, relay=relay)}


@case("side effect 'x.y': where= must be a condition (bool)")
def a_side_effect_where_that_is_none() -> Any:
    where: Any = lambda s: s.text  # noqa: E731
    return Source, {"x.y": SideEffect("y", Source, on="create", content=content, where=where)}


@case("Source.text.relation is no record type; expected a class, a name, or `Post.tags.relation`")
def no_relation() -> Any:
    where: Any = _path("text").relation
    return Source, {"x.y": SideEffect("y", where, on="create", content=content)}


def _path(name: str) -> Any:
    from ensue.expression.trace import Path, Root

    return Path(Root("Source"), (name,))


@pytest.mark.parametrize("name", list(case.declare))
def test_one_problem(name: str) -> None:
    case.check(name)


def test_all_problems_at_once_in_the_order_of_their_lines() -> None:
    class A(Entity):
        ref: Property[str]
        x: Property[complex]
        b: One[Nowhere]  # type: ignore[name-defined]  # noqa: F821
        n = Computed[int](lambda a: a.x + 1)  # depends on what is broken: says nothing
        m = Computed[int](lambda a: a.nothing)

    with pytest.raises(DeclarationError) as caught:
        freeze_all(A)
    lines = [problem.origin.line for problem in caught.value.problems if problem.origin is not None]
    first = freeze_all.__code__.co_firstlineno
    assert lines == sorted(lines)
    assert len(lines) == 4
    assert lines[0] > first
    assert re.findall(r"A\.(\w+)", str(caught.value))[:1] == ["ref"]


PLANNED: dict[str, Callable[[], Any]] = {
    "where": lambda: type("B", (Source,), {}, where=lambda s: s.text == "x"),
    "identity": lambda: type("B", (Entity,), {}, identity=("a",)),
    "retention": lambda: type("B", (Entity,), {}, retention=Keep(days=3)),
    "symmetric": lambda: Many(lambda: Source, symmetric=True),
    "activity": lambda: type("B", (Activity,), {}),
    "activities": lambda: Schema.collect(activities=[object()]),
    "define_type": lambda: define_type("money"),
    "contention": lambda: type("B", (Globals,), {}, contention="sharded"),
}


@pytest.mark.parametrize("name", list(PLANNED))
def test_what_is_named_and_not_built_is_refused(name: str) -> None:
    with pytest.raises(PlannedError, match="planned"):
        PLANNED[name]()


def test_a_transform_needs_one_function() -> None:
    with pytest.raises(DeclarationError, match="Transform takes one function"):
        Transform(lambda: Source)  # type: ignore[call-overload]


@pytest.mark.parametrize("on", ["upsert", None, [], ["create", 3]])
def test_a_side_effect_names_changes(on: Any) -> None:
    with pytest.raises(DeclarationError, match=re.escape(f"on={on!r}: expected 'create', 'update', 'delete'")):
        side_effect(Source, on=on)


def test_a_payload_reference_leads_to_an_entity() -> None:
    class Do(Interaction):
        other: Ref[Go]  # type: ignore[type-var]

    with pytest.raises(DeclarationError, match="it links to Go, which is no Entity or Relation"):
        freeze_all((Do, Go))
