"""Async `Custom(initial=…)` of records that a call names: awaited before the transaction begins, so that none waits inside one.

Ids come first (from a block), because the function sees the record with its id; the values are kept for every attempt.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ensue.engine.callbacks import current
from ensue.engine.engine import Engine
from ensue.engine.propagation.customs import checked
from ensue.engine.writing.writes import refuse_owned
from ensue.plan.plan import RecordPlan


async def prepare_initials(
    engine: Engine, plan: RecordPlan, values: Sequence[Mapping[str, Any]]
) -> tuple[dict[Any, Any], list[list[Any]]]:
    """Admitted rows with their ids, and the awaited initial values by (record, column, id)."""
    refuse_owned(plan, "created")
    now = engine.clock.now()
    drafts = [plan.admit(item, now) for item in values]
    prepared: dict[Any, Any] = {}
    unnamed = [draft for draft in drafts if draft[0] is None]
    if unnamed and current.get() is None:
        ids = await engine.driver.write(engine.ids.take(plan.id_family, len(unnamed), []))
        for draft, id_ in zip(unnamed, ids, strict=True):
            draft[0] = id_
            prepared[plan.name, "id", id_] = True
    elif unnamed:
        return prepared, drafts  # inside a transaction: the call happens there
    for position, custom in plan.customs:
        if custom.initial is not None and inspect.iscoroutinefunction(custom.initial):
            for draft in drafts:
                if plan.local is not None:
                    plan.local(draft)
                value = await custom.initial(plan.snapshot(tuple(draft)))
                prepared[plan.name, position, draft[0]] = checked(plan, position, value)
    return prepared, drafts
