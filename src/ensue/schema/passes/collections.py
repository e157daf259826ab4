"""Pass: to-many names. Both sides of a link are paired, a plain n:n gets its implicit relation, and every collection
its hops.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from ensue.errors import DeclarationError, PlannedError
from ensue.expression.nodes import Children, Follow, Hop
from ensue.expression.resolve import call_traced, resolve_hops
from ensue.expression.trace import Path, Root
from ensue.schema.entity import Relation
from ensue.schema.model import CollectionModel, LinkModel, OnDelete
from ensue.schema.passes.build import REPORTED, Build
from ensue.schema.passes.links import DELETIONS
from ensue.schema.relation import Collection, Inverse, Many, Through
from ensue.schema.schema import Draft
from ensue.schema.written.names import suggestion


def build_collections(build: Build) -> None:
    """Build the collections of every record type; those over others last."""
    through: list[tuple[Draft, str, Through[Any]]] = []
    for draft in list(build.drafts.values()):
        for name, member in draft.members.items():
            if isinstance(member, Through):
                through.append((draft, name, cast("Through[Any]", member)))
            elif isinstance(member, Collection):
                _attempt(build, draft, name, lambda d=draft, n=name, m=member: _collection(build, d, n, m))
    _in_order(build, through)


def _attempt(build: Build, draft: Draft, name: str, make: Any) -> None:
    try:
        if draft.kind not in ("entity", "relation"):
            raise DeclarationError("only entities and relations have collections.")
        build.collections[draft.name][name] = make()
    except DeclarationError as error:
        build.report(error, f"{draft.name}.{name}", draft.members[name].origin)
        build.give_up(draft.name, name)


# --- Pairing ----------------------------------------------------------------------------------------------------------


def _collection(build: Build, draft: Draft, name: str, member: Collection) -> CollectionModel:
    target = build.record(member.target)
    other = _inverse(build, draft, name, member, target=target)
    if other in build.links[target]:
        return _over_link(build, (draft.name, name), (target, other), member)
    return _over_relation(build, (draft.name, name), (target, other), member)


def _inverse(build: Build, draft: Draft, name: str, member: Collection, *, target: str) -> str:
    """The name of the other side, given or found. Raises DeclarationError if it is not there or leads elsewhere."""
    sides = _candidates(build, draft, name, member, target=target)
    if member.inverse is None:
        if len(sides) == 1:
            return sides[0]
        found = (
            f"{target} has {len(sides)} that could be it: {', '.join(sides)}"
            if sides
            else f"{target} has none that leads to {draft.name}"
        )
        raise DeclarationError(f"the other side is not clear: {found}. Name it with inverse=.")
    other = member.inverse
    if (target, other) in build.broken:
        raise REPORTED
    if other not in build.drafts[target].members:
        raise DeclarationError(
            f"inverse={other!r}: {target} has no such member.{suggestion(other, sides or build.names(target))}"
        )
    if other not in sides:
        raise DeclarationError(
            f"inverse={other!r}: {target}.{other} does not lead back to {draft.name}.{name}; expected a One or Maybe "
            f"of {draft.name}, "
            f"or a Many with inverse={name!r}.{suggestion(other, sides) if sides else ''}"
        )
    return other


def _candidates(build: Build, draft: Draft, name: str, member: Collection, *, target: str) -> list[str]:
    links = [link.name for link in build.links[target].values() if link.target == draft.name]
    if isinstance(member, Inverse):
        return links
    for other, found in build.drafts[target].members.items():
        if not isinstance(found, Many) or isinstance(found, Through) or found is member:
            continue
        if found.inverse in (None, name) and _leads_to(build, cast("Many[Any]", found), draft.name):
            links.append(other)
    return links


def _leads_to(build: Build, member: Collection, record: str) -> bool:
    try:
        return build.record(member.target) == record
    except DeclarationError:
        return False  # reported where that side is built


def _over_link(build: Build, here: tuple[str, str], there: tuple[str, str], member: Collection) -> CollectionModel:
    (host, name), (target, other) = here, there
    link = build.links[target][other]
    if link.inverse not in (None, name):
        raise DeclarationError(
            f"{target}.{other} already has the other side {host}.{link.inverse}. Remove one of them."
        )
    link = replace(link, inverse=name)
    if isinstance(member, Inverse) and not link.unique:
        raise DeclarationError(
            f"Inverse is the other side of a one-to-one: write {other}: One[{host}] = One(unique=True), or use "
            "Many here."
        )
    if isinstance(member, Many) and member.on_delete is not None:
        if getattr(build.drafts[target].members[other], "on_delete", None) is not None:
            raise DeclarationError(
                f"on_delete is given here and at {target}.{other}. Leave it at {target}.{other}, which owns the column."
            )
        link = replace(link, on_delete=alias(member.on_delete, link))
    build.links[target][other] = link
    return CollectionModel(
        name, target, (Children(target, other),), single=isinstance(member, Inverse), origin=member.origin
    )


def alias(on_delete: OnDelete, link: LinkModel) -> OnDelete:
    """What `Many(on_delete=…)` says of the link on the other side."""
    if on_delete not in DELETIONS:
        raise DeclarationError(f"on_delete={on_delete!r}: expected one of {', '.join(DELETIONS)}.")
    if on_delete == "detach" and not link.optional:
        raise DeclarationError("on_delete='detach' needs an optional link on the other side: declare it as Maybe.")
    return on_delete


# --- Plain n:n --------------------------------------------------------------------------------------------------------


def _over_relation(build: Build, here: tuple[str, str], there: tuple[str, str], member: Collection) -> CollectionModel:
    if here == there:
        raise PlannedError(
            "a collection that is its own inverse (symmetric) is planned. Declare a Relation with two links."
        )
    owner, other = sorted((here, there))
    relation = f"{owner[0]}_{owner[1]}"
    if relation not in build.drafts:
        _implicit(build, relation, owner, other)
    mine, theirs = ("source", "target") if here == owner else ("target", "source")
    if isinstance(member, Many) and member.on_delete == "restrict":
        build.links[relation][mine] = replace(build.links[relation][mine], on_delete="restrict")
    hops = (Children(relation, mine), Follow(theirs, there[0]))
    return CollectionModel(here[1], there[0], hops, relation=relation, origin=member.origin)


def _implicit(build: Build, name: str, owner: tuple[str, str], other: tuple[str, str]) -> None:
    """The relation of a plain n:n: a record type like any other, with the links `source` and `target`."""
    origin = build.origin(*owner)
    cls: Any = type(name, (Relation,), {"__module__": build.drafts[owner[0]].cls.__module__})
    cls.__ensue_accepted__ = frozenset({"id", "source", "target"})
    draft = Draft(cls, "relation")
    draft.implicit = True
    draft.origin = origin
    build.drafts[name] = draft
    build.collections[name] = {}
    build.fields[name] = {}
    build.links[name] = {
        end: LinkModel(end, side[0], optional=False, on_delete="cascade", column=f"{end}_id", origin=origin)
        for end, side in (("source", owner), ("target", other))
    }
    build.unique[name] = []


# --- Through ----------------------------------------------------------------------------------------------------------


def _in_order(build: Build, waiting: list[tuple[Draft, str, Through[Any]]]) -> None:
    """Build those first that others go through."""
    while waiting:
        open_ = [item[2] for item in waiting]
        ready = [item for item in waiting if not any(item[2].over is other for other in open_)]
        for draft, name, member in ready or waiting:
            _attempt(build, draft, name, lambda d=draft, n=name, m=member: _through(build, d, n, m))
        waiting = [item for item in waiting if item not in ready] if ready else []


def _through(build: Build, draft: Draft, name: str, member: Through[Any]) -> CollectionModel:
    over = collection_of(build, draft, member.over)
    root = Root.parameter(over.target)
    path = call_traced(member.step, Path(root), what="the second argument of Through")
    if not isinstance(path, Path) or not path.steps:
        raise DeclarationError(
            "the second argument of Through must give a link of the member: `lambda like: like.user`."
        )
    hops, target = resolve_hops(path, over.target, build, root=root)
    whole: tuple[Hop, ...] = (*over.hops, *hops)
    return CollectionModel(name, target, whole, origin=member.origin)


def collection_of(build: Build, draft: Draft, over: object) -> CollectionModel:
    """The collection of a record type that a `Many` in its body, or a path such as `Post.comments`, stands for."""
    for name, member in draft.members.items():
        if member is over:
            if (draft.name, name) in build.broken:
                raise REPORTED
            found = build.collections[draft.name].get(name)
            if found is not None:
                return found
    raise DeclarationError(f"it is over a collection of another class; expected one of {draft.name}'s own.")
