"""What an integration's `setup` is given where there is no database.

Decides what is refused there, and how. Invariant: nothing here pretends to be data.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ensue.errors import UsageError
from ensue.schema.model import Model


class DetachedController:
    """In place of the controller, in a worker of relayed effects: knows the model, and refuses all else."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @property
    def store(self) -> NoReturn:
        """Refused."""
        raise _no_database("controller.store")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _no_database(f"controller.{name}")


def _no_database(what: str) -> UsageError:
    return UsageError(
        f"{what} was used in a worker of relayed effects, which has no database. Give the side effect what it needs with "
        "fields=[…], or deliver it without relay=."
    )
