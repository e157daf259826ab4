"""What `resolve` must be able to ask about record types. The model implements it; the language does not know the
model."""

from dataclasses import dataclass
from typing import Protocol

from ensue.expression.nodes import Hop
from ensue.expression.types import ValueType


@dataclass(frozen=True, slots=True)
class FieldType:
    """A name that holds a value: a stored or derived property."""

    type: ValueType
    optional: bool


@dataclass(frozen=True, slots=True)
class LinkType:
    """A name that leads to one record (`One`, `Maybe`, `Ref`).

    `name` is the link's own name where it was asked for under another (`source`, `target`), else it may be empty.
    """

    target: str
    optional: bool
    name: str = ""


@dataclass(frozen=True, slots=True)
class CollectionType:
    """A name that leads to many records, or with `single` to at most one over the other side's column (`Inverse`)."""

    target: str
    hops: tuple[Hop, ...]
    single: bool = False


Member = FieldType | LinkType | CollectionType


class RecordTypes(Protocol):
    """The members of each record type, by name."""

    def member(self, record: str, name: str) -> Member | None:
        """The member `name` of `record` (`"id"` is one; `source`/`target` of a relation too), or None."""
        ...

    def names(self, record: str) -> tuple[str, ...]:
        """All member names of `record`, for suggestions."""
        ...
