"""Schedules and verdicts, without a database and without waiting."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random
from typing import Any, cast

import httpx2
import pytest
import redis.asyncio

from ensue.effects.retry import Circumstances, Failure, Verdict, asked_pause, describe, judge, step_seconds
from ensue.effects.retry import decide as _decide
from ensue.effects.target import Handling
from ensue.errors import NotFound, Rejected, Unavailable, UnknownOutcome, UsageError
from ensue.errors import Throttled as EnsueThrottled
from ensue.schema.delivery import Retry
from tests.effects.world import Recorder

YOUNG = timedelta(minutes=1)


def decide(
    failure: Failure, retry: Retry, *, attempts: int, age: timedelta, rng: Random, failures: int = 0, **more: Any
) -> Verdict:
    """The verdict for a side effect with these options."""
    return _decide(failure, Handling(Recorder(), retry, **more), Circumstances(attempts, age, failures), rng)


class Throttled(Exception):
    def __init__(self, seconds: object) -> None:
        super().__init__("slow down")
        self.retry_after_seconds = seconds


def test_the_steps_double_from_one_second_to_ten_minutes() -> None:
    assert [step_seconds(n) for n in range(1, 13)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]
    assert step_seconds(10_000) == 600


def test_the_pause_is_spread_over_the_whole_step() -> None:
    rng = Random(7)
    failure = Failure("transient", "down")
    pauses = [decide(failure, Retry(), attempts=4, age=YOUNG, rng=rng).delay_seconds for _ in range(2000)]
    assert 0 <= min(pauses) < 0.1
    assert 7.9 < max(pauses) <= 8
    counts = [sum(1 for pause in pauses if int(pause) == second) for second in range(8)]
    assert min(counts) > 180, "a storm of failures must come back flat"


def test_attempts_end_it() -> None:
    failure = Failure("transient", "down")
    policy = Retry(max_attempts=3)
    verdicts = [decide(failure, policy, attempts=n, age=YOUNG, rng=Random(1)).transition for n in (1, 2, 3)]
    assert verdicts == ["retry", "retry", "bury"]


@pytest.mark.parametrize("failure", [Failure("transient", "x"), Failure("throttled", "x", 5.0)])
def test_age_ends_it(failure: Failure) -> None:
    policy = Retry(max_age=timedelta(hours=1))
    assert decide(failure, policy, attempts=1, age=timedelta(minutes=59), rng=Random(1)).transition != "bury"
    assert decide(failure, policy, attempts=1, age=timedelta(hours=1), rng=Random(1)).transition == "bury"


def test_throttling_waits_at_least_as_long_as_asked_and_is_no_attempt() -> None:
    for seed in range(100):
        verdict = decide(judge(Throttled(30)), Retry(max_attempts=1), attempts=1, age=YOUNG, rng=Random(seed))
        assert verdict.transition == "throttle"
        assert 30 <= verdict.delay_seconds <= 34


def test_a_rejection_is_final() -> None:
    assert decide(judge(Rejected("bad_address")), Retry(), attempts=1, age=YOUNG, rng=Random(1)).transition == "bury"
    assert judge(Unavailable("gone for good", retryable=False)).kind == "rejected"


@pytest.mark.parametrize("pause", [None, "5", True, float("nan"), float("inf"), -1])
def test_what_is_no_pause_is_an_ordinary_failure(pause: object) -> None:
    assert judge(Throttled(pause)).kind == "transient"


def test_the_text_of_an_error_can_be_stored_anywhere() -> None:
    text = describe(ValueError("a\0b\ud800" + "c" * 5000))
    assert "\0" not in text
    text.encode()
    assert len(text) == 2000
    assert text.endswith("…")
    assert describe(KeyError()) == "KeyError"


def test_an_outage_of_ten_minutes_is_survived_with_the_defaults() -> None:
    for seed in range(300):
        rng = Random(seed)
        waited, attempts = 0.0, 1
        while waited < 600:
            verdict = decide(
                Failure("transient", "down"), Retry(), attempts=attempts, age=timedelta(seconds=waited), rng=rng
            )
            assert verdict.transition == "retry", seed
            waited += verdict.delay_seconds
            attempts += 1


@pytest.mark.parametrize(
    "options",
    [
        {"retry": Retry(max_attempts=0)},
        {"retry": Retry(max_age=timedelta(0))},
        {"timeout_seconds": 0},
        {"concurrency": 0},
    ],
)
def test_limits_that_allow_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be positive"):
        Handling(Recorder(), **options)


class Response:
    def __init__(self, status: int, **headers: str) -> None:
        self.status_code = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class HttpError(Exception):
    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(f"status {status}")
        self.response = Response(status, **headers)


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError("reset"), "unavailable"),
        (TimeoutError("connect"), "unavailable"),
        (caused(RuntimeError("request failed"), ConnectionRefusedError("no")), "unavailable"),
        (ExceptionGroup("two", [ValueError("x"), OSError("down")]), "unavailable"),
        (ExceptionGroup("one", [ExceptionGroup("one", [Rejected("no", "never")])]), "rejected"),
        (ExceptionGroup("one", [EnsueThrottled(3)]), "throttled"),
        (Throttled(10**400), "throttled"),
        (Unavailable("down"), "unavailable"),
        (EnsueThrottled(3), "throttled"),
        (UnknownOutcome("no answer"), "unknown"),
        (TypeError("x"), "bug"),
        (KeyError("x"), "bug"),
        (NotFound("gone"), "transient"),
        (ValueError("half an answer"), "transient"),
        *((HttpError(status), "rejected") for status in (400, 405, 406, 410, 411, 413, 414, 415, 422)),
        *((HttpError(status), "unavailable") for status in (408, 500, 502, 503, 504)),
        *((HttpError(status), "transient") for status in (401, 403, 404, 409)),
        (HttpError(429), "throttled"),
        (HttpError(503, Retry_After="7"), "throttled"),
    ],
)
def test_the_class_of_an_error(error: Exception, kind: str) -> None:
    assert judge(error).kind == kind


def raised_by(call: Callable[[str], Awaitable[object]], url: str) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever the client raises
        asyncio.run(call(url))
    return caught.value


async def get(url: str) -> None:
    async with httpx2.AsyncClient(trust_env=False, timeout=0.2) as client:
        await client.get(url)


async def ping(url: str) -> None:
    async with redis.asyncio.from_url(url.replace("http", "redis"), socket_timeout=0.2, retry=None) as client:
        await client.ping()


@pytest.mark.parametrize("call", [get, ping])
def test_what_clients_raise_without_a_connection_or_an_answer_is_an_outage(call: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert judge(raised_by(call, url)).kind == "unavailable"
    assert judge(raised_by(call, url)).kind == "unavailable"
    with socket.create_server(("127.0.0.1", 0)) as server:
        hanging_up = threading.Thread(target=lambda: server.accept()[0].close())
        hanging_up.start()
        assert judge(raised_by(call, f"http://127.0.0.1:{server.getsockname()[1]}")).kind == "unavailable"
        hanging_up.join()


def test_a_request_that_was_made_wrong_is_no_outage() -> None:
    assert judge(raised_by(get, "127.0.0.1/x")).kind == "transient"


def test_a_word_that_is_no_class_is_worth_no_more_than_silence_and_is_told() -> None:
    failure = judge(ConnectionResetError("gone"), lambda _: "nonsense")  # type: ignore[arg-type, return-value]
    assert failure.kind == "unavailable"
    assert "classify() answered 'nonsense'; expected None or one of transient, throttled" in failure.message


def test_an_integration_may_know_better() -> None:
    assert judge(ValueError("declined"), lambda _error: "rejected").kind == "rejected"
    assert judge(TypeError("x"), lambda _error: None).kind == "bug"


def test_the_pause_that_was_asked_for() -> None:
    assert asked_pause(HttpError(429, Retry_After="12")) == 12
    dated = HttpError(503, Retry_After="Mon, 02 Mar 2026 10:00:30 GMT", Date="Mon, 02 Mar 2026 10:00:00 GMT")
    assert asked_pause(dated) == 30
    assert asked_pause(HttpError(429, Retry_After="soon")) is None
    assert asked_pause(HttpError(500, Retry_After="12")) is None
    assert asked_pause(EnsueThrottled(1e9)) == 24 * 3600
    with pytest.raises(UsageError, match=r"Throttled\('5'\): expected seconds as a number"):
        EnsueThrottled(cast("Any", "5"))


@pytest.mark.parametrize(
    ("error", "may_have_arrived"),
    [
        (ConnectionResetError("reset"), True),
        (TimeoutError("read"), True),
        (HttpError(500), True),
        (HttpError(504), True),
        (KeyError("id"), True),
        (ConnectionRefusedError("no"), False),
        (HttpError(503), False),
        (HttpError(404), False),
        (Unavailable("not now"), False),
    ],
)
def test_whether_a_call_may_have_arrived(error: Exception, may_have_arrived: bool) -> None:
    assert judge(error).ambiguous is may_have_arrived


class ClientConnectorDNSError(type("ClientConnectorError", (OSError,), {})):
    """As an HTTP client derives its errors."""


def second_try(first: Exception, second: Exception) -> Exception:
    """What a function raises that tries another server while it handles the first one's error."""
    second.__context__ = first
    return second


