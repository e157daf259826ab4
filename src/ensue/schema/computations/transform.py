"""`Transform`: records that derive from other records, or from interactions.

Decides what may be a source and how the mapping is written: traced for records, called for interactions and with
`compute=`. Keeping the derived records is the engine's rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

from ensue.errors import DeclarationError
from ensue.schema.entity import Entity
from ensue.schema.interaction import Interaction
from ensue.schema.written.origin import here

T = TypeVar("T")
E = TypeVar("E", bound=Entity)
I = TypeVar("I", bound=Interaction)  # noqa: E741  # an interaction


class Transform(Generic[T]):
    """As a class argument: `class Comment(Entity, derived=Transform(AddComment, lambda e: dict(text=e.text,
    author=e.user)))`.

    Over an interaction the function is called once per event and gives a mapping, several, or None. Over a record type
    (`Transform(lambda: Comment, lambda c: dict(...))`) the function is traced, and one derived record is kept per
    source record; `compute=` is called instead.
    """

    @overload
    def __init__(
        self: Transform[I],
        source: type[I],
        record: Callable[[I], Mapping[str, Any] | Sequence[Mapping[str, Any]] | None],
    ) -> None: ...
    @overload
    def __init__(
        self: Transform[E], source: Callable[[], type[E]], record: Callable[[type[E]], Mapping[str, Any]]
    ) -> None: ...
    @overload
    def __init__(
        self: Transform[E],
        source: Callable[[], type[E]],
        *,
        compute: Callable[[E], Mapping[str, Any] | Sequence[Mapping[str, Any]] | None],
    ) -> None: ...
    def __init__(
        self, source: Any, record: Callable[..., Any] | None = None, *, compute: Callable[..., Any] | None = None
    ) -> None:
        if (record is None) == (compute is None):
            raise DeclarationError("Transform takes one function: the mapping as second argument, or compute=.")
        self.source: Any = source
        self.record = record
        self.compute = compute
        self.origin = here()
