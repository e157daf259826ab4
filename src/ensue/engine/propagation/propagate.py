"""Propagate consolidated changes through the strata, until every derived column is right.

One rule for create, update, delete, re-parenting and joint changes: evaluate each affected edge on its old side and on its new
side, sum per host, drop what is zero. All derived columns of one host type in one stratum move in one UPDATE. Invariant: after
`propagate`, nothing is pending and every derived column equals its definition over the rows as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from ensue.engine.propagation.changes import Changes, Images, merge, note
from ensue.engine.propagation.customs import run_custom
from ensue.engine.propagation.transforms import run_transform
from ensue.engine.propagation.view import NEW, OLD, Resolve, evaluate_rows, id_list, load_crossings
from ensue.engine.transaction import Transaction
from ensue.engine.writing.apply import held_rows, write_columns
from ensue.expression.arithmetic import out_of_range
from ensue.plan.plan import CustomStep, FormulaStep, Group, HostStep, Row, Step, TransformStep, View
from ensue.plan.rules.rule import SlotKind
from ensue.plan.steps.groups import REPLACE
from ensue.store.statement import Run, Work

Edges = dict[int, Images]
Accumulators = dict[int, list[Any]]


def propagate(tx: Transaction) -> Work[None]:
    """Bring everything derived up to date with the pending changes, then fold them into the net changes of the frame.

    What a step changes is noted among the pending changes themselves, so that later strata see one consolidated old and new
    image of everything.
    """
    work = tx.pending
    if not work:
        return
    tx.spans += 1
    tx.propagating = True
    try:
        yield from _run_strata(tx, work)
    except BaseException as error:
        tx.failed(error)
        raise
    finally:
        tx.propagating = False


def _run_strata(tx: Transaction, work: Changes) -> Work[None]:
    listened = {name: dict(table) for name, table in work.items()} if tx.plan.derived_listeners else None
    for stratum in tx.plan.strata:
        for step in stratum:
            if not step.sources.isdisjoint(work):
                yield from _run_step(tx, step, work)
    tx.pending = {}
    if listened is not None:
        _note_derived(tx, listened, work)
    merge(tx.frame.net, work)


def _note_derived(tx: Transaction, before: Changes, work: Changes) -> None:
    """Keep what propagation itself changed on records that a state machine listens to; it is told of it before commit."""
    for record in tx.plan.derived_listeners:
        earlier = before.get(record, {})
        for id_, (old, new) in work.get(record, {}).items():
            start = earlier[id_][1] if id_ in earlier else old
            if start != new:
                _note_move(tx.derived, record, start, new)


def _note_move(derived: Changes, record: str, old: Row | None, new: Row | None) -> None:
    """Add what propagation changed to what it had changed before; what a write changed in between is an event of its own."""
    row = new if new is not None else old
    assert row is not None
    first, last = derived.get(record, {}).get(row[0], (None, None))
    if first is not None and last is not None and old is not None and last != old:
        moved = tuple(b if b != a else start for start, a, b in zip(first, last, old, strict=True))
        derived[record][row[0]] = (moved, old)
    note(derived, record, old, new)


def _run_step(tx: Transaction, step: Step, work: Changes) -> Work[None]:
    match step:
        case HostStep():
            yield from _move_hosts(tx, step, work)
        case FormulaStep():
            yield from _assign_formulas(tx, step, work)
        case CustomStep():
            hosts, reached = yield from _custom_hosts(tx, step, work)
            yield from run_custom(tx, step, hosts, work, reached=reached)
        case TransformStep():
            edges = yield from affected(tx, step.view, work)
            yield from run_transform(tx, step, edges, work)


# --- Which edges ------------------------------------------------------------------------------------------------------


def affected(tx: Transaction, view: View, work: Changes) -> Work[Edges]:
    """The rows of `view.record` whose evaluation may differ between the old and the new side, with both images."""
    edges: Edges = {}
    positions = view.positions
    for id_, (old, new) in work.get(view.record, {}).items():
        if old is None or new is None or any(old[p] != new[p] for p in positions):
            edges[id_] = (old, new)
    for crossing in view.crossings:
        changed = [
            id_
            for id_, (old, new) in work.get(crossing.record, {}).items()
            if old is not None and new is not None and any(old[p] != new[p] for p in crossing.positions)
        ]
        if changed:
            found: list[Any] = yield Run(crossing.lookup, (id_list(tx, sorted(changed)),))
            decode = tx.plan.records[view.record].decode
            for row in found if decode is None else map(decode, found):
                edges.setdefault(row[0], (row, row))
    return edges


def gather(tx: Transaction, group: Group, work: Changes) -> Work[Accumulators]:
    """The difference that the changes make to each host of a group, as accumulators; hosts that can't differ are left out."""
    edges = yield from affected(tx, group.view, work)
    if not edges:
        return {}
    if group.view.crossings:
        resolve = yield from load_crossings(tx, group.view, work, edges.values())
        before_of, after_of = _contributions(tx, group, work, resolve)
    else:
        before_of = after_of = group.contribute
    accumulators: Accumulators = {}
    plus, minus, change, fresh = group.plus, group.minus, group.change, group.fresh
    for old, new in edges.values():
        before = None if old is None else before_of(old)
        after = None if new is None else after_of(new)
        if before is not None and after is not None and before[0] == after[0]:
            if before != after and after[0] is not None:
                change(_accumulator(accumulators, after[0], fresh), before, after)
            continue
        if before is not None and before[0] is not None:
            minus(_accumulator(accumulators, before[0], fresh), before)
        if after is not None and after[0] is not None:
            plus(_accumulator(accumulators, after[0], fresh), after)
    return accumulators


