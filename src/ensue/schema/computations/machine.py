"""`StateMachine`, `State`, `Transition`, `Mutation`: a value that moves when something happens.

Decides how states and triggers may be written, and what of it makes sense. When transitions fire is the engine's rule:
the first declared one that matches, once per event. Invariant: states have names, whichever way they were given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast, overload

from ensue.errors import DeclarationError, Problem
from ensue.expression.nodes import Node
from ensue.expression.trace import Expr, Operation, Path, Root, operand
from ensue.expression.types import ValueType
from ensue.schema.computations.contract import Built, Computation, Declared, Scope, require_scale
from ensue.schema.entity import Entity
from ensue.schema.event import MutationEvent
from ensue.schema.interaction import Interaction
from ensue.schema.model import NO_DEFAULT, Change, Machine, TransitionModel, Trigger
from ensue.schema.written.names import MUTATION_NAMES, misspelt, suggestion
from ensue.schema.written.origin import here
from ensue.schema.written.value import STR

T = TypeVar("T")
E = TypeVar("E", bound=Entity)
I = TypeVar("I", bound=Interaction)  # noqa: E741  # an interaction

CHANGES = ("create", "update", "delete")


class State:
    """A state by name; with `value` (last value, event) -> value, sync or async, the property holds what it returns."""

    def __init__(self, name: str, *, value: Callable[[Any, Any], Any] | None = None) -> None:
        self.name = name
        self.value = value


class Mutation(Generic[E]):
    """A change of a record as a trigger: `Mutation(TaskEvent, "create", where=lambda e: e.status == "done")`.

    The record type by class or by name. `of` narrows updates to changes of these fields. `where` is a condition, or a
    mapping of names to values, on the new side (of a delete on the old).
    """

    @overload
    def __init__(
        self,
        record: type[E],
        change: Change,
        *,
        of: Sequence[Any] = ...,
        where: Callable[[type[E]], Expr[bool]] | Mapping[str, object] | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: Mutation[Any],
        record: str,
        change: Change,
        *,
        of: Sequence[str] = ...,
        where: Callable[[Any], Expr[bool]] | Mapping[str, object] | None = ...,
    ) -> None: ...
    def __init__(self, record: Any, change: Change, *, of: Sequence[Any] = (), where: Any = None) -> None:
        self.record: Any = record
        self.change: Change = change
        self.of: tuple[Any, ...] = tuple(of)
        self.where: Callable[[Any], Any] | Mapping[str, object] | None = where
        self.origin = here()


class Transition:
    """From one of `source` to `target` when `on` happens, for the record (or id, or several, or None) that
    `record(event)` names.

    `source` is a state, several, or `"*"`. `on` is an interaction or a `Mutation`; `record` gets the interaction or the
    `MutationEvent`, and may be async. The first transition that matches is taken, once for each event.

    >>> class Pay(Interaction):
    ...     order: Ref[Order]
    >>> paid = Transition("pending", "paid", on=Pay, record=lambda e: e.order)
    """

    @overload
    def __init__(
        self,
        source: str | State | Sequence[str | State],
        target: str | State,
        *,
        on: Mutation[E],
        record: Callable[[MutationEvent[E]], object],
    ) -> None: ...
    @overload
    def __init__(
        self,
        source: str | State | Sequence[str | State],
        target: str | State,
        *,
        on: type[I] | Callable[[], type[I]],
        record: Callable[[I], object],
    ) -> None: ...
    def __init__(self, source: Any, target: Any, *, on: Any, record: Callable[[Any], object]) -> None:
        several = cast("Iterable[Any]", source) if isinstance(source, list | tuple | set | frozenset) else (source,)
        self.sources = tuple(_name(item) for item in several)
        self.target = _name(target)
        self.on: Any = on
        self.record = record
        self.origin = here()


class StateMachine(Computation[T]):
    """A property that holds a state, or with `State(value=…)` what that function gives.

    The states are those that `states=`, or else `initial` and the transitions, name; a comparison with another is refused.

    >>> status = StateMachine(initial="pending", transitions=[])
    """

    @overload
    def __init__(
        self: StateMachine[str], *, initial: str, transitions: Iterable[Transition], states: Sequence[str] = ...
    ) -> None: ...
    @overload
    def __init__(
        self: StateMachine[Any], *, initial: State, transitions: Iterable[Transition], states: Sequence[State]
    ) -> None: ...
    def __init__(self, *, initial: Any, transitions: Iterable[Transition], states: Sequence[Any] = ()) -> None:
        super().__init__()
        self.initial = _name(initial)
        given: Any = transitions
        self.transitions: tuple[Transition, ...] = (
            tuple(cast("Iterable[Any]", given)) if isinstance(given, Iterable) else (given,)
        )
        self.states: tuple[str | State, ...] = (states,) if isinstance(states, str) else tuple(states)

    def references(self) -> Iterable[Any]:
        for transition in self.transitions:
            if not isinstance(cast("Any", transition), Transition):
                continue
            mutation = mutation_of(transition)
            yield transition.on if mutation is None else mutation.record

    def build(self, scope: Scope) -> Built:
        if scope.is_global:
            raise DeclarationError(
                "a StateMachine belongs to a record; a Globals class has aggregates over entities only."
            )
        states = self._states()
        problems: list[Problem] = []
        transitions: list[TransitionModel] = []
        for transition in self.transitions:
            try:
                transitions.append(_built(transition, states, scope))
            except DeclarationError as error:
                problems += [
                    Problem(item.code, item.message, item.origin or transition.origin) for item in error.problems
                ]
        problems += _ambiguous(transitions)
        if problems:
            raise DeclarationError(problems)
        values = {item.name: item.value for item in self.states if isinstance(item, State) and item.value is not None}
        return Built(Machine(states, self.initial, tuple(transitions), values), *self.early(scope))

    def early(self, scope: Scope) -> tuple[ValueType, bool, Any]:
        """The property's type, whether it may be None, and its value at the start: all that others need to know."""
        by_function = any(isinstance(item, State) and item.value is not None for item in self.states)
        return _value(scope.declared, self._states(), self.initial, by_function=by_function)

    def _states(self) -> tuple[str, ...]:
        self._require_states()
        if self.states:
            states = tuple(dict.fromkeys(_name(item) for item in self.states))
        else:
            named = [name for item in self.transitions for name in (*item.sources, item.target) if name != "*"]
            states = tuple(dict.fromkeys((self.initial, *named)))
            self._refuse_misspelt(states)
        if self.initial not in states:
            raise DeclarationError(
                f"the initial state {self.initial!r} is not among states=.{suggestion(self.initial, states)}"
            )
        return states

    def _refuse_misspelt(self, states: Iterable[str]) -> None:
        """A state that nothing leads to may be one of former times; one that is nearly called as another is a mistake."""
        reached = sorted({self.initial, *(item.target for item in self.transitions)})
        for name in states:
            if name not in reached and (close := misspelt(name, reached)) is not None:
                raise DeclarationError(
                    f"no transition leads to {name!r}, from which one starts, and it is not the initial state. Did you mean "
                    f"{close!r}? If records are in it all the same, name all states in states=."
                )

    def _require_states(self) -> None:
        names: list[Any] = [self.initial, *map(_name, self.states)]
        for item in cast("tuple[Any, ...]", self.transitions):
            if not isinstance(item, Transition):
                raise DeclarationError(
                    f"transitions= holds {item!r}; expected a list of Transition(source, target, on=…, record=…)."
                )
            names += [*item.sources, item.target]
        for name in names:
            if not isinstance(name, str):
                raise DeclarationError(f"{name!r} is no state; expected a name or a State.")


