"""Pass: side effects. Their records are found, their conditions typed, the fields they name checked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from ensue.errors import DeclarationError, PlannedError
from ensue.expression.nodes import Node
from ensue.expression.records import CollectionType, FieldType
from ensue.expression.trace import Path, Shape
from ensue.schema.delivery import Nats, Retry, Target
from ensue.schema.effect import EffectOptions, SideEffect
from ensue.schema.model import ID_TYPE, EffectModel
from ensue.schema.passes.build import Build
from ensue.schema.passes.scope import expression
from ensue.schema.written.call import misfit
from ensue.schema.written.names import suggestion

_NAME = re.compile(r"[\w.:-]+")


def build_effects(build: Build, side_effects: Mapping[str, SideEffect]) -> dict[str, EffectModel]:
    """The side effects of an app, by qualified name."""
    found: dict[str, EffectModel] = {}
    targets: dict[str, Target] = {}
    for name, effect in side_effects.items():
        try:
            found[name] = _effect(build, name, effect)
            _one_meaning(targets, effect.options.target)
        except DeclarationError as error:
            build.report(error, f"side effect {name!r}", effect.origin)
    return found


def _one_meaning(targets: dict[str, Target], target: Target | None) -> None:
    if target is not None and targets.setdefault(target.name, target) != target:
        raise DeclarationError(
            f"target {target.name!r} is declared with other limits elsewhere: {targets[target.name]!r} and {target!r}."
            " Make one Target and use it for both."
        )


def _effect(build: Build, name: str, effect: SideEffect) -> EffectModel:
    if not isinstance(effect.name, str) or _NAME.fullmatch(effect.name) is None:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DeclarationError(f"its name {effect.name!r} must be letters, digits, '_', '-', '.' and ':'.")
    record = build.record(effect.record)
    options = effect.options
    if build.drafts[record].cls.__ensue_private__:
        raise DeclarationError(
            f"{record} is declared private=True, and what an effect is given is stored and written as JSON. Listen to "
            "a record that names it by id."
        )
    if build.drafts[record].kind == "globals":
        raise PlannedError(f"side effects of globals ({record}) are planned.")
    if not any(inspect.iscoroutinefunction(item) for item in (effect.content, type(effect.content).__call__)):
        raise DeclarationError("its content is not async; expected `async def content(effect)`.")
    _check_parameter("its content", effect.content, "async def content(effect)")
    _check(options)
    _check_relay(options)
    where = None if options.where is None else _condition(build, options.where, record)
    order_by = None if options.order_by is None else expression(build, options.order_by, record, "order_by=")
    fields = tuple(_selected(build, item, record) for item in options.fields)
    return EffectModel(
        name,
        record,
        effect.on,
        fields,
        tuple(_field(build, item, record) for item in options.of),
        where,
        order_by,
        durable=options.delivery == "durable",
        content=effect.content,
        options={option: getattr(options, option) for option in OF_DELIVERY},
        origin=effect.origin,
        delay=options.delay
        if options.delay is None or isinstance(options.delay, timedelta)
        else _delay(build, options.delay, record),
    )


def _check_parameter(what: str, function: Any, expected: str) -> None:
    """Refuse what can't be called with an effect: the first call would be too late, and by then effects wait for it."""
    names = misfit(function, None)
    if names is not None:
        raise DeclarationError(f"{what} takes ({names}) besides self; expected one parameter: `{expected}`.")


OF_DELIVERY = (
    "retry",
    "timeout_seconds",
    "concurrency",
    "target",
    "poison",
    "coalesce",
    "batch",
    "priority",
    "verify",
    "key_ttl",
    "relay",
)
"""The options that matter to delivery; a frozen side effect has them under these names."""


_TYPES: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("retry", (Retry,), "Retry(max_attempts=5)"),
    ("target", (Target, type(None)), 'Target("crm")'),
    ("timeout_seconds", (int, float), "a number of seconds"),
    ("concurrency", (int,), "a whole number"),
    ("batch", (int, type(None)), "a whole number"),
    ("priority", (int,), "a whole number from 0 to 9"),
    ("key_ttl", (timedelta, type(None)), "timedelta(hours=24)"),
)