Contribute = Callable[[Row], tuple[Any, ...]]


def _contributions(tx: Transaction, group: Group, work: Changes, resolve: Resolve) -> tuple[Contribute, Contribute]:
    """What an edge row contributes on the old and on the new side."""
    contribute = group.contribute
    (first, *more) = group.view.crossings
    if not more and first.parent < 0 and first.record not in work:
        # One row beside the edge, which did not change: both sides are a look-up away.
        look_up, fk = tx.rows[first.record].get, first.fk

        def both(row: Row) -> tuple[Any, ...]:
            return contribute(row, look_up(row[fk]))

        return both, both
    return lambda row: contribute(row, *resolve(row, OLD)), lambda row: contribute(row, *resolve(row, NEW))


def _accumulator(accumulators: Accumulators, host: int, fresh: Any) -> list[Any]:
    found = accumulators.get(host)
    if found is None:
        found = accumulators[host] = fresh()
    return found


# --- Hosts ------------------------------------------------------------------------------------------------------------


def _move_hosts(tx: Transaction, step: HostStep, work: Changes) -> Work[None]:
    gathered: list[Accumulators] = []
    for group in step.groups:
        gathered.append((yield from gather(tx, group, work)))
    hosts = _hosts_to_move(step, gathered, work)
    if not hosts:
        return
    plan = tx.plan.records[step.record]
    need_images = step.needs_rows or (tx.capture and not step.globals)
    losing = any(_loses(group, found, hosts) for group, found in zip(step.groups, gathered, strict=True))
    rows: dict[int, Row] = {}
    if need_images or losing or (len(hosts) > 1 and tx.plan.dialect == "postgresql"):
        rows = {row[0]: row for row in (yield from held_rows(tx, plan, hosts))}
        hosts = [host for host in hosts if host in rows]
    if losing:
        for group, found in zip(step.groups, gathered, strict=True):
            yield from _reread(tx, step, group, found=found, rows=rows)
    updated = yield from _update_hosts(tx, step, hosts, gathered, returning=need_images)
    for row in updated:
        if rows[row[0]] != row:
            note(work, step.record, rows[row[0]], row)
    if not need_images:
        tx.frame.touched.setdefault(step.record, set()).update(hosts)
    cached = tx.rows.get(step.record)
    if cached:
        for host in hosts:
            cached.pop(host, None)


