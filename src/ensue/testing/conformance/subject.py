"""What a conformance suite is told about an integration, and what its tests share.

Decides the hooks that an author overrides, and their defaults. Leaves what is demanded to `integration`. Invariant: what
is not overridden is skipped with the reason, never passed in silence.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from unittest import SkipTest

from ensue.app import App
from ensue.effects import ledger
from ensue.errors import EnsueError
from ensue.integrations.contract import Integration
from ensue.testing.conformance.watching import eventually
from ensue.testing.harness import AppHarness

if TYPE_CHECKING:
    from ensue.engine.controller import Controller


HELD_SECONDS = 600.0


class Peer(Protocol):
    """What an integration talks to, in a test: `FaultProxy` and `HttpDouble` are such."""

    def refuse(self) -> None:
        """Nobody listens."""
        ...

    def black_hole(self) -> None:
        """Somebody listens and says nothing."""
        ...

    def heal(self) -> None:
        """All is well again."""
        ...

    @property
    def open_connections(self) -> int:
        """How many connections the integration holds."""
        ...


P = TypeVar("P", bound=Peer)


class Subject(Generic[P]):
    """What is tested, as a subclass describes it."""

    namespace = ""
    """Under which the app holds the integration; found by itself where the app has one only."""
    unload_seconds_max = 8.0
    """How long leaving the app may take with a dead peer: `cleanup` and each resource are given 5 s; the rest is slack."""
    notice_seconds_max = 10.0
    """How long, in real time, it may take to notice that the peer is gone or back."""
    health_exempt = ""

    # --- What a subclass says --------------------------------------------------------------------------------------------

    def peer(self) -> AbstractAsyncContextManager[P]:
        """A new peer in good health; entered for each test."""
        raise NotImplementedError(f"{type(self).__name__}.peer() must give what the integration talks to.")

    def integration(self, peer: P) -> Integration:
        """A new object of the integration, without what its settings read from the environment."""
        raise NotImplementedError(f"{type(self).__name__}.integration() must give a new integration.")

    def app(self, integration: Integration) -> App:
        """An app with this integration, and the entities that make it act."""
        raise NotImplementedError(f"{type(self).__name__}.app() must give an App with the integration.")

    def environment(self, peer: P) -> Mapping[str, str]:
        """The environment that settings are read from, every required one and every secret in it."""
        return {}

    async def cause(self, controller: Controller) -> None:
        """Change data so that a side effect is caused; called several times in one app."""
        raise SkipTest("The integration has no side effect: cause() is not given.")

    async def cause_poison(self, controller: Controller) -> None:
        """Change data so that a side effect is caused that the peer will never take."""
        raise SkipTest("No input is poison to this integration: cause_poison() is not given.")

    async def work(self, peer: P) -> object:
        """What the peer has done for the integration, comparable; a repeat under a known key must not change it."""
        raise SkipTest("The peer doesn't tell what was done: work() is not given.")

    def harness(self, app: App, peer: P) -> AppHarness:
        """The harness that tests run `app` in; override it to give clients or handles."""
        return AppHarness(app, env=self.environment(peer))

    # --- What the tests share ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _delivering(self) -> AsyncGenerator[tuple[P, AppHarness]]:
        if not self._causes():
            raise SkipTest("The integration has no side effect: cause() is not given.")
        async with self.peer() as peer, self.harness(self.app(self.integration(peer)), peer) as harness:
            yield peer, harness

    def _causes(self) -> bool:
        given = {name for kind in type(self).__mro__ if kind is not Subject for name in vars(kind)}
        return "cause" in given

    async def _deliver(self, harness: AppHarness) -> None:
        await self.cause(harness.controller)
        await harness.drain()
        if "pending" in await states_of(harness):
            # Its delay or the rate of its target holds it, and in a test time stands still.
            await harness.advance(HELD_SECONDS)

    def _namespace(self, harness: AppHarness) -> str:
        if self.namespace:
            return self.namespace
        members = list(harness.run.integrations.members)
        assert len(members) == 1, f"the app has the integrations {members}: set `namespace` to the one that is meant"
        return members[0]

    def _member(self, harness: AppHarness) -> Any:
        return harness.integration(self._namespace(harness))

    def _with(self, app: App, more: Mapping[str, Integration] | None) -> App:
        """`app` with further integrations, or with none at all."""
        return App(
            user=app.user,
            entities=app.entities,
            interactions=app.interactions,
            activities=app.activities,
            globals=app.globals,
            integrations={} if more is None else {**app.integrations, **more},
        )

    async def _expect_health(self, harness: AppHarness, *, up: bool, when: str) -> None:
        async def as_expected() -> bool:
            # Many notice only when they need the peer.
            if self._causes():
                await self._deliver(harness)
                await harness.drain(waiting=True)
            return (await harness.run.health())[self._namespace(harness)].up is up

        expected = "up" if up else "down"
        await eventually(as_expected, f"health() says {expected} {when}", seconds_max=self.notice_seconds_max)

    async def _expect_no_connection(self, peer: P, when: str) -> None:
        async def none() -> bool:
            return peer.open_connections == 0

        await eventually(none, f"no connection to the peer {when}", seconds_max=self.notice_seconds_max)


async def failure_of_start(harness: AppHarness) -> Exception | None:
    """What starting the app fails with; if it starts, it is stopped again."""
    try:
        async with harness:
            return None
    except Exception as failure:  # noqa: BLE001 - given to the test, which judges it
        return failure


async def states_of(harness: AppHarness) -> list[str]:
    return [item.state for item in await ledger.list_effects(harness.run.driver, limit=1000)]


async def errors_of(harness: AppHarness) -> list[str]:
    return [item.error for item in await ledger.list_effects(harness.run.driver, limit=1000) if item.error]


async def outcome_of(app: App) -> str:
    """What freezing `app` comes to: its schema's fingerprint, or the error."""
    from ensue.plan.compile import compile_plan

    try:
        return json.dumps(compile_plan(await app.freeze(env={}), "sqlite").fingerprint, sort_keys=True, default=str)
    except EnsueError as error:
        return str(error)
