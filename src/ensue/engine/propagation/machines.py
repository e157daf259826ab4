"""Move state machines: events in order, the first declared matching transition once per event and record.

All targets of a batch of events are read and locked in one statement and written in one. The moves are changes like any other:
other machines may listen to them, in further rounds up to a bound. A column under a state machine is written here only.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from ensue.engine.callbacks import invoke
from ensue.engine.events import Event
from ensue.engine.propagation.view import NEW, OLD, load_crossings
from ensue.engine.transaction import ROUNDS_MAX, Transaction
from ensue.engine.writing.apply import lock_rows, write_pairs
from ensue.errors import UsageError, WrongResult
from ensue.plan.plan import MachinePlan, RecordPlan, Row, TransitionPlan
from ensue.schema.record import Record
from ensue.store.statement import Work

Move = tuple[Event, int, list[TransitionPlan]]
"""An event, the id of a record that it names, and the transitions that it triggers there, as declared."""


def run_machines(tx: Transaction, events: list[Event]) -> Work[None]:
    """Let every state machine that listens to these events move, and then those that listen to the moves."""
    try:
        yield from _run_rounds(tx, events)
    except BaseException as error:
        tx.failed(error)
        raise


def _run_rounds(tx: Transaction, events: list[Event]) -> Work[None]:
    rounds = 0
    while events:
        machines = _listening(events)
        if not machines:
            return
        rounds += 1
        if rounds > ROUNDS_MAX:
            names = ", ".join(f"{machine.record}.{machine.name}" for machine in machines)
            raise UsageError(
                f"State machines set each other off without end: {names} moved {ROUNDS_MAX} times in one write. "
                "Narrow the `where=` or `of=` of their Mutation triggers so that the chain ends."
            )
        caused: list[Event] = []
        for machine in machines:
            caused.extend((yield from _run_machine(tx, machine, events)))
        events = caused


def _listening(events: Iterable[Event]) -> list[MachinePlan]:
    found: dict[int, MachinePlan] = {}
    for event in events:
        for machine in event.plan.triggers.get(event.change, ()):
            found[id(machine)] = machine
    return list(found.values())


def _run_machine(tx: Transaction, machine: MachinePlan, events: list[Event]) -> Work[list[Event]]:
    moves = yield from _moves(tx, machine, events)
    if not moves:
        return []
    plan = tx.plan.records[machine.record]
    before = {row[0]: row for row in (yield from lock_rows(tx, plan, sorted({id_ for _, id_, _ in moves})))}
    after: dict[int, Row] = {}
    spans = tx.spans
    for event, id_, transitions in moves:
        row = after.get(id_) or before.get(id_)
        if row is not None:
            yield from _move(tx, machine, event, row, transitions=transitions, after=after)
    if tx.spans != spans:
        # A function read through the store, so that what derives on these very rows may have moved meanwhile.
        before = {row[0]: row for row in (yield from lock_rows(tx, plan, sorted(before)))}
        after = {id_: _moved(machine, before[id_], row) for id_, row in after.items()}
    pairs = [(before[id_], _localised(plan, row)) for id_, row in sorted(after.items()) if row != before[id_]]
    yield from write_pairs(tx, plan, pairs)
    return [Event(plan, old, new) for old, new in pairs]


def _moved(machine: MachinePlan, row: Row, moved: Row) -> Row:
    draft = list(row)
    draft[machine.state], draft[machine.value] = moved[machine.state], moved[machine.value]
    return tuple(draft)


def _localised(plan: RecordPlan, row: Row) -> Row:
    if plan.local is None:
        return row
    draft = list(row)
    plan.local(draft)
    return tuple(draft)


def _move(
    tx: Transaction,
    machine: MachinePlan,
    event: Event,
    row: Row,
    *,
    transitions: list[TransitionPlan],
    after: dict[int, Row],
) -> Work[None]:
    """Take the first transition that leads from the record's state."""
    state = row[machine.state]
    for transition in transitions:
        if state in transition.model.sources or "*" in transition.model.sources:
            target = transition.model.target
            value = yield from _value(tx, machine, event, state=target, last=row[machine.value])
            draft = list(row)
            draft[machine.state] = target
            draft[machine.value] = value
            after[row[0]] = tuple(draft)
            return


def _value(tx: Transaction, machine: MachinePlan, event: Event, *, state: str, last: Any) -> Work[Any]:
    function = machine.model.values.get(state)
    value = state if function is None else (yield from invoke(tx, function, last, event.argument))
    try:
        return machine.check(value)
    except (ValueError, TypeError) as error:
        where = f"{machine.record}.{machine.name}"
        raise WrongResult(f"The value= of state {state!r} of {where} gave a wrong value: {error}.") from error


def _moves(tx: Transaction, machine: MachinePlan, events: list[Event]) -> Work[list[Move]]:
    moves: list[Move] = []
    for event in events:
        targets: dict[int, list[TransitionPlan]] = {}
        for transition in machine.transitions.get((event.plan.name, event.change), ()):
            if (yield from _matches(tx, transition, event)):
                named = yield from invoke(tx, transition.model.record, event.argument)
                for id_ in record_ids(named, machine, transition):
                    targets.setdefault(id_, []).append(transition)
        moves.extend((event, id_, transitions) for id_, transitions in targets.items())
    return moves


def _matches(tx: Transaction, transition: TransitionPlan, event: Event) -> Work[bool]:
    old, new = event.old, event.new
    if transition.of and old is not None and new is not None and all(old[p] == new[p] for p in transition.of):
        return False
    if transition.matches is None:
        return True
    side = OLD if event.new is None else NEW
    resolve = yield from load_crossings(tx, transition.view, tx.pending, [(event.old, event.new)])
    return transition.matches(event.row, *resolve(event.row, side))


def record_ids(named: Any, machine: MachinePlan, transition: TransitionPlan) -> list[int]:
    """What a transition's `record` gave, as ids: a record, an id, a mapping with one, several of these, or None."""
    if named is None:
        return []
    if isinstance(named, int) and not isinstance(named, bool):
        return [named]
    if isinstance(named, Record) and type(named).__name__ == machine.record:
        return [named.__ensue_id__()]
    if isinstance(named, Mapping):
        return record_ids(cast("Mapping[str, Any]", named).get("id"), machine, transition)
    if isinstance(named, list | tuple | set | frozenset):
        items = cast("Iterable[Any]", named)
        return list(dict.fromkeys(id_ for item in items for id_ in record_ids(item, machine, transition)))
    raise WrongResult(
        f"record= of a transition of {machine.record}.{machine.name} ({transition.model.origin}) gave {type(named).__name__} "
        f"{named!r}; expected a {machine.record}, its id, several of these, or None.",
    )
