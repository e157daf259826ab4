"""What a message from outside becomes: interactions to dispatch, records to create, nothing else.

Decides the values that say so. Leaves doing it to the engine, and reading messages to integrations. Invariant: nothing
here can name a column to be written: what derives from outside events is computed, like everything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ensue.errors import UsageError
from ensue.schema.entity import Entity
from ensue.schema.interaction import Interaction


@dataclass(frozen=True, slots=True)
class AsUser:
    """An interaction that a message from outside stands for, dispatched as `user` (a record or its id).

    >>> AsUser(ConfirmOrder(order=7), user=3)  # doctest: +SKIP
    """

    interaction: Interaction
    user: Any


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to create, by the name of its type: `NewRecord("TaskEvent", {"task_id": 1, "status": "done"})`."""

    record: str
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])


One: TypeAlias = Interaction | AsUser | Entity | NewRecord
Incoming: TypeAlias = One | Sequence[One] | None
"""What a message means: interactions, records to create, several of them in order, or None for nothing."""


def parts(incoming: Incoming) -> list[One]:
    """`incoming` as a list. Raises `UsageError` for what can't come in."""
    if incoming is None:
        return []
    given: Any = incoming if isinstance(incoming, Sequence) and not isinstance(incoming, str | bytes) else [incoming]
    for item in given:
        if not isinstance(item, Interaction | AsUser | Entity | NewRecord):
            raise UsageError(
                f"A message from outside was turned into {type(item).__name__}; expected an interaction, AsUser(interaction, "
                "user), a record, NewRecord(name, values), several of them, or None."
            )
    return list(given)
