"""Pass: derived records.

A traced mapping is typed against the record it fills; a called one is only checked for its source.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

from ensue.errors import DeclarationError
from ensue.expression.nodes import Node
from ensue.expression.records import LinkType
from ensue.expression.resolve import call_traced, resolve
from ensue.expression.trace import Expr, Path, Root, operand
from ensue.schema.computations.transform import Transform
from ensue.schema.model import ID_TYPE, NO_DEFAULT, TransformModel
from ensue.schema.passes.build import REPORTED, Build
from ensue.schema.passes.scope import MAX_STEPS, require_simple
from ensue.schema.schema import Draft
from ensue.schema.written.names import suggestion


def build_transforms(build: Build) -> dict[str, TransformModel]:
    """The transforms of all derived records, by record type."""
    found: dict[str, TransformModel] = {}
    for draft in build.drafts.values():
        if draft.transform is None:
            continue
        try:
            found[draft.name] = _transform(build, draft, draft.transform)
        except DeclarationError as error:
            build.report(error, f"{draft.name}: Transform", draft.transform.origin)
    return found


def _transform(build: Build, draft: Draft, transform: Transform[Any]) -> TransformModel:
    source = build.record(transform.source)
    kind = build.drafts[source].kind
    if kind == "globals":
        raise DeclarationError(f"its source {source} is a Globals class; expected an interaction or an entity.")
    if kind == "event":
        if getattr(build.drafts[source].cls, "__ensue_reads__", None) is not None:
            raise DeclarationError(
                f"its source {source} only reads (reads=…): no event of it is stored. Leave out reads=."
            )
        return TransformModel(
            source, event=True, mapping=None, function=transform.record or transform.compute, origin=transform.origin
        )
    if transform.compute is not None:
        return TransformModel(source, event=False, mapping=None, function=transform.compute, origin=transform.origin)
    return TransformModel(
        source, event=False, mapping=_mapping(build, draft, source, transform), function=None, origin=transform.origin
    )


def _mapping(build: Build, draft: Draft, source: str, transform: Transform[Any]) -> dict[str, Node]:
    function = transform.record
    if inspect.iscoroutinefunction(function) or function is None:
        raise DeclarationError(
            "the mapping over a record type is traced and can't be async. Use compute= for a function that is called."
        )
    root = Root.parameter(source)
    found = call_traced(function, Path(root), what="the mapping of Transform")
    if not isinstance(found, Mapping):
        raise DeclarationError(
            f"the mapping gave {type(found).__name__}; expected dict(field=expression, …). Use compute= for a "
            "function that is called."
        )
    given = cast("Mapping[str, Any]", found)
    mapping: dict[str, Node] = {}
    for name, value in given.items():
        try:
            mapping[name] = _value(build, draft, source, (name, value, root))
        except DeclarationError as error:
            build.report(error, f"{draft.name}.{name} in Transform", transform.origin)
    missing = [name for name in _required(build, draft) if name not in given]
    if missing:
        raise DeclarationError(
            f"the mapping gives no {', '.join(missing)}; {draft.name} needs it. Add it, or give it a default."
        )
    return mapping


def _value(build: Build, draft: Draft, source: str, item: tuple[str, Any, Root]) -> Node:
    name, value, root = item
    expr: Expr[Any] = operand(value)
    if (draft.name, name) in build.broken:
        raise REPORTED
    if (link := build.links[draft.name].get(name)) is not None:
        node = resolve(expr, source, build, root=root, expected=ID_TYPE)
        leads_to = _target(build, source, expr)
        if leads_to is not None and leads_to != link.target:
            raise DeclarationError(f"it links to {link.target}, but the mapping gives a {leads_to}.")
        optional = link.optional
    elif (field := build.fields[draft.name].get(name)) is not None:
        if field.computation is not None:
            raise DeclarationError("it is derived itself, so the mapping can't give it. Leave it out.")
        if value is None:
            raise DeclarationError(
                "the mapping gives None. Leave it out; optional fields that are not mapped are None."
            )
        node = resolve(expr, source, build, root=root, expected=field.type)
        optional = field.optional
    else:
        known = (*build.fields[draft.name], *build.links[draft.name])
        raise DeclarationError(f"{draft.name} has no {name!r}.{suggestion(name, known)}")
    if node.optional and not optional:
        raise DeclarationError(
            "the mapping's value can be None, but it can't. Make it optional, or write `.or_else(…)`."
        )
    require_simple(node, "the mapping", MAX_STEPS)
    return node


def _target(build: Build, source: str, expr: Expr[Any]) -> str | None:
    """The record type whose id a path is; None if it is a value or no path."""
    if not isinstance(expr, Path):
        return None
    record: str | None = source
    for step in expr.steps:
        member = None if record is None else build.member(record, step)
        if step == "id":
            return record
        record = member.target if isinstance(member, LinkType) else None
    return record


def _required(build: Build, draft: Draft) -> list[str]:
    fields = [
        item.name
        for item in build.fields[draft.name].values()
        if item.computation is None and item.default is NO_DEFAULT and not item.optional
    ]
    links = [item.name for item in build.links[draft.name].values() if not item.optional]
    return [*fields, *links]
