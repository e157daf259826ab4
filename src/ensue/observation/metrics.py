"""A run's telemetry as metrics for Prometheus, in a registry of its own.

Decides what of what is told is counted under which labels. Leaves the list of metrics to `families`, and what is in the
database to `backlog`. Invariant: however long it runs, the number of series is bounded by the names that the app declares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from ensue.clock import SystemClock
from ensue.effects.observe import DeliveryEvent
from ensue.effects.target import EffectRow
from ensue.engine.commit import Commit
from ensue.errors import UsageError
from ensue.observation import families
from ensue.observation.backlog import Backlog
from ensue.observation.families import Family
from ensue.telemetry import NOTHING, Attempted, Fact, Kind, Under, outcome_of

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
    from prometheus_client.exposition import choose_encoder
except ModuleNotFoundError as missing:
    raise UsageError("Metrics need prometheus-client: pip install 'ensue[metrics]'.") from missing

if TYPE_CHECKING:
    from ensue.app import AppRun

CODES_MAX: Final = 200
OTHER: Final = "other"
End = tuple[str, str]
"""How work ended, and with which code."""


def metrics_of(run: AppRun) -> Metrics:
    """The metrics of `run`, which nobody tells anything yet."""
    effects = run.model.effects
    goes_to = {name: item.options["target"] for name, item in effects.items()}
    targets = {name: name if target is None else target.name for name, target in goes_to.items()}
    # A worker of relayed effects has no database.
    driver = getattr(run, "driver", None)
    endpoints = run.integrations.endpoints
    names = [*targets, *(["ensue.initial"] if driver is not None and run.controller.awaits_initials else [])]
    backlog = None if driver is None else Backlog(driver, names)
    known = {*run.model.interactions, *endpoints.webhooks, *endpoints.consumers, *run.integrations.members}
    return Metrics(targets, backlog, known=known, connections=lambda: len(run.handles.websockets))


class Metrics:
    """Counts what it is told; `page` is what a scrape gets."""

    def __init__(
        self,
        targets: Mapping[str, str],
        backlog: Backlog | None,
        *,
        known: set[str] | None = None,
        connections: Callable[[], int] = int,
    ) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._made = {family.name: self._make(family) for family in families.TOLD}
        self._made[families.WEBSOCKETS.name].set_function(connections)
        self._targets = targets
        self._backlog = backlog
        if backlog is not None:
            self.registry.register(backlog)
        self._bounded = _Bounded(known or set())
        self._stopwatch = SystemClock()
        self._due: dict[tuple[str, int], tuple[float, float]] = {}

    def _make(self, family: Family) -> Any:
        if family.type == "histogram":
            return Histogram(family.name, family.text, family.labels, buckets=family.buckets, registry=self.registry)
        kind = Counter if family.type == "counter" else Gauge
        return kind(family.name, family.text, family.labels, registry=self.registry)

    async def page(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics as text, and its content type, in the form that `accept` prefers.

        The database is asked at most once in 5 s, and waited for at most 2.
        """
        if self._backlog is not None:
            await self._backlog.refresh()
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    # --- What is told -------------------------------------------------------------------------------------------------

    def activity(
        self,
        kind: Kind,
        name: str,
        *,
        causes: Sequence[str | None] = (),
        carrier: Mapping[str, str] | None = None,
        **facts: Fact | None,
    ) -> Under:
        """Measured, if it is a dispatch or a poll."""
        if kind == "dispatch":
            count = facts.get("count", 1)
            return _Measured(self, lambda seconds, end: self._dispatched(name, seconds, end, count=count))
        if kind == "poll":
            return _Measured(self, lambda seconds, _: self._observe(families.POLL, seconds, name))
        return NOTHING

    def attempt(self, name: str, effects: Sequence[Attempted]) -> Under:
        """The call is measured, and how long it took until it began."""
        target = self._targets.get(name, name)
        now = self._stopwatch.monotonic_seconds()
        for effect in effects:
            age, since = self._due.pop((effect.key, effect.attempt), (None, now))
            if age is not None:
                self._observe(families.COMMIT_TO_START, age + now - since, name, target)
        return _Measured(self, lambda seconds, _: self._observe(families.RUN, seconds, name, target))

    def count(self, kind: Kind, name: str, outcome: str) -> None:
        """Messages and polls."""
        name = self._bounded(name)
        if kind == "poll":
            self._count(families.POLLS, name, outcome)
        elif kind == "message":
            # What was stored is handled later: it came in once.
            if outcome in ("done", "known", "failed", "stored"):
                self._count(families.INBOX_RECEIVED, name)
            family = _OF_MESSAGES.get(outcome)
            if family is not None:
                self._count(family, name)

    def told(self, event: object) -> None:
        """Delivery and commits."""
        if isinstance(event, Commit):
            for name in event.effects:
                self._count(families.ENQUEUED, name, self._targets.get(name, name))
        elif isinstance(event, DeliveryEvent):
            self._delivered(event)

    def traceparent(self) -> str | None:
        """Metrics know of no traces."""
        return None

    def _delivered(self, event: DeliveryEvent) -> None:
        row, name, target = event.row, event.row.name, event.target
        if event.kind == "rescued":
            return self._count(families.RESCUED, name, target, event.state)
        assert isinstance(row, EffectRow)
        if event.kind == "claimed":
            self._count(families.STARTED, name, target)
            if row.attempt == 1 and not row.failures and not row.doubt:
                self._observe(families.QUEUED, event.seconds, name, target)
                self._due[row.key, row.attempt] = (event.seconds, self._stopwatch.monotonic_seconds())
            return None
        # It may have ended before it was called.
        self._due.pop((row.key, row.attempt), None)
        if event.kind == "ended":
            return self._count(families.ENDED, name, target, event.state, event.error_class or "")
        return self._count(families.REFUSED if event.kind == "refused" else families.LOST, name, target)

    def _dispatched(self, name: str, seconds: float, end: End, *, count: Fact | None) -> None:
        outcome, code = end
        times = count if isinstance(count, int) else 1
        self._made[families.DISPATCHES.name].labels(name, outcome, self._bounded(code)).inc(times)
        self._observe(families.DISPATCH, seconds, name)

    def _count(self, family: Family, *labels: str) -> None:
        self._made[family.name].labels(*labels).inc()

    def _observe(self, family: Family, seconds: float, *labels: str) -> None:
        self._made[family.name].labels(*labels).observe(seconds)

    def now(self) -> float:
        """Seconds to measure with."""
        return self._stopwatch.monotonic_seconds()


_OF_MESSAGES: Final = {
    "known": families.INBOX_DUPLICATES,
    "failed": families.INBOX_FAILED,
    "refused": families.INBOX_REFUSED,
}


class _Bounded:
    """Words that an application may make up while it runs, the first `CODES_MAX` of them as they are."""

    def __init__(self, known: set[str]) -> None:
        self._known = {*known, ""}
        self._left = CODES_MAX

    def __call__(self, word: str) -> str:
        if word in self._known:
            return word
        if not self._left or len(word) > 100:
            return OTHER
        self._left -= 1
        self._known.add(word)
        return word


class _Measured:
    """Work whose time is taken."""

    __slots__ = ("_began", "_metrics", "_outcome", "_tell")

    def __init__(self, metrics: Metrics, tell: Callable[[float, End], None]) -> None:
        self._metrics = metrics
        self._tell = tell
        self._outcome: End = ("ok", "")

    def __enter__(self) -> _Measured:
        self._began = self._metrics.now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell(self._metrics.now() - self._began, outcome_of(error) if error is not None else self._outcome)

    def note(self, **facts: Fact | None) -> None:
        """Labels are names; nothing else is noted."""

    def end_as(self, outcome: str, code: str = "") -> None:
        self._outcome = (outcome, code)