def _check_limits(options: EffectOptions) -> None:
    """Refuse what a type checker would have refused, where nobody ran one, and limits that let nothing pass."""
    for option, types, expected in _TYPES:
        found = getattr(options, option)
        if not isinstance(found, types) or isinstance(found, bool):
            raise DeclarationError(f"{option}={found!r}: expected {expected}.")
    if not 0 < options.timeout_seconds < float("inf") or options.concurrency < 1:
        found = f"timeout_seconds={options.timeout_seconds}, concurrency={options.concurrency}"
        raise DeclarationError(f"{found}: expected seconds above 0, and at least one call at a time.")
    if options.retry.max_attempts < 1 or options.retry.max_age <= timedelta(0):
        raise DeclarationError(
            f"{options.retry!r}: both limits must be above 0; max_attempts=1 says that a failure is final."
        )


def _check(options: EffectOptions) -> None:
    """Refuse values that mean nothing, and combinations of which one half would be ignored."""
    _check_limits(options)
    _check_after_commit(options)
    for name in ("of", "fields"):
        if not isinstance(getattr(options, name), list | tuple | set | frozenset):
            raise DeclarationError(f"{name}={getattr(options, name)!r}: expected a list of fields, {name}=[…].")
    if options.poison not in ("skip", "block", "park"):
        raise DeclarationError(f"poison={options.poison!r}: expected 'skip', 'block' or 'park'.")
    if options.order_by is None and (options.coalesce or options.poison != "skip"):
        what = "coalesce=True" if options.coalesce else f"poison={options.poison!r}"
        raise DeclarationError(f"{what} is about the effects of one key; add order_by=.")
    if options.batch is not None and options.batch < 1:
        raise DeclarationError(
            f"batch={options.batch!r}: expected how many effects the function takes at most, 1 or more."
        )
    if not 0 <= options.priority <= 9:
        raise DeclarationError(f"priority={options.priority!r}: expected 0 (the default) to 9.")
    if options.key_ttl is not None and options.key_ttl <= timedelta(0):
        raise DeclarationError(f"key_ttl={options.key_ttl!r}: expected how long the other side folds repeats, above 0.")
    if isinstance(options.delay, timedelta) and options.delay < timedelta(0):
        raise DeclarationError(f"delay={options.delay!r}: expected a time that is not negative.")
    if options.verify is not None:
        if not inspect.iscoroutinefunction(getattr(options.verify, "func", options.verify)):
            raise DeclarationError("verify= is not async; expected `async def verify(effect)`.")
        _check_parameter("verify=", options.verify, "async def verify(effect)")


DURABLE_ONLY = (
    "order_by",
    "coalesce",
    "poison",
    "retry",
    "priority",
    "batch",
    "delay",
    "target",
    "verify",
    "key_ttl",
)
"""The options that are kept with an effect in its table, or rest on its being there; `relay` excludes itself."""


def _check_after_commit(options: EffectOptions) -> None:
    """Refuse what only effects in the table have."""
    if options.delivery not in ("durable", "after_commit"):
        raise DeclarationError(f"delivery={options.delivery!r}: expected 'durable' or 'after_commit'.")
    without = EffectOptions()
    given = [name for name in DURABLE_ONLY if getattr(options, name) != getattr(without, name)]
    if options.delivery == "after_commit" and given:
        raise DeclarationError(
            f"{', '.join(f'{name}=' for name in given)} needs delivery='durable': an after-commit effect is called once, at"
            " once, and not kept. Leave delivery= out, or the other."
        )


