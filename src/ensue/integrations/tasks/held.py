"""Callbacks that came before their task was known by its external id.

Decides which of them are followed once it is. Invariant: a callback that was kept is found at the latest by the next
visit to the task, which comes after both transactions, the callback's and the submission's, have ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ensue.integrations.tasks.desk import Desk
from ensue.integrations.tasks.poll_table import Ref
from ensue.integrations.tasks.states import FINAL
from ensue.integrations.tasks.task import TaskEvent
from ensue.integrations.tasks.visits import task_event

_KEPT = ("external_id", "result", "error", "progress", "cost")


async def held_events(desk: Desk, external_ids: Sequence[str], tasks: Mapping[str, Ref]) -> list[dict[str, Any]]:
    """The ends that kept callbacks told of, as events of the tasks that they turned out to mean."""
    if not external_ids:
        return []
    found = await desk.store.find(
        TaskEvent, TaskEvent.external_id.in_(list(external_ids)) & TaskEvent.task_id.is_null()
    )
    events: list[dict[str, Any]] = []
    for event in found:
        ref = tasks[event.external_id or ""]
        if event.status in FINAL and event.task_type in desk.classes:
            values = {name: getattr(event, name) for name in _KEPT}
            note = f"came before its task was known, as event {event.id}"
            events.append(task_event(ref, event.status, event.origin, note=note, **values))
    return events
