"""The options of side effects, from their declaration in an app to the call, and what a wrong one is told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from ensue import (
    App,
    DeclarationError,
    Effect,
    Entity,
    Integration,
    Interaction,
    Property,
    Rate,
    Receipt,
    Retry,
    SideEffect,
    Target,
    Transform,
    side_effect,
)
from ensue.effects.ledger import list_effects, show_effect
from ensue.testing import AppHarness


class Say(Interaction):
    text: str

    async def allow(self, ctx: object) -> bool:
        return True


class Line(Entity, derived=Transform(Say, lambda e: {"text": e.text})):
    text: Property[str]
    wait_seconds: Property[int] = Property(default=0)


CRM = Target("crm", rate=Rate(1000, per_seconds=1))


class Sender(Integration):
    async def setup(self, controller: object) -> None:
        self.sent: list[Any] = []
        self.asked = 0

    @side_effect(Line, on="create", target=CRM, verify="arrived", priority=3)
    async def send(self, effect: Effect[Line]) -> Receipt:
        self.sent.append(effect.record.text)
        if effect.record.text == "reset":
            raise ConnectionResetError("accepted, then reset")
        return Receipt(provider_id=f"p-{effect.record.text}")

    async def arrived(self, effect: Effect[Line]) -> Receipt:
        self.asked += 1
        return Receipt(f"found {effect.record.text}")

    @side_effect(Line, on="create", batch=10)
    async def send_all(self, effects: list[Effect[Line]]) -> None:
        self.sent.append([effect.record.text for effect in effects])

    @side_effect(Line, on={"create", "update"}, order_by=lambda line: line.id, coalesce=True)
    async def index(self, effect: Effect[Line]) -> None:
        self.sent.append(("index", effect.record.text))

    @side_effect(Line, on="update", delay=lambda line: line.wait_seconds)
    async def remind(self, effect: Effect[Line]) -> None:
        self.sent.append(("remind", effect.record.text))

    def classify(self, error: BaseException) -> Any:
        return "rejected" if isinstance(error, ZeroDivisionError) else None


async def test_from_declaration_to_call() -> None:
    app = App(entities=[Line], interactions=[Say], integrations={"out": Sender()}, database="sqlite:///:memory:")
    async with AppHarness(app) as harness:
        out = harness.integration("out")
        result = await harness.controller.dispatch(Say(text="a"), user=None)
        await harness.drain()
        assert out.sent.count("a") == 1
        assert ["a"] in out.sent
        [entry] = await list_effects(harness.run.driver, name="out.send")
        detail = await show_effect(harness.run.driver, entry.id)
        assert (detail.provider_id, detail.target) == ("p-a", "crm")
        assert (detail.cause, detail.cause_id) == ("Say", result.event.id)

        [line] = await harness.store.find(Line)
        for text in ("b", "c"):
            await harness.store.update(Line, line.id, text=text, wait_seconds=60)
        await harness.drain()
        assert [item for item in out.sent if isinstance(item, tuple)] == [("index", "a"), ("index", "c")]
        harness.clock.advance(seconds=61)
        await harness.drain()
        assert [item for item in out.sent if item[0] == "remind"] == [("remind", "b"), ("remind", "c")]


async def test_a_steady_stream_of_changes_does_not_put_off_the_newest_for_ever() -> None:
    calm = timedelta(seconds=60)

    class Index(Integration):
        async def setup(self, controller: object) -> None:
            self.seen: list[str] = []

        @side_effect(Line, on="update", order_by=lambda line: line.id, coalesce=True, delay=calm)
        async def index(self, effect: Effect[Line]) -> None:
            self.seen.append(effect.record.text)

    app = App(entities=[Line], interactions=[Say], integrations={"out": Index()}, database="sqlite:///:memory:")
    async with AppHarness(app) as harness:
        await harness.controller.dispatch(Say(text="a"), user=None)
        [line] = await harness.store.find(Line)
        for second in range(0, 300, 25):
            await harness.store.update(Line, line.id, text=f"at {second}")
            harness.clock.advance(seconds=25)
            await harness.drain()
        # Changed at 0, 25, 50, …: each is due 60 s after the first that was not told of yet.
        assert harness.integration("out").seen == ["at 50", "at 125", "at 200", "at 275"]


async def test_a_lost_answer_is_asked_about() -> None:
    app = App(entities=[Line], interactions=[Say], integrations={"out": Sender()}, database="sqlite:///:memory:")
    async with AppHarness(app) as harness:
        out = harness.integration("out")
        await harness.controller.dispatch(Say(text="reset"), user=None)
        await harness.drain()
        assert out.asked == 0
        harness.clock.advance(seconds=5)
        await harness.drain()
        assert (out.sent.count("reset"), out.asked) == (1, 1)
        [entry] = await list_effects(harness.run.driver, name="out.send", state="done")
        assert (await show_effect(harness.run.driver, entry.id)).provider_id == "found reset"


async def nothing(_effect: Effect[Any]) -> None: ...


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"poison": "block"}, "add order_by="),
        ({"coalesce": True}, "add order_by="),
        ({"batch": 0}, "batch=0"),
        ({"priority": 10}, "0 .the default. to 9"),
        ({"key_ttl": timedelta(0)}, "above 0"),
        ({"delay": timedelta(seconds=-1)}, "not negative"),
        ({"delay": lambda line: line.text}, "number of seconds or a datetime"),
        ({"delivery": "after_commit", "delay": timedelta(seconds=1)}, "needs delivery='durable'"),
        ({"verify": lambda _effect: True}, "not async"),
        ({"priority": 1.5}, "priority=1.5: expected a whole number"),
        ({"priority": "high"}, "priority='high': expected a whole number"),
        ({"batch": "10"}, "batch='10': expected a whole number"),
        ({"batch": True}, "batch=True: expected a whole number"),
        ({"retry": 3}, "retry=3: expected Retry"),
        ({"retry": Retry(max_attempts=0)}, "both limits must be above 0"),
        ({"target": "crm"}, "target='crm': expected Target"),
        ({"key_ttl": 60}, "key_ttl=60: expected timedelta"),
        ({"timeout_seconds": float("nan")}, "expected seconds above 0"),
        ({"timeout_seconds": 0}, "expected seconds above 0"),
        ({"concurrency": 0}, "at least one call at a time"),
    ],
)
async def test_what_means_nothing_is_refused(options: dict[str, Any], told: str) -> None:
    class Wrong(Integration):
        def create_side_effects(self) -> list[SideEffect]:
            return [SideEffect("wrong", Line, on="create", content=nothing, **options)]

    with pytest.raises(DeclarationError, match=told):
        await App(entities=[Line], interactions=[Say], integrations={"out": Wrong()}).freeze()


async def test_one_target_has_one_meaning() -> None:
    class Twice(Integration):
        def create_side_effects(self) -> list[SideEffect]:
            return [
                SideEffect("one", Line, on="create", content=nothing, target=Target("crm", concurrency=1)),
                SideEffect("two", Line, on="create", content=nothing, target=Target("crm", concurrency=2)),
            ]

    with pytest.raises(DeclarationError, match="declared with other limits"):
        await App(entities=[Line], interactions=[Say], integrations={"out": Twice()}).freeze()


@pytest.mark.parametrize("make", [lambda: Rate(0, 1), lambda: Target(""), lambda: Target("x", concurrency=0)])
def test_limits_that_allow_nothing_are_refused(make: Any) -> None:
    with pytest.raises(DeclarationError, match="expected"):
        make()
