"""Long-running tasks, as their users and the authors of their integrations write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ensue import App, AsyncTask, Context, Property, Store, Submitted, TaskEvent, TaskIntegration, TaskUpdate
from ensue.integrations.openai_images import OpenAIImages
from ensue.integrations.volc_pictures import VolcPictures


class Picture(AsyncTask):
    prompt: Property[str]
    width: Property[int | None] = Property(default=None)


class Drawing(AsyncTask):
    prompt: Property[str]


class MyPictures(TaskIntegration):
    tasks = Picture
    statuses = {  # noqa: RUF012 - as one writes it; checkers know it as a ClassVar
        "in_queue": "processing",
        "done": "completed",
    }
    deadline = timedelta(minutes=5)

    async def submit(self, task: Picture, key: str) -> str | Submitted:
        return Submitted(task.prompt, expected_seconds=3)

    async def poll(self, external_id: str) -> TaskUpdate:
        return TaskUpdate(status="done", result={"url": external_id}, progress=0.5)

    async def poll_many(self, external_ids: Sequence[str]) -> Mapping[str, TaskUpdate | BaseException]:
        return {external_id: TaskUpdate(status="done") for external_id in external_ids}

    async def cancel(self, external_id: str) -> None: ...

    async def verify(self, task: Picture, key: str) -> str | bool | None:
        return None

    async def allow(self, ctx: Context, task: Picture) -> bool:
        return task.prompt != ""


async def read(store: Store, pictures: MyPictures) -> None:
    picture = await store.create(Picture(prompt="a cat"))
    status: str = picture.status
    result: dict[str, Any] | None = picture.result
    deadline: datetime | None = picture.deadline
    attempts: int = picture.attempts
    progress: float = picture.progress
    print(status, result, deadline, attempts, progress, picture.error, picture.external_id, picture.cost)
    done = await store.find(Picture, (Picture.status == "completed") & (Picture.progress > 0.5))
    await pictures.cancel_task(done[0])
    await store.create(TaskEvent(task_type="Picture", task_id=picture.id, status="completed", result={"url": "u"}))


async def mistakes(store: Store, picture: Picture) -> None:
    Picture()  # type error
    Picture(prompt="x", status="completed")  # type error
    picture.status = "completed"  # type error
    TaskEvent(task_type="Picture", status="finished")  # type error
    TaskUpdate("done")  # type error
    print(picture.statuz)  # type error
    number: int = picture.status  # type error
    print(number)


app = App(
    entities=[Picture, Drawing],
    integrations={
        "mine": MyPictures(poll_seconds_max=30),
        "volc": VolcPictures(tasks=Drawing, storage="objects"),
        "images": OpenAIImages(tasks=Drawing, model="m"),
    },
)
