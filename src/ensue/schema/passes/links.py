"""Pass: to-one links. Each gets its target and what happens to it when that is deleted."""

from __future__ import annotations

from typing import Any

from ensue.errors import DeclarationError
from ensue.schema.model import LinkModel, OnDelete
from ensue.schema.passes.build import Build
from ensue.schema.passes.reach import class_of
from ensue.schema.property import MISSING
from ensue.schema.relation import Link
from ensue.schema.schema import Draft
from ensue.schema.written.annotation import Written, split_optional
from ensue.schema.written.names import suggestion

DELETIONS = ("cascade", "restrict", "detach")


def build_links(build: Build) -> None:
    """Build the links of every record type."""
    for draft in list(build.drafts.values()):
        if draft.kind == "event" and build.schema.user is not None:
            build.links[draft.name]["user"] = LinkModel(
                "user",
                build.schema.user,
                optional=True,
                has_default=True,
                on_delete=None,
                column="user_id",
                origin=draft.origin,
            )
        for name, member in draft.links():
            try:
                build.links[draft.name][name] = _link(build, draft, name, member)
            except DeclarationError as error:
                build.report(error, f"{draft.name}.{name}", member.origin)
                build.give_up(draft.name, name)
    for draft in build.drafts.values():
        if draft.kind == "relation" and sum(not link.optional for _, link in draft.links()) < 2:
            build.problem(
                f"{draft.name} is a Relation and needs two required links: its first and second `One` are its source "
                "and target.",
                draft.origin,
            )


def _link(build: Build, draft: Draft, name: str, member: Link) -> LinkModel:
    if draft.kind == "globals":
        raise DeclarationError("a Globals class has computations only.")
    target = link_target(build, member)
    on_delete = None if draft.kind == "event" else _on_delete(member)
    return LinkModel(
        name,
        target,
        member.optional,
        has_default=member.default is not MISSING,
        unique=member.unique,
        on_delete=on_delete,
        column=f"{name}_id",
        origin=member.origin,
    )


def link_target(build: Build, member: Link) -> str:
    """The record type a link leads to: looked up where it was written, then by its name among the app's."""
    written = member.written
    if written is None or written.content is None:
        raise DeclarationError(f"it does not say to what it links. Write {type(member).__name__}[User].")
    bare, optional = split_optional(written.content)
    if optional:
        raise DeclarationError(
            f"a link says by its kind whether there may be none. Write Maybe[{_shown(bare)}], or One[{_shown(bare)}]."
        )
    name = _last_name(written)
    cls = class_of(written)
    if cls is None:
        if name in build.drafts:
            return name
        raise DeclarationError(
            f"{written} is not known here, nor among the app's record types.{suggestion(name, build.drafts)}"
        )
    known = build.class_name(cls)
    if build.drafts[known].kind not in ("entity", "relation"):
        raise DeclarationError(f"it links to {known}, which is no Entity or Relation.")
    return known


def _shown(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _last_name(written: Written) -> str:
    content: Any = written.content
    if isinstance(content, str):
        return content.strip("'\" ").rsplit(".", 1)[-1]
    return getattr(content, "__name__", str(content))


def _on_delete(member: Link) -> OnDelete:
    given = member.on_delete
    if given is None:
        return "detach" if member.optional else "restrict"
    if given not in DELETIONS:
        raise DeclarationError(f"on_delete={given!r}: expected one of {', '.join(DELETIONS)}.")
    if given == "detach" and not member.optional:
        raise DeclarationError(
            "on_delete='detach' needs an optional link: declare it as Maybe, or use 'cascade' or 'restrict'."
        )
    return given
