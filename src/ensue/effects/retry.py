"""What becomes of an effect whose attempt failed: pure, so that schedules are tested without waiting for them.

Decides the class of an error, whether there is another attempt, and the pause before it. Leaves time and chance to
its callers, who pass the instant and the generator. Invariants: throttling, an outage, shutdown and a lost lease never use
up an attempt; a call that may have arrived is not repeated unless the other side surely recognises it.
"""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from random import Random
from typing import Any, Final, Literal, cast, get_args

from ensue.effects.target import Handling
from ensue.errors import DeclarationError, NotFound, Rejected, Throttled, Unavailable, UnknownOutcome, UsageError
from ensue.schema.delivery import ErrorClass

FIRST_STEP_SECONDS: Final = 1.0
STEP_SECONDS_MAX: Final = 600.0
HOLD_SECONDS_MAX: Final = 24 * 3600.0
"""The longest pause that the other side may ask for: what lies beyond is a mistake of its clock."""
ERROR_CHARACTERS_MAX: Final = 2000
BUG_ATTEMPTS: Final = 3
ERROR_CLASSES: Final[tuple[ErrorClass, ...]] = get_args(ErrorClass)
_SHOWN: Final = ", ".join(ERROR_CLASSES)

_REFUSED: Final = frozenset({400, 405, 406, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 426, 428, 431, 451})
_BUGS: Final = (
    TypeError,
    AttributeError,
    NameError,
    LookupError,
    AssertionError,
    NotImplementedError,
    ImportError,
    ArithmeticError,
    RecursionError,
    DeclarationError,
    UsageError,
    SystemExit,
)
_NOT_SENT: Final = (ConnectionRefusedError, socket.gaierror)
_NOT_SENT_NAMES: Final = frozenset(
    {
        "ConnectError",
        "ConnectTimeout",
        "PoolTimeout",
        "ProxyError",
        "ClientConnectorError",
        "ConnectTimeoutError",
        "ConnectionTimeoutError",
    }
)
_CUT_OFF: Final = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, TimeoutError)
# Clients raise errors of their own `from None`, with nothing among the causes: httpx, aiohttp, redis-py.
_NO_ANSWER_NAMES: Final = frozenset(
    {
        "NetworkError",
        "TimeoutException",
        "RemoteProtocolError",
        "ProxyError",
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectionError",
        "TimeoutError",
    }
)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of a call, judged.

    Its class, its text for the ledger, and the pause that the other side asked for. `ambiguous`: the call may have arrived
    all the same. `unanswered`: the other side said nothing at all, which counts towards the target's breaker.
    """

    kind: ErrorClass
    message: str
    retry_after_seconds: float | None = None
    ambiguous: bool = True
    unanswered: bool = False


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a verdict depends on besides the failure.

    `attempts` counts this one, `failures` the calls that failed before. `doubtful`: an earlier call may have arrived.
    """

    attempts: int
    age: timedelta
    failures: int = 0
    doubtful: bool = False
    since_first_send: timedelta = timedelta(0)


