"""The composition root: what an app is made of, and one run of it from configure to close.

Decides the order of the phases and what a failure undoes; every phase itself lives in its own package and is imported
only when an app runs. Invariants: an `App` never changes, all state is in its `AppRun`; an app has at most one run at
a time; whatever a run opened is closed in reverse order, also when a later step fails.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack, cast

from ensue.background import end_tasks
from ensue.clock import Clock, SystemClock
from ensue.errors import DeclarationError, Unavailable, UsageError
from ensue.integrations.aggregate import flatten
from ensue.integrations.api import API
from ensue.integrations.contract import Health, Integration, Surroundings
from ensue.integrations.handles import Handles
from ensue.integrations.running.lifecycle import IntegrationSet
from ensue.schema.delivery import GRACE_SECONDS, LEASE_SECONDS
from ensue.schema.entity import Entity, Globals
from ensue.schema.interaction import Interaction
from ensue.schema.schema import Schema
from ensue.schema.written.names import suggestion
from ensue.store.url import open_driver, parse_database_url
from ensue.telemetry import Switchboard, Telemetry

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from ensue.effects.deliver import Delivery
    from ensue.engine.commit import Commit
    from ensue.engine.controller import Controller
    from ensue.integrations.inbound.inbox import Inbox
    from ensue.observation.metrics import Metrics
    from ensue.plan.plan import Plan
    from ensue.schema.model import Model
    from ensue.server.options import AsgiOptions
    from ensue.store.driver import Driver

logger = logging.getLogger("ensue")

DATABASE = "sqlite:///app.db"
CUT_SECONDS = 7.0
"""How long after the grace connections to the database are cut: what was cancelled has 5 s, and its end is to be written."""
STOP_SECONDS = 20.0
"""How long after the grace delivery and the database are left, whatever peers do; what integrations close comes on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How an app runs this time.

    `deliver`: deliver effects in this process. `setup`: set integrations up (without, only data is at hand). `env`:
    the environment that settings are read from, `os.environ` by default. `clients` replace entered resources by full
    name (`"channels.redis"`), `replace` whole integrations by namespace; `handles` are offered to integrations.
    `database` is used in place of the app's. `create_tables`: give an empty database the app's tables (without, it is
    refused). `lease_seconds`: how long after this process died others may take the effects
    that it held. `grace_seconds`: how long what is being handled may go on once the run is left. `sql_functions` are
    further functions for SQLite, or take the place of its own, as a test's clock does. `tracer_provider` is where
    OpenTelemetry's spans go in place of the global provider.
    """

    deliver: bool = True
    setup: bool = True
    env: Mapping[str, str] | None = None
    clients: Mapping[str, Any] = field(default_factory=dict[str, Any])
    replace: Mapping[str, Integration] = field(default_factory=dict[str, Integration])
    handles: Mapping[str, object] = field(default_factory=dict[str, object])
    clock: Clock = field(default_factory=SystemClock)
    database: str | None = None
    create_tables: bool = True
    sql_functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict[str, Callable[..., Any]])
    worker_name: str = "app"
    lease_seconds: float = LEASE_SECONDS
    grace_seconds: float = GRACE_SECONDS
    tracer_provider: TracerProvider | None = None


class RunArguments(TypedDict, total=False):
    """The arguments of `App.run`, those of `RunOptions`."""

    deliver: bool
    setup: bool
    env: Mapping[str, str] | None
    clients: Mapping[str, Any]
    replace: Mapping[str, Integration]
    handles: Mapping[str, object]
    clock: Clock
    database: str | None
    create_tables: bool
    sql_functions: Mapping[str, Callable[..., Any]]
    worker_name: str
    lease_seconds: float
    grace_seconds: float
    tracer_provider: TracerProvider | None


class App:
    """An application: its declarations, its integrations and its database.

    Entities that are reachable from those given are found. `database` is a URL (`sqlite:///app.db`,
    `sqlite:///:memory:`, `postgresql://…`). An app is a value; entering it runs it.

    >>> app = App(user=User, entities=[Post], integrations={"channels": RedisChannels()}, database="sqlite:///app.db")
    >>> async with app:
    ...     await app.controller.store.find(Post)
    """

    def __init__(
        self,
        *,
        user: type[Entity] | None = None,
        entities: Iterable[type[Entity]] = (),
        interactions: Iterable[type[Interaction]] = (),
        activities: Iterable[Any] = (),
        globals: Iterable[type[Globals]] = (),
        integrations: Mapping[str, Integration] | None = None,
        database: str = DATABASE,
    ) -> None:
        self.user = user
        self.entities: tuple[type[Entity], ...] = _several("entities", entities)
        self.interactions: tuple[type[Interaction], ...] = _several("interactions", interactions)
        self.activities = _several("activities", activities)
        self.globals: tuple[type[Globals], ...] = _several("globals", globals)
        self.integrations: Mapping[str, Integration] = MappingProxyType(_by_namespace(integrations))
        self.database = database
        # Here and not at the start: the mistake is in this call.
        self._shown_database = str(parse_database_url(database))
        self._slot = _Slot()

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None:
            if "_slot" in self.__dict__:
                raise UsageError(
                    f"App.{name} can't be assigned: an App is a value. Make another App with the {name} that you want."
                )
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"App(integrations={list(self.integrations)}, database={self._shown_database!r})"

    @property
    def running(self) -> AppRun | None:
        """The run that is under way, if there is one."""
        run = self._slot.run
        return run if run is not None and run.started else None

    @property
    def controller(self) -> Controller:
        """Dispatches interactions; `controller.store` reads and writes. Raises `UsageError` unless the app runs."""
        return self._current("controller").controller

    @property
    def model(self) -> Model:
        """The frozen schema of the current run."""
        return self._current("model").model

    @property
    def metadata(self) -> Any:
        """The tables as SQLAlchemy `MetaData`, for queries, Alembic and other tools."""
        return self._current("metadata").plan.metadata

    def run(self, **options: Unpack[RunArguments]) -> AppRun:
        """One run, with the options of `RunOptions`; an async context manager.

        `async with app` is `async with app.run()`.
        """
        return AppRun(self, RunOptions(**options))

    async def freeze(self, *, env: Mapping[str, str] | None = None) -> Model:
        """The frozen schema, after every `configure`, with no database opened and missing settings tolerated.

        For tools.
        """
        run = AppRun(self, RunOptions(env=env, setup=False))
        async with AsyncExitStack() as stack:
            self._slot.claim(run)
            stack.callback(self._slot.release, run)
            return await run.declare(stack)

    def asgi(self, **options: Unpack[AsgiOptions]) -> Any:
        """An ASGI application that serves the app; its lifespan runs the app unless it runs already.

        `options` are those of `ensue.server.options.ServerOptions`: `authenticate`, `cors_origins`, `subscribable`, …
        """
        from ensue.server.asgi import create_asgi

        return create_asgi(self, **options)

    async def __aenter__(self) -> Self:
        run = self.run()
        await run.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run = self._slot.run
        if run is not None:
            await run.__aexit__(kind, error, trace)

    def _current(self, what: str) -> AppRun:
        run = self.running
        if run is None:
            raise UsageError(
                f"app.{what} belongs to a running app, and this one is not running. Write `async with app:` around it."
            )
        return run


def _several(argument: str, given: Any) -> tuple[Any, ...]:
    # Typed for callers; here whatever was written instead is told.
    if isinstance(given, type | str) or not isinstance(given, Iterable):
        shown: str = given.__name__ if isinstance(given, type) else repr(given)
        raise DeclarationError(f"App({argument}={shown}): expected several. Write App({argument}=[{shown}]).")
    return tuple(cast("Iterable[Any]", given))


def _by_namespace(given: Any) -> dict[str, Integration]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise DeclarationError(
            f"App(integrations={given!r}): expected a mapping of namespaces to integrations, such as "
            '{"channels": RedisChannels()}.'
        )
    return dict(cast("Mapping[str, Integration]", given))


class _Slot:
    """Where an app's current run is: the one thing about an app that changes."""

    def __init__(self) -> None:
        self.run: AppRun | None = None

    def claim(self, run: AppRun) -> None:
        if self.run is not None:
            raise UsageError(
                "This app is running already: an App can be entered once at a time. Use `app.controller` of the "
                "running one, or make "
                "another App, with integrations of its own."
            )
        self.run = run

    def release(self, run: AppRun) -> None:
        if self.run is run:
            self.run = None


