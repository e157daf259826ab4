"""What every declared member has: a name, a place, and the type it was written with.

Decides how a member learns its name. Invariant: a member object is shared by all apps that use its class, and is never
changed after the class is made; what an app changes lives in its schema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ensue.errors import Origin
from ensue.expression.trace import Path, Root
from ensue.schema.record import not_loaded, record_values
from ensue.schema.written.origin import here, member_line

if TYPE_CHECKING:
    from ensue.schema.record import Record
    from ensue.schema.written.annotation import Written

M = TypeVar("M", bound="Member")


class RecordsAreSnapshots:
    """What a stored member could be assigned on: nothing is one.

    For type checkers: the value's type in `__set__` makes the constructor's parameter, the object's refuses an
    assignment. (`frozen_default=True` would do the latter, but mypy then forgets that an inherited member is one.)
    """


class Member:
    """Something declared in a class body: a property, a link, a collection, a computation."""

    name: str = ""
    written: Written | None = None
    accepted: bool = True
    """Whether a constructor takes a value for it."""

    def __init__(self) -> None:
        self.origin: Origin = here()

    def __set_name__(self, owner: type[Any], name: str) -> None:
        if not self.name:
            self.name = name

    def path(self, owner: type[Any]) -> Any:
        """The expression that the member is at class level."""
        return Path(Root(owner.__name__), (self.name,))

    def value(self, record: Record) -> Any:
        """The member's value on a record. Raises NotLoaded if the record has none."""
        try:
            return record_values(record)[self.name]
        except KeyError:
            raise not_loaded(record, self.name) from None


def declare(member: M, cls: type[Any], name: str, *, origin: Origin) -> M:
    """Put a member that was only annotated on its class, at the line of its annotation."""
    member.origin = member_line(origin, name)
    member.__set_name__(cls, name)
    setattr(cls, name, member)
    return member
