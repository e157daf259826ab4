"""What a run tells of its work while it does it; who listens makes traces or metrics of it.

Decides the words: kinds of work, how it ended, what caused it. Leaves what is made of them to `ensue.observation`, whose
modules alone know libraries for that. Invariants: while nobody listens nothing is made and nothing remembered; a listener
that fails changes nothing for the work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Final, Literal, Protocol, TypeVar

from ensue.errors import NotFound, Rejected, Unavailable

T = TypeVar("T")
Kind = Literal["request", "call", "dispatch", "message", "poll", "record"]
"""`request`: over HTTP. `call`: over a WebSocket. `message`: one from outside handled. `poll`: a provider asked after tasks.

`record`: what was heard of tasks written down.
"""
Fact = str | int | float | bool | Sequence[str]

REPEATED: Final = "repeated"
"""The outcome of a dispatch that had been made before: nothing was done."""

_logger = logging.getLogger("ensue.telemetry")


class Activity(Protocol):
    """A piece of work that is under way."""

    def note(self, **facts: Fact | None) -> None:
        """Something about it that was not known at its begin."""
        ...

    def end_as(self, outcome: str, code: str = "") -> None:
        """How it ended, if no exception says so: `ok` unless this is called."""
        ...


class Attempted(Protocol):
    """An effect that is about to be called; an `EffectRow` is one."""

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def record(self) -> str: ...
    @property
    def record_id(self) -> int: ...
    @property
    def trace(self) -> str | None: ...


Under = AbstractContextManager[Activity, None]


class Telemetry(Protocol):
    """Who is told. All of it is called on the event loop and must be quick."""

    def activity(
        self,
        kind: Kind,
        name: str,
        *,
        causes: Sequence[str | None] = (),
        carrier: Mapping[str, str] | None = None,
        **facts: Fact | None,
    ) -> Under:
        """Work of that kind on `name` (an interaction, an endpoint, …) lasts as long as the context manager is entered.

        `causes` are traceparents of what led to it, `carrier` headers that may hold one. An exception that leaves it is
        how it ended.
        """
        ...

    def attempt(self, name: str, effects: Sequence[Attempted]) -> Under:
        """A call for effects of one name lasts as long as the context manager is entered; their end may come later."""
        ...

    def count(self, kind: Kind, name: str, outcome: str) -> None:
        """Something of that kind came to `outcome`."""
        ...

    def told(self, event: object) -> None:
        """A `DeliveryEvent` or a `Commit`: those who tell of them are above this module."""
        ...

    def traceparent(self) -> str | None:
        """The trace that the current work belongs to, in the form of the W3C's header."""
        ...


def outcome_of(error: BaseException) -> tuple[str, str]:
    """How work ended that `error` left, and the code of its rejection.

    >>> outcome_of(Rejected("too_long"))
    ('rejected', 'too_long')
    """
    if isinstance(error, Rejected):
        return "rejected", error.reason
    if isinstance(error, NotFound):
        return "rejected", "not_found"
    if isinstance(error, Unavailable):
        return "unavailable", ""
    return ("error" if isinstance(error, Exception) else "cancelled"), ""


class _Nothing:
    """Work that nobody asked to be told of."""

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def note(self, **facts: Fact | None) -> None:
        """Not noted."""

    def end_as(self, outcome: str, code: str = "") -> None:
        """Not noted."""


NOTHING: Final = _Nothing()


class Switchboard:
    """Tells all that listen; the one `Telemetry` of a run that everything in it holds on to."""

    def __init__(self) -> None:
        self._listeners: list[Telemetry] = []

    def listen(self, listener: Telemetry) -> None:
        """Tell `listener` from now on, of what begins from now on."""
        self._listeners.append(listener)

    @property
    def listening(self) -> bool:
        """Whether anybody is told anything."""
        return bool(self._listeners)

    def activity(
        self,
        kind: Kind,
        name: str,
        *,
        causes: Sequence[str | None] = (),
        carrier: Mapping[str, str] | None = None,
        **facts: Fact | None,
    ) -> Under:
        """As of `Telemetry`."""
        if not self._listeners:
            return NOTHING
        return self._together(lambda one: one.activity(kind, name, causes=causes, carrier=carrier, **facts))

    def attempt(self, name: str, effects: Sequence[Attempted]) -> Under:
        """As of `Telemetry`."""
        if not self._listeners:
            return NOTHING
        return self._together(lambda one: one.attempt(name, effects))

    def count(self, kind: Kind, name: str, outcome: str) -> None:
        """As of `Telemetry`."""
        for listener in self._listeners:
            _guarded(listener.count, kind, name, outcome)

    def told(self, event: object) -> None:
        """As of `Telemetry`."""
        for listener in self._listeners:
            _guarded(listener.told, event)

    def traceparent(self) -> str | None:
        """As of `Telemetry`: of the first that knows."""
        for listener in self._listeners:
            found = _guarded(listener.traceparent)
            if found is not None:
                return found
        return None

    def _together(self, begin: Callable[[Telemetry], Under]) -> Under:
        begun = [_guarded(begin, listener) for listener in self._listeners]
        return _Together([one for one in begun if one is not None])


class _Together:
    """One piece of work for several listeners."""

    __slots__ = ("_activities", "_parts")

    def __init__(self, parts: Sequence[Under]) -> None:
        self._parts = parts
        self._activities: list[tuple[Under, Activity]] = []

    def __enter__(self) -> _Together:
        for part in self._parts:
            activity = _guarded(part.__enter__)
            if activity is not None:
                self._activities.append((part, activity))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part, _ in reversed(self._activities):
            _guarded(part.__exit__, kind, error, trace)

    def note(self, **facts: Fact | None) -> None:
        for _, activity in self._activities:
            _guarded(partial(activity.note, **facts))

    def end_as(self, outcome: str, code: str = "") -> None:
        for _, activity in self._activities:
            _guarded(activity.end_as, outcome, code)


def _guarded(function: Callable[..., T], *arguments: object) -> T | None:
    try:
        return function(*arguments)
    except Exception:
        _logger.exception("a listener of telemetry failed; the work goes on")
        return None
