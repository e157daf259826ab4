"""`WorkflowRun`: a record whose life is a workflow, and what happens to it.

Decides the columns and what moves each. Leaves making events to the integration. Invariant: every column but the app's
own input moves by a `WorkflowEvent`, on the same event as the status.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from ensue.expression.trace import now
from ensue.schema.computations.machine import Mutation, State, StateMachine, Transition
from ensue.schema.entity import Entity
from ensue.schema.property import Property

EndStatus: TypeAlias = Literal["completed", "failed", "cancelled", "terminated", "timed_out"]
RunStatus: TypeAlias = Literal["starting", "running", "completed", "failed", "cancelled", "terminated", "timed_out"]

ENDS: Final[tuple[EndStatus, ...]] = ("completed", "failed", "cancelled", "terminated", "timed_out")


class WorkflowRun(Entity, abstract=True):
    """A workflow as a record: creating one starts it. Declare your own with what the workflow is to know.

    >>> class Fulfilment(WorkflowRun):
    ...     order: One[Order]

    `status` goes from `starting` to `running` and then to `completed`, `failed`, `cancelled`, `terminated` or
    `timed_out`; `result` is what the workflow returned (a mapping as it is, anything else under `"value"`), `error` why it
    ended otherwise, or why its result is missing. `workflow_id` is its name on the server, `run_id` the server's of this
    run. Set `cancel_requested`, or delete the record, and it is cancelled. All but the last are computed by `Temporal`.
    """

    workflow_id: Property[str] = Property(default="", index=True)
    run_id: Property[str] = Property(default="")
    status: Property[RunStatus] = Property(default="starting", index=True)
    result: Property[dict[str, Any] | None] = Property(default=None)
    error: Property[str | None] = Property(default=None)
    cancel_requested: Property[bool] = Property(default=False)


class WorkflowEvent(Entity):
    """What happened to a run. `run_type` is the name of its class, `record_id` its id."""

    run_type: Property[str]
    record_id: Property[int] = Property(index=True)
    run_id: Property[str] = Property(default="")
    status: Property[RunStatus]
    result: Property[dict[str, Any] | None] = Property(default=None)
    error: Property[str | None] = Property(default=None)
    at: Property[datetime] = Property(default=now)


class WorkflowWatch(Entity):
    """Who looks for the ends of workflows at the moment, and until when nobody else does."""

    name: Property[str] = Property(unique=True)
    holder: Property[str] = Property(default="")
    until: Property[datetime]


def machines(run: type[WorkflowRun]) -> dict[str, StateMachine[Any]]:
    """What the columns of `run` are computed by."""
    return {
        "status": StateMachine(
            initial="starting",
            transitions=[
                _transition(run, "running", "starting", target="running"),
                # From any: the server can run a workflow anew that had ended, and then it ends again.
                *(_transition(run, end, "*", target=end) for end in ENDS),
            ],
        ),
        "run_id": _column(run, lambda last, event: event.record.run_id or last),
        "result": _column(run, lambda last, event: event.record.result),
        "error": _column(run, lambda last, event: event.record.error),
    }


def _column(run: type[WorkflowRun], value: Callable[[Any, Any], Any]) -> StateMachine[Any]:
    """Moves with the status: what comes late, after the end, is no news here either."""
    open_, ended = State("open", value=value), State("ended", value=value)
    moves = [
        _transition(run, "running", open_, target=open_),
        *(_transition(run, end, "*", target=ended) for end in ENDS),
    ]
    return StateMachine(states=[open_, ended], initial=open_, transitions=moves)


def _transition(run: type[WorkflowRun], status: RunStatus, source: str | State, *, target: str | State) -> Transition:
    created = Mutation("WorkflowEvent", "create", where={"run_type": run.__name__, "status": status})
    return Transition(source, target, on=created, record=lambda event: event.record_id)
