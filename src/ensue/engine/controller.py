"""`Controller`: dispatch interactions, each in one transaction; and `store`, which reads and writes records.

Decides the life of a dispatch: guard, idempotency, event, what ensues, commit. The guard runs first and may read the store; only
then is the transaction begun before it, so a guard that reads nothing costs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
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
from ensue.engine.engine import Engine
from ensue.engine.events import Event, net_events
from ensue.engine.store import Store
from ensue.engine.transaction import Prepared, Transaction
from ensue.engine.violations import in_schema_words
from ensue.engine.writing.initials import compute_initial
from ensue.errors import ConstraintViolated, DeclarationError, Rejected, UsageError
from ensue.plan.plan import Plan, RecordPlan
from ensue.schema.event import DispatchResult, MutationEvent
from ensue.schema.interaction import Context, Interaction
from ensue.schema.model import InteractionModel, Model
from ensue.schema.record import record_values
from ensue.store.driver import Driver, Session
from ensue.store.retry import with_retry
from ensue.store.statement import Run, Work

M = TypeVar("M", bound=Interaction)
Body = Callable[[Transaction], Work[list[DispatchResult[Any]]]]


class Controller:
    """An app's way in: `await controller.dispatch(AddComment(post=post, text="hi"), user=user)`."""

    def __init__(self, *, plan: Plan, driver: Driver, clock: Clock | None = None, model: Model | None = None) -> None:
        self.engine = Engine(plan, driver, clock if clock is not None else SystemClock())
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
        if model.reads is not None:
            return await self._read(model, interaction, user, request)
        plan = self.engine.plan.records[model.name]
        values = event_values(plan, interaction, user)
        if idempotency_key is None:
            results = await self._transact(
                [interaction], user, request, lambda tx: self._store(tx, [(plan, values, interaction)])
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

        return (await self._transact([interaction], user, request, work))[0]

    async def dispatch_many(self, interactions: Iterable[M], /, *, user: object = None) -> list[DispatchResult[M]]:
        """Dispatch several in one transaction and one propagation; all or none. Each result has the changes of the whole."""
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
        return await self._transact(given, user, None, lambda tx: self._store(tx, prepared))

    def _interaction(self, interaction: object) -> InteractionModel:
        model = self._by_class.get(type(interaction))
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
        self, given: Sequence[Any], user: object, request: object, body: Body
    ) -> list[DispatchResult[Any]]:
        context = Context(user=user, request=request, controller=self)
        outer = running()
        if outer is not None:
            return await self._inside(outer, given, context, body)
        now = self.engine.clock.now()
        prepared = Prepared()

        async def attempt() -> list[DispatchResult[Any]]:
            return await self._attempt(
                self.engine.begin(now=now, capture=True, prepared=prepared), given, context, body
            )

        return await with_retry(attempt)

    async def _attempt(
        self, tx: Transaction, given: Sequence[Any], context: Context, body: Body
    ) -> list[DispatchResult[Any]]:
        def work() -> Work[tuple[list[DispatchResult[Any]], Commit]]:
            results = yield from body(tx)
            commit = yield from finish(tx)
            return _with_changes(tx, results), commit

        try:
            async with AsyncExitStack() as stack:
                results: list[DispatchResult[Any]]
                commit: Commit

                async def begin() -> None:
                    tx.session = await stack.enter_async_context(self.engine.driver.transaction())

                tx.opener = begin
                await _guard(tx, given, context)
                tx.opener = None
                if tx.session is None:
                    results, commit = await self.engine.driver.write(work())
                else:
                    session: Session = tx.session
                    results, commit = await session.run(work())
        except ConstraintViolated as error:
            tx.roll_back()
            raise in_schema_words(self.engine.plan, error) from error
        except BaseException:
            tx.roll_back()
            raise
        finally:
            tx.ended = True
        self.engine.committed(commit)
        return results

    async def _inside(
        self, tx: Transaction, given: Sequence[Any], context: Context, body: Body
    ) -> list[DispatchResult[Any]]:
        """Within a transaction of the caller's: its changes are known only when that commits."""
        if not tx.writable:
            raise UsageError(
                "A callback dispatched an interaction. Callbacks read; derive from the event that is being dispatched."
            )
        await _guard(tx, given, context)
        async with self.engine.transaction():
            return await tx.session.run(body(tx))

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


async def _guard(tx: Transaction, given: Sequence[Any], context: Context) -> None:
    """Ask each interaction's `allow`; what it reads, it reads in this transaction."""
    token = current.set(tx)
    tx.writable = False
    try:
        for interaction in given:
            await _allowed(interaction, context)
    finally:
        tx.writable = True
        current.reset(token)


async def _allowed(interaction: Interaction, context: Context) -> None:
    if type(interaction).allow is Interaction.allow:
        return
    if not await interaction.allow(context):
        raise Rejected("not_allowed", f"{type(interaction).__name__} is not allowed.")


def _with_changes(tx: Transaction, results: list[DispatchResult[Any]]) -> list[DispatchResult[Any]]:
    """The results with the net changes of the transaction: of every record but the events themselves."""
    events: list[Event] = [event for event in net_events(tx.plan, tx.frame.net) if event.plan.model.kind != "event"]
    changes: tuple[MutationEvent[Any], ...] = tuple(event.mutation for event in events)
    return [result if result.replayed else DispatchResult(result.event, changes) for result in results]


def _replay(tx: Transaction, plan: RecordPlan, event_id: int) -> Work[DispatchResult[Any]]:
    found: list[Any] = yield Run(plan.statements.select["none"], (event_id,))
    row = found[0] if plan.decode is None else plan.decode(found[0])
    return DispatchResult(plan.snapshot(row), (), replayed=True)
