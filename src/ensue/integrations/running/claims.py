"""Who added what to the schema, so that a clash of two integrations names both.

Decides which changes of the schema exclude each other: two record types of one name, two computations of one property.
Leaves the report to `freeze`, which gives all problems of the declarations at once. Invariant: what was declared is
never silently replaced by another integration.
"""

from __future__ import annotations

from typing import Any

from ensue.errors import Problem
from ensue.schema.computations.contract import Computation
from ensue.schema.schema import Schema

CLAIMED_TWICE = "E0157"


class Claims:
    """The claims on one schema; `take` is called after each integration's `configure`."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._records = dict.fromkeys(schema.drafts, "the app itself")
        self._computations = {key: ("the app itself", computation) for key, computation in self._computed().items()}
        self._problems = len(schema.problems)

    def take(self, namespace: str) -> None:
        """Note what is new since the last call as claimed by `namespace`; clashes go into `schema.problems`."""
        who = f"the integration {namespace!r}"
        new = self._schema.problems[self._problems :]
        self._schema.problems[self._problems :] = [self._named(problem, who) for problem in new]
        for (record, name), computation in self._computed().items():
            claimed = self._computations.get((record, name))
            if claimed is not None and claimed[1] is not computation:
                text = (
                    f"{record}.{name} is given a computation by {claimed[0]} and by {who}. Only one can compute it: "
                    "remove one, or let one of them use a property of its own."
                )
                self._schema.problems.append(Problem(CLAIMED_TWICE, text, computation.origin))
            elif claimed is None:
                self._computations[record, name] = (who, computation)
        for record in self._schema.drafts:
            self._records.setdefault(record, who)
        self._problems = len(self._schema.problems)

    def _named(self, problem: Problem, who: str) -> Problem:
        owners = [owner for record, owner in self._records.items() if repr(record) in problem.message]
        if not owners:
            return problem
        text = f"{problem.message} The first is from {owners[0]}, this one from {who}."
        return Problem(CLAIMED_TWICE, text, problem.origin)

    def _computed(self) -> dict[tuple[str, str], Computation[Any]]:
        return {
            (draft.name, name): computation
            for draft in self._schema.drafts.values()
            for name, computation in draft.computations.items()
        }
