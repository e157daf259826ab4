"""Schedules and verdicts, without a database and without waiting."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Any

import pytest

from ensue.effects.retry import Circumstances, Failure, Verdict, describe, judge, step_seconds
from ensue.effects.retry import decide as _decide
from ensue.effects.target import Handling
from ensue.errors import Rejected, Unavailable, UsageError
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
