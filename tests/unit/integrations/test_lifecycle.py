"""The life of integrations in one run: order, undoing, bounds, and clashing claims."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ensue.app import App
from ensue.clock import ManualClock
from ensue.errors import DeclarationError, UsageError
from ensue.integrations.api import API, api
from ensue.integrations.contract import Health, Integration, Surroundings
from ensue.integrations.handles import Handles
from ensue.integrations.running.lifecycle import IntegrationSet
from ensue.schema.computations.custom import Custom
from ensue.schema.effect import Effect, SideEffect, side_effect
from ensue.schema.entity import Entity
from ensue.schema.freeze import freeze
from ensue.schema.interaction import Context
from ensue.schema.property import Property
from ensue.schema.schema import Schema
from ensue.testing import AppHarness


class Note(Entity):
    text: Property[str]
    url: Property[str] = Property(default="")


@asynccontextmanager
async def resource(name: str, log: list[str]) -> AsyncIterator[str]:
    log.append(f"open {name}")
    yield name
    log.append(f"close {name}")


class Logged(Integration):
    """Writes what happens to it into a shared list; `fail` names the hook that fails, `hang` the one that doesn't end."""

    def __init__(self, log: list[str], *, fail: str = "", hang: str = "") -> None:
        self.log = log
        self.fail = fail
        self.hang = hang

    async def step(self, name: str) -> None:
        self.log.append(f"{name} {self.namespace}")
        if name == self.hang:
            await asyncio.Event().wait()
        if name == self.fail:
            raise OSError(f"{self.namespace} is broken")

    async def configure(self, schema: Schema) -> None:
        await self.step("configure")

    async def setup(self, controller: Any) -> None:
        await self.enter(resource(f"{self.namespace}.1", self.log))
        await self.enter(resource(f"{self.namespace}.2", self.log), name="two")
        await self.step("setup")

    async def cleanup(self) -> None:
        await self.step("cleanup")


def running(
    integrations: dict[str, Integration], *, clients: dict[str, Any] | None = None, stopwatch: ManualClock | None = None
) -> IntegrationSet:
    found = IntegrationSet(
        integrations,
        Surroundings(Handles(), ManualClock(), clients or {}),
        stopwatch=stopwatch or ManualClock(),
        close_seconds_max=0.05,
        health_seconds_max=0.05,
    )
    found.attach()
    return found


def new_schema() -> Schema:
    return Schema.collect(entities=[Note])


async def test_hooks_run_in_order_and_are_undone_in_reverse() -> None:
    log: list[str] = []
    members = running({"a": Logged(log), "b": Logged(log)})
    await members.configure(new_schema())
    await members.setup(None)  # type: ignore[arg-type]
    await members.cleanup()
    await members.cleanup()
    assert log == [
        "configure a",
        "configure b",
        *("open a.1", "open a.2", "setup a", "open b.1", "open b.2", "setup b"),
        *("cleanup b", "close b.2", "close b.1", "cleanup a", "close a.2", "close a.1"),
    ]


async def test_a_failed_setup_closes_what_it_opened_and_cleans_up_those_before_it() -> None:
    log: list[str] = []
    members = running({"a": Logged(log), "b": Logged(log, fail="setup"), "c": Logged(log)})
    with pytest.raises(OSError, match="b is broken") as caught:
        await members.setup(None)  # type: ignore[arg-type]
    assert log[6:] == ["close b.2", "close b.1", "cleanup a", "close a.2", "close a.1"]
    assert "setup() of the integration 'b' (Logged)" in caught.value.__notes__[0]


@pytest.mark.parametrize("hook", ["configure", "cleanup", "health"])
async def test_a_hook_that_is_no_async_function_is_refused_at_the_start(hook: str) -> None:
    plain = type("Plain", (Integration,), {hook: lambda self, *_: None})
    with pytest.raises(UsageError, match=rf"{hook}\(\) of the integration 'plain' \(Plain\) is no async function"):
        await running({"plain": plain()}).configure(Schema.collect())


async def test_a_health_that_is_none_counts_as_down() -> None:
    class Fine(Integration):
        async def health(self) -> Any:
            return "fine"

    found = await running({"fine": Fine()}).health()
    assert found == {"fine": Health(False, "health() gave str; expected Health(up, detail, since)")}


async def test_a_setup_that_is_no_async_function_says_so() -> None:
    class Plain(Integration):
        def setup(self, controller: Any) -> None: ...  # type: ignore[override]

    with pytest.raises(
        UsageError, match=r"setup\(\) is no async function: it gave NoneType. Write `async def setup"
    ) as caught:
        await running({"plain": Plain()}).setup(None)  # type: ignore[arg-type]
    assert "'plain' (Plain)" in caught.value.__notes__[0]


async def test_a_cancelled_setup_is_undone_too() -> None:
    log: list[str] = []
    members = running({"a": Logged(log), "b": Logged(log, hang="setup")})
    starting = asyncio.create_task(members.setup(None))  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert log[6:] == ["close b.2", "close b.1", "cleanup a", "close a.2", "close a.1"]