def mutation_of(transition: Transition) -> Mutation[Any] | None:
    """What the transition is triggered by, if that is a change and not an interaction."""
    on: object = transition.on
    return cast("Mutation[Any]", on) if isinstance(on, Mutation) else None


def _name(state: str | State) -> str:
    return state.name if isinstance(state, State) else state


def _built(transition: Transition, states: tuple[str, ...], scope: Scope) -> TransitionModel:
    if not callable(transition.record):
        raise DeclarationError(
            f"record= of a Transition is {transition.record!r}; expected a function of the event, such as `lambda e: e.order`."
        )
    for name in (*transition.sources, transition.target):
        if name not in states and not (name == "*" and name in transition.sources):
            raise DeclarationError(f"{name!r} is no state of {scope.host}.{scope.name}.{suggestion(name, states)}")
    mutation = mutation_of(transition)
    trigger = _interaction(transition.on, scope) if mutation is None else _mutation(mutation, scope)
    return TransitionModel(transition.sources, transition.target, trigger, transition.record, transition.origin)


def _interaction(on: Any, scope: Scope) -> Trigger:
    name = scope.record(on)
    if scope.kind(name) != "event":
        raise DeclarationError(
            f"on={name} is a record type; expected an interaction, or Mutation({name}, 'create') for its changes."
        )
    return Trigger(name, "create", event=True)