Ending = Literal["retry", "throttle", "outage", "bury", "set_aside", "doubt", "suspect", "deny", "give_up"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The transition that a failed attempt takes, and the pause before the next one (None: until an operator acts)."""

    transition: Ending
    delay_seconds: float | None = 0.0
    doubtful: bool = False


def judge(error: BaseException, classify: Callable[[BaseException], ErrorClass | None] | None = None) -> Failure:
    """The class of `error`; `classify` is asked first, and answers None where it has no opinion.

    >>> judge(ConnectionRefusedError("no")).kind
    'unavailable'
    """
    message = describe(error)
    if (inner := _only(error)) is not error:
        error, message = inner, storable(f"{message}: {describe(inner)}")
    pause = asked_pause(error)
    said = classify(error) if classify is not None else None
    if said is not None and said not in ERROR_CLASSES:
        message, said = storable(f"{message} (classify() answered {said!r}; expected None or one of {_SHOWN})"), None
    kind = said or _kind(error, pause)
    definite = kind in ("rejected", "throttled") or _not_sent(error)
    return Failure(kind, message, pause, ambiguous=not definite, unanswered=kind == "unavailable")


def _only(error: BaseException) -> BaseException:
    """The one member of a group of one: a function with a `TaskGroup` raises nothing else."""
    members = _members(error)
    return _only(members[0]) if len(members) == 1 else error


def _members(error: BaseException) -> Sequence[BaseException]:
    """The errors that a group holds; nothing for any other."""
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).exceptions
    return ()


def _kind(error: BaseException, pause: float | None) -> ErrorClass:
    if isinstance(error, UnknownOutcome):
        return "unknown"
    if isinstance(error, Rejected) or (isinstance(error, Unavailable) and not error.retryable):
        return "rejected"
    status = http_status(error)
    if pause is not None or isinstance(error, Throttled) or status == 429:
        return "throttled"
    if status is not None:
        return _by_status(status)
    if any(_without_answer(item) for item in _chain(error)):
        return "unavailable"
    return "bug" if isinstance(error, _BUGS) and not isinstance(error, NotFound) else "transient"


def _without_answer(error: BaseException) -> bool:
    return isinstance(error, OSError | Unavailable) or not _NO_ANSWER_NAMES.isdisjoint(_names(error))


def _names(error: BaseException) -> Iterator[str]:
    return (kind.__name__ for kind in type(error).__mro__)


def _by_status(status: int) -> ErrorClass:
    if status in _REFUSED:
        return "rejected"
    return "unavailable" if status >= 500 or status in (408, 425) else "transient"


def http_status(error: BaseException) -> int | None:
    """The status of the HTTP answer that `error` tells of, whichever library raised it."""
    response = _attribute(error, "response")
    for holder, name in ((response, "status_code"), (response, "status"), (error, "status"), (error, "status_code")):
        found: object = _attribute(holder, name)
        if isinstance(found, int) and not isinstance(found, bool) and 100 <= found <= 599:
            return int(found)
    return None


def _attribute(holder: object, name: str) -> Any:
    """None also where the attribute is a property that raises, as clients have for what was not received."""
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - an error of another library is read here, and that it can't be read says enough
        return None


def asked_pause(error: BaseException) -> float | None:
    """The seconds that the other side asked to wait: `retry_after_seconds`, or Retry-After of a 429 or 503."""
    pause: object = _attribute(error, "retry_after_seconds")
    if isinstance(pause, int | float) and not isinstance(pause, bool) and 0 <= pause < float("inf"):
        return float(min(pause, HOLD_SECONDS_MAX))
    if http_status(error) not in (429, 503):
        return None
    headers: Any = _attribute(_attribute(error, "response"), "headers") or _attribute(error, "headers")
    return _retry_after(headers) if headers is not None else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, or a date; a date is compared with that of the answer, as clocks differ."""
    try:
        value = headers.get("Retry-After") or headers.get("retry-after")
        if not value:
            return None
        if value.strip().isdigit():
            return min(float(value), HOLD_SECONDS_MAX)
        sent = headers.get("Date") or headers.get("date")
        pause = (parsedate_to_datetime(value) - parsedate_to_datetime(sent or "")).total_seconds()
        return min(max(0.0, pause), HOLD_SECONDS_MAX)
    except (TypeError, ValueError, AttributeError):
        # What another system wrote in a header may be anything; without a pause that can be read there is none.
        return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, what was being handled when it was raised, and the members of groups."""
    waiting, seen = [error], set[int]()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        waiting.extend(_members(item))
        if (behind := _behind(item)) is not None:
            waiting.append(behind)


def _not_sent(error: BaseException) -> bool:
    """Whether the call surely did not arrive: refused, no connection, or turned away with an answer that says so."""
    status = http_status(error)
    if status is not None:
        return status < 500 or status in (501, 503)
    if isinstance(error, Unavailable) and _behind(error) is None:
        # An integration that says so without any other error behind it knows.
        return True
    return never_connected(error)


def never_connected(error: BaseException) -> bool:
    """Whether `error`, or what it stands for, is that there was no connection. Of several errors: whether each is.

    What was cut off later is none, though another try before it found no connection.

    >>> never_connected(ConnectionRefusedError()), never_connected(ConnectionResetError())
    (True, False)
    """
    seen = set[int]()
    item: BaseException | None = error
    while item is not None and id(item) not in seen:
        seen.add(id(item))
        members = _members(item)
        if members:
            return all(map(never_connected, members))
        if isinstance(item, _NOT_SENT) or not _NOT_SENT_NAMES.isdisjoint(_names(item)):
            return True
        if isinstance(item, _CUT_OFF):
            return False
        item = _behind(item)
    return False


def _behind(error: BaseException) -> BaseException | None:
    """What caused an error, or was being handled when it was raised."""
    return error.__cause__ if error.__suppress_context__ or error.__cause__ is not None else error.__context__


def describe(error: BaseException) -> str:
    """The error as text that any database takes: no NUL, no lone surrogate, bounded."""
    try:
        text = str(error)
    except Exception as defect:  # noqa: BLE001 - that is what there is to say of it
        text = f"its text can't be had, which raises {type(defect).__name__}"
    return storable(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def escaped(text: str) -> str:
    """`text` as any database takes it, however long: no NUL, no lone surrogate."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def storable(text: str) -> str:
    """`text` as any database takes it: no NUL, no lone surrogate, bounded."""
    safe = escaped(text)
    return safe if len(safe) <= ERROR_CHARACTERS_MAX else safe[: ERROR_CHARACTERS_MAX - 1] + "…"


def decide(failure: Failure, handling: Handling, now: Circumstances, rng: Random) -> Verdict:
    """What follows a failed attempt.

    >>> handling = Handling(handler)
    >>> decide(Failure("transient", "down"), handling, Circumstances(attempts=20, age=timedelta(0)), Random(1)).transition
    'bury'
    """
    doubtful = now.doubtful or failure.kind == "unknown" or (handling.guarded and failure.ambiguous)
    if doubtful and (failure.kind == "unknown" or not handling.resend_is_safe(now.since_first_send)):
        verdict = _unknown(failure, handling, now, rng)
        if verdict is not None:
            return verdict
    if failure.kind == "rejected" or now.age >= handling.retry.max_age:
        return _ended(handling, now, rng, doubtful=doubtful)
    if failure.kind == "throttled":
        asked = failure.retry_after_seconds
        if asked is None:
            return Verdict("throttle", FIRST_STEP_SECONDS + pause_after(now.failures + 1, rng), doubtful)
        # Never earlier than asked, and not all at the very instant that everyone was told.
        return Verdict("throttle", asked + rng.uniform(0.0, FIRST_STEP_SECONDS + asked / 10), doubtful)
    if failure.kind == "unavailable":
        return Verdict("outage", pause_after(now.failures + 1, rng), doubtful)
    most = handling.retry.max_attempts if failure.kind != "bug" else min(BUG_ATTEMPTS, handling.retry.max_attempts)
    if now.attempts >= most:
        return _ended(handling, now, rng, doubtful=doubtful)
    pause = rng.uniform(0.0, FIRST_STEP_SECONDS) if failure.kind == "bug" else pause_after(now.attempts, rng)
    return Verdict("retry", pause, doubtful)


def after_denial(handling: Handling, now: Circumstances, rng: Random) -> Verdict:
    """What follows when the other side says that nothing arrived: at first another call at once, then as after any failure.

    `now.attempts` counts the call that would be next.
    """
    if now.attempts > handling.retry.max_attempts or now.age >= handling.retry.max_age:
        if handling.poison == "skip":
            return Verdict("give_up")
        if handling.poison == "park":
            return Verdict("set_aside", None)
    return Verdict("deny", 0.0 if now.failures <= 1 else pause_after(now.failures - 1, rng))


def _unknown(failure: Failure, handling: Handling, now: Circumstances, rng: Random) -> Verdict | None:
    """Ask before anything else; without a way to ask, only an operator can."""
    transition: Ending = "suspect" if failure.kind in ("unavailable", "throttled") else "doubt"
    if handling.verify is not None:
        return Verdict(transition, rng.uniform(0.1, FIRST_STEP_SECONDS), doubtful=True)
    if handling.resend_is_safe(now.since_first_send):
        return None
    return Verdict(transition, None, doubtful=True)


def _ended(handling: Handling, now: Circumstances, rng: Random, *, doubtful: bool) -> Verdict:
    """Attempts or age are used up: what the poison policy says."""
    if handling.poison == "block":
        return Verdict("retry", pause_after(now.failures + 1, rng), doubtful)
    if handling.poison == "park":
        return Verdict("set_aside", None, doubtful)
    return Verdict("bury", doubtful=doubtful)


def pause_after(failures: int, rng: Random) -> float:
    """Uniform between 0 and the step: many that failed at once don't come back at once."""
    return rng.uniform(0.0, step_seconds(failures))


def step_seconds(attempts: int) -> float:
    """The longest pause after `attempts` failures: 1 s, 2 s, 4 s, … up to 10 min."""
    return min(STEP_SECONDS_MAX, FIRST_STEP_SECONDS * 2.0 ** min(attempts - 1, 30))


__all__ = [
    "Circumstances",
    "Failure",
    "Verdict",
    "after_denial",
    "asked_pause",
    "decide",
    "describe",
    "http_status",
    "judge",
    "never_connected",
    "pause_after",
    "step_seconds",
    "storable",
]