async def test_failures_of_cleanup_are_collected_and_logged_and_stop_nobody(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    members = running({"a": Logged(log), "b": Logged(log, hang="cleanup"), "c": Logged(log, fail="cleanup")})
    await members.setup(None)  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR):
        await members.cleanup()
    assert log[9:] == [
        *("cleanup c", "close c.2", "close c.1", "cleanup b", "close b.2", "close b.1"),
        *("cleanup a", "close a.2", "close a.1"),
    ]
    assert [failure.what for failure in members.failures] == ["cleanup() of c", "cleanup() of b"]
    assert "took longer than 0.05 s" in str(members.failures[1].error)
    assert "cleanup() of c failed" in caplog.text


async def test_a_slow_configure_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()

    class Slow(Integration):
        async def configure(self, schema: Schema) -> None:
            clock.advance(seconds=1.5)

    members = running({"slow": Slow(), "quick": Integration()}, stopwatch=clock)
    with caplog.at_level(logging.WARNING):
        await members.configure(new_schema())
    assert len(members.reports) == 1
    assert "configure() of the integration 'slow' (Slow) took 1.5 s" in members.reports[0].message
    assert "took 1.5 s" in caplog.text


async def test_a_failing_configure_names_its_integration() -> None:
    members = running({"a": Logged([], fail="configure")})
    with pytest.raises(OSError, match="broken") as caught:
        await members.configure(new_schema())
    assert "configure() of the integration 'a'" in caught.value.__notes__[0]


async def test_the_schema_is_closed_after_configure() -> None:
    kept: list[Schema] = []

    class Late(Integration):
        async def configure(self, schema: Schema) -> None:
            kept.append(schema)

        async def setup(self, controller: Any) -> None:
            kept[0].entities.add(Entity.define("TooLate", text=Property[str]))

    members = running({"late": Late()})
    schema = new_schema()
    await members.configure(schema)
    freeze(schema)
    with pytest.raises(UsageError, match="Change it in an integration's `configure`"):
        await members.setup(None)  # type: ignore[arg-type]


def injecting(name: str) -> Integration:
    class Injecting(Integration):
        async def configure(self, schema: Schema) -> None:
            schema.entities.add(Entity.define(name, text=Property[str]))

    return Injecting()


async def test_two_integrations_that_inject_one_entity_name_are_both_named() -> None:
    members = running({"pictures": injecting("TaskEvent"), "videos": injecting("TaskEvent")})
    schema = new_schema()
    await members.configure(schema)
    with pytest.raises(DeclarationError) as caught:
        freeze(schema)
    assert "'TaskEvent'" in str(caught.value)
    assert "from the integration 'pictures', this one from the integration 'videos'" in str(caught.value)


async def test_an_injected_entity_that_the_app_has_is_refused_too() -> None:
    members = running({"pictures": injecting("Note")})
    schema = new_schema()
    await members.configure(schema)
    with pytest.raises(DeclarationError, match="from the app itself, this one from the integration 'pictures'"):
        freeze(schema)


async def test_two_integrations_that_compute_one_property_are_both_named() -> None:
    class Computing(Integration):
        async def configure(self, schema: Schema) -> None:
            schema.property(Note, "url").computation = Custom(initial=lambda record: "x")

    members = running({"one": Computing(), "two": Computing()})
    schema = new_schema()
    await members.configure(schema)
    with pytest.raises(
        DeclarationError, match=r"Note\.url is given a computation by the integration 'one' and by .*'two'"
    ):
        freeze(schema)


async def test_side_effects_are_bound_qualified_and_in_order() -> None:
    class Two(Integration):
        @side_effect(Note, on="create")
        async def second(self, effect: Effect[Note]) -> None: ...

        @side_effect(Note, on="delete")
        @side_effect(Note, on="create", of=[])
        async def first(self, effect: Effect[Note]) -> None: ...

        def create_side_effects(self) -> list[SideEffect]:
            return [SideEffect("third", Note, on="update", content=self.first)]

    two = Two()
    found = running({"ns": two}).side_effects()
    assert list(found) == ["ns.second", "ns.first", "ns.first_2", "ns.third"]
    assert found["ns.second"].content == two.second
    assert found["ns.first_2"].on == {"delete"}


async def test_two_side_effects_or_calls_of_one_name_are_refused() -> None:
    class Twice(Integration):
        @side_effect(Note, on="create")
        async def publish(self, effect: Effect[Note]) -> None: ...

        @api()
        async def status(self, ctx: Context) -> str:
            return ""

        def create_side_effects(self) -> list[SideEffect]:
            return [SideEffect("publish", Note, on="update", content=self.publish)]

        def create_apis(self) -> list[API]:
            return [API("status", self.status)]

    members = running({"ns": Twice()})
    with pytest.raises(DeclarationError, match="'ns' has two side effects named 'publish'"):
        members.side_effects()
    with pytest.raises(DeclarationError, match="'ns' has two API calls named 'status'"):
        members.apis()


