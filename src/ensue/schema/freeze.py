"""From the open schema to the frozen `Model`, in ordered passes, with all problems at once.

Decides the order of the passes and puts their results together. Invariant: a model comes out only if nothing is wrong,
and the schema can't be changed any more.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ensue.errors import DeclarationError
from ensue.schema.effect import SideEffect
from ensue.schema.interaction import Interaction
from ensue.schema.model import FieldModel, InteractionModel, LinkModel, Model, RecordModel, TransformModel
from ensue.schema.passes.build import Build
from ensue.schema.passes.collections import build_collections
from ensue.schema.passes.cycles import refuse_cycles
from ensue.schema.passes.effects import build_effects
from ensue.schema.passes.fields import build_fields, unique_names
from ensue.schema.passes.links import build_links
from ensue.schema.passes.names import check_names, table_name
from ensue.schema.passes.reach import reach
from ensue.schema.passes.transforms import build_transforms
from ensue.schema.schema import Draft, Schema
from ensue.schema.written.call import misfit


def freeze(schema: Schema, *, side_effects: Mapping[str, SideEffect] | None = None) -> Model:
    """The model of a schema, which can't be changed afterwards.

    `side_effects` are by qualified name (`"channels.publish"`). Raises DeclarationError with every problem found.
    """
    reach(schema)
    build = Build(schema)
    check_names(build)
    build_links(build)
    build_collections(build)
    build_fields(build)
    transforms = build_transforms(build)
    effects = build_effects(build, side_effects or {})
    refuse_cycles(build, transforms)
    interactions = _interactions(build)
    records = {
        name: _record(build, draft, transforms.get(name))
        for name, draft in build.drafts.items()
        if not _only_reads(interactions, name)
    }
    if build.problems:
        raise DeclarationError(sorted(build.problems, key=_position))
    schema.frozen = True
    return Model(records, interactions, effects, schema.user)


def _position(problem: object) -> tuple[str, int]:
    origin = getattr(problem, "origin", None)
    return ("", 0) if origin is None else (origin.file, origin.line)


def _record(build: Build, draft: Draft, transform: TransformModel | None) -> RecordModel:
    ends = build.ends(draft.name)
    unique = list(draft.unique)
    for names in unique:
        unique_names(build, draft, names)
    if len(ends) == 2 and ends not in unique:
        unique.insert(0, ends)
    source, target = ends if len(ends) == 2 else (None, None)
    return RecordModel(
        draft.name,
        draft.kind,
        draft.cls,
        table_name(draft.name, draft.kind),
        fields=_declared_order(draft, build.fields[draft.name]),
        links=build.links[draft.name],
        collections=build.collections[draft.name],
        unique=tuple(unique),
        source=source,
        target=target,
        abstract=draft.abstract,
        transform=transform,
        implicit=draft.implicit,
        origin=draft.origin,
    )


def _declared_order(draft: Draft, fields: Mapping[str, FieldModel]) -> dict[str, FieldModel]:
    order = [name for name in fields if name not in draft.members] + [name for name in draft.members if name in fields]
    return {name: fields[name] for name in order}


def _interactions(build: Build) -> dict[str, InteractionModel]:
    found: dict[str, InteractionModel] = {}
    for draft in build.drafts.values():
        if not issubclass(draft.cls, Interaction):
            continue
        _check_guard(build, draft, draft.cls.allow)
        reads: str | None = None
        if draft.cls.__ensue_reads__ is not None:
            try:
                reads = build.record(draft.cls.__ensue_reads__)
                if build.drafts[reads].cls.__ensue_private__:
                    raise DeclarationError(f"{reads} is declared private=True; no interaction can give its records.")
            except DeclarationError as error:
                build.report(error, f"{draft.name}: reads=", draft.origin)
        found[draft.name] = InteractionModel(draft.name, draft.cls, reads, draft.origin, payload=_payload(build, draft))
    return found


def _check_guard(build: Build, draft: Draft, guard: Any) -> None:
    if hasattr(guard, "__wrapped__") or not inspect.isfunction(guard):
        return  # a decorator's, which may give something to await all the same
    if not inspect.iscoroutinefunction(guard):
        build.problem(f"{draft.name}.allow is not async. Write `async def allow(self, ctx)`.", draft.origin)
        return
    if misfit(guard, None, None) is not None:
        shown = inspect.signature(guard)
        build.problem(f"{draft.name}.allow takes {shown}; expected (self, ctx: Context) -> bool.", draft.origin)


def _payload(build: Build, draft: Draft) -> dict[str, FieldModel | LinkModel]:
    known: dict[str, FieldModel | LinkModel] = {**build.fields[draft.name], **build.links[draft.name]}
    return {name: known[name] for name in draft.members if name in known}


def _only_reads(interactions: Mapping[str, InteractionModel], name: str) -> bool:
    return name in interactions and interactions[name].reads is not None
