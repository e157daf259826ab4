"""What submitting and polling share: the author's integration, the database, and what the integration says of its tasks.

Decides nothing; it is the one place that both ends look at. Invariant: made once per run, in `setup`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, Protocol

from ensue.clock import Clock
from ensue.engine.controller import Controller
from ensue.engine.store import Store
from ensue.errors import Rejected, Throttled
from ensue.integrations.contract import Health
from ensue.integrations.tasks.recorder import Recorder
from ensue.integrations.tasks.schedule import Pace
from ensue.integrations.tasks.task import AsyncTask
from ensue.integrations.tasks.update import Submitted, TaskUpdate
from ensue.integrations.tasks.visits import Terms
from ensue.schema.delivery import LEASE_SECONDS
from ensue.store.driver import Driver
from ensue.telemetry import Switchboard

Answer = str | Submitted | TaskUpdate
Ask = Callable[[Sequence[str]], Any]


class Author(Protocol):
    """What the author of an integration writes."""

    async def submit(self, task: Any, key: str) -> Answer: ...

    async def poll(self, external_id: str) -> TaskUpdate: ...

    async def poll_many(self, external_ids: Sequence[str]) -> Mapping[str, TaskUpdate | BaseException]: ...

    async def cancel(self, external_id: str) -> object: ...

    async def verify(self, task: Any, key: str) -> Answer | bool | None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at a time, and how long. `resend` is how long an interrupted submission may simply be sent again."""

    submit_timeout_seconds: float = 20.0
    poll_timeout_seconds: float = 10.0
    polls_at_once: int = 16
    lease_seconds: float = LEASE_SECONDS
    deadline: timedelta = timedelta(minutes=30)
    resend: timedelta | None = None
    fail_unknown: bool = True


@dataclass(frozen=True, slots=True)
class Offers:
    """Which of the optional methods the author wrote."""

    poll: bool
    poll_many: bool
    verify: bool


@dataclass(slots=True)
class Condition:
    """How the provider answers, by its last answer."""

    clock: Clock
    detail: str = ""
    since: datetime | None = None

    def note(self, failure: BaseException | None) -> None:
        """A call ended so; who throttles or refuses is in good health."""
        if failure is None or isinstance(failure, Rejected | Throttled):
            self.detail, self.since = "", None
        else:
            self.detail = f"{type(failure).__name__}: {failure}"
            self.since = self.since or self.clock.now()

    def health(self) -> Health:
        return Health(up=not self.detail, detail=self.detail, since=self.since)


@dataclass(slots=True)
class Desk:
    """One integration's tasks in one run."""

    namespace: str
    author: Author
    controller: Controller
    clock: Clock
    classes: Mapping[str, type[AsyncTask]]
    terms: Terms
    pace: Pace
    limits: Limits
    offers: Offers
    recorder: Recorder
    effects: Sequence[str]
    worker: str
    condition: Condition
    rng: Random = field(default_factory=Random)
    wake: Callable[[], None] = lambda: None

    @property
    def driver(self) -> Driver:
        return self.controller.engine.driver

    @property
    def telemetry(self) -> Switchboard:
        return self.controller.engine.telemetry

    @property
    def store(self) -> Store:
        return self.controller.store