class AppRun:
    """One run of an app: `controller`, `model`, `plan`, `driver`, `integrations`, `apis`, `handles`, `delivery`,
    `clock`.

    Entering it goes through configure, freeze, open, tables, setup and delivery; leaving it delivers what is in
    flight, cleans up and closes. `reports` holds what should be known and stopped nothing.
    """

    controller: Controller
    model: Model
    plan: Plan
    driver: Driver
    delivery: Delivery
    inbox: Inbox
    integrations: IntegrationSet
    apis: Mapping[str, Mapping[str, API]]

    def __init__(self, app: App, options: RunOptions) -> None:
        self.app = app
        self.options = options
        self.clock = options.clock
        self.handles = Handles()
        self.telemetry = Switchboard()
        self.started = False
        self._entered = False
        self._stack: AsyncExitStack | None = None
        self._watchers: list[Callable[[str], None]] = []
        self._watching = asyncio.Lock()
        self._metrics: Metrics | None = None
        self._follows = False
        self._cutting: asyncio.TimerHandle | None = None
        self._stops_at = 0.0

    async def __aenter__(self) -> Self:
        if self._entered:
            raise UsageError("This run was entered before. Call `app.run(...)` again for another one.")
        async with AsyncExitStack() as stack:
            slot = self.app._slot  # pyright: ignore[reportPrivateUsage] - the other half of this module
            slot.claim(self)
            stack.callback(slot.release, self)
            self._entered = True
            await self.declare(stack)
            self._trace(stack)
            try:
                await self._open(stack)
                await self._connect(stack)
            except BaseException:
                self._bound_stop()
                raise
            self._stack = stack.pop_all()
        self.started = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        self.started = False
        if stack is not None:
            self._bound_stop()
            await stack.__aexit__(kind, error, trace)

    def _bound_stop(self) -> None:
        """From now on everything that the database keeps waiting ends in time: a silent one would never let it end."""
        loop = asyncio.get_running_loop()
        self._stops_at = loop.time() + self.options.grace_seconds
        if "driver" in vars(self):
            self._cutting = loop.call_at(self._stops_at + CUT_SECONDS, self._cut)

    def _cut(self) -> None:
        logger.warning("stopping takes too long; what still waits for the database is given up")
        self.driver.cut()

    def _closed(self) -> None:
        if self._cutting is not None:
            self._cutting.cancel()

    def _grace_left(self) -> float:
        """What is left of the grace: it is one for all that is handled."""
        return max(0.0, self._stops_at - asyncio.get_running_loop().time())

    @property
    def reports(self) -> list[str]:
        """What should be known and stopped nothing, such as a `configure` that took too long."""
        return [str(problem) for problem in self.integrations.reports]

    async def watch(self, callback: Callable[[str], None]) -> None:
        """As `Driver.watch`, which takes one callback only; this takes many, and they all last as long as the run."""
        async with self._watching:
            if not self._watchers:
                await self.driver.watch(self._hinted)
            self._watchers.append(callback)

    def _hinted(self, payload: str) -> None:
        for callback in self._watchers:
            callback(payload)

    @property
    def metrics(self) -> Metrics:
        """The run's metrics, which count from when they are first asked for.

        Raises `UsageError` if prometheus-client is not installed.
        """
        if self._metrics is None:
            from ensue.observation.metrics import metrics_of

            self._metrics = metrics_of(self)
            self.observe(self._metrics)
        return self._metrics

    def observe(self, listener: Telemetry) -> None:
        """Tell `listener` of everything that the run does from now on."""
        self.telemetry.listen(listener)
        self._follow()

    def _follow(self) -> None:
        """Have delivery and commits tell what they do; only once somebody listens, as it costs a little."""
        if self.telemetry.listening and "delivery" in vars(self) and not self._follows:
            self._follows = True
            self.delivery.observers.append(self.telemetry.told)
            self.controller.on_commit(self.telemetry.told)

    def _trace(self, stack: AsyncExitStack) -> None:
        """Make spans if the process, or the options of the run, say where they go."""
        from ensue.observation.wanted import provider_of

        provider = provider_of(self.options.tracer_provider)
        if provider is not None:
            from ensue.observation.tracing import Tracing

            tracing = Tracing(provider)
            stack.callback(tracing.close)
            self.observe(tracing)

    async def health(self) -> dict[str, Health]:
        """How each integration is, by namespace."""
        return {**await self.integrations.health(), **self.inbox.health()}

    async def declare(self, stack: AsyncExitStack) -> Model:
        """The phases without I/O: settings, configure, freeze."""
        from ensue.schema.freeze import freeze

        options = self.options
        for name, handle in options.handles.items():
            self.handles.register(name, handle)
        surroundings = Surroundings(
            self.handles, self.clock, options.clients, delivers=self._delivers, worker=options.worker_name
        )
        self.integrations = IntegrationSet(_members(self.app, options.replace), surroundings)
        self.integrations.attach()
        stack.callback(self.integrations.detach)
        self.integrations.resolve_settings(os.environ if options.env is None else options.env, complete=options.setup)
        app = self.app
        schema = Schema.collect(
            user=app.user,
            entities=app.entities,
            interactions=app.interactions,
            activities=app.activities,
            globals=app.globals,
        )
        await self.integrations.configure(schema)
        self.apis = self.integrations.apis()
        self.model = freeze(schema, side_effects=self.integrations.side_effects())
        return self.model

    async def _open(self, stack: AsyncExitStack) -> None:
        """The database, its tables, and the controller over them."""
        from ensue.engine.controller import Controller
        from ensue.expression.sql import sqlite_functions
        from ensue.migrate.install import prepare_database, require_file
        from ensue.plan.compile import compile_plan

        database = parse_database_url(self.options.database or self.app.database)
        self.driver = open_driver(database, functions={**sqlite_functions(), **self.options.sql_functions})
        stack.callback(self._closed)
        self.plan = compile_plan(self.model, self.driver.dialect)
        if not self.options.create_tables:
            require_file(database)
        await self.driver.open()
        stack.push_async_callback(self.driver.close)
        await prepare_database(self.plan, self.driver, shown=str(database), creates_tables=self.options.create_tables)
        self.controller = Controller(
            plan=self.plan, driver=self.driver, clock=self.clock, model=self.model, telemetry=self.telemetry
        )
        stack.push_async_callback(self.controller.close)

    async def _connect(self, stack: AsyncExitStack) -> None:
        """Integrations set up, then delivery, which calls them."""
        from ensue.integrations.inbound.inbox import Inbox
        from ensue.integrations.relay.hand_over import HandOver
        from ensue.integrations.relay.returning import Returning
        from ensue.integrations.running.targets import delivery_of, relays_of

        if self.options.setup:
            await self.integrations.setup(self.controller)
            stack.push_async_callback(self.integrations.cleanup)
        hand_over = HandOver(self.clock, self.telemetry)
        stack.push_async_callback(hand_over.close)
        self.delivery = delivery_of(
            self.controller,
            self.driver,
            clock=self.clock,
            worker_name=self.options.worker_name,
            lease_seconds=self.options.lease_seconds,
            database=self.options.database or self.app.database,
            watch=self.watch,
            hand_over=hand_over,
        )
        self._follow()
        self.controller.on_commit(self._committed)
        self.inbox = Inbox(self.controller, self.driver, self.integrations.endpoints, clock=self.clock)
        stack.push_async_callback(lambda: self.delivery.stop(self._grace_left()))
        stack.push_async_callback(lambda: self.inbox.stop(self._grace_left()))
        if self._delivers:
            returning = Returning(relays_of(self.model), self.driver)
            returning.start()
            stack.push_async_callback(returning.stop)
            await self.delivery.start()
            await self.inbox.start()
            pruning = asyncio.get_running_loop().create_task(self._prune(), name="ensue prune")
            stack.push_async_callback(end_tasks, pruning)

    async def _prune(self) -> None:
        """Every hour, and soon after the start: forget what has served its time, and tell of effects that nobody calls."""
        from ensue.effects.inbox import prune_inbox
        from ensue.effects.ledger import prune_effects
        from ensue.engine.retention import prune_idempotency_keys

        await asyncio.sleep(PRUNE_FIRST_SECONDS)
        while True:
            try:
                await self._warn_of_unserved()
                keys = await prune_idempotency_keys(self.driver)
                effects = await prune_effects(self.driver, older_than=EFFECTS_KEPT)
                messages = await prune_inbox(self.driver)
                text = "forgot %d idempotency keys, and of what was done %d effects and %d messages from outside"
                logger.info(text, keys, effects, messages)
            except Unavailable as error:
                logger.warning("nothing was forgotten this time: %s", error)
            await asyncio.sleep(PRUNE_SECONDS)

    async def _warn_of_unserved(self) -> None:
        """A side effect that was renamed or removed leaves effects that nobody calls; somebody must be told."""
        from ensue.effects.operate import unserved_effects

        for name, count in (await unserved_effects(self.driver, self.delivery.names)).items():
            text = "%d effects wait for the side effect %s, which this app does not have: run the code that has it, or discard them"
            logger.warning(text, count, name, extra={"effect_name": name})

    @property
    def _delivers(self) -> bool:
        # An integration that was not set up can't be called.
        return self.options.deliver and self.options.setup

    def _committed(self, commit: Commit) -> None:
        if commit.effects and self._delivers:
            self.delivery.wake()
        if not commit.after_commit:
            return
        from ensue.integrations.running.targets import after_commit_row

        for effect in commit.after_commit:
            if not self.options.setup:
                logger.warning("%s was not called: integrations are not set up in this run", effect.key)
                continue
            self.delivery.run_after_commit(effect.name, after_commit_row(self.model, effect))


PRUNE_FIRST_SECONDS = 10.0
PRUNE_SECONDS = 3600.0
EFFECTS_KEPT = timedelta(days=7)
"""How long an effect that was done or cancelled stays in the table; one that is dead stays until an operator discards it."""


def _members(app: App, replace: Mapping[str, Integration]) -> dict[str, Integration]:
    members = flatten(app.integrations)
    for namespace, fake in replace.items():
        if namespace not in members:
            raise UsageError(
                f"replace={{{namespace!r}: ...}} replaces nothing: the app has no integration of that namespace."
                f"{suggestion(namespace, members)}"
            )
        members[namespace] = fake
    return members
