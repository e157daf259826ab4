"""What follows from a visit, an error of a submission, and a status: tables, without a database."""

from __future__ import annotations

from decimal import Decimal
from random import Random
from typing import Any

import pytest

from ensue import Rejected, TaskUpdate, Throttled, Unavailable, UnknownOutcome, UsageError
from ensue.integrations.tasks.poll_table import Claim, Find, Intent, Row, find_of
from ensue.integrations.tasks.schedule import Pace, first_pause, next_pause
from ensue.integrations.tasks.sending import end_of
from ensue.integrations.tasks.states import FINAL, STATUSES, STEPS
from ensue.integrations.tasks.visits import Move, Seen, Terms, after_answer, without_asking

TERMS = Terms({"done": "completed", "bad": "failed", "gone": "resubmit", "busy": "processing"}, submits_max=2)
REF = ("Picture", 7)


def seen(status: Any = "processing", *, phase: Any = "waiting", **values: Any) -> Seen:
    held = values.pop("held", ())
    given = {"external_id": "e", "polls": 1, "submits": 1, "overdue": False, "given_up": None, **values}
    return Seen(Claim(REF, "key", phase, token="t", **given), status, 0.0, held)


def told(move: Move) -> tuple[str, list[tuple[str, Any]]]:
    """Where the row goes, and what is told."""
    return move.phase, [(event["status"], event.get("error")) for event in move.events]


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (seen(None), ("settled", [])),  # the task was deleted
        (seen("completed"), ("settled", [])),
        (seen("failed"), ("settled", [])),
        (seen("cancelled", overdue=True), ("settled", [])),
        (seen(held=[{"status": "completed"}]), ("settled", [("completed", None)])),
        (seen("queued", phase="ready"), ("ready", [])),
        (seen("queued", phase="sending"), ("sending", [])),
        (seen("queued", phase="ready", overdue=True), ("settled", [("failed", "deadline")])),
        (seen("queued", phase="sending", overdue=True), ("settled", [("failed", "deadline")])),
        (
            seen("queued", phase="ready", given_up="dead: E"),
            ("settled", [("failed", "could not be submitted (dead: E)")]),
        ),
        (seen("queued", phase="sending", given_up="dead: E"), ("settled", [("failed", "unknown outcome (dead: E)")])),
        (seen("cancelled", phase="sending"), ("settled", [])),
    ],
)
def test_what_needs_no_asking(one: Seen, expected: Any) -> None:
    move = without_asking(one)
    assert move is not None
    assert told(move) == expected


@pytest.mark.parametrize("one", [seen(), seen("cancelled"), seen(overdue=True)])
def test_what_is_asked_after(one: Seen) -> None:
    assert without_asking(one) is None


@pytest.mark.parametrize(
    ("one", "answer", "expected"),
    [
        (seen(), TaskUpdate(status="busy"), ("waiting", [])),
        (seen(), TaskUpdate(status="busy", progress=0.5), ("waiting", [("processing", None)])),
        (seen(), TaskUpdate(status="done"), ("settled", [("completed", None)])),
        (seen(), TaskUpdate(status="bad", error="E"), ("settled", [("failed", "E")])),
        (seen("queued"), TaskUpdate(status="done"), ("settled", [("processing", None), ("completed", None)])),
        (seen(), TaskUpdate(status="gone"), ("ready", [("queued", None)])),
        (seen(submits=2), TaskUpdate(status="gone"), ("settled", [("failed", "gone, submitted 2 times")])),
        (seen(overdue=True), TaskUpdate(status="gone"), ("settled", [("failed", "deadline")])),
        (seen(), TaskUpdate(status="odd"), ("waiting", [])),
        (seen(), ConnectionError(), ("waiting", [])),
        (seen(), None, ("waiting", [])),
        (seen(overdue=True), TaskUpdate(status="busy"), ("settled", [("failed", "deadline")])),
        (seen(overdue=True), ConnectionError(), ("settled", [("failed", "deadline")])),
        (seen(overdue=True), None, ("settled", [("failed", "deadline")])),
        (seen(overdue=True), TaskUpdate(status="done"), ("settled", [("completed", None)])),
        (seen("cancelled"), TaskUpdate(status="busy", progress=0.9), ("waiting", [])),
        (seen("cancelled"), TaskUpdate(status="done"), ("settled", [("completed", None)])),
        (seen("cancelled"), TaskUpdate(status="bad"), ("settled", [])),
        (seen("cancelled"), TaskUpdate(status="gone"), ("settled", [])),
    ],
)
def test_what_follows_from_an_answer(one: Seen, answer: Any, expected: Any) -> None:
    assert told(after_answer(one, answer, TERMS)) == expected


