"""Workflows on Temporal: records start them, signal them and cancel them, and hear how they end.

Decides which effect makes which request and what an end becomes. Leaves requests to `workflows.client`, and who asks for
ends to `workflows.watch`. Invariants: a record starts one workflow, however often the effect that starts it is delivered;
an end is told once for each run, as an event, whoever heard of it; a dead server delays all of it and loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from ensue.errors import DeclarationError, EnsueError, InvalidValue, Problem, Rejected, Unavailable
from ensue.integrations.contract import Health, Integration
from ensue.integrations.settings.environment import WRONG_SETTING, env
from ensue.integrations.workflows.records import WorkflowEvent, WorkflowRun, WorkflowWatch, machines
from ensue.integrations.workflows.server import End, MemoryWorkflows, Message, Start, TemporalUnavailable, Workflows
from ensue.integrations.workflows.watch import LEASE, Lease, Watch
from ensue.schema.computations.custom import Custom
from ensue.schema.delivery import Receipt, Target
from ensue.schema.effect import Effect, SideEffect
from ensue.schema.entity import Entity
from ensue.schema.model import Change

if TYPE_CHECKING:
    from ensue.engine.controller import Controller
    from ensue.schema.schema import Schema

__all__ = ["MemoryWorkflows", "Signal", "Temporal", "TemporalUnavailable", "Workflow", "WorkflowEvent", "WorkflowRun"]

logger = logging.getLogger("ensue.integrations.temporal")

MEMORY: Final = "memory://"
LOOKED_AT_ONCE: Final = 10
PAGE: Final = 200
OVERLAP: Final = timedelta(minutes=1)
"""How much is listed twice: clocks differ, and the server's listing comes a little late."""
STARTS_WAITED_FOR: Final = 3

_ADDRESS: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}")
_REQUESTS: Final = uuid.UUID("5e8ac3a5-04fb-4f0a-9f6c-6b5a3a0d7c1e")


class NotStartedYet(EnsueError):
    """The workflow that this is for has not been started; the effect that starts it comes first."""

    code = "E0442"


@dataclass(frozen=True, slots=True)
class Workflow:
    """What a record starts: the workflow type's `name`, and the one `argument` that is made of the record.

    `fields` are read besides the record's own columns. `id` names the workflow, by default after the record; give one only
    if it is unique for ever. Without a `task_queue` it is that of the integration.

    >>> Workflow("FulfilOrder", lambda run: {"order": run.order.number}, fields=[Fulfilment.order.number])
    """

    name: str
    argument: Callable[[Any], Any] = lambda run: {"id": run.id}
    fields: Sequence[Any] = ()
    id: Callable[[Any], str] | None = None
    task_queue: str | None = None
    execution_timeout: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """A change of `record` as a signal `name` to the workflow of the run that its link `run` leads to.

    The other arguments are those of a side effect; `argument` is made of the record. Signals of one run arrive in the
    order of their commits; those to a workflow that has ended are dropped.

    >>> Signal("paid", Payment, run="fulfilment", argument=lambda payment: {"amount": payment.amount})
    """

    name: str
    record: type[Entity]
    run: str
    argument: Callable[[Any], Any] = lambda record: {"id": record.id}
    on: Change | Collection[Change] = "create"
    fields: Sequence[Any] = ()
    of: Sequence[Any] = ()
    where: Callable[[Any], Any] | None = None


