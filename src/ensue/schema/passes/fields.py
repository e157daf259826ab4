"""Pass: properties. Each gets its type, its default and, if it is derived, its computation."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

from ensue.errors import DeclarationError, PlannedError
from ensue.expression.literals import LiteralError, constant
from ensue.expression.resolve import call_traced, resolve
from ensue.expression.trace import Expr, Path, Root, now
from ensue.expression.types import ValueType
from ensue.schema.computations.contract import Built, Computation, Declared
from ensue.schema.computations.machine import StateMachine
from ensue.schema.model import NO_DEFAULT, NOW, FieldModel
from ensue.schema.passes.build import REPORTED, Build
from ensue.schema.passes.scope import FieldScope
from ensue.schema.property import MISSING, PayloadField, Property
from ensue.schema.schema import Draft
from ensue.schema.written.body import Misfit, Misplaced, Unknown
from ensue.schema.written.names import suggestion
from ensue.schema.written.value import DATETIME, accepts, payload_type, value_type, value_type_of


def build_fields(build: Build) -> None:
    """Build every field; each builds those it depends on first."""
    build.build_field = lambda draft, name: _field(build, draft, name)
    for draft in list(build.drafts.values()):
        if draft.kind == "event":
            build.fields[draft.name]["at"] = FieldModel(
                "at", DATETIME, optional=False, column="at", origin=draft.origin
            )
        for name, member in draft.members.items():
            if isinstance(member, Property | Computation | Misfit | Misplaced | Unknown):
                try:
                    build.field(draft.name, name)
                except DeclarationError as error:
                    build.report(error, f"{draft.name}.{name}", build.origin(draft.name, name))
    while build.later:
        build.later.pop(0)()


def _field(build: Build, draft: Draft, name: str) -> FieldModel:
    member = draft.members[name]
    if isinstance(member, Unknown):
        raise DeclarationError(
            f"the annotation {member.annotation!r} declares nothing. Write Property[…], One[…] or Maybe[…]; for a "
            "plain class attribute ClassVar[…]."
        )
    if isinstance(member, Misplaced):
        raise DeclarationError(member.problem)
    if isinstance(member, Misfit):
        raise DeclarationError(f"it is annotated as a {member.kind} and given {member.shown}. {member.advice}")
    if not isinstance(member, Property | Computation):
        raise REPORTED  # a link or a collection that was asked for as a value
    replacing = draft.computations.get(name)
    if isinstance(member, Property):
        stored = _stored(build, draft, name, cast("Property[Any]", member))
        if replacing is None:
            return stored
        if member.unique or member.check is not None:
            raise DeclarationError("unique= and check= can't stand on a property that is computed. Leave them out.")
        return _derived(build, draft, name, replacing, declared=Declared(stored.type, stored.optional, stored.default))
    computation = replacing if replacing is not None else cast("Computation[Any]", member)
    return _derived(build, draft, name, computation, declared=computation.subscript())


# --- Stored -----------------------------------------------------------------------------------------------------------


def _stored(build: Build, draft: Draft, name: str, member: Property[Any]) -> FieldModel:
    if draft.kind == "globals":
        raise PlannedError(
            "a stored property in a Globals class is planned. Until then a Globals class has aggregates over entities."
        )
    type_, optional = property_type(member)
    field = FieldModel(
        name,
        type_,
        optional,
        default=_default(member, type_, optional=optional),
        unique=member.unique,
        index=member.index,
        column=name,
        origin=member.origin,
    )
    if member.check is not None:
        build.later.append(lambda: _check(build, draft, name, member))
    return field


def property_type(member: Property[Any]) -> tuple[ValueType, bool]:
    """The type a property was annotated with. Raises DeclarationError if it can't be read or is not supported."""
    written = member.written
    if written is None:
        return _unwritten(member)
    try:
        annotation = written.evaluate()
    except (NameError, AttributeError) as error:
        raise DeclarationError(
            f"the type {written} is not known here ({error}). Import it in the module, not under TYPE_CHECKING only."
        ) from error
    except (SyntaxError, TypeError) as error:
        raise DeclarationError(f"the type {written} can't be read: {error}") from error
    if isinstance(member, PayloadField):
        return payload_type(annotation)
    return value_type(annotation, scale=member.scale)


def _unwritten(member: Property[Any]) -> tuple[ValueType, bool]:
    alias = getattr(member, "__orig_class__", None)
    if alias is not None:
        return value_type(alias.__args__[0], scale=member.scale)
    type_ = value_type_of(member.default)
    if type_ is None:
        raise DeclarationError(
            "it has no type. Write `name: Property[str]`, or Property[str](…) where there is no annotation."
        )
    return type_, False