def _hosts_to_move(step: HostStep, gathered: list[Accumulators], work: Changes) -> list[int]:
    changed = work.get(step.record, {})
    hosts: set[int] = set()
    for group, found in zip(step.groups, gathered, strict=True):
        zero = group.fresh()
        for host, accumulator in found.items():
            images = changed.get(host)
            if accumulator != zero and (images is None or images[1] is not None):
                hosts.add(host)
    return sorted(hosts)


def _loses(group: Group, found: Accumulators, hosts: list[int]) -> bool:
    """Whether something was retracted that a slot can't subtract, from one of the hosts."""
    if not found:
        return False
    lost = [found[host] for host in hosts if host in found]
    return any(_lost(group.slots[i].kind, item, group.entry_of[i]) for i in group.reread_slots for item in lost)


def _lost(kind: SlotKind, accumulator: list[Any], entry: int) -> bool:
    gain, loss = accumulator[entry], accumulator[entry + 1]
    if not _retracted(loss):
        return False
    if kind == "exact" or gain is None:
        return True
    # An extremum that went is not better than what it went for: the host's can only have got better.
    return loss > gain if kind == "max" else loss < gain


def _retracted(loss: Any) -> bool:
    return loss is not None and loss is not False


def _reread(tx: Transaction, step: HostStep, group: Group, *, found: Accumulators, rows: dict[int, Row]) -> Work[None]:
    """For hosts that may have lost an extremum (or subtract floats), read the slot anew, after the host is locked."""
    index = tx.plan.records[step.record].index
    dirty = [host for host in sorted(found) if host in rows and _must_reread(group, found[host], rows[host], index)]
    if not dirty or group.reread is None:
        return
    answers: list[Any] = yield Run(group.reread.statement, group.reread.bind({"ids": dirty}))
    decode = group.reread_decode
    by_host = {row[0]: row for row in (answers if decode is None else map(decode, answers))}
    for host in dirty:
        answer = by_host.get(host)
        accumulator = found[host]
        for n, slot in enumerate(group.reread_slots, start=1):
            entry = group.entry_of[slot]
            if group.slots[slot].kind == "exact":
                accumulator[entry] = 0.0 if answer is None else answer[n]
            else:
                accumulator[entry] = None if answer is None else answer[n]
            accumulator[entry + 1] = REPLACE


def _must_reread(group: Group, accumulator: list[Any], row: Row, index: Mapping[str, int]) -> bool:
    dirty = False
    for aggregate in group.aggregates:
        for offset, slot in enumerate(aggregate.rule.slots):
            at = aggregate.first_slot + offset
            if slot.kind == "delta":
                continue
            entry = group.entry_of[at]
            loss = accumulator[entry + 1]
            if not _retracted(loss):
                continue
            if slot.kind == "exact":
                dirty = True
                continue
            best, gain = row[index[aggregate.name]], accumulator[entry]
            worse = best is not None and (loss >= best if slot.kind == "max" else loss <= best)
            covered = gain is not None and best is not None and (gain >= best if slot.kind == "max" else gain <= best)
            if worse and not covered:
                dirty = True
            else:
                accumulator[entry + 1] = None
    return dirty


def _update_hosts(
    tx: Transaction, step: HostStep, hosts: list[int], gathered: list[Accumulators], *, returning: bool
) -> Work[list[Row]]:
    if not hosts:
        return []
    vectors = [_vector(step, host, gathered) for host in hosts]
    if any(not isfinite(vector[at]) for at in step.floats for vector in vectors):
        out_of_range(f"A sum of floats of {step.record}")
    while any(abs(vector[at]) > limit for at, limit in step.limits for vector in vectors):
        yield _update(step, _part(step, vectors), returning=False)
    found: list[Any] = yield _update(step, vectors, returning=returning)
    decode = tx.plan.records[step.record].decode
    return found if decode is None else list(map(decode, found))


