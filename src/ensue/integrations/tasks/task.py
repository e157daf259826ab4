"""`AsyncTask` and `TaskEvent`: a task at an external provider as a record, and what is told of it.

Decides the columns and how each moves. Leaves the transitions to `states`, and making events to `integration` and
whoever else hears of a task. Invariant: every column of a task but its own input moves with its status, on the same
events, and is never written directly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar, Final, TypeVar

from ensue.expression.trace import now
from ensue.expression.types import ValueType
from ensue.integrations.tasks.states import STATUSES, STEPS, Origin, Step, TaskStatus
from ensue.schema.computations.contract import Built, Declared, Scope, declared_type
from ensue.schema.computations.machine import Mutation, State, StateMachine, Transition
from ensue.schema.entity import Entity
from ensue.schema.property import Property

T = TypeVar("T")

Value = Callable[[TaskStatus, Any, Any], Any]
"""(the status that is entered, the last value, the event's record) -> the value."""


class TaskEvent(Entity):
    """Something that happened to a task; creating one is the only way to move it.

    `task_type` is the name of the task's class. Without a `task_id` it is a callback whose task is not known yet: it
    is kept, and followed once the submission that it answers is known by `external_id` or `key`.

    >>> await store.create(TaskEvent(task_type="Picture", task_id=7, status="completed", result={"url": "…"}))
    """

    task_type: Property[str]
    task_id: Property[int | None] = Property(default=None, index=True)
    status: Property[TaskStatus]
    origin: Property[Origin] = Property(default="app")
    external_id: Property[str | None] = Property(default=None, index=True)
    key: Property[str | None] = Property(default=None, index=True)
    result: Property[dict[str, Any] | None] = Property(default=None)
    error: Property[str | None] = Property(default=None)
    progress: Property[float | None] = Property(default=None)
    attempt: Property[int | None] = Property(default=None)
    cost: Property[float | None] = Property(default=None)
    deadline: Property[datetime | None] = Property(default=None)
    note: Property[str | None] = Property(default=None)
    at: Property[datetime] = Property(default=now)


class TaskColumn(StateMachine[T]):
    """One column of every task: a state machine over the task's events, with the transitions that all columns share."""

    def __init__(self, annotation: Any, start: Any, value: Value | None = None) -> None:
        super().__init__(initial=State("queued"), transitions=(), states=[State(status) for status in STATUSES])
        self._annotation = annotation
        self._start = start
        self._value = value

    def references(self) -> Iterable[Any]:
        yield TaskEvent

    def early(self, scope: Scope) -> tuple[ValueType, bool, Any]:
        declared = self._declared()
        return declared.type, declared.optional, self._start

    def build(self, scope: Scope) -> Built:
        states = [State(status, value=self._of(status)) for status in STATUSES]
        machine: StateMachine[Any] = StateMachine(
            initial=states[0], states=states, transitions=[_transition(step, scope.host) for step in STEPS]
        )
        machine.origin = self.origin
        typed: Any = _Typed(scope, self._declared())
        return machine.build(typed)

    def _declared(self) -> Declared:
        return replace(declared_type(self._annotation), default=self._start)

    def _of(self, status: TaskStatus) -> Callable[[Any, Any], Any] | None:
        value = self._value
        return None if value is None else lambda last, event: value(status, last, event.record)


class _Typed:
    """A scope whose property was declared with a type and a start; everything else is the scope's."""

    def __init__(self, scope: Scope, declared: Declared) -> None:
        self._scope = scope
        self.declared = declared

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scope, name)


def _transition(step: Step, host: str) -> Transition:
    where = {"task_type": host, "status": step.status}
    if step.origin is not None:
        where["origin"] = step.origin
    return Transition(
        step.sources, step.target, on=Mutation(TaskEvent, "create", where=where), record=lambda event: event.task_id
    )


def _kept(name: str) -> Value:
    def value(_status: TaskStatus, last: Any, event: Any) -> Any:
        given = getattr(event, name)
        return last if given is None else given

    return value


def _external_id(status: TaskStatus, last: Any, event: Any) -> Any:
    # What is to be submitted again is at the provider under no name.
    return None if status == "queued" else event.external_id or last


def _result(status: TaskStatus, last: Any, event: Any) -> Any:
    return None if status == "queued" else last if event.result is None else event.result


def _error(status: TaskStatus, last: Any, event: Any) -> Any:
    if status == "failed":
        return event.error or last or "failed"
    return event.error if status == "queued" else None


def _progress(status: TaskStatus, last: Any, event: Any) -> Any:
    if status in ("queued", "completed"):
        return float(status == "completed")
    return last if event.progress is None else min(1.0, max(0.0, event.progress))


def _cost(_status: TaskStatus, last: Any, event: Any) -> Any:
    return last + (event.cost or 0.0)


def status_column() -> TaskColumn[TaskStatus]:
    """The machine that holds a task's status."""
    return TaskColumn(TaskStatus, "queued")


class AsyncTask(Entity, abstract=True):
    """A task that an external service works on. Declare one with its input:

    >>> class Picture(AsyncTask):
    ...     prompt: Property[str]

    `status` goes queued → processing → completed, failed or cancelled, for services that answer at once as well.
    `external_id` is the provider's name for it; `result` what it gave; `error` why it failed; `attempts` how often it
    was submitted; `progress` from 0 to 1; `deadline` when it is given up; `cost` what the provider charged for it, in
    the provider's units, over all attempts. All follow from its `TaskEvent`s.
    """

    status: ClassVar[TaskColumn[TaskStatus]] = status_column()
    external_id: ClassVar[TaskColumn[str | None]] = TaskColumn(str | None, None, _external_id)
    result: ClassVar[TaskColumn[dict[str, Any] | None]] = TaskColumn(dict[str, Any] | None, None, _result)
    error: ClassVar[TaskColumn[str | None]] = TaskColumn(str | None, None, _error)
    attempts: ClassVar[TaskColumn[int]] = TaskColumn(int, 0, _kept("attempt"))
    progress: ClassVar[TaskColumn[float]] = TaskColumn(float, 0.0, _progress)
    deadline: ClassVar[TaskColumn[datetime | None]] = TaskColumn(datetime | None, None, _kept("deadline"))
    cost: ClassVar[TaskColumn[float]] = TaskColumn(float, 0.0, _cost)


COLUMNS: Final = ("status", "external_id", "result", "error", "attempts", "progress", "deadline", "cost")
"""The names of the columns that every task has."""
