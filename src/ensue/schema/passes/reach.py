"""Pass: find every record type that the given ones lead to, through links, collections, computations and triggers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ensue.schema.computations.contract import Computation
from ensue.schema.interaction import Interaction
from ensue.schema.property import Property
from ensue.schema.record import Record
from ensue.schema.relation import Collection, Link, Through
from ensue.schema.written.annotation import Written

if TYPE_CHECKING:
    from ensue.schema.schema import Draft, Schema


def reach(schema: Schema) -> None:
    """Include what is reachable. What can't be found yet is left for the pass that needs it to report."""
    seen: set[str] = set()
    while waiting := [draft for name, draft in schema.drafts.items() if name not in seen]:
        for draft in waiting:
            seen.add(draft.name)
            for reference in _references(draft):
                found = class_of(reference)
                if found is not None:
                    schema.include(found)


def class_of(reference: Any) -> type[Record] | None:
    """The record class that a class, a function or an annotation stands for; None where it can't be told without the
    app.
    """
    if isinstance(reference, Written):
        try:
            reference = reference.evaluate()
        except (NameError, AttributeError, SyntaxError, TypeError):
            return None  # the link pass looks it up by name, and reports what is left
    elif callable(reference) and not isinstance(reference, type) and not isinstance(reference, Property):
        try:
            reference = reference()
        except (NameError, AttributeError, TypeError):
            return None  # reported where it is used
    return reference if isinstance(reference, type) and issubclass(reference, Record) else None


def _references(draft: Draft) -> Iterator[Any]:
    for member in draft.members.values():
        if isinstance(member, Link):
            yield member.written
        elif isinstance(member, Collection) and not isinstance(member, Through):
            yield member.target
        elif isinstance(member, Computation):
            yield from member.references()
    for computation in draft.computations.values():
        yield from computation.references()
    if draft.transform is not None:
        yield draft.transform.source
    if issubclass(draft.cls, Interaction):
        yield draft.cls.__ensue_reads__
