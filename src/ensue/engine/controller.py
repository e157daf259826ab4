"""`Controller`: dispatch interactions, each in one transaction; and `store`, which reads and writes records.

Decides the life of a dispatch: guard, idempotency, event, what ensues, commit. The guard runs first and may read the store; only
then is the transaction begun before it, so a guard that reads nothing costs none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any, TypeVar

from ensue.clock import Clock, SystemClock
from ensue.engine.callbacks import current, running
from ensue.engine.commit import Commit, finish
from ensue.engine.dispatch import (
    claim_key,
    event_values,
    fill_key,
    follow_events,
    payload_hash,
    store_events,
)
from ensue.engine.dispatch import (
    idempotency_key as key_of,
)
from ensue.engine.engine import Engine, session_of
from ensue.engine.events import NetChanges
from ensue.engine.receive import Arrival, arrival, plan_arrivals
from ensue.engine.store import Store
from ensue.engine.transaction import Prepared, Transaction
from ensue.engine.violations import in_schema_words
from ensue.engine.writing.initials import compute_initial
from ensue.errors import ConstraintViolated, DeclarationError, NotFound, Rejected, UsageError
from ensue.plan.plan import Plan, RecordPlan
from ensue.schema.event import DispatchResult
from ensue.schema.incoming import Incoming
from ensue.schema.interaction import Context, Interaction
from ensue.schema.model import InteractionModel, Model
from ensue.schema.record import Record, record_values
from ensue.store.driver import Driver, Session
from ensue.store.inbox_table import CLOSED, StoredMessage, message_state
from ensue.store.retry import stand_in_line, with_retry
from ensue.store.statement import Run, Work
from ensue.telemetry import REPEATED, Activity, Switchboard

M = TypeVar("M", bound=Interaction)
T = TypeVar("T")
Asked = Sequence[tuple[Interaction, Context]]
Body = Callable[[Transaction], Work[T]]
Told = Callable[[Transaction, T], T]
Begin = Callable[[], tuple[Transaction, Work[tuple[T, Commit]]]]


class Controller:
    """An app's way in: `await controller.dispatch(AddComment(post=post, text="hi"), user=user)`."""

    def __init__(
        self,
        *,
        plan: Plan,
        driver: Driver,
        clock: Clock | None = None,
        model: Model | None = None,
        telemetry: Switchboard | None = None,
    ) -> None:
        self.engine = Engine(plan, driver, clock if clock is not None else SystemClock(), telemetry)
        self.store = Store(self.engine)
        self.model = plan.model if model is None else model
        self._by_class = {item.cls: item for item in self.model.interactions.values()}

    def on_commit(self, listener: Callable[[Commit], None], /) -> None:
        """Call `listener(commit)` on the event loop after each commit of this process."""
        self.engine.listeners.append(listener)

    @property
    def awaits_initials(self) -> bool:
        """Whether some record type has a `Custom` whose `initial` is async, so that `compute_initial` must be delivered."""
        return any(plan.awaits_initial for plan in self.engine.plan.records.values())

    async def compute_initial(self, record: str, id: int, field: str) -> None:
        """Await a `Custom(initial=…)` for a record that arose inside a transaction; the effect `ensue.initial` calls it."""
        await compute_initial(self.engine, record, id, field)

    async def close(self) -> None:
        """Tell other processes of what was committed last; before the driver is closed."""
        await self.engine.announcer.close()

    async def dispatch(
        self, interaction: M, /, *, user: object = None, idempotency_key: str | None = None, request: object = None
    ) -> DispatchResult[M]:
        """Guard, store and follow one interaction; all commits, or nothing does.

        Raises `Rejected` (nothing was written). With `idempotency_key` a repeat gives the first result, `replayed`.
        """
        model = self._interaction(interaction)
        with self.engine.telemetry.activity("dispatch", model.name) as activity:
            if model.reads is not None:
                return await self._read(model, interaction, user, request)
            result = await self._dispatch(
                model, interaction, Context(user=user, request=request, controller=self), idempotency_key
            )
            activity.note(event_id=result.event.id)
            if result.replayed:
                activity.end_as(REPEATED)
            return result

    async def _dispatch(
        self, model: InteractionModel, interaction: M, context: Context, idempotency_key: str | None
    ) -> DispatchResult[M]:
        plan, user = self.engine.plan.records[model.name], context.user
        values = event_values(plan, interaction, user)
        asked = [(interaction, context)]
        if idempotency_key is None:
            results = await self._transact(
                asked, lambda tx: self._store(tx, [(plan, values, interaction)]), kind=model.name
            )
            return results[0]
        key = key_of(model.name, user, idempotency_key)
        digest = payload_hash(record_values(interaction))

        def work(tx: Transaction) -> Work[list[DispatchResult[M]]]:
            earlier = yield from claim_key(tx, key, digest)
            if earlier is not None:
                return [(yield from _replay(tx, plan, earlier))]
            results = yield from self._store(tx, [(plan, values, interaction)])
            yield from fill_key(tx, key, results[0].event.id)
            return results

        return (await self._transact(asked, work, kind=f"{model.name} with a key"))[0]

    async def dispatch_many(self, interactions: Iterable[M], /, *, user: object = None) -> list[DispatchResult[M]]:
        """Dispatch several in one transaction and one propagation; all or none. Each result has the changes of the whole."""
        if isinstance(interactions, Record):
            name = type(interactions).__name__
            raise UsageError(f"dispatch_many takes several interactions, and was given one {name}. Call `dispatch`.")
        given = list(interactions)
        prepared: list[tuple[RecordPlan, dict[str, Any], Any]] = []
        for interaction in given:
            model = self._interaction(interaction)
            if model.reads is not None:
                raise UsageError(f"{model.name} only reads; dispatch it on its own with `dispatch`.")
            plan = self.engine.plan.records[model.name]
            prepared.append((plan, event_values(plan, interaction, user), interaction))
        if not given:
            return []
        context = Context(user=user, controller=self)
        asked = [(item, context) for item in given]
        with self._dispatching(asked):
            return await self._transact(asked, lambda tx: self._store(tx, prepared))

    async def receive(
        self,
        endpoint: str,
        sender_id: str,
        incoming: Incoming,
        /,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Do what a message from outside means, once: interactions are dispatched, records created, in one transaction.

        `sender_id` is the sender's own name for the message, unique at this `endpoint`. False if it was done before.
        Raises what a dispatch raises (nothing is kept then), and `UsageError` for what can't come in.
        """
        message = StoredMessage(endpoint, sender_id, body, headers or {})
        try:
            (taken,) = await self.bring_in([arrival(message, incoming)])
        except (Rejected, NotFound):
            # What was allowed the first time may not be the second, because of the first.
            if await self.engine.read(lambda reader: message_state(self.engine.plan.dialect, message)) in CLOSED:
                return False
            raise
        return taken

    async def bring_in(self, arrivals: Sequence[Arrival], /) -> list[bool]:
        """Do what messages mean in one transaction, each if its claim succeeds; for each whether it did. All or none."""
        planned = await plan_arrivals(self.engine, self._interaction, arrivals)
        asked = [(interaction, Context(user=user, controller=self)) for interaction, user in planned.asked]
        with self._dispatching(asked) as activities:
            taken = await self._in_transaction(asked, planned.work, prepared=planned.prepared, kind=planned.kind)
            for activity in activities if not any(taken) else ():
                activity.end_as(REPEATED)
            return taken

    @contextmanager
    def _dispatching(self, asked: Asked) -> Generator[list[Activity]]:
        """Tell of several dispatches at once, one for each type: they succeed or fail together."""
        counts = Counter(type(interaction).__name__ for interaction, _ in asked)
        telemetry = self.engine.telemetry
        with ExitStack() as stack:
            yield [
                stack.enter_context(telemetry.activity("dispatch", name, count=count)) for name, count in counts.items()
            ]

    def _interaction(self, interaction: object) -> InteractionModel:
        model = self._by_class.get(type(interaction))
        if model is None and isinstance(interaction, type) and interaction in self._by_class:
            name = interaction.__name__
            raise UsageError(f"{name} was given as a class; expected an interaction with its payload: {name}(…).")
        if model is None:
            known = ", ".join(sorted(self.model.interactions)) or "none"
            raise DeclarationError(
                f"{type(interaction).__name__} is no interaction of this app; there are: {known}. Give it in App(interactions=…)."
            )
        return model

    def _store(
        self, tx: Transaction, given: Sequence[tuple[RecordPlan, dict[str, Any], Any]]
    ) -> Work[list[DispatchResult[Any]]]:
        events = yield from store_events(tx, given)
        yield from follow_events(tx, events)
        return [DispatchResult(event.instance) for event in events]

    # --- The transaction ------------------------------------------------------------------------------------------------

    async def _transact(
        self, asked: Asked, body: Body[list[DispatchResult[M]]], *, kind: str | None = None
    ) -> list[DispatchResult[M]]:
        return await self._in_transaction(asked, body, told=_with_changes, kind=kind)

    async def _in_transaction(
        self,
        asked: Asked,
        body: Body[T],
        *,
        told: Told[T] | None = None,
        prepared: Prepared | None = None,
        kind: str | None = None,
    ) -> T:
        """Ask the guards, then run `body`: in a transaction, again if it loses a conflict, or in the caller's.

        `told` adds to the result what is known once the transaction is finished. Those of one `kind` may share a transaction.
        """
        outer = running()
        if outer is not None:
            return await self._inside(outer, asked, body)
        now = self.engine.clock.now()
        kept = Prepared() if prepared is None else prepared
        # Here, in the caller's context: members of a group are begun in the context of another.
        trace = self.engine.telemetry.traceparent()

        def begin(lost: int = 0) -> tuple[Transaction, Work[tuple[T, Commit]]]:
            tx = self.engine.begin(now=now, capture=told is not None, prepared=kept, trace=trace, lost=lost)
            return tx, _whole(tx, body, told)

        async def attempt(lost: int) -> T:
            # What lost goes on alone: nobody is made to wait in line with it.
            return await self._attempt(*begin(lost), asked, kind=None if kind is None or lost else (kind, begin))

        return await with_retry(attempt)

    async def _attempt(
        self, tx: Transaction, work: Work[tuple[T, Commit]], asked: Asked, *, kind: tuple[str, Begin[T]] | None
    ) -> T:
        try:
            if not any(_guarded(interaction) for interaction, _ in asked):
                return await self._write(tx, work, kind)
            async with AsyncExitStack() as stack:
                result: T
                commit: Commit

                async def begin() -> None:
                    session = tx.session = await stack.enter_async_context(self.engine.driver.transaction())
                    if tx.lost:
                        await session.run(stand_in_line(tx.plan.dialect, tx.lost))

                tx.opener = begin
                await _guard(tx, asked)
                tx.opener = None
                session: Session | None = tx.session
                if session is None:
                    return await self._write(tx, work, kind)
                result, commit = await session.run(work)
        except ConstraintViolated as error:
            tx.roll_back()
            raise in_schema_words(self.engine.plan, error) from error
        except BaseException:
            tx.roll_back()
            raise
        finally:
            tx.ended = True
            work.close()
        self.engine.committed(commit)
        return result

    async def _write(self, tx: Transaction, work: Work[tuple[T, Commit]], kind: tuple[str, Begin[T]] | None, /) -> T:
        if kind is None:
            return await self._alone(tx, work)
        return await self.engine.groups.write(kind[0], kind[1], lambda: self._alone(tx, work))

    async def _alone(self, tx: Transaction, work: Work[tuple[T, Commit]]) -> T:
        result, commit = await self.engine.driver.write(work)
        tx.ended = True
        self.engine.committed(commit)
        return result

    async def _inside(self, tx: Transaction, asked: Asked, body: Body[T]) -> T:
        """Within a transaction of the caller's: its changes are known only when that commits."""
        if not tx.writable:
            raise UsageError(
                "A callback dispatched an interaction. Callbacks read; derive from the event that is being dispatched."
            )
        await _guard(tx, asked)
        async with self.engine.transaction():
            return await session_of(tx).run(body(tx))

    # --- Reading --------------------------------------------------------------------------------------------------------

    async def _read(
        self, model: InteractionModel, interaction: Any, user: object, request: object
    ) -> DispatchResult[Any]:
        """An interaction that only reads: guarded, and stored nowhere. Its `query()` says what, else it is all records."""
        context = Context(user=user, request=request, controller=self)
        await _allowed(interaction, context)
        assert model.reads is not None
        query: Callable[[Any, Context], dict[str, Any]] | None = getattr(model.cls, "query", None)
        options = {} if query is None else dict(query(interaction, context))
        where = options.pop("where", None)
        return DispatchResult(interaction, response=await self.store.find(model.reads, where, **options))


async def _guard(tx: Transaction, asked: Asked) -> None:
    """Ask each interaction's `allow`; what it reads, it reads in this transaction."""
    token = current.set(tx)
    tx.writable = False
    try:
        for interaction, context in asked:
            await _allowed(interaction, context)
    finally:
        tx.writable = True
        current.reset(token)


def _guarded(interaction: Interaction) -> bool:
    return type(interaction).allow is not Interaction.allow


async def _allowed(interaction: Interaction, context: Context) -> None:
    if not _guarded(interaction):
        return
    if not await interaction.allow(context):
        raise Rejected("not_allowed", f"{type(interaction).__name__} is not allowed.")


def _whole(tx: Transaction, body: Body[T], told: Told[T] | None) -> Work[tuple[T, Commit]]:
    try:
        if tx.lost and tx.session is None:
            yield from stand_in_line(tx.plan.dialect, tx.lost)
        result = yield from body(tx)
        commit = yield from finish(tx)
    except BaseException:
        tx.give_up()
        raise
    return (result if told is None else told(tx, result)), commit


def _with_changes(tx: Transaction, results: list[DispatchResult[Any]]) -> list[DispatchResult[Any]]:
    """The results with the net changes of the transaction: of every record but the events themselves."""
    changes = NetChanges(tx.plan, tx.frame.net)
    return [result if result.replayed else DispatchResult(result.event, changes) for result in results]


def _replay(tx: Transaction, plan: RecordPlan, event_id: int) -> Work[DispatchResult[Any]]:
    found: list[Any] = yield Run(plan.statements.select["none"], (event_id,))
    row = found[0] if plan.decode is None else plan.decode(found[0])
    return DispatchResult(plan.snapshot(row), (), replayed=True)