def test_a_failed_poll_is_remembered_with_what_it_asked_for() -> None:
    move = after_answer(seen(), Throttled(30), TERMS)
    assert (move.failed, move.retry_after_seconds) == (True, 30)
    assert after_answer(seen(), TaskUpdate(status="odd"), TERMS).failed


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"status": 3}, "TaskUpdate(status=…) was given int 3; expected text (str)."),
        ({"status": None}, "TaskUpdate(status=…) was given None; expected text (str)."),
        (
            {"external_id": 7},
            "TaskUpdate(external_id=…) was given int 7; expected text that is not empty (str), or None.",
        ),
        ({"error": {"code": "secret"}}, "TaskUpdate(error=…) was given dict; expected text (str), or None."),
        ({"result": ["secret"]}, "TaskUpdate(result=…) was given list; expected a mapping, or None."),
        ({"progress": "half"}, "(progress=…) was given str; expected a finite number (int or float), or None."),
        ({"progress": float("nan")}, "(progress=…) was given float nan; expected a finite number"),
        ({"cost": Decimal("0.5")}, "(cost=…) was given Decimal Decimal('0.5'); expected a finite number"),
        ({"retry_after_seconds": "5"}, "(retry_after_seconds=…) was given str; expected a finite number"),
    ],
)
def test_what_an_update_does_not_take_is_refused_where_it_is_made(values: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as refused:
        TaskUpdate(**{"status": "done", **values})
    assert told in str(refused.value)


class Response:
    status_code = 0


class StatusError(Exception):
    def __init__(self, status: int) -> None:
        self.response = Response()
        self.response.status_code = status


class ConnectError(Exception):
    """As HTTP clients call it."""


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (Rejected("no"), "refused"),
        (Unavailable("for good", retryable=False), "refused"),
        (StatusError(400), "refused"),
        (StatusError(404), "refused"),
        (Throttled(1), "not taken"),
        (Unavailable("down"), "not taken"),
        (StatusError(429), "not taken"),
        (StatusError(503), "not taken"),
        (ConnectError(), "not taken"),
        (ConnectionRefusedError(), "not taken"),
        (UnknownOutcome("?"), "unknown"),
        (StatusError(500), "unknown"),
        (StatusError(502), "unknown"),
        (ConnectionResetError(), "unknown"),
        (TimeoutError(), "unknown"),
        (KeyError("id"), "unknown"),
    ],
)
def test_what_an_error_says_of_a_submission(error: BaseException, end: str) -> None:
    assert end_of(error) == end


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (Row("ready", "k", "[]", 1, 0, 99, 50), "send"),
        (Row("sending", "k", "[]", 1, 45, 99, 50), "send"),
        (Row("sending", "k", "[]", 1, 30, 99, 50), "unknown"),
        (Row("waiting", "k", "[]", 1, 0, 99, 50), "done"),
        (Row("settled", "k", "[]", 1, 0, 99, 50), "done"),
        (Row("settled", "earlier", "[]", 1, 0, 99, 50), "send"),
        (Row("waiting", "later", '["k"]', 1, 0, 99, 50), "done"),
    ],
)
def test_what_an_attempt_finds(row: Row, found: Find) -> None:
    assert find_of(row, Intent(REF, "shop", "k", 100, resend_micros=10)) == found


def test_pauses_grow_from_two_seconds_to_a_minute_and_obey_the_provider() -> None:
    rng, pace = Random(1), Pace()
    pauses = [next_pause(pace, rng, polls=polls) for polls in range(1, 30)]
    assert all(1.6 <= pause <= 72 for pause in pauses)
    assert pauses[0] <= 2.4
    assert min(pauses[-5:]) >= 48
    assert all(next_pause(pace, rng, polls=1, retry_after_seconds=90) >= 90 for _ in range(20))
    spread = {round(first_pause(pace, rng, expected_seconds=100)) for _ in range(50)}
    assert len(spread) > 10
    assert min(spread) >= 80


def test_an_end_stands_but_for_what_is_told_from_outside() -> None:
    leaving = {(step.origin, source, step.target) for step in STEPS for source in step.sources if source in FINAL}
    assert {(origin, source, target) for origin, source, target in leaving if source != target} == {
        (None, "cancelled", "completed"),
        ("operator", "failed", "queued"),
        ("operator", "cancelled", "queued"),
        ("operator", "failed", "processing"),
    }
    assert {step.target for step in STEPS} == set(STATUSES)