def _update(step: HostStep, vectors: list[list[Any]], *, returning: bool) -> Run:
    one = len(vectors) == 1
    update = step.update_one if one else step.update_many
    given = vectors[0] if one else vectors
    return Run(update.returning if returning else update.quiet, update.bind(given), given=given)


def _part(step: HostStep, vectors: list[list[Any]]) -> list[list[Any]]:
    """Take from amounts that no parameter holds as much as one does, as vectors that are applied first.

    The sum was in range and will be, as far as the data is; then it is on the way there, too.
    """
    parts: list[list[Any]] = []
    for vector in vectors:
        part = [vector[0], *(cell for group in step.groups for cell in group.idle)]
        for at, limit in step.limits:
            if abs(vector[at]) > limit:
                part[at] = limit if vector[at] > 0 else -limit
                vector[at] -= part[at]
        parts.append(part)
    return parts


def _vector(step: HostStep, host: int, gathered: list[Accumulators]) -> list[Any]:
    """The parameters for one host: its id, then per slot the amount and, where it can be replaced, whether it is."""
    vector: list[Any] = [host]
    for group, found in zip(step.groups, gathered, strict=True):
        accumulator = found.get(host)
        vector.extend(group.idle if accumulator is None else group.cells(accumulator))
    return vector


# --- Formulas and customs ---------------------------------------------------------------------------------------------


def _assign_formulas(tx: Transaction, step: FormulaStep, work: Changes) -> Work[None]:
    edges = yield from affected(tx, step.view, work)
    rows = [new for _, new in edges.values() if new is not None]
    if not rows:
        return
    plan = tx.plan.records[step.record]
    values = yield from evaluate_rows(tx, step.view, rows, step.evaluate)
    changed: list[Row] = []
    for row, found in zip(rows, values, strict=True):
        if any(row[position] != value for position, value in zip(step.columns, found, strict=True)):
            draft = list(row)
            for position, value in zip(step.columns, found, strict=True):
                draft[position] = value
            note(work, step.record, row, tuple(draft))
            changed.append(tuple(draft))
    if changed:
        changed.sort()
        yield from write_columns(tx, plan, step.columns, changed)
        cached = tx.rows.get(step.record, {})
        for row in changed:
            cached.pop(row[0], None)


def _custom_hosts(tx: Transaction, step: CustomStep, work: Changes) -> Work[tuple[Sequence[int], set[int]]]:
    edges = yield from affected(tx, step.view, work)
    reached = yield from _changed_since_created(tx, step, edges, work)
    hosts: set[int] = set()
    for group in step.edges:
        touched = yield from affected(tx, group.view, work)
        resolve = yield from load_crossings(tx, group.view, work, touched.values())
        for old, new in touched.values():
            for side, row in ((OLD, old), (NEW, new)):
                if row is not None:
                    hosts.add(group.contribute(row, *resolve(row, side))[0])
    hosts.discard(None)  # an edge of no host gives None
    reached |= hosts
    hosts |= {id_ for id_, (_, new) in edges.items() if new is not None}
    gone = {id_ for id_, (_, new) in work.get(step.record, {}).items() if new is None}
    return sorted(hosts - gone), reached


def _changed_since_created(tx: Transaction, step: CustomStep, edges: Edges, work: Changes) -> Work[set[int]]:
    """The records created in this span whose own inputs, or those that they cross to, changed after that."""
    created = {id_: new for id_, (old, new) in edges.items() if old is None and new is not None}
    resolve = yield from load_crossings(tx, step.view, work, [(None, row) for row in created.values()])
    return {id_ for id_, row in created.items() if _moved_since(tx, step, row, resolve)}


def _moved_since(tx: Transaction, step: CustomStep, row: Row, resolve: Resolve) -> bool:
    born = tx.born.get((step.record, row[0]), row)
    if any(born[position] != row[position] for position in step.view.positions):
        return True
    sides = zip(step.view.crossings, resolve(row, OLD), resolve(row, NEW), strict=False)
    return any(
        old is not None and new is not None and any(old[p] != new[p] for p in crossing.positions)
        for crossing, old, new in sides
    )
