"""How effects are delivered, as it is declared: how long to try, where they go, what a call may answer.

Decides the values `Retry`, `Target`, `Rate`, `Breaker`, `Receipt`, `Nats`, and that impossible ones are refused where they are
written. Leaves what follows from them to `ensue.effects`. Invariant: all of them are values; two equal ones mean the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Literal, TypeAlias

from ensue.errors import DeclarationError

Poison: TypeAlias = Literal["skip", "block", "park"]
"""What becomes of the head of an order key when its attempts or its age end."""

ErrorClass: TypeAlias = Literal["transient", "throttled", "unavailable", "rejected", "unknown", "bug", "lost"]
"""What kind of failure it was; decides what follows. `lost` is given by ensue when a worker did not come back."""

GRACE_SECONDS: Final = 15.0
"""How long what is being delivered may go on when a worker is told to stop, unless it was told otherwise."""

LEASE_SECONDS: Final = 30.0
"""How long after the death of a worker others take what it held, unless it was told otherwise."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How long to try: at most `max_attempts` times and not after `max_age` since the change.

    An outage of the other side, throttling, a lost worker and a shutdown use up no attempt; they end with the age alone.
    """

    max_attempts: int = 20
    max_age: timedelta = timedelta(days=3)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` calls within any `per_seconds`, over all processes.

    Without `burst`, after a pause a tenth of `count` may go at once (at least one), and the others are spaced so that no
    window holds more than `count`: 91 a second of 100. With `burst` so many may go at once and then `count` in each
    `per_seconds`, so that a window which begins after a pause holds up to `count + burst - 1`; `burst=1` spaces all calls
    evenly. A `count` that is not whole is an average over longer windows. A call with `batch=` is one call.

    >>> Rate(100, per_seconds=1).burst_count, Rate(100, per_seconds=1).refill_per_second
    (10.0, 91.0)
    """

    count: float
    per_seconds: float
    burst: float | None = None

    def __post_init__(self) -> None:
        if self.count <= 0 or self.per_seconds <= 0 or (self.burst is not None and self.burst < 1):
            raise DeclarationError(
                f"{self!r}: expected a count and seconds above 0, and a burst of at least 1, such as Rate(10, per_seconds=1)."
            )

    @property
    def burst_count(self) -> float:
        """How many calls may go at once after a pause."""
        return self.burst if self.burst is not None else max(1.0, self.count / 10)

    @property
    def refill_per_second(self) -> float:
        """How many calls a second go in the long run."""
        # Within a window, its end excluded, fewer than the burst and what comes back meanwhile, and one, can go.
        spare = 0.0 if self.burst is not None else self.burst_count - 1
        return (self.count - spare) / self.per_seconds


@dataclass(frozen=True, slots=True)
class Breaker:
    """When calls to a target are stopped, and for how long.

    It opens when `failure_share` of at least `minimum_calls` calls within `window_seconds` failed because the other side
    was unavailable, or `consecutive` such failures came in a row. It stays open for `open_seconds`, then lets one call
    through; each time that fails it stays open twice as long, up to `open_seconds_max`. Each process counts its own calls;
    once one of them has opened it, it is open for all.
    """

    failure_share: float = 0.5
    minimum_calls: int = 20
    window_seconds: float = 30.0
    consecutive: int = 5
    open_seconds: float = 5.0
    open_seconds_max: float = 300.0

    def __post_init__(self) -> None:
        counts = self.minimum_calls >= 1 and self.consecutive >= 1 and 0 < self.failure_share <= 1
        if not counts or self.window_seconds <= 0 or not 0 < self.open_seconds <= self.open_seconds_max:
            raise DeclarationError(
                f"{self!r}: expected a share above 0 up to 1, counts of at least 1, and positive seconds with"
                " open_seconds up to open_seconds_max."
            )


@dataclass(frozen=True, slots=True)
class Target:
    """Where effects go. Effects of one target share its limits, its breaker and its pause, over all processes.

    `rate` and `concurrency` hold for all processes together and count calls, a batch as one; `breaker=None` never stops
    calling.

    >>> crm = Target("crm", rate=Rate(10, per_seconds=1), concurrency=4)
    """

    name: str
    rate: Rate | None = None
    concurrency: int | None = None
    breaker: Breaker | None = Breaker()

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 200:
            raise DeclarationError(f"Target(name={self.name!r}): expected a name of 1 to 200 characters.")
        if self.concurrency is not None and self.concurrency < 1:
            raise DeclarationError(
                f"Target({self.name!r}, concurrency={self.concurrency}): expected at least 1, or None."
            )


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a side effect's function may return: the other side's id of what it took, and a note.

    `provider_id` is kept with the effect, for later questions.

    >>> return Receipt(provider_id=answer["id"])
    """

    provider_id: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Nats:
    """A NATS JetStream stream that effects are handed to, for workers that need no database: `side_effect(relay=…)`.

    An effect `crm.tell` becomes a message of the subject `{subject}.crm.tell` in `stream`, which is made if it is not there.
    Within `duplicate_window_seconds` JetStream drops a message that is handed over twice. What no worker could
    deliver goes to the stream `{stream}_DEAD`.

    >>> @side_effect(Order, on="create", relay=Nats("nats://broker:4222"))
    """

    url: str = field(repr=False)
    stream: str = "ENSUE"
    subject: str = "ensue-effects"
    duplicate_window_seconds: float = 120.0

    def __post_init__(self) -> None:
        if "://" not in self.url:
            raise DeclarationError(
                "Nats(…) was given a url that is none; expected nats://host:4222 or tls://host:4222."
            )
        if any(letter in self.stream + self.subject for letter in ".*> /\\"):
            raise DeclarationError(
                f"{self!r}: the names of stream and subject can't hold dots, spaces, slashes or wildcards."
            )
        if self.duplicate_window_seconds <= 0:
            raise DeclarationError(f"{self!r}: expected a duplicate window above 0 seconds.")