@pytest.mark.parametrize(
    ("error", "may_have_arrived"),
    [
        (ClientConnectorDNSError("no such name"), False),
        (ExceptionGroup("two calls", [ConnectionRefusedError(), ConnectionRefusedError()]), False),
        (ExceptionGroup("two calls", [ConnectionRefusedError(), TimeoutError()]), True),
        (second_try(ConnectionRefusedError(), ConnectionResetError()), True),
        (second_try(ConnectionResetError(), ConnectionRefusedError()), False),
        (second_try(ConnectionRefusedError(), RuntimeError("it can't be had")), False),
        (second_try(ConnectionResetError(), Unavailable("it can't be had")), True),
    ],
)
def test_whether_one_of_several_calls_may_have_arrived(error: Exception, may_have_arrived: bool) -> None:
    assert judge(error).ambiguous is may_have_arrived


def test_an_outage_of_two_days_uses_up_no_attempt() -> None:
    for failures in range(300):
        age = timedelta(minutes=10 * failures)
        verdict = decide(judge(OSError("down")), Retry(), attempts=1, age=age, rng=Random(failures), failures=failures)
        assert verdict.transition == "outage"
        assert verdict.delay_seconds is not None
        assert verdict.delay_seconds <= 600
    assert (
        decide(judge(OSError("down")), Retry(), attempts=1, age=timedelta(days=3), rng=Random(1)).transition == "bury"
    )


def test_a_bug_is_given_up_after_three_quick_attempts() -> None:
    verdicts = [decide(judge(TypeError("x")), Retry(), attempts=n, age=YOUNG, rng=Random(n)) for n in (1, 2, 3)]
    assert [verdict.transition for verdict in verdicts] == ["retry", "retry", "bury"]
    assert all((verdict.delay_seconds or 0) <= 1 for verdict in verdicts)
