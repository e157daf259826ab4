"""What a provider's callback means: the events of the task that it is about.

Decides how the task is found, and what is kept when it isn't yet. Leaves receiving, and that a repeat is noticed, to
webhooks. Invariant: a callback that can't be matched is kept as an event without a task, never dropped.
"""

from __future__ import annotations

from typing import Any

from ensue.errors import UsageError
from ensue.integrations.tasks.desk import Desk
from ensue.integrations.tasks.poll_table import Known, find_known
from ensue.integrations.tasks.task import TaskEvent
from ensue.integrations.tasks.update import Next, TaskUpdate, is_final, meaning, status_of
from ensue.integrations.tasks.visits import final_events, kept_text, task_event


async def callback_events(
    desk: Desk, update: TaskUpdate, *, external_id: str | None, key: str | None
) -> list[TaskEvent]:
    """The events that a callback means; one without a task if none is known by the id or the key."""
    if external_id is None and key is None:
        raise UsageError("A callback needs the provider's id of the task (external_id=) or the key of its submission.")
    found = meaning(update, desk.terms.statuses)
    if found == "resubmit":
        # That is for a poll to find out, which holds the task while it is put back.
        found = "processing"
    dialect, name = desk.driver.dialect, desk.namespace
    known = await desk.driver.read(find_known(dialect, name, external_id=external_id, key=key))
    if not known:
        return [_kept(desk, update, found, external_id=external_id, key=key)]
    events: list[TaskEvent] = []
    for one in known:
        for event in await _told(desk, one, update, found):
            values: dict[str, Any] = {**event, "external_id": external_id}
            events.append(TaskEvent(**values))
    return events


async def _told(desk: Desk, one: Known, update: TaskUpdate, found: Next) -> list[dict[str, Any]]:
    if not is_final(found):
        result = None if update.result is None else dict(update.result)
        return [
            task_event(one.ref, "processing", "callback", progress=update.progress, result=result, cost=update.cost)
        ]
    cls = desk.classes[one.ref[0]]
    task = await desk.store.find_one(cls, cls.id == one.ref[1], fields=[cls.status])
    before = "processing" if task is None else task.status
    return final_events(one.ref, update, status_of(found), origin="callback", before=before)


def _kept(desk: Desk, update: TaskUpdate, found: Next, *, external_id: str | None, key: str | None) -> TaskEvent:
    return TaskEvent(
        # With several types it is not known which; `held` looks for any of them.
        task_type=next(iter(desk.classes)),
        status=status_of(found),
        origin="callback",
        external_id=external_id,
        key=key,
        result=None if update.result is None else dict(update.result),
        error=kept_text(update.error),
        progress=update.progress,
        cost=update.cost,
        note=kept_text(update.note),
    )
