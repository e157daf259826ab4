"""`TaskIntegration`: what the author of an integration with long-running tasks writes, and what comes with it.

Decides the author's methods, the settings, the side effects and the API calls. Leaves submitting to `submit`, polling
to `poller`, and what outside events mean to the tasks' state machine. Invariant: an author never writes a task; what
is returned here becomes events.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from uuid import uuid4

from ensue.clock import whole_micros
from ensue.effects.target import SAFE_SHARE
from ensue.errors import DeclarationError, InvalidValue, Problem, Rejected
from ensue.integrations.api import API, api
from ensue.integrations.contract import Health, Integration
from ensue.integrations.settings.environment import WRONG_SETTING, EnvSetting, Setting
from ensue.integrations.tasks.schedule import Pace
from ensue.integrations.tasks.states import FINAL
from ensue.integrations.tasks.task import COLUMNS, AsyncTask, TaskEvent, status_column
from ensue.integrations.tasks.update import Submitted, TaskUpdate, check_statuses
from ensue.integrations.tasks.visits import DEADLINE, Terms, task_event
from ensue.schema.delivery import Receipt, Retry, Target
from ensue.schema.effect import Context, Effect, SideEffect
from ensue.schema.written.call import misfit

if TYPE_CHECKING:
    from ensue.engine.controller import Controller
    from ensue.schema.schema import Schema

NO_TASKS = "E0181"
_DATABASE_SECONDS = 30.0
_LEASE_MARGIN_SECONDS = 20.0
_AFTER_DEADLINE = timedelta(hours=1)


class TaskIntegration(Integration):
    """Base of integrations whose work takes long. Write `submit` and `poll`, and a map of the provider's statuses:

    >>> class MyPictures(TaskIntegration):
    ...     tasks = Picture
    ...     statuses = {"in_queue": "processing", "done": "completed", "error": "failed"}
    ...     async def submit(self, task: Picture, key: str) -> str: ...
    ...     async def poll(self, external_id: str) -> TaskUpdate: ...

    `tasks` is the class of the tasks that it works on (or the abstract one above several). A task that is created is
    submitted, polled until it ends (first after `expected_seconds`, then ever less often, up to `poll_seconds_max`)
    and given up after `deadline`. `on_unknown` says what follows when a submission may or may not have arrived and
    can't be looked up: `"fail"` it for an operator, or `"resubmit"` it. `key_ttl` is how long the provider folds
    repeats of the key. `submits_max` bounds how often a task is submitted because the provider lost it.
    `poll_lease_seconds` is how long a claimed task is left to the worker that claimed it: by default 20 s more than a
    poll may take, after which another one asks.
    """

    tasks: type[AsyncTask] = AsyncTask
    expected_seconds: float = 2.0
    poll_seconds_max: float = 60.0
    deadline: timedelta = timedelta(minutes=30)
    submit_timeout_seconds: float = 20.0
    poll_timeout_seconds: float = 10.0
    poll_lease_seconds: float | None = None
    submits_at_once: int = 8
    polls_at_once: int = 16
    submits_max: int = 3
    on_unknown: Literal["fail", "resubmit"] = "fail"
    key_ttl: timedelta | None = None
    statuses: ClassVar[Mapping[str, str]] = {}
    target: ClassVar[Target | None] = None
    """Where submissions go, to share limits with other side effects; by default a target of its own."""

    # --- What an author writes ----------------------------------------------------------------------------------------

    async def submit(self, task: Any, key: str) -> str | Submitted | TaskUpdate:
        """Hand `task` to the provider and give its id there. `key` is the same on every attempt: send it along.

        A service that answers at once gives a final `TaskUpdate`. Raise `Rejected` if it refused the task for good,
        `Throttled` or `Unavailable` if it did not take it now, `UnknownOutcome` if it may have taken it. Other errors
        are judged by their HTTP status; what says nothing counts as an unknown outcome.
        """
        raise NotImplementedError(f"{type(self).__name__}.submit is not written.")

    async def poll(self, external_id: str) -> TaskUpdate:
        """Ask where a task stands. Left out by integrations that are told by webhook alone. An error fails no task."""
        raise NotImplementedError(f"{type(self).__name__}.poll is not written.")

    async def poll_many(self, external_ids: Sequence[str]) -> Mapping[str, TaskUpdate | BaseException]:
        """Ask after many tasks in one call, if the provider can; then `poll` is not called."""
        raise NotImplementedError(f"{type(self).__name__}.poll_many is not written.")

    async def cancel(self, external_id: str) -> object:
        """Tell the provider that a task is not wanted any more, if it can be told."""
        raise NotImplementedError(f"{type(self).__name__}.cancel is not written.")

    async def verify(self, task: Any, key: str) -> str | Submitted | TaskUpdate | bool | None:
        """ "Did you get this submission?": its id (or True), False if it never arrived, None if that can't be said now."""
        raise NotImplementedError(f"{type(self).__name__}.verify is not written.")

    async def allow(self, ctx: Context, task: Any) -> bool:
        """Whether this user may see and cancel `task` through the API. By default every known user may."""
        return True

    # --- What others call ---------------------------------------------------------------------------------------------

    async def completion(
        self, update: TaskUpdate, *, external_id: str | None = None, key: str | None = None
    ) -> list[TaskEvent]:
        """The events that a callback of the provider means; return them from a webhook.

        The task is found by the provider's id or by the key of its submission. A callback that comes before the
        submission was answered is kept, and followed as soon as the id is known.

        >>> @webhook(verify=StandardWebhooks(secret=env("PICTURES_SECRET")))
        ... async def finished(self, message: Inbound) -> Incoming:
        ...     told = message.json()
        ...     return await self.completion(TaskUpdate(status=told["state"], result=told), external_id=told["id"])
        """
        from ensue.integrations.tasks.callbacks import callback_events

        return await callback_events(self._desk, update, external_id=external_id or update.external_id, key=key)

    async def cancel_task(self, task: AsyncTask) -> None:
        """Give a task up, and have the provider told. A success that comes all the same is accepted."""
        await self._tell(task, "cancelled", "cancel")

    async def submit_again(self, task: AsyncTask) -> None:
        """For an operator: submit a task anew that failed or was cancelled, with a new key and all its time."""
        await self._tell(task, "queued", "operator")

    async def adopt(self, task: AsyncTask, external_id: str) -> bool:
        """For an operator: a failed task is at the provider under this id after all, so follow it. False if it isn't failed."""
        from ensue.engine.receive import Arrival
        from ensue.integrations.tasks.poll_table import adopt

        desk, ref = self._desk, (type(task).__name__, task.id)
        event = task_event(ref, "processing", "operator", external_id=external_id)
        micros = whole_micros(self.deadline)
        claim = Arrival(
            lambda tx: adopt(tx.plan.dialect, ref, desk.namespace, external_id=external_id, deadline_micros=micros),
            TaskEvent(**event),
        )
        (adopted,) = await desk.controller.bring_in([claim])
        self._poller.wake()
        return adopted

    async def poll_due(self) -> int:
        """Visit the tasks that are due now and wait for the answers; how many. For tests: a running app does it by itself."""
        return await self._poller.visit_due()

    async def _tell(self, task: AsyncTask, status: Any, origin: Any) -> None:
        await self._desk.store.create(TaskEvent(**task_event((type(task).__name__, task.id), status, origin)))

    # --- What clients call --------------------------------------------------------------------------------------------

    @api()
    async def query_status(
        self, ctx: Context, task_id: int, task_type: str = "", refresh: bool = False
    ) -> dict[str, Any]:
        """Where a task stands. With `refresh` the provider is asked soon, whenever the next poll was due."""
        from ensue.integrations.tasks.poll_table import hasten

        task = await self._allowed(ctx, task_id, task_type)
        if refresh and task.status not in FINAL:
            ref = (type(task).__name__, task_id)
            await self._desk.driver.write(hasten(self._desk.driver.dialect, self.namespace, ref))
            self._poller.wake()
        return _shown(task)

    def create_apis(self) -> list[API]:
        # Not decorated: `cancel` is what an author calls the provider's.
        return [API("cancel", self._cancel)]

    async def _cancel(self, ctx: Context, task_id: int, task_type: str = "") -> dict[str, Any]:
        """Give a task up; what it is then."""
        task = await self._allowed(ctx, task_id, task_type)
        await self.cancel_task(task)
        return _shown(await self._desk.store.get(type(task), task_id))

    async def _allowed(self, ctx: Context, task_id: int, task_type: str) -> AsyncTask:
        desk = self._desk
        if not task_type and len(desk.classes) == 1:
            (task_type,) = desk.classes
        if task_type not in desk.classes:
            known = ", ".join(desk.classes)
            raise InvalidValue(f"There are tasks of the types {known}.", fields={"task_type": f"is none of {known}"})
        cls = desk.classes[task_type]
        task = await desk.store.find_one(cls, cls.id == task_id)
        # One answer for both, or ids could be guessed.
        if task is None or not await self.allow(ctx, task):
            raise Rejected("not_found", f"There is no {task_type} with the id {task_id}.")
        return task

    # --- Life ---------------------------------------------------------------------------------------------------------

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "setup" in cls.__dict__ or TaskIntegration in cls.__bases__:
            started: Any = _started_after(cls.setup)
            cls.setup = started
        # `tasks = Picture` in a subclass is meant as the setting's value, though it has no annotation.
        plain = {name: cls.__dict__[name] for name in cls.__ensue_settings__ if name in cls.__dict__}
        cls.__ensue_settings__ = {
            name: replace(setting, default=plain[name]) if _is_plain(plain.get(name, setting)) else setting
            for name, setting in cls.__ensue_settings__.items()
        }

    async def configure(self, schema: Schema) -> None:
        check_statuses(type(self).__name__, self.statuses)
        self._check_settings()
        self._check_lease()
        self._check_methods()
        concrete = not self.tasks.__dict__.get("__ensue_abstract__")
        classes = [self.tasks] if concrete else list(schema.subclasses(self.tasks))
        if not classes:
            raise DeclarationError(
                Problem(
                    NO_TASKS,
                    f"{type(self).__name__} works on tasks declared as {self.tasks.__name__}, and the app has none. Declare "
                    "`class Picture(AsyncTask): …` and give it in App(entities=[…]).",
                )
            )
        for cls in (*classes, TaskEvent):
            if cls not in schema.entities:
                schema.entities.add(cls)
        for cls in classes:
            # Each integration says it of its tasks, so that two that would both submit a task are told so.
            schema.property(cls, "status").computation = status_column()
        self._classes = {cls.__name__: cls for cls in classes}

    def _check_settings(self) -> None:
        name = type(self).__name__
        tasks: Any = self.tasks
        if not isinstance(tasks, type) or not issubclass(tasks, AsyncTask):
            text = f"{name}.tasks is {tasks!r}; expected a class that inherits from AsyncTask."
            raise DeclarationError(Problem(NO_TASKS, text))
        if not self._writes("submit"):
            text = f"{name} writes no submit: nothing could hand its tasks over. Write `async def submit(self, task, key)`."
            raise DeclarationError(Problem(NO_TASKS, text))
        problems = [
            Problem(WRONG_SETTING, f"{name}.{setting} is {getattr(self, setting)!r}; expected {expected}.")
            for setting, expected, fits in _SETTINGS
            if not fits(getattr(self, setting))
        ]
        if problems:
            raise DeclarationError(problems)

    def _check_lease(self) -> None:
        if self.poll_lease_seconds is not None and self.poll_lease_seconds <= self.poll_timeout_seconds:
            text = (
                f"{type(self).__name__}: poll_lease_seconds={self.poll_lease_seconds:g} must be above "
                f"poll_timeout_seconds={self.poll_timeout_seconds:g}, or two workers would ask after one task at a time."
            )
            raise DeclarationError(Problem(WRONG_SETTING, text))

    def _check_methods(self) -> None:
        """Refuse what can't be called as it will be: the first call of `submit` would be paid for, and lost."""
        problems: list[Problem] = []
        for name, parameters in _METHODS.items():
            method = getattr(self, name)
            if not inspect.iscoroutinefunction(method) or misfit(method, *parameters) is not None:
                expected = f"async def {name}(self, {', '.join(parameters)})"
                text = f"{type(self).__name__}.{name} can't be called as it will be. Write `{expected}`."
                problems.append(Problem(NO_TASKS, text))
        if problems:
            raise DeclarationError(problems)

    def create_side_effects(self) -> list[SideEffect]:
        if not hasattr(self, "_classes"):
            raise DeclarationError(
                Problem(
                    NO_TASKS,
                    f"{type(self).__name__}.configure does not call `await super().configure(schema)`, by which its tasks are "
                    "found. Call it first.",
                )
            )
        effects = [self._submitting(name, cls) for name, cls in self._classes.items()]
        if self._writes("cancel"):
            effects += [self._cancelling(name, cls) for name, cls in self._classes.items()]
        return effects

    async def setup(self, controller: Controller) -> None:
        """Override it to connect; what submits and polls is started after it, and stopped before its clients close."""

    async def _start(self, controller: Controller) -> None:
        from ensue.integrations.tasks.desk import Condition, Desk, Limits, Offers
        from ensue.integrations.tasks.poller import Poller
        from ensue.integrations.tasks.recorder import Recorder
        from ensue.integrations.tasks.submit import Submitter

        self._desk = Desk(
            namespace=self.namespace,
            author=self,
            controller=controller,
            clock=self.clock,
            classes=self._classes,
            terms=Terms(self.statuses, self.submits_max),
            pace=Pace(self.expected_seconds, min(2.0, self.poll_seconds_max), self.poll_seconds_max),
            limits=Limits(
                submit_timeout_seconds=self.submit_timeout_seconds,
                poll_timeout_seconds=self.poll_timeout_seconds,
                polls_at_once=self.polls_at_once,
                lease_seconds=self.poll_lease_seconds or self.poll_timeout_seconds + _LEASE_MARGIN_SECONDS,
                deadline=self.deadline,
                resend=None if self.key_ttl is None else self.key_ttl * SAFE_SHARE,
                fail_unknown=self.on_unknown == "fail",
            ),
            offers=Offers(self._writes("poll"), self._writes("poll_many"), self._writes("verify")),
            recorder=Recorder(controller.engine),
            effects=[f"{self.namespace}.submit_{name}" for name in self._classes],
            condition=Condition(self.clock),
            worker=f"{self.worker}-{uuid4().hex[:12]}",
        )
        self._submitter = Submitter(self._desk)
        self._poller = await self.enter(Poller(self._desk, running=self.delivers), name="poller")
        self._desk.wake = self._poller.wake

    async def health(self) -> Health:
        return self._desk.condition.health()

    def _submitting(self, name: str, cls: type[AsyncTask]) -> SideEffect:
        async def submit(effect: Effect[Any]) -> Receipt | None:
            return await self._submitter.submit(effect)

        async def verify(effect: Effect[Any]) -> Receipt | bool | None:
            return await self._submitter.verify(effect)

        return SideEffect(
            f"submit_{name}",
            cls,
            on={"create", "update"},
            of=[cls.status],
            where=lambda task: task.status == "queued",
            content=submit,
            verify=verify if self._writes("verify") else None,
            # Longer than the task itself: what comes too late finds it ended, and is no dead letter.
            retry=Retry(max_age=self.deadline + _AFTER_DEADLINE),
            timeout_seconds=self.submit_timeout_seconds + _DATABASE_SECONDS,
            concurrency=self.submits_at_once,
            target=self.target,
        )

    def _cancelling(self, name: str, cls: type[AsyncTask]) -> SideEffect:
        async def cancel(effect: Effect[Any]) -> None:
            await self.cancel(effect.record.external_id)

        return SideEffect(
            f"cancel_{name}",
            cls,
            on="update",
            # Also when the id is learned after the task was cancelled, or given up.
            of=[cls.status, cls.external_id],
            where=lambda task: (
                ~task.external_id.is_null()
                & ((task.status == "cancelled") | ((task.status == "failed") & (task.error == DEADLINE)))
            ),
            content=cancel,
            retry=Retry(max_age=self.deadline + _AFTER_DEADLINE),
        )

    def _writes(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(TaskIntegration, method)


def _is_time(value: object) -> bool:
    return isinstance(value, timedelta) and value > timedelta(0)


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < float("inf")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 1


_METHODS: Mapping[str, tuple[str, ...]] = {
    "submit": ("task", "key"),
    "poll": ("external_id",),
    "poll_many": ("external_ids",),
    "cancel": ("external_id",),
    "verify": ("task", "key"),
    "allow": ("ctx", "task"),
}

# A value that a subclass names is its author's, so it was not converted from a text as those of the environment are.
_SETTINGS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("expected_seconds", "seconds, 0 or more", lambda value: value == 0 or _is_seconds(value)),
    ("poll_seconds_max", "seconds above 0", _is_seconds),
    ("deadline", "a timedelta above 0", _is_time),
    ("submit_timeout_seconds", "seconds above 0", _is_seconds),
    ("poll_timeout_seconds", "seconds above 0", _is_seconds),
    ("submits_at_once", "a whole number, 1 or more", _is_count),
    ("polls_at_once", "a whole number, 1 or more", _is_count),
    ("submits_max", "a whole number, 1 or more", _is_count),
    ("on_unknown", "'fail' or 'resubmit'", lambda value: value in ("fail", "resubmit")),
    ("key_ttl", "a timedelta above 0, or None", lambda value: value is None or _is_time(value)),
)

Setup = Callable[[Any, Any], Awaitable[None]]


def _started_after(setup: Setup) -> Setup:
    """`setup`, and then the start: whether or not an author calls super(), and once where several classes have one."""

    @wraps(setup)
    async def started(self: TaskIntegration, controller: Controller) -> None:
        outermost = not self.__dict__.get("_setting_up")
        self.__dict__["_setting_up"] = True
        try:
            await setup(self, controller)
        finally:
            if outermost:
                del self.__dict__["_setting_up"]
        if outermost:
            await self._start(controller)  # pyright: ignore[reportPrivateUsage]  # of the class that this module is about

    return started


def _is_plain(value: object) -> bool:
    return not isinstance(value, Setting | EnvSetting)


def _shown(task: AsyncTask) -> dict[str, Any]:
    values = {name: getattr(task, name) for name in COLUMNS}
    return {"task_type": type(task).__name__, "task_id": task.id, **values}
