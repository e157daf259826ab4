"""The integrations of one run, taken through their life together.

Decides the order (as given for configure and setup, reversed for cleanup), what a failure undoes, and which claims of
two integrations clash. Leaves the schema, the database and delivery to the app. Invariant: an integration whose setup
succeeded is cleaned up exactly once, and whatever one integration entered is closed, in reverse order, whoever fails.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from ensue.clock import Clock, SystemClock
from ensue.errors import DeclarationError, Problem, UsageError
from ensue.integrations import contract
from ensue.integrations.api import API
from ensue.integrations.contract import Health, Integration, Surroundings
from ensue.integrations.inbound.endpoints import Endpoints, endpoints_of
from ensue.integrations.running.claims import Claims
from ensue.integrations.running.resources import CLOSE_SECONDS_MAX, Failure, bounded
from ensue.schema.written.names import suggestion

if TYPE_CHECKING:
    from ensue.engine.controller import Controller
    from ensue.schema.effect import SideEffect
    from ensue.schema.schema import Schema

logger = logging.getLogger("ensue.integrations")

SLOW_CONFIGURE_SECONDS = 1.0
HEALTH_SECONDS_MAX = 2.0
DUPLICATE_API = "E0154"
DUPLICATE_EFFECT = "E0155"
SLOW_CONFIGURE = "E0156"


class IntegrationSet:
    """Integrations by namespace, attached to one run.

    `reports` collects what should be known and stops nothing, such as a slow `configure`; `failures` what went wrong
    in cleanup.
    """

    def __init__(
        self,
        integrations: Mapping[str, Integration],
        surroundings: Surroundings,
        *,
        stopwatch: Clock | None = None,
        close_seconds_max: float = CLOSE_SECONDS_MAX,
        health_seconds_max: float = HEALTH_SECONDS_MAX,
    ) -> None:
        self.members = dict(integrations)
        self.reports: list[Problem] = []
        self.failures: list[Failure] = []
        self.endpoints = Endpoints()
        self._unresolved: list[Problem] = []
        self._surroundings = replace(surroundings, members=self.members)
        # Not the app's clock: a test may hold that one still, and this is about real seconds.
        self._stopwatch = stopwatch if stopwatch is not None else SystemClock()
        self._close_seconds_max = close_seconds_max
        self._health_seconds_max = health_seconds_max
        self._attached: list[Integration] = []
        self._set_up: list[tuple[str, Integration]] = []

    def attach(self) -> None:
        """Claim every integration for this run. Raises `UsageError`, with none claimed, if one is in use."""
        try:
            for namespace, integration in self.members.items():
                contract.attach(integration, namespace, self._surroundings)
                self._attached.append(integration)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Give the integrations back; idempotent."""
        while self._attached:
            contract.detach(self._attached.pop())

    def resolve_settings(self, environ: Mapping[str, str], *, complete: bool = True) -> None:
        """Read all settings. Raises one `DeclarationError` with everything missing or wrong.

        Unless `complete`, only once an integration reads one of those.
        """
        problems = [
            problem
            for integration in self.members.values()
            for problem in contract.resolve_settings(integration, environ)
        ]
        # What is created may read settings, which must be there.
        self.endpoints = endpoints_of(self.members, environ, created=not problems)
        problems += self.endpoints.problems
        self._unresolved = problems
        if complete and problems:
            raise DeclarationError(problems)

    async def configure(self, schema: Schema) -> None:
        """Let each integration change the schema, in order; clashing claims are added to the schema's problems."""
        claims = Claims(schema)
        for namespace, integration in self.members.items():
            contract.enter_phase(integration, "configuring")
            _check_hooks(namespace, integration)
            began = self._stopwatch.monotonic_seconds()
            try:
                with self._resolved():
                    await integration.configure(schema)
            except Exception as error:
                error.add_note(
                    f"This happened in configure() of the integration {namespace!r} ({type(integration).__name__})."
                )
                raise
            self._report_slow(namespace, integration, self._stopwatch.monotonic_seconds() - began)
            claims.take(namespace)

    @contextmanager
    def _resolved(self) -> Generator[None]:
        """What is done reads settings: if one has no value, that is told of it."""
        try:
            yield
        except UsageError:
            if not self._unresolved:
                raise
            raise DeclarationError(self._unresolved) from None

    def side_effects(self) -> dict[str, SideEffect]:
        """All side effects by qualified name (`"channels.publish"`), in order.

        Raises `DeclarationError` for two of one name.
        """
        with self._resolved():
            found = {name: contract.side_effects_of(integration) for name, integration in self.members.items()}
        _refuse_repeats(
            DUPLICATE_EFFECT, "side effect", {key: [item.name for item in items] for key, items in found.items()}
        )
        return {f"{namespace}.{item.name}": item for namespace, items in found.items() for item in items}

    def apis(self) -> dict[str, dict[str, API]]:
        """The API calls by namespace and name. Raises `DeclarationError` for two of one name."""
        with self._resolved():
            found = {name: contract.apis_of(integration) for name, integration in self.members.items()}
        _refuse_repeats(DUPLICATE_API, "API call", {key: [item.name for item in items] for key, items in found.items()})
        return {namespace: {item.name: item for item in items} for namespace, items in found.items()}

    async def setup(self, controller: Controller) -> None:
        """Set up each integration, in order. If one fails, those before it are cleaned up and the failure is raised."""
        for namespace, integration in self.members.items():
            contract.enter_phase(integration, "setting up")
            try:
                await _awaitable(integration.setup(controller), "setup")
            except BaseException as error:
                error.add_note(
                    f"This happened in setup() of the integration {namespace!r} ({type(integration).__name__})."
                )
                await self._close(namespace, integration, set_up=False)
                await self.cleanup()
                raise
            contract.enter_phase(integration, "running")
            self._set_up.append((namespace, integration))
        try:
            self._refuse_unused_clients()
        except UsageError:
            await self.cleanup()
            raise

    async def cleanup(self) -> None:
        """Clean up what was set up, the last first.

        Failures are logged and kept in `failures`; only a cancellation is raised.
        """
        known = len(self.failures)
        while self._set_up:
            namespace, integration = self._set_up.pop()
            await self._close(namespace, integration, set_up=True)
        for failure in self.failures[known:]:
            if not isinstance(failure.error, Exception):
                raise failure.error

    async def health(self) -> dict[str, Health]:
        """How each integration is, all asked at once; one whose `health` raises, or does not answer, counts as down."""
        found = await asyncio.gather(*(self._health(namespace, item) for namespace, item in self.members.items()))
        return dict(zip(self.members, found, strict=True))

    async def _health(self, namespace: str, integration: Integration) -> Health:
        limit = asyncio.timeout(self._health_seconds_max)
        try:
            async with limit:
                found = await integration.health()
        except Exception as error:
            if limit.expired():
                return Health(up=False, detail=f"health() did not answer within {self._health_seconds_max:g} s")
            logger.exception("health() of the integration %r failed", namespace)
            return Health(up=False, detail=f"health() failed: {type(error).__name__}: {error}")
        if isinstance(found, Health):  # pyright: ignore[reportUnnecessaryIsInstance]  # unchecked authors
            return found
        return Health(up=False, detail=f"health() gave {type(found).__name__}; expected Health(up, detail, since)")

    async def _close(self, namespace: str, integration: Integration, *, set_up: bool) -> None:
        failures: list[Failure] = []
        if set_up:
            failure = await bounded(f"cleanup() of {namespace}", integration.cleanup, self._close_seconds_max)
            failures += [failure] if failure is not None else []
        try:
            failures += await contract.resources_of(integration).close()
        except BaseException as error:  # noqa: BLE001 - a cancellation; raised once the others are closed
            failures.append(Failure(f"closing the resources of {namespace}", error))
        contract.enter_phase(integration, "closed")
        for failure in failures:
            logger.error("%s failed", failure.what, exc_info=failure.error)
        self.failures += failures

    def _report_slow(self, namespace: str, integration: Integration, seconds: float) -> None:
        if seconds > SLOW_CONFIGURE_SECONDS:
            text = (
                f"configure() of the integration {namespace!r} ({type(integration).__name__}) took {seconds:.1f} s; "
                f"expected at most "
                f"{SLOW_CONFIGURE_SECONDS:g} s. It holds up every start: only declare there, and move connecting and "
                f"reading to setup()."
            )
            logger.warning(text)
            self.reports.append(Problem(SLOW_CONFIGURE, text))

    def _refuse_unused_clients(self) -> None:
        entered = {name for integration in self.members.values() for name in contract.entered_names(integration)}
        for name in self._surroundings.clients:
            if name not in entered:
                raise UsageError(
                    f"clients={{{name!r}: ...}} replaces nothing: no integration entered a resource of that name in "
                    f"setup()."
                    f"{suggestion(name, entered)}"
                )


def _check_hooks(namespace: str, integration: Integration) -> None:
    """Refuse hooks that can't be awaited, also those that would be called at the very end only."""
    for hook in ("configure", "cleanup", "health"):
        if not inspect.iscoroutinefunction(getattr(integration, hook)):
            raise UsageError(
                f"{hook}() of the integration {namespace!r} ({type(integration).__name__}) is no async function. Write "
                f"`async def {hook}(self, …)`."
            )


def _awaitable(given: object, hook: str) -> Awaitable[object]:
    if isinstance(given, Awaitable):
        return cast("Awaitable[object]", given)
    raise UsageError(
        f"{hook}() is no async function: it gave {type(given).__name__}. Write `async def {hook}(self, …)`."
    )


def _refuse_repeats(code: str, what: str, names: Mapping[str, list[str]]) -> None:
    problems = [
        Problem(code, f"The integration {namespace!r} has two {what}s named {name!r}. Rename one.")
        for namespace, found in names.items()
        for name in dict.fromkeys(found)
        if found.count(name) > 1
    ]
    if problems:
        raise DeclarationError(problems)
