"""How tasks and their integrations are declared, and what is said of mistakes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

import pytest

from ensue import App, AsyncTask, DeclarationError, Entity, Property, TaskEvent, TaskIntegration, TaskUpdate, UsageError
from ensue.testing import AppHarness
from tests.tasks.shop import Picture, Shop


class Video(AsyncTask):
    prompt: Property[str]
    seconds: Property[int] = Property(default=5)


class Both(Shop):
    """Works on every task of the app."""

    tasks: type[AsyncTask] = AsyncTask


async def test_a_task_is_created_with_its_input_alone() -> None:
    assert Picture(prompt="x").prompt == "x"
    with pytest.raises(UsageError, match="derived"):
        Picture(prompt="x", status="completed")  # type: ignore[call-arg]


async def test_one_integration_works_on_several_types() -> None:
    shop = Both()
    async with AppHarness(App(entities=[Picture, Video], integrations={"shop": shop})) as harness:
        picture = await harness.store.create(Picture(prompt="p"))
        video = await harness.store.create(Video(prompt="v"))
        await harness.drain()
        shop.answers = {"p1": TaskUpdate(status="done")}
        await harness.advance(3)
        await shop.poll_due()
        assert (await harness.store.get(Picture, picture.id)).status == "completed"
        assert (await harness.store.get(Video, video.id)).status == "processing"
        with pytest.raises(Exception, match="Picture, Video"):
            await harness.call("shop", "query_status", user=picture, task_id=1)


async def test_two_integrations_work_on_a_type_each() -> None:
    one, other = Shop(), Shop(tasks=Video)
    app = App(entities=[Picture, Video], integrations={"one": one, "other": other})
    async with AppHarness(app) as harness:
        await harness.store.create_many([Picture(prompt="p"), Video(prompt="v")])
        await harness.drain()
        assert ([len(shop.submitted) for shop in (one, other)]) == [1, 1]
        assert await harness.store.count(TaskEvent) == 2


async def test_two_integrations_on_one_type_are_told() -> None:
    with pytest.raises(DeclarationError, match=r"Picture\.status is given a computation by"):
        await App(entities=[Picture], integrations={"one": Shop(), "other": Shop()}).freeze()


async def test_the_class_attribute_is_the_setting() -> None:
    class Plain(TaskIntegration):
        tasks = Video

        async def submit(self, task: Any, key: str) -> str:
            return key

    plain = Plain()
    async with AppHarness(App(integrations={"plain": plain})) as harness:
        assert plain.tasks is Video
        assert (await harness.store.create(Video(prompt="x"))).status == "queued"


async def test_a_word_that_leads_nowhere_is_told_at_the_start() -> None:
    class Wrong(TaskIntegration):
        tasks = Picture
        statuses: ClassVar[Any] = {"done": "finished"}

    with pytest.raises(DeclarationError, match="'finished'; expected queued, processing"):
        await App(integrations={"wrong": Wrong()}).freeze()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("deadline", timedelta(0)),
        ("deadline", 600),
        ("poll_seconds_max", -1),
        ("expected_seconds", -2),
        ("poll_timeout_seconds", 0),
        ("submits_max", 0),
        ("polls_at_once", 0),
        ("on_unknown", "guess"),
        ("key_ttl", timedelta(0)),
    ],
)
async def test_settings_that_mean_nothing_are_told_at_the_start(setting: str, value: object) -> None:
    wrong = type("Wrong", (Shop,), {setting: value})
    with pytest.raises(DeclarationError, match=f"Wrong.{setting} is .*; expected"):
        await App(integrations={"wrong": wrong()}).freeze()


async def test_who_can_not_submit_is_told_at_the_start() -> None:
    class Idle(TaskIntegration):
        tasks = Picture

    with pytest.raises(DeclarationError, match="Idle writes no submit"):
        await App(integrations={"idle": Idle()}).freeze()


async def test_methods_that_could_not_be_called_are_told_at_the_start() -> None:
    async def fewer(self: Any) -> None: ...

    methods: dict[str, Any] = {"submit": lambda self, task, key: "p1", "poll": fewer, "verify": fewer}
    odd = type("Odd", (Shop,), methods)
    with pytest.raises(DeclarationError) as told:
        await App(entities=[Picture], integrations={"odd": odd()}).freeze()
    assert [problem.message for problem in told.value.problems] == [
        "Odd.submit can't be called as it will be. Write `async def submit(self, task, key)`.",
        "Odd.poll can't be called as it will be. Write `async def poll(self, external_id)`.",
        "Odd.verify can't be called as it will be. Write `async def verify(self, task, key)`.",
    ]


@pytest.mark.parametrize("tasks", ["Picture", None, Entity])
async def test_tasks_that_are_none_are_told_at_the_start(tasks: Any) -> None:
    odd = type("Odd", (Shop,), {"tasks": tasks})
    with pytest.raises(DeclarationError, match=r"Odd.tasks is .*; expected a class that inherits from AsyncTask"):
        await App(entities=[Picture], integrations={"odd": odd()}).freeze()


@pytest.mark.parametrize("statuses", [None, ["done"], {1: "completed"}, {"done": ["completed"]}])
async def test_statuses_that_are_no_map_of_words_are_told_at_the_start(statuses: Any) -> None:
    odd = type("Odd", (Shop,), {"statuses": statuses})
    with pytest.raises(DeclarationError, match=r"Odd.statuses (is|maps to) .*; expected"):
        await App(entities=[Picture], integrations={"odd": odd()}).freeze()


async def test_an_app_without_tasks_is_told_at_the_start() -> None:
    with pytest.raises(DeclarationError, match="declared as AsyncTask, and the app has none"):
        await App(integrations={"both": Both()}).freeze()


async def test_a_lease_shorter_than_a_poll_is_told_at_the_start() -> None:
    shop = Shop(poll_timeout_seconds=10, poll_lease_seconds=5)
    with pytest.raises(DeclarationError, match="two workers would ask"):
        await App(entities=[Picture], integrations={"shop": shop}).freeze()


async def test_configure_without_super_is_told_at_the_start() -> None:
    class Silent(Shop):
        async def configure(self, schema: Any) -> None: ...

    with pytest.raises(DeclarationError, match=r"await super\(\).configure\(schema\)"):
        await App(entities=[Picture], integrations={"shop": Silent()}).freeze()


async def test_setup_needs_no_super() -> None:
    class Heir(Shop):
        async def setup(self, controller: Any) -> None:
            await super().setup(controller)
            self.opened = True

    heir = Heir()
    async with AppHarness(App(entities=[Picture], integrations={"shop": heir})):
        assert heir.opened
        assert await heir.poll_due() == 0
