"""The conformance suite of integrations: what any of them must do, whoever wrote it, shown on a peer that misbehaves.

Decides what is demanded. Leaves how an integration is made, what it talks to and what makes it act to a subclass, by the
hooks of `subject`, and what the integration is *for* to its own tests. Invariant: a test speaks of behaviour that can be
seen from outside: tasks, connections, effects, logs and the peer's own account.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

from ensue.app import App
from ensue.effects import ledger
from ensue.errors import DeclarationError
from ensue.integrations.contract import Integration
from ensue.testing.conformance.secrets import secrets_of, shows
from ensue.testing.conformance.settings import required_variables
from ensue.testing.conformance.subject import P, Subject, errors_of, failure_of_start, outcome_of, states_of
from ensue.testing.conformance.watching import Stopwatch, Tasks, eventually, logged
from ensue.testing.harness import AppHarness

if TYPE_CHECKING:
    from ensue.engine.controller import Controller

LONG_SECONDS = 4 * 24 * 3600.0
"""Longer than an effect is tried by default."""


class Failing(Integration):
    """Its setup fails: those that were set up before it must be cleaned up."""

    async def setup(self, controller: Controller) -> None:
        raise RuntimeError("this integration fails on purpose")


class IntegrationConformance(Subject[P]):
    """Subclass it in a test module, name the class `Test…`, and let pytest run it (with pytest-asyncio in auto mode).

    `peer`, `integration` and `app` must be given; `environment` if it has settings, `cause` and `work` if it has side
    effects. Each test makes its own peer, app and integration.

    >>> class TestMail(IntegrationConformance[HttpDouble]):
    ...     def peer(self):
    ...         service = HttpDouble(idempotency_header="Idempotency-Key")
    ...         service.on("POST /send", {"id": 1})
    ...         return service
    ...     def integration(self, peer): return Mail()
    ...     def app(self, integration): return App(entities=[Letter], integrations={"mail": integration})
    ...     def environment(self, peer): return {"MAIL_URL": peer.url, "MAIL_API_KEY": "a-secret-key"}
    ...     async def cause(self, controller): await controller.store.create(Letter(text="hi"))
    ...     async def work(self, peer): return dict(peer.accepted_keys)

    `health_exempt` is the reason why `health` can't know of a dead peer; without one, it must.
    """

    # --- Life cycle ----------------------------------------------------------------------------------------------------

    async def test_it_lives_twice_and_leaves_nothing(self) -> None:
        """Configure, setup, cleanup, and all again with the same object: nothing is left of the first life."""
        async with self.peer() as peer:
            app = self.app(self.integration(peer))
            for life in ("first", "second"):
                tasks = Tasks()
                async with self.harness(app, peer) as harness:
                    assert self._member(harness) is not None
                    assert harness.run.reports == []
                assert harness.run.integrations.failures == [], f"cleanup failed at the end of the {life} life"
                await tasks.expect_none_left(f"After the {life} life", seconds_max=self.notice_seconds_max)
                await self._expect_no_connection(peer, f"after the {life} life")

    async def test_a_failing_setup_is_cleaned_up(self) -> None:
        """When a later integration's setup fails, and when its own fails, nothing stays open."""
        async with self.peer() as peer:
            tasks = Tasks()
            app = self._with(self.app(self.integration(peer)), {"failing": Failing()})
            failure = await failure_of_start(self.harness(app, peer))
            assert "on purpose" in str(failure), f"the failing setup of another integration came out as {failure!r}"
            await tasks.expect_none_left("After another setup failed", seconds_max=self.notice_seconds_max)
            await self._expect_no_connection(peer, "after another setup failed")

    async def test_a_peer_that_is_away_at_the_start_breaks_nothing(self) -> None:
        """The app either starts, or fails with an error; neither leaves anything, and with the peer back it starts."""
        async with self.peer() as peer:
            peer.refuse()
            tasks = Tasks()
            app = self.app(self.integration(peer))
            failure = await failure_of_start(self.harness(app, peer))
            assert failure is None or str(failure), f"setup() failed with {type(failure).__name__} and says nothing"
            await tasks.expect_none_left("After a start without its peer", seconds_max=self.notice_seconds_max)
            peer.heal()
            async with self.harness(app, peer):
                pass

    async def test_unload_is_bounded_with_a_dead_peer(self) -> None:
        """A peer that says nothing any more can't hold up the end of the app."""
        async with self.peer() as peer:
            tasks = Tasks()
            async with AsyncExitStack() as stack:
                harness = await stack.enter_async_context(self.harness(self.app(self.integration(peer)), peer))
                if self._causes():
                    await self.cause(harness.controller)
                    await harness.drain()
                peer.black_hole()
                watch = Stopwatch()
            assert watch.seconds() <= self.unload_seconds_max, (
                f"unloading took {watch.seconds():.1f} s with a peer that says nothing, expected at most "
                f"{self.unload_seconds_max:g} s: give what cleanup() waits for a time limit"
            )
            await tasks.expect_none_left("After unloading with a dead peer", seconds_max=self.notice_seconds_max)

    async def test_two_apps_are_independent(self) -> None:
        """Two apps with one class in one process don't see each other's changes, and one survives the other's end."""
        async with AsyncExitStack() as stack:
            one, other = [await stack.enter_async_context(self.peer()) for _ in range(2)]
            staying = await stack.enter_async_context(self.harness(self.app(self.integration(one)), one))
            async with self.harness(self.app(self.integration(other)), other) as leaving:
                if self._causes():
                    before = await self.work(one)
                    await self._deliver(leaving)
                    assert await self.work(one) == before, "what one app caused was done for the other"
            assert self._member(staying).namespace
            if self._causes():
                before, untouched = await self.work(one), await self.work(other)
                await self._deliver(staying)
                assert await self.work(one) != before, "the end of one app kept the other from working"
                assert await self.work(other) == untouched, "what one app caused was done for the other"

    # --- Declarations ----------------------------------------------------------------------------------------------------

    async def test_every_missing_setting_is_reported_at_once(self) -> None:
        """Without an environment the start fails with one error that names every required variable."""
        async with self.peer() as peer:
            integration = self.integration(peer)
            required = required_variables(integration)
            failure = await failure_of_start(AppHarness(self.app(integration), env={})) if required else None
        if not required:
            return
        assert isinstance(failure, DeclarationError), f"without {', '.join(required)} the start came to {failure!r}"
        missing = [name for name in required if name not in str(failure)]
        assert not missing, f"the error doesn't name {', '.join(missing)}: {failure}"

    async def test_the_schema_changes_in_configure_only(self) -> None:
        """Freezing needs no peer, gives the same schema each time, and touches no other app's."""
        from ensue.plan.compile import compile_plan

        async with self.peer() as peer:
            environment = self.environment(peer)
            app = self.app(self.integration(peer))
            without = self._with(self.app(self.integration(peer)), None)
            bare = await outcome_of(without)
            peer.refuse()
            first = compile_plan(await app.freeze(env=environment), "sqlite").fingerprint
            again = compile_plan(await app.freeze(env=environment), "sqlite").fingerprint
            assert first == again, "configure() gives another schema the second time"
            assert await outcome_of(without) == bare, "configure() changed the classes: another app sees it too"
            peer.heal()
            async with self.harness(app, peer) as harness:
                assert harness.run.plan.fingerprint == first, "the schema changed after configure()"

    async def test_secrets_are_not_shown(self) -> None:
        """No secret is in a repr, a log line, health, or an effect's error; not when all is well, not when it fails."""
        async with self.peer() as peer:
            with logged() as lines:
                async with self.harness(self.app(self.integration(peer)), peer) as harness:
                    integration = self._member(harness)
                    secrets = secrets_of(integration)
                    shown: list[tuple[str, str]] = [
                        ("repr()", repr(integration)),
                        ("the app's repr", repr(harness.app)),
                    ]
                    if self._causes():
                        await self._deliver(harness)
                        peer.refuse()
                        await self._deliver(harness)
                        shown += [("an effect's error", text) for text in await errors_of(harness)]
                    else:
                        peer.refuse()
                    shown += [("health", repr(await harness.run.health()))]
                    peer.heal()
            shown += [("a log line", line) for line in lines]
        for where, text in shown:
            for name, secret in secrets:
                assert not shows(text, secret), f"{where} shows the secret setting {name}"

    # --- Health --------------------------------------------------------------------------------------------------------

    async def test_health_follows_the_peer(self) -> None:
        """Up with its peer; down, with a reason, when that is gone; up again when it is back."""
        if self.health_exempt:
            raise SkipTest(self.health_exempt)
        async with self.peer() as peer, self.harness(self.app(self.integration(peer)), peer) as harness:
            await self._expect_health(harness, up=True, when="with its peer")
            peer.refuse()
            await self._expect_health(harness, up=False, when="after its peer was gone")
            assert (await harness.run.health())[self._namespace(harness)].detail, "health is down and gives no reason"
            peer.heal()
            await self._expect_health(harness, up=True, when="after its peer came back")

    # --- Delivery ------------------------------------------------------------------------------------------------------

    async def test_what_it_sends_arrives(self) -> None:
        """A change makes the peer work."""
        async with self._delivering() as (peer, harness):
            before = await self.work(peer)
            await self._deliver(harness)
            assert await self.work(peer) != before, (
                f"the peer has not worked: {before!r}; effects: {await states_of(harness)}"
            )

    async def test_a_repeated_effect_is_harmless(self) -> None:
        """After a crash an effect may be delivered twice, under the same key: the peer must not work twice."""
        async with self._delivering() as (peer, harness):
            await self._deliver(harness)
            done = await self.work(peer)
            assert await harness.redeliver() > 0, f"no effect was done: {await states_of(harness)}"
            assert await self.work(peer) == done, (
                f"the repeat under the same key did work again: {done!r}, then {await self.work(peer)!r}. "
                "Send effect.key as the idempotency key, or ask the peer before sending."
            )

    async def test_an_outage_delays_and_loses_nothing(self) -> None:
        """What was caused while the peer was away is done when it is back, and nothing was given up."""
        async with self._delivering() as (peer, harness):
            before = await self.work(peer)
            peer.refuse()
            await self._deliver(harness)
            assert await self.work(peer) == before
            states = await states_of(harness)
            assert "dead" not in states, f"an outage made effects dead: {await errors_of(harness)}"
            assert set(states) - {"done"}, (
                "with the peer away every effect was noted as done, so nothing will be sent later: "
                "let errors out of the handler"
            )
            peer.heal()
            if not self.health_exempt:
                await self._expect_health(harness, up=True, when="after its peer came back")

            async def delivered() -> bool:
                await harness.advance(60)
                return await self.work(peer) != before and set(await states_of(harness)) <= {"done"}

            await eventually(delivered, "delivery after an outage", seconds_max=self.notice_seconds_max)

    async def test_poison_holds_up_nobody(self) -> None:
        """What the peer never takes is set aside with its error; what comes after it is done, and health stays up."""
        async with self._delivering() as (peer, harness):
            await self.cause_poison(harness.controller)
            await harness.drain()
            before = await self.work(peer)
            await self._deliver(harness)
            assert await self.work(peer) != before, "what came after the poison was not done"
            await harness.advance(LONG_SECONDS)
            waiting = set(await states_of(harness)) - {"done", "dead", "parked", "unknown"}
            assert not waiting, f"after {LONG_SECONDS / 86400:g} days effects are still {', '.join(waiting)}"
            assert await errors_of(harness), "the poison left no error"
            if not self.health_exempt:
                await self._expect_health(harness, up=True, when="after poison, with its peer in good health")

    async def test_a_shutdown_in_the_middle_loses_nothing(self) -> None:
        """Leaving the app while a handler waits for its peer ends in time, uses no attempt, and it is done later."""
        if not self._causes():
            raise SkipTest("The integration has no side effect: cause() is not given.")
        with TemporaryDirectory(prefix="ensue-conformance-") as folder:
            database = f"sqlite:///{Path(folder) / 'app.db'}?synchronous=off"
            async with self.peer() as peer:
                app, environment = self.app(self.integration(peer)), self.environment(peer)
                before = await self.work(peer)
                await self._stop_in_the_middle(app, peer, {"database": database, "env": environment})
                peer.heal()
                async with app.run(database=database, env=environment) as run:
                    before_states: list[str] = []

                    async def delivered() -> bool:
                        before_states[:] = [item.state for item in await ledger.list_effects(run.driver)]
                        return await self.work(peer) != before and set(before_states) <= {"done"}

                    await eventually(delivered, "delivery after a shutdown", seconds_max=3 * self.notice_seconds_max)

    async def _stop_in_the_middle(self, app: App, peer: P, options: Mapping[str, Any]) -> None:
        async with AsyncExitStack() as stack:
            run = await stack.enter_async_context(app.run(**options, grace_seconds=0.1))
            peer.black_hole()
            await self.cause(run.controller)

            async def claimed() -> bool:
                return bool(await ledger.list_effects(run.driver, state="claimed"))

            await eventually(claimed, "a handler that waits for its peer", seconds_max=self.notice_seconds_max)
            watch = Stopwatch()
        bound = self.unload_seconds_max + 5.1
        assert watch.seconds() <= bound, f"leaving took {watch.seconds():.1f} s, expected at most {bound:g} s"
        async with app.run(database=options["database"], env=options["env"], deliver=False, setup=False) as run:
            left = [(item.state, item.attempt) for item in await ledger.list_effects(run.driver)]
        assert not [item for item in left if item[0] in ("claimed", "dead")], left
        assert not [item for item in left if item[0] != "done" and item[1]], f"the shutdown used up an attempt: {left}"
