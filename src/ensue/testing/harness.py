"""An app in a test: in memory, with the outside replaced, time held still, and effects delivered when the test says so.

Decides what is replaced by default; the app itself runs as in production, through the same phases. Leaves how the
database's clock is held to `held_time`. Invariants: nothing is delivered but by `drain` and `advance`; time moves only
by `advance` and `clock.advance`, for the app and for the database alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from ensue.app import App, AppRun
from ensue.clock import ManualClock
from ensue.errors import UsageError
from ensue.integrations.connection import ConnectionClosed
from ensue.integrations.contract import Integration
from ensue.schema.interaction import Context
from ensue.schema.written.names import suggestion
from ensue.testing.held_time import HeldTime
from ensue.testing.recorded.delivery import RecordedDelivery
from ensue.testing.recorded.signing import sign_delivery
from ensue.testing.reopen import reopened

if TYPE_CHECKING:
    from ensue.engine.controller import Controller
    from ensue.engine.store import Store
    from ensue.integrations.inbound.handling import Failed, Taken
    from ensue.schema.model import Model


class FakeConnection:
    """A WebSocket connection whose client is the test.

    ``sent` holds the decoded messages, `texts` the messages as they were.
    """

    def __init__(self, number: int, user: Any) -> None:
        self.id = f"test-{number}"
        self.user = user
        self.texts: list[str] = []
        self.closed = False

    @property
    def sent(self) -> list[Any]:
        """What was sent, decoded from JSON."""
        return [msgspec.json.decode(text) for text in self.texts]

    async def send_text(self, text: str, /) -> None:
        if self.closed:
            raise ConnectionClosed(f"Connection {self.id} is closed.")
        self.texts.append(text)

    async def send_json(self, message: object, /) -> None:
        await self.send_text(msgspec.json.encode(message).decode())


class AppHarness:
    """Runs `app` for a test; an async context manager.

    `clients` replace what integrations enter, by full name; `replace` whole integrations by namespace; `env` is the
    whole environment that settings are read from; `handles` are offered to integrations. `clock` is a `ManualClock`.

    The database's clock, which leases, retries, polls and retention are compared with, is `clock` too, in every
    statement that the app runs.

    >>> async with AppHarness(app, clients={"channels.redis": MemoryBus()}) as harness:
    ...     await harness.store.create(Message(text="hi", channel=channel))
    ...     await harness.drain()
    """

    def __init__(
        self,
        app: App,
        *,
        clients: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        replace: Mapping[str, Integration] | None = None,
        handles: Mapping[str, object] | None = None,
        clock: ManualClock | None = None,
        database: str = "sqlite:///:memory:",
    ) -> None:
        self.app = app
        self.clock = clock if clock is not None else ManualClock()
        self._time = HeldTime(self.clock)
        self._connections = 0
        self.run: AppRun = app.run(
            deliver=False,
            env={} if env is None else env,
            clients=clients or {},
            replace=replace or {},
            handles=handles or {},
            clock=self.clock,
            database=database,
            sql_functions=self._time.sql_functions(),
            worker_name="harness",
        )

    async def __aenter__(self) -> Self:
        await self.run.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.run.__aexit__(kind, error, trace)

    @property
    def controller(self) -> Controller:
        """The app's controller. Raises `UsageError` outside of `async with`."""
        if not hasattr(self.run, "controller"):
            raise UsageError("The harness runs nothing yet: write `async with AppHarness(app) as harness:` around it.")
        return self.run.controller

    @property
    def store(self) -> Store:
        """The app's store. Raises `UsageError` outside of `async with`."""
        return self.controller.store

    @property
    def model(self) -> Model:
        """The frozen schema."""
        return self.run.model

    def integration(self, namespace: str) -> Any:
        """The integration of this namespace, as it runs."""
        members = self.run.integrations.members
        if namespace not in members:
            raise UsageError(f"The app has no integration {namespace!r}.{suggestion(namespace, members)}")
        return members[namespace]

    async def drain(self, *, waiting: bool = False) -> None:
        """Handle stored messages from outside and deliver every due effect, those that are caused by it included.

        With `waiting` also those effects that wait for a retry.

        What waits for a retry is due once the clock was advanced past it. A failure is logged and kept with its effect,
        as in production.
        """
        await self.run.inbox.drain()
        await self.run.delivery.drain(waiting=waiting)

    async def advance(self, seconds: float, *, polls: bool = True) -> None:
        """Let `seconds` pass, and do on the way what becomes due, each at its instant: effects, messages, polls of tasks.

        So an effect that keeps failing is tried, and a task asked after, as often as it would be in that time. Without
        `polls` nobody is asked after tasks. `clock.advance` moves time alone.
        """
        end = self.clock.monotonic_seconds() + seconds
        await self._do_what_is_due(polls=polls)
        while (remaining := end - self.clock.monotonic_seconds()) > 0:
            named = await self._time.seconds_to_next_instant(self.run.driver, self.run.plan)
            # A rate's next call has an instant that no table names.
            allowed = await self.run.delivery.seconds_to_next()
            self.clock.advance(seconds=min(pause for pause in (named, allowed, remaining) if pause is not None))
            await self._do_what_is_due(polls=polls)

    async def _do_what_is_due(self, *, polls: bool) -> None:
        await self.drain()
        # What a poll brings in may cause effects, and these may submit further tasks.
        while polls and await self._poll():
            await self.drain()

    async def _poll(self) -> int:
        asked = 0
        for member in self.run.integrations.members.values():
            poll_due = getattr(member, "poll_due", None)
            asked += 0 if poll_due is None else await poll_due()
        return asked

    async def redeliver(self) -> int:
        """Deliver again what was done, under the same keys, as after a crash between handling and noting it.

        Gives how many effects that were.
        """
        done = await self.run.driver.write(reopened(self.run.driver.dialect))
        await self.drain()
        return done

    async def receive(
        self,
        endpoint: str,
        delivery: RecordedDelivery,
        /,
        *,
        sign: bool = True,
        at: datetime | None = None,
        id: str | None = None,
    ) -> Taken | Failed:
        """Deliver a recorded webhook to `endpoint` (`"shop.paid"`) as its sender would.

        It is signed with the endpoint's own secret, as of `at` (now, by the harness's clock), and called `id` where a
        header says so; with `sign=False` it comes as it was recorded. Gives `"done"`, `"known"` (a repeat), `"stored"`,
        or a `Failed` with the error; raises `Rejected` if it can't be verified.

        >>> await harness.receive("shop.paid", RecordedDelivery.load("tests/paid.webhook"))
        """
        webhooks = self.run.inbox.endpoints.webhooks
        if endpoint not in webhooks:
            raise UsageError(f"The app has no webhook {endpoint!r}.{suggestion(endpoint, webhooks)}")
        if sign:
            verifier = webhooks[endpoint][1].options.verify
            delivery = sign_delivery(delivery, verifier, at=at if at is not None else self.clock.now(), id=id)
        return await self.run.inbox.take_webhook(endpoint, delivery.body, delivery.headers)

    async def connect(self, user: Any = None) -> FakeConnection:
        """A client of `user` (a record, or None) connects; raises what an `on_connect` callback raises."""
        self._connections += 1
        connection = FakeConnection(self._connections, user)
        await self.run.handles.websockets.connected(connection)
        return connection

    async def disconnect(self, connection: FakeConnection) -> None:
        """The client goes."""
        connection.closed = True
        await self.run.handles.websockets.disconnected(connection)

    async def call(self, namespace: str, name: str, /, *, user: Any = None, **payload: Any) -> Any:
        """Call an integration's API as a client would.

        `await harness.call("pictures", "query_status", user=ann, task_id=1)`.
        """
        apis = self.run.apis.get(namespace, {})
        if name not in apis:
            raise UsageError(f"There is no API call {namespace}/{name}.{suggestion(name, apis)}")
        return await apis[name].call(Context(user=user, request=None, controller=self.controller), payload)