class Temporal(Integration):
    """Workflows on a Temporal server; `address="memory://"` is a double for tests. TLS is on with an `api_key`.

    `workflows` says what each kind of `WorkflowRun` starts, `signals` which changes are signals. Every `watch_seconds`
    one process asks for workflows that ended, and every `reconcile_seconds` for each open one by itself; if it dies,
    another does within `lease`.

    >>> Temporal(workflows={Fulfilment: Workflow("FulfilOrder", lambda run: run.order.id)})
    """

    workflows: Mapping[type[WorkflowRun], Workflow]
    signals: Sequence[Signal] = ()
    address: str = env("TEMPORAL_ADDRESS", default="localhost:7233")
    temporal_namespace: str = env("TEMPORAL_NAMESPACE", default="default")
    task_queue: str = env("TEMPORAL_TASK_QUEUE", default="ensue")
    api_key: str = env("TEMPORAL_API_KEY", default="")
    tls: bool | None = env("TEMPORAL_TLS", default=None)
    id_prefix: str = env("TEMPORAL_ID_PREFIX", default="ensue-")
    watch_seconds: float = env("TEMPORAL_WATCH_SECONDS", default=1.0)
    reconcile_seconds: float = env("TEMPORAL_RECONCILE_SECONDS", default=60.0)
    lease: timedelta = env("TEMPORAL_LEASE", default=LEASE)

    async def configure(self, schema: Schema) -> None:
        self._check_settings()
        schema.entities.add(WorkflowEvent)
        schema.entities.add(WorkflowWatch)
        declared = schema.subclasses(WorkflowRun)
        unknown = [run.__name__ for run in self.workflows if run not in declared]
        if unknown:
            raise self._wrong(f"has workflows for {', '.join(unknown)}, which is no WorkflowRun of this app.")
        for run in self.workflows:
            columns: dict[str, Any] = {**machines(run), "workflow_id": Custom(initial=self._namer(run))}
            for name, computation in columns.items():
                schema.property(run, name).computation = computation

    async def setup(self, controller: Controller) -> None:
        self._refuse_unmatched(controller)
        self._controller = controller
        self._store = controller.store
        self._seen: dict[str, float] = {}
        self._since = self.clock.now()
        self.server: Workflows = await self.enter(await self._open(), name="server")
        lease = Lease(self._store, self.namespace, clock=self.clock, length=self.lease)
        self._watch = Watch(
            lease, self._look, seconds=self.watch_seconds, anew_seconds=self.reconcile_seconds, clock=self.clock
        )
        if self.address != MEMORY:
            await self.enter(self._watch, name="watch")

    async def health(self) -> Health:
        return self.server.health()

    async def watch_once(self) -> bool:
        """Look for ends now, if nobody else does; gives whether it was up to us. For tests: else it happens by itself."""
        return await self._watch.once()

    # --- Effects --------------------------------------------------------------------------------------------------------

    def create_side_effects(self) -> list[SideEffect]:
        target = Target(self.namespace)
        effects: list[SideEffect] = []
        for run, workflow in self.workflows.items():
            name = run.__name__
            effects += [
                SideEffect(
                    f"start_{name}",
                    run,
                    on="create",
                    fields=workflow.fields,
                    content=self._starter(run, workflow),
                    target=target,
                ),
                SideEffect(
                    f"cancel_{name}",
                    run,
                    on="update",
                    of=[run.cancel_requested],
                    where=lambda item: item.cancel_requested,
                    content=self._canceller(run),
                    target=target,
                ),
                SideEffect(f"cancel_deleted_{name}", run, on="delete", content=self._canceller(run), target=target),
            ]
        return effects + [self._signaller(number, signal, target) for number, signal in enumerate(self.signals, 1)]

    def _starter(self, run: type[WorkflowRun], workflow: Workflow) -> Callable[[Effect[Any]], Any]:
        async def start(effect: Effect[Any]) -> Receipt:
            item = await self._store.find_one(run, run.id == effect.record.id)
            if item is None:
                return Receipt(note="was deleted before it was started")
            if item.cancel_requested:
                await self._tell(item, "started", WorkflowEvent(**_about(item), status="cancelled"))
                return Receipt(note="was cancelled before it was started")
            request = Start(
                workflow_id=item.workflow_id,
                workflow=workflow.name,
                argument=workflow.argument(effect.record),
                task_queue=workflow.task_queue or self.task_queue,
                request_id=_request_id(effect),
                execution_timeout=workflow.execution_timeout,
            )
            try:
                run_id = await self.server.start(request)
            except Rejected as refusal:
                # It will never run: the record must not wait for it.
                await self._tell(item, "started", WorkflowEvent(**_about(item), status="failed", error=str(refusal)))
                raise
            await self._tell(item, "started", WorkflowEvent(**_about(item), run_id=run_id, status="running"))
            return Receipt(provider_id=run_id)

        return start

    def _canceller(self, run: type[WorkflowRun]) -> Callable[[Effect[Any]], Any]:
        async def cancel(effect: Effect[Any]) -> None:
            if await self.server.cancel(effect.record.workflow_id, request_id=_request_id(effect)):
                return
            item = await self._store.find_one(run, run.id == effect.record.id)
            # One that is deleted may be just about to be started, by an effect that saw it before.
            if (item is not None and item.status == "starting") or (
                item is None and effect.attempt < STARTS_WAITED_FOR
            ):
                raise NotStartedYet(
                    f"{run.__name__} {effect.record.id} is not started yet; it is cancelled afterwards."
                )

        return cancel

    def _signaller(self, number: int, signal: Signal, target: Target) -> SideEffect:
        link: Any = getattr(signal.record, signal.run, None)
        if link is None:
            raise self._wrong(
                f"has the signal {signal.name!r} with run={signal.run!r}, and {signal.record.__name__} has no such link."
            )

        async def send(effect: Effect[Any]) -> Receipt | None:
            run = getattr(effect.record, signal.run)
            if run is None:
                return Receipt(note="leads to no run")
            message = Message(
                workflow_id=run.workflow_id,
                name=signal.name,
                argument=signal.argument(effect.record),
                request_id=_request_id(effect),
            )
            if await self.server.signal(message):
                return None
            if await self._is_starting(run.workflow_id):
                raise NotStartedYet(f"The workflow {run.workflow_id} is not started yet; it is signalled afterwards.")
            return Receipt(note="the workflow has ended")

        return SideEffect(
            f"signal_{number}_{signal.name}",
            signal.record,
            on=signal.on,
            of=signal.of,
            where=signal.where,
            fields=[*signal.fields, link.workflow_id],
            order_by=lambda record: getattr(record, signal.run).id,
            content=send,
            target=target,
        )

    # --- Ends -----------------------------------------------------------------------------------------------------------

    async def _look(self, anew: bool) -> None:
        """Tell of every workflow that ended since the last look; with `anew`, of every open one that has ended."""
        began = self.clock.now()
        if anew:
            await self._reconcile()
        elif not await self._any_open():
            self._since = began
            return
        found = await self.server.ended_since({item.name for item in self.workflows.values()}, self._since - OVERLAP)
        self._forget_seen()
        news = {run_id: workflow_id for workflow_id, run_id in found if run_id not in self._seen}
        ids = list(dict.fromkeys(news.values()))
        early: set[str] = set()
        for start in range(0, len(ids), PAGE):
            for run in self.workflows:
                items = await self._store.find(run, run.workflow_id.in_(ids[start : start + PAGE]))
                await self._settle(item for item in items if item.run_id)
                early |= {item.workflow_id for item in items if item.status == "starting"}
        # What ended before its start was noted is seen again, once it is.
        seen = [run_id for run_id, workflow_id in news.items() if workflow_id not in early]
        self._seen.update(dict.fromkeys(seen, self.clock.monotonic_seconds()))
        self._since = began

    async def _reconcile(self) -> None:
        for run in self.workflows:
            last = 0
            while found := await self._store.find(
                run, (run.status == "running") & (run.id > last), order_by=[run.id], limit=PAGE
            ):
                await self._settle(found)
                last = found[-1].id

    async def _settle(self, items: Iterable[WorkflowRun]) -> None:
        """Tell of those that have ended. Raises `Unavailable`; what is wrong with one is logged, and holds up no other."""
        asked = list(items)
        gate = asyncio.Semaphore(LOOKED_AT_ONCE)

        async def settle(item: WorkflowRun) -> None:
            async with gate:
                end = await self.server.end_of(item.workflow_id)
            if end is not None:
                await self._tell_end(item, end)

        outcomes = await asyncio.gather(*(settle(item) for item in asked), return_exceptions=True)
        for item, outcome in zip(asked, outcomes, strict=True):
            if isinstance(outcome, Unavailable) or not isinstance(outcome, Exception | None):
                raise outcome
            if outcome is not None:
                logger.error("whether the workflow %s has ended can't be told", item.workflow_id, exc_info=outcome)

    async def _tell_end(self, item: WorkflowRun, end: End) -> None:
        about: dict[str, Any] = {**_about(item), "run_id": end.run_id or item.run_id, "status": end.status}
        result = None if end.result is None else dict(end.result)
        try:
            await self._tell(item, about["run_id"], WorkflowEvent(**about, result=result, error=end.error))
        except InvalidValue as refusal:
            # What it returned is no JSON that can be kept; that it has ended must be known all the same.
            text = f"What the workflow returned can't be kept. {refusal}"
            await self._tell(item, about["run_id"], WorkflowEvent(**about, error=text))

    async def _tell(self, item: WorkflowRun, what: str, event: WorkflowEvent) -> None:
        """Each start, and each end of a run, is told once."""
        known_as = f"{type(item).__name__}/{item.id}/{item.workflow_id}/{what}"
        await self._controller.receive(f"{self.namespace}/workflows", known_as, event)

    async def _any_open(self) -> bool:
        for run in self.workflows:
            if await self._store.find_one(run, run.status.in_(["starting", "running"]), fields=[run.id]) is not None:
                return True
        return False

    async def _is_starting(self, workflow_id: str) -> bool:
        for run in self.workflows:
            item = await self._store.find_one(run, run.workflow_id == workflow_id)
            if item is not None:
                return item.status == "starting"
        return False

    def _forget_seen(self) -> None:
        before = self.clock.monotonic_seconds() - 10 * OVERLAP.total_seconds()
        self._seen = {run_id: at for run_id, at in self._seen.items() if at >= before}

    # --- Details --------------------------------------------------------------------------------------------------------

    def _namer(self, run: type[WorkflowRun]) -> Callable[[Any], str]:
        own = self.workflows[run].id
        # Random at the end: another database counts from 1 too, and may share the server.
        return own or (lambda record: f"{self.id_prefix}{run.__name__}-{record.id}-{uuid.uuid4().hex[:12]}")

    def _refuse_unmatched(self, controller: Controller) -> None:
        """Only now every integration has said which kinds of runs are its own."""
        for name, record in controller.model.records.items():
            if issubclass(record.cls, WorkflowRun) and record.fields["status"].computation is None:
                raise self._wrong(
                    f"and no other integration has a workflow for {name}. Give one: {{{name}: Workflow(…)}}."
                )

    async def _open(self) -> AbstractAsyncContextManager[Workflows]:
        if self.address == MEMORY:
            return nullcontext(MemoryWorkflows(self.clock))
        try:
            # Only who uses Temporal needs its client installed.
            from temporalio.client import Client

            from ensue.integrations.workflows.client import TemporalWorkflows
        except ImportError as failure:
            raise self._wrong(f"needs the Temporal client: pip install 'ensue[temporal]' ({failure}).") from failure
        client = await Client.connect(
            self.address,
            namespace=self.temporal_namespace,
            api_key=self.api_key or None,
            tls=bool(self.api_key) if self.tls is None else self.tls,
            lazy=True,
        )
        return TemporalWorkflows(client, clock=self.clock, identity=f"ensue:{self.namespace}")

    def _check_settings(self) -> None:
        if self.address != MEMORY and _ADDRESS.fullmatch(self.address) is None:
            raise self._wrong(f"has the address {self.address!r}; expected host:port, such as localhost:7233.")
        for setting in ("watch_seconds", "reconcile_seconds"):
            if not 0 < getattr(self, setting) < float("inf"):
                raise self._wrong(f"has {setting}={getattr(self, setting)}; expected seconds above 0.")
        if self.lease <= timedelta(0):
            raise self._wrong(f"has lease={self.lease}; expected a time above 0.")
        for setting in ("temporal_namespace", "task_queue"):
            if not getattr(self, setting):
                raise self._wrong(f"has an empty {setting}; expected the name of one.")

    def _wrong(self, text: str) -> DeclarationError:
        return DeclarationError(Problem(WRONG_SETTING, f"{self.namespace} (Temporal) {text}"))


def _about(item: WorkflowRun) -> dict[str, Any]:
    return {"run_type": type(item).__name__, "record_id": item.id}


def _request_id(effect: Effect[Any]) -> str:
    """The same for every attempt, in the form that the server expects."""
    return str(uuid.uuid5(_REQUESTS, effect.key))