async def test_an_override_takes_the_place_of_what_it_overrides() -> None:
    class Parent(Integration):
        @side_effect(Note, on="create")
        async def one(self, effect: Effect[Note]) -> None: ...

        @side_effect(Note, on="create")
        async def two(self, effect: Effect[Note]) -> None: ...

    class Child(Parent):
        async def one(self, effect: Effect[Note]) -> None: ...

        @side_effect(Note, on="delete")
        async def two(self, effect: Effect[Note]) -> None: ...

    found = running({"ns": Child()}).side_effects()
    assert list(found) == ["ns.two"]
    assert found["ns.two"].on == {"delete"}


class Client:
    async def aclose(self) -> None: ...


async def connected() -> Client:
    return Client()


@pytest.mark.parametrize(
    ("resource", "advice"),
    [
        (connected, "enter\\(\\) with coroutine; expected an async context manager. Await it"),
        (Client, "with Client; .*contextlib.aclosing"),
        (object, "with object; .*asynccontextmanager"),
    ],
)
async def test_what_can_not_be_entered_is_told_how_it_can(resource: Callable[[], Any], advice: str) -> None:
    class Wrong(Integration):
        async def setup(self, controller: Any) -> None:
            await self.enter(resource())

    with pytest.raises(UsageError, match=advice):
        async with AppHarness(App(integrations={"wrong": Wrong()})):
            raise AssertionError("started")


@pytest.mark.parametrize("given", [["publish"], {"publish": 1}, 7])
@pytest.mark.parametrize(("method", "expected"), [("create_side_effects", "SideEffect"), ("create_apis", "API")])
async def test_what_is_created_is_a_list_of_its_kind(given: object, method: str, expected: str) -> None:
    wrong = type("Wrong", (Integration,), {method: lambda self: given})()
    with pytest.raises(DeclarationError, match=rf"Wrong.{method}\(\) gave a .*; expected a list of {expected}"):
        async with AppHarness(App(integrations={"wrong": wrong})):
            raise AssertionError("started")


async def test_a_harness_that_runs_nothing_says_so() -> None:
    with pytest.raises(UsageError, match="async with AppHarness"):
        _ = AppHarness(App()).store


async def test_entering_is_for_setup_and_later() -> None:
    class Early(Integration):
        async def configure(self, schema: Schema) -> None:
            await self.enter(resource("x", []))

    with pytest.raises(UsageError, match=r"Early called enter\(\) while configuring.*in setup\(\)"):
        await running({"early": Early()}).configure(new_schema())
    with pytest.raises(UsageError, match="this integration is in none"):
        await Early().enter(resource("x", []))
    with pytest.raises(UsageError, match=r"Early\.handles belongs to a running app"):
        _ = Early().handles


async def test_named_resources_can_be_replaced() -> None:
    log: list[str] = []
    plain = object()
    members = running({"a": Logged(log)}, clients={"a.two": plain})
    await members.setup(None)  # type: ignore[arg-type]
    assert log == ["open a.1", "setup a"]
    await members.cleanup()

    log.clear()
    members.detach()
    members = running({"a": Logged(log)}, clients={"a.two": resource("fake", log)})
    await members.setup(None)  # type: ignore[arg-type]
    await members.cleanup()
    assert log == ["open a.1", "open fake", "setup a", "cleanup a", "close fake", "close a.1"]


async def test_a_replacement_that_replaces_nothing_is_an_error() -> None:
    log: list[str] = []
    members = running({"a": Logged(log)}, clients={"a.tow": object()})
    with pytest.raises(UsageError, match=r"'a\.tow'.*replaces nothing.*'a\.two'"):
        await members.setup(None)  # type: ignore[arg-type]
    assert log[-1] == "close a.1"


def test_one_object_serves_one_run_at_a_time() -> None:
    integration = Integration()
    members = running({"a": integration})
    with pytest.raises(UsageError, match="in use already, as 'a'"):
        running({"b": integration})
    members.detach()
    running({"b": integration})


async def test_a_health_that_fails_counts_as_down() -> None:
    class Sick(Integration):
        async def health(self) -> Health:
            raise OSError("no pulse")

    found = await running({"sick": Sick(), "well": Integration()}).health()
    assert found["well"].up
    assert not found["sick"].up
    assert "no pulse" in found["sick"].detail


async def test_a_health_that_does_not_answer_counts_as_down_and_keeps_nobody_waiting() -> None:
    class Silent(Integration):
        async def health(self) -> Health:
            await asyncio.Event().wait()
            return Health(up=True)

    class Impatient(Integration):
        async def health(self) -> Health:
            raise TimeoutError("its own")

    async with asyncio.timeout(5):
        found = await running({"a": Silent(), "b": Silent(), "c": Impatient(), "well": Integration()}).health()
    assert [each.up for each in found.values()] == [False, False, False, True]
    assert "did not answer within 0.05 s" in found["b"].detail
    assert "its own" in found["c"].detail
