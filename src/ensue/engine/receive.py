"""Bring messages from outside in: each is claimed in the transaction that does what it means, so it happens once.

Decides how interactions and records become work, in the order given, and which messages may share a commit. Leaves the
transaction to the controller, and the claim to its caller: a row of the inbox, new or leased. Invariant: without the
claim nothing is written, and with a failure no claim is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ensue.engine.dispatch import event_values, follow_events, store_events
from ensue.engine.engine import Engine
from ensue.engine.transaction import Prepared, Transaction
from ensue.engine.writing import writes
from ensue.engine.writing.initials import prepare_initials
from ensue.errors import UsageError
from ensue.plan.plan import RecordPlan
from ensue.schema.incoming import AsUser, Incoming, NewRecord, parts
from ensue.schema.interaction import Interaction
from ensue.schema.model import InteractionModel
from ensue.schema.record import record_values
from ensue.store.inbox_table import StoredMessage, claim_message
from ensue.store.statement import Work

Claim = Callable[[Transaction], Work[bool]]
"""Whether the message is ours to handle in this transaction."""
Step = Callable[[Transaction], Work[Any]]
FindInteraction = Callable[[object], InteractionModel]

SHARED_PARTS_MAX = 8
"""A message that means more is long work, for which others don't wait."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message with what it means and how it is claimed; `shared` if that can be done for several at once."""

    claim: Claim
    incoming: Incoming
    shared: bool = False


def arrival(message: StoredMessage, incoming: Incoming) -> Arrival:
    """A message that is kept in the inbox in the same transaction."""
    if not message.endpoint or not message.sender_id:
        raise UsageError(
            f"A message from outside needs an endpoint and the sender's id of it, by which repeats are recognised; got "
            f"{message.endpoint!r} and {message.sender_id!r}."
        )
    return Arrival(lambda tx: claim_message(tx.plan.dialect, message), incoming, shared=True)


@dataclass(frozen=True, slots=True)
class Planned:
    """What messages lead to, ready for a transaction: who is asked (`allow`), and the steps of each message.

    Others of the same `kind` may be in the same transaction, each as if it was alone; None if it is not for others.
    """

    asked: Sequence[tuple[Interaction, Any]]
    messages: Sequence[tuple[Claim, Sequence[Step]]]
    prepared: Prepared
    kind: str | None

    def work(self, tx: Transaction) -> Work[list[bool]]:
        """Claim and do; for each message whether it was ours."""
        taken: list[bool] = []
        for claim, steps in self.messages:
            ours = yield from claim(tx)
            for step in steps if ours else ():
                yield from step(tx)
            taken.append(ours)
        return taken


async def plan_arrivals(engine: Engine, find: FindInteraction, arrivals: Sequence[Arrival]) -> Planned:
    """Everything that is to be known before BEGIN. Raises `UsageError` and `DeclarationError` for what can't come in."""
    prepared = Prepared()
    asked: list[tuple[Interaction, Any]] = []
    messages: list[tuple[Claim, list[Step]]] = []
    names: set[str] = set()
    for item in arrivals:
        steps: list[Step] = []
        for part in parts(item.incoming):
            interaction = part.interaction if isinstance(part, AsUser) else part
            if isinstance(interaction, Interaction):
                user = part.user if isinstance(part, AsUser) else None
                asked.append((interaction, user))
                model = find(interaction)
                names.add(model.name)
                steps.append(_dispatched(engine, model, interaction, user))
            else:
                plan, values = _record(engine, part)
                names.add(plan.name)
                steps.append(await _created(engine, plan, values, prepared=prepared))
        messages.append((item.claim, steps))
    shares = len(arrivals) == 1 and arrivals[0].shared and len(messages[0][1]) <= SHARED_PARTS_MAX
    return Planned(asked, messages, prepared, _kind(names) if shares else None)


def _kind(names: set[str]) -> str:
    """Messages that mean the same go the same way; one that means nothing is kept only."""
    return f"message: {', '.join(sorted(names))}"


def _dispatched(engine: Engine, model: InteractionModel, interaction: Interaction, user: Any) -> Step:
    if model.reads is not None:
        raise UsageError(f"{model.name} only reads; a message from outside is to change something.")
    plan = engine.plan.records[model.name]
    values = event_values(plan, interaction, user)

    def step(tx: Transaction) -> Work[None]:
        events = yield from store_events(tx, [(plan, values, interaction)])
        yield from follow_events(tx, events)

    return step


async def _created(engine: Engine, plan: RecordPlan, values: Mapping[str, Any], *, prepared: Prepared) -> Step:
    if not plan.awaits_initial:
        return lambda tx: writes.create_records(tx, plan, [values])
    ready, drafts = await prepare_initials(engine, plan, [values])
    prepared.values.update(ready.values)
    prepared.allotted.update(ready.allotted)
    return lambda tx: writes.create_drafts(tx, plan, [list(draft) for draft in drafts])


def _record(engine: Engine, part: Any) -> tuple[RecordPlan, Mapping[str, Any]]:
    if isinstance(part, NewRecord):
        return engine.plan.records[engine.reader.record(part.record).name], part.values
    return engine.plan.records[engine.reader.record(type(part)).name], record_values(part)