def _default(member: Property[Any], type_: ValueType, *, optional: bool) -> Any:
    default = member.default
    if default is MISSING:
        return NO_DEFAULT
    if isinstance(default, Expr):
        if default is not now:
            raise PlannedError(
                "an expression as default is planned; only `now` is one. Use a value, or a function without arguments."
            )
        if type_.kind != "datetime":
            raise DeclarationError(f"default=now belongs to a datetime property, and this one is {type_}.")
        return NOW
    if default is None:
        if not optional:
            raise DeclarationError(f"default=None, but the type {type_} has no None. Add `| None` to the annotation.")
        return None
    if callable(default):
        return _factory(default)
    if type_.kind == "literal" and default not in type_.values:
        raise DeclarationError(f"default={default!r} is none of {', '.join(map(repr, type_.values))}.")
    if not accepts(type_, default):
        raise DeclarationError(f"default={default!r} is no {type_}. Give a value of the property's type.")
    if type_.kind != "json":
        try:
            constant(default, type_)
        except LiteralError as error:
            raise DeclarationError(f"default= is {error}.") from error
    return default


def _factory(default: Callable[[], Any]) -> Callable[[], Any]:
    if inspect.iscoroutinefunction(default):
        raise DeclarationError(
            "default= is async; expected a plain function. What must wait belongs in Custom(initial=…)."
        )
    try:
        needed = [
            item
            for item in inspect.signature(default).parameters.values()
            if item.default is item.empty
            and item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)
        ]
    except (ValueError, TypeError):
        return default  # some built-ins have no signature
    if needed:
        raise DeclarationError(f"default= is a function with the argument {needed[0].name!r}; expected one without.")
    return default


def _check(build: Build, draft: Draft, name: str, member: Property[Any]) -> None:
    if member.check is None:
        return
    try:
        if not callable(member.check):
            raise DeclarationError(
                f"check= is {member.check!r}; expected a function of the value, such as `lambda v: v >= 0`."
            )
        if inspect.iscoroutinefunction(member.check):
            raise DeclarationError("check= is async, but it is traced as an expression. Write a plain lambda.")
        root = Root.parameter(draft.name)
        found: Any = call_traced(cast("Any", member.check), Path(root, (name,)), what="check=")
        if not isinstance(found, Expr):
            raise DeclarationError(
                f"check= gave {found!r}; expected a condition on the value, such as `lambda v: v >= 0`."
            )
        node = resolve(cast("Expr[Any]", found), draft.name, build, root=root)
        if node.type.base != "bool":
            raise DeclarationError(f"check= must be a condition (bool); the expression gives {node.type}.")
        build.set_field(draft.name, name, check=node)
    except DeclarationError as error:
        build.report(error, f"{draft.name}.{name}", member.origin)


# --- Derived ----------------------------------------------------------------------------------------------------------


def _derived(
    build: Build, draft: Draft, name: str, computation: Computation[Any], *, declared: Declared | None
) -> FieldModel:
    if draft.kind == "event":
        raise DeclarationError("an interaction has no computations; put it on the record that derives from it.")
    scope = FieldScope(build, draft, name, declared)
    if isinstance(computation, StateMachine):
        # Its triggers may speak of records whose fields derive from this one: that is no cycle, so they come later.
        type_, optional, default = computation.early(scope)
        build.later.append(lambda: _complete(build, computation, scope))
        return FieldModel(name, type_, optional, default=default, column=name, origin=computation.origin)
    built = computation.build(scope)
    return _model(name, built, computation)


def _complete(build: Build, computation: Computation[Any], scope: FieldScope) -> None:
    try:
        build.set_field(scope.host, scope.name, computation=computation.build(scope).computation)
    except DeclarationError as error:
        build.report(error, f"{scope.host}.{scope.name}", computation.origin)


def _model(name: str, built: Built, computation: Computation[Any]) -> FieldModel:
    return FieldModel(
        name,
        built.type,
        built.optional,
        default=built.default,
        computation=built.computation,
        column=name,
        origin=computation.origin,
    )


def unique_names(build: Build, draft: Draft, names: tuple[str, ...]) -> None:
    """Check one `unique=[(...)]`: existing, given columns."""
    for name in names:
        field = build.fields[draft.name].get(name)
        if (draft.name, name) in build.broken:
            continue
        if field is None and name not in build.links[draft.name]:
            known = (*build.fields[draft.name], *build.links[draft.name])
            build.problem(
                f"{draft.name}: unique={names!r} names {name!r}, which is no property or link of "
                f"it.{suggestion(name, known)}",
                draft.origin,
            )
        elif field is not None and field.computation is not None:
            build.problem(
                f"{draft.name}: unique={names!r} names {name!r}, which is derived; unique on derived columns is "
                "refused.",
                draft.origin,
            )