def _mutation(mutation: Mutation[Any], scope: Scope) -> Trigger:
    name = scope.record(mutation.record)
    if mutation.change not in CHANGES:
        raise DeclarationError(f"Mutation({name}, {mutation.change!r}): expected one of {', '.join(CHANGES)}.")
    if scope.kind(name) == "event":
        raise DeclarationError(f"Mutation({name}): it is an interaction; write on={name}.")
    of = tuple(_field(item, name, scope) for item in mutation.of)
    return Trigger(name, mutation.change, of=of, where=_where(mutation, name, scope))


def _where(mutation: Mutation[Any], record: str, scope: Scope) -> Node | None:
    where = mutation.where
    if where is None:
        return None
    if isinstance(where, Mapping):
        return _pattern(cast("Mapping[str, object]", where), record, scope)
    node = scope.expression(where, record, "where=")
    if node.type.base != "bool":
        raise DeclarationError(f"where= must be a condition (bool); the expression gives {node.type}.")
    return node


def _pattern(where: Mapping[str, object], record: str, scope: Scope) -> Node | None:
    own = {name.split(".", 1)[0] for name in where} & MUTATION_NAMES
    if own:
        name = min(own)
        raise DeclarationError(
            f"where={{{name!r}: …}} is ambiguous: on the event, {name!r} is the MutationEvent's own attribute and "
            f"not {record}'s. "
            f"Write where=lambda r: r.{name} == …, which speaks of the record."
        )
    if not where:
        return None
    root = Root(record)
    terms: list[Expr[Any]] = [Path(root, tuple(name.split("."))) == value for name, value in where.items()]
    whole = terms[0]
    for term in terms[1:]:
        whole = Operation("and", (whole, operand(term)))
    return scope.resolved(whole, record)


def _field(item: Any, record: str, scope: Scope) -> str:
    name = item.steps[0] if isinstance(item, Path) and len(item.steps) == 1 else item
    if not isinstance(name, str) or scope.types.member(record, name) is None:
        raise DeclarationError(
            f"of=[{item!r}]: {record} has no such field.{suggestion(str(item), scope.types.names(record))}"
        )
    return name


def _ambiguous(transitions: Sequence[TransitionModel]) -> list[Problem]:
    seen: dict[tuple[str, Trigger], TransitionModel] = {}
    problems: list[Problem] = []
    for transition in transitions:
        for source in transition.sources:
            first = seen.setdefault((source, transition.trigger), transition)
            if first.target != transition.target:
                problems.append(
                    Problem(
                        DeclarationError.code,
                        f"two transitions from {source!r} on the same {transition.trigger.record} lead to "
                        f"{first.target!r} (line "
                        f"{first.origin.line}) and {transition.target!r}. Only the first could ever happen; tell "
                        "them apart with where=.",
                        transition.origin,
                    )
                )
    return problems


def _value(
    declared: Declared | None, states: tuple[str, ...], initial: str, *, by_function: bool
) -> tuple[ValueType, bool, Any]:
    """The type of the property, whether it may be None, and its value at the start."""
    if declared is None:
        return STR if by_function else _of_states(states), False, initial
    require_scale(declared)
    type_ = declared.type
    if not by_function:
        wrong = [name for name in states if type_.base != "str" or (type_.values and name not in type_.values)]
        if wrong:
            raise DeclarationError(
                f"the state {wrong[0]!r} is no value of the property, which is {type_}. Add it to the type, or give "
                "State(value=…)."
            )
        if type_ == STR and not callable(declared.default):
            type_ = _of_states(states if declared.default in (NO_DEFAULT, None) else (*states, declared.default))
    if declared.default is not NO_DEFAULT:
        return type_, declared.optional, declared.default
    if type_.base == "str" and (not type_.values or initial in type_.values):
        return type_, declared.optional, type_.python(initial) if type_.kind == "enum" else initial
    if declared.optional:
        return type_, True, None
    raise DeclarationError(
        f"what is the value at the start? The property is {type_}; give it a default, or make it optional."
    )


def _of_states(states: Iterable[str]) -> ValueType:
    """Text that is one of these, so that a comparison with anything else is refused where it is written."""
    return ValueType("literal", str, values=tuple(dict.fromkeys(states)))
