"""A provider in memory that a test holds in its hands, and an app with tasks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from ensue import App, AsyncTask, Context, Entity, Property, Submitted, TaskEvent, TaskIntegration, TaskUpdate
from ensue.testing import AppHarness


class User(Entity):
    name: Property[str]


class Picture(AsyncTask):
    prompt: Property[str]


class Shop(TaskIntegration):
    """Answers what the test put into `answers`; the lists hold what it was asked."""

    tasks: type[AsyncTask] = Picture
    statuses: ClassVar[Mapping[str, str]] = {
        "waiting": "processing",
        "done": "completed",
        "broken": "failed",
        "gone": "resubmit",
    }

    async def setup(self, controller: Any) -> None:
        self.submitted: list[str] = []
        self.polled: list[str] = []
        self.cancelled: list[str] = []
        self.on_submit: Any = None
        self.answers: dict[str, Any] = {}

    async def submit(self, task: Picture, key: str) -> str | Submitted | TaskUpdate:
        self.submitted.append(key)
        if self.on_submit is not None:
            found = self.on_submit(task, key)
            answer = await found if hasattr(found, "__await__") else found
            if isinstance(answer, BaseException):
                raise answer
            if answer is not None:
                return answer
        return f"p{len(self.submitted)}"

    async def poll(self, external_id: str) -> TaskUpdate:
        self.polled.append(external_id)
        answer = self.answers.get(external_id, TaskUpdate(status="waiting"))
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def cancel(self, external_id: str) -> None:
        self.cancelled.append(external_id)

    async def allow(self, ctx: Context, task: Picture) -> bool:
        return task.prompt != "private"


class KnowingShop(Shop):
    """One that can say whether it got a submission."""

    got: ClassVar[Any] = None

    async def verify(self, task: Picture, key: str) -> Any:
        self.asked = [*getattr(self, "asked", []), key]
        return self.knows if hasattr(self, "knows") else None


class BatchShop(Shop):
    """One that answers about many at a time."""

    async def poll_many(self, external_ids: Sequence[str]) -> Mapping[str, TaskUpdate | BaseException]:
        self.polled.append(",".join(sorted(external_ids)))
        return {id_: self.answers[id_] for id_ in external_ids if id_ in self.answers}


@dataclass
class World:
    harness: AppHarness
    shop: Any

    async def picture(self, prompt: str = "a cat") -> Picture:
        """A new picture, as far as delivery brings it."""
        made = await self.harness.store.create(Picture(prompt=prompt))
        await self.harness.drain()
        return await self.now(made)

    async def now(self, picture: Picture) -> Picture:
        return await self.harness.store.get(Picture, picture.id)

    async def after(self, seconds: float, picture: Picture) -> Picture:
        """What it is `seconds` later, when what is due then was visited, once, and delivered."""
        await self.harness.advance(seconds, polls=False)
        await self.shop.poll_due()
        await self.harness.drain()
        return await self.now(picture)

    async def told(self, picture: Picture) -> list[tuple[str, str]]:
        """What was told of it, and by whom."""
        events = await self.harness.store.find(TaskEvent, TaskEvent.task_id == picture.id)
        return [(event.status, event.origin) for event in events]

    async def callback(self, status: str, **values: Any) -> None:
        """The provider calls back, as a webhook would bring it in."""
        reference = {name: values.pop(name) for name in ("external_id", "key") if name in values}
        events = await self.shop.completion(TaskUpdate(status=status, **values), **reference)
        await self.harness.controller.receive("shop", f"message-{id(events)}", events)


@asynccontextmanager
async def running(shop: TaskIntegration | None = None, *, database: str = "sqlite:///:memory:") -> AsyncIterator[World]:
    shop = Shop() if shop is None else shop
    app = App(user=User, entities=[Picture], integrations={"shop": shop})
    async with AppHarness(app, database=database) as harness:
        yield World(harness, shop)
