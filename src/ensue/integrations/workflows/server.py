"""What is needed of a workflow server, and a double of it in memory.

Decides the requests and what is known of an end. Invariants: a request carries an id, and a second one with the same id
is the first one again; a workflow's id is used once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from ensue.clock import Clock
from ensue.errors import Rejected, Unavailable
from ensue.integrations.contract import Health
from ensue.integrations.workflows.records import EndStatus


class TemporalUnavailable(Unavailable):
    """The Temporal server did not answer, or could not do what it was asked; it may later."""

    code = "E0441"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start `workflow` (the name of its type) under an id that no other has had."""

    workflow_id: str
    workflow: str
    argument: Any
    task_queue: str
    request_id: str
    execution_timeout: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A signal to a workflow."""

    workflow_id: str
    name: str
    argument: Any
    request_id: str


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended. A result that is no mapping is under `"value"`."""

    workflow_id: str
    run_id: str
    status: EndStatus
    result: Mapping[str, Any] | None = None
    error: str | None = None


class Workflows(Protocol):
    """A workflow server. Every call raises `TemporalUnavailable` if it can't be done now, within a bound."""

    async def start(self, start: Start, /) -> str:
        """Start a workflow; gives the id of its run. Raises `Rejected("workflow_exists")` if another has had the id."""
        ...

    async def signal(self, message: Message, /) -> bool:
        """Send a signal; False if no such workflow is running."""
        ...

    async def cancel(self, workflow_id: str, /, *, request_id: str) -> bool:
        """Ask a workflow to stop; False if there is none of that id. One that has ended is no failure."""
        ...

    async def end_of(self, workflow_id: str, /) -> End | None:
        """How the newest run ended; None while it is open. A workflow that is not known any more has failed."""
        ...

    async def ended_since(self, workflows: Collection[str], since: datetime, /) -> Sequence[tuple[str, str]]:
        """The (workflow id, run id) of runs of these types that ended since; may be late, and may miss some."""
        ...

    def health(self) -> Health:
        """How the last call went."""
        ...


@dataclass(slots=True)
class _Held:
    start: Start
    run_id: str
    end: End | None = None
    ended_at: datetime | None = None


@dataclass(slots=True)
class MemoryWorkflows:
    """A server in memory, for tests, which say how workflows end: `complete`, `fail`, `end`.

    `started`, `signals` and `cancelled` say what was asked for; set `down` to have every call fail.
    """

    clock: Clock
    down: bool = False
    signals: list[Message] = field(default_factory=list[Message])
    cancelled: list[str] = field(default_factory=list[str])
    _held: dict[str, _Held] = field(default_factory=dict[str, _Held])
    _requests: set[str] = field(default_factory=set[str])

    @property
    def started(self) -> list[Start]:
        """What was started, in order."""
        return [held.start for held in self._held.values()]

    def complete(self, workflow_id: str, result: Any = None) -> None:
        """Let the workflow return `result`."""
        self.end(workflow_id, "completed", result=result)

    def fail(self, workflow_id: str, error: str) -> None:
        """Let the workflow fail."""
        self.end(workflow_id, "failed", error=error)

    def end(self, workflow_id: str, status: EndStatus, *, result: Any = None, error: str | None = None) -> None:
        """Let the workflow end."""
        held = self._held[workflow_id]
        held.end = End(workflow_id, held.run_id, status, as_mapping(result), error)
        held.ended_at = self.clock.now()

    async def start(self, start: Start, /) -> str:
        self._require_up()
        held = self._held.get(start.workflow_id)
        if held is not None and held.start.request_id != start.request_id:
            raise exists(start.workflow_id)
        if held is None:
            held = self._held[start.workflow_id] = _Held(replace(start), f"run-{len(self._held) + 1}")
        return held.run_id

    async def signal(self, message: Message, /) -> bool:
        self._require_up()
        held = self._held.get(message.workflow_id)
        if held is None or held.end is not None:
            return False
        if message.request_id not in self._requests:
            self._requests.add(message.request_id)
            self.signals.append(message)
        return True

    async def cancel(self, workflow_id: str, /, *, request_id: str) -> bool:
        self._require_up()
        if workflow_id not in self._held:
            return False
        if request_id not in self._requests:
            self._requests.add(request_id)
            self.cancelled.append(workflow_id)
        return True

    async def end_of(self, workflow_id: str, /) -> End | None:
        self._require_up()
        held = self._held.get(workflow_id)
        return forgotten(workflow_id) if held is None else held.end

    async def ended_since(self, workflows: Collection[str], since: datetime, /) -> Sequence[tuple[str, str]]:
        self._require_up()
        return [
            (held.start.workflow_id, held.run_id)
            for held in self._held.values()
            if held.ended_at is not None and held.ended_at >= since and held.start.workflow in workflows
        ]

    def health(self) -> Health:
        return Health(up=not self.down, detail="is down, as the test wants it" if self.down else "")

    def _require_up(self) -> None:
        if self.down:
            raise TemporalUnavailable("The Temporal server does not answer: it is down, as the test wants it.")


def as_mapping(result: Any) -> Mapping[str, Any] | None:
    """A workflow's result as it is kept in a record."""
    if result is None:
        return None
    return result if isinstance(result, dict) else {"value": result}  # pyright: ignore[reportUnknownVariableType]


def exists(workflow_id: str) -> Rejected:
    """The error for an id that another workflow has had."""
    return Rejected(
        "workflow_exists",
        f"There is, or was, another workflow with the id {workflow_id!r}. Give each record an id of its own, or leave "
        "Workflow(id=…) out.",
    )


def forgotten(workflow_id: str, run_id: str = "") -> End:
    """The end of a workflow that the server no longer knows."""
    return End(
        workflow_id, run_id, "failed", None, "The server does not know this workflow any more; how it ended is lost."
    )