def _check_relay(options: EffectOptions) -> None:
    """Refuse what is no relay, and what the table of effects keeps and a broker does not."""
    if options.relay is not None and not isinstance(options.relay, Nats) and not callable(options.relay):
        found = type(options.relay).__name__
        raise DeclarationError(
            f"relay= is {found}; expected Nats(url), or a function of the integration that gives one."
        )
    given = {
        "order_by=": options.order_by is not None,
        "batch=": options.batch is not None,
        "verify=": options.verify is not None,
        "target=": options.target is not None,
        "priority=": options.priority != 0,
        "key_ttl=": options.key_ttl is not None,
        "delivery='after_commit'": options.delivery == "after_commit",
    }
    wrong = [name for name, there in given.items() if there]
    if options.relay is not None and wrong:
        raise DeclarationError(
            f"relay= and {wrong[0]} exclude each other: behind a relay effects are called by whoever takes them first, one by "
            "one, as at-least-once messages. Leave one of the two out."
        )


def _delay(build: Build, delay: Any, record: str) -> Node | timedelta | None:
    if delay is None or isinstance(delay, timedelta):
        return delay
    node = expression(build, delay, record, "delay=")
    if node.type.base not in ("int", "float", "decimal", "datetime"):
        raise DeclarationError(f"delay= must be a number of seconds or a datetime; the expression gives {node.type}.")
    return node


def _condition(build: Build, where: Any, record: str) -> Node:
    node = expression(build, where, record, "where=")
    if node.type.base != "bool":
        raise DeclarationError(f"where= must be a condition (bool); the expression gives {node.type}.")
    return node


def _field(build: Build, item: Any, record: str) -> str:
    name = item.steps[0] if isinstance(item, Path) and len(item.steps) == 1 else item
    if not isinstance(name, str) or build.member(record, name) is None:
        raise DeclarationError(
            f"of=[{item!r}]: {record} has no such field.{suggestion(str(item), build.names(record))}"
        )
    if isinstance(build.member(record, name), CollectionType):
        raise DeclarationError(
            f"of=[{item!r}] is a collection; its changes are changes of the other record. Name fields and links."
        )
    return name


def _selected(build: Build, item: Any, record: str) -> Any:
    """The item itself, once everything in it is known: at the first change it would be too late to say so."""
    match item:
        case Shape():
            steps = () if item.path is None else _steps(item, item.path, record)
            _all_selected(build, item, item.fields, _target(build, item, steps, record))
        case Path():
            _target(build, item, _steps(item, item, record), record)
        case str():
            _target(build, item, tuple(item.split(".")), record)
        case [str() as name, [*inner]]:
            _all_selected(build, item, inner, _target(build, item, tuple(name.split(".")), record))
        case type() if item.__name__ == record:
            pass
        case _:
            raise DeclarationError(
                f"fields=[{item!r}]: expected fields such as {record}.name, {record}.link.fields(…), or by name "
                '"name", "link.name", ["link", ["name"]].'
            )
    return item


def _all_selected(build: Build, item: Any, inner: Sequence[Any], record: str | None) -> None:
    if record is None:
        raise DeclarationError(f"fields=[{item!r}]: a property has no fields of its own; name it alone.")
    for each in inner:
        _selected(build, each, record)


def _steps(item: Any, path: Path, record: str) -> tuple[str, ...]:
    if path.root.record not in (None, record):
        raise DeclarationError(
            f"fields=[{item!r}]: {path!r} starts at {path.root.record}, and is selected of {record}. Write it from {record}."
        )
    return path.steps


def _target(build: Build, item: Any, steps: tuple[str, ...], record: str) -> str | None:
    """The record type that the steps lead to; None if they end at a property."""
    at: str | None = record
    for step in steps:
        if at is None:
            raise DeclarationError(f"fields=[{item!r}]: a property has no fields of its own, such as {step!r}.")
        member = FieldType(ID_TYPE, optional=False) if step == "*" else build.member(at, step)
        if member is None:
            raise DeclarationError(f"fields=[{item!r}]: {at} has no {step!r}.{suggestion(step, build.names(at))}")
        at = None if isinstance(member, FieldType) else member.target
        if at is not None and build.drafts[at].cls.__ensue_private__:
            raise DeclarationError(f"fields=[{item!r}]: {at} is declared private=True; its fields can't be selected.")
    return at
