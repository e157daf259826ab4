"""`Submitted` and `TaskUpdate`: what an integration's author tells the framework of a task.

Decides their fields and how a provider's word for a status becomes ours. Invariants: a word that nobody mapped is an
error of the call that brought it, never a failure of the task; a value of a wrong type is refused where it is given,
so that no later write fails on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from typing import Any, Literal, cast

import msgspec

from ensue.effects.retry import escaped
from ensue.errors import DeclarationError, Problem, UsageError
from ensue.integrations.tasks.states import FINAL, STATUSES, TaskStatus

Next = Literal["processing", "completed", "failed", "cancelled", "resubmit"]
"""What a provider's word amounts to. `resubmit`: it is lost or expired there, and is to be submitted again."""

UNKNOWN_STATUS = "E0180"
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
"""What JSON is written with here."""
_OURS: Mapping[str, Next] = {
    "queued": "processing",  # in the provider's queue: submitted, and not done
    "processing": "processing",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "resubmit": "resubmit",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskUpdate:
    """Where a task stands, in the provider's word or in ours; a word of the provider's is looked up in `statuses`.

    `result` is kept as JSON; what no database takes of it is kept as text that it takes (a NUL character as `\\0`, `nan` as
    `"nan"`). `progress` is from 0 to 1 (what lies outside is cut), `cost` what this attempt cost in the provider's units,
    `retry_after_seconds` when the provider wants to be asked again. `external_id` is needed only where it was not known
    before. Raises `UsageError` for a value of another type.

    >>> TaskUpdate(status="completed", result={"url": "https://…"}).status
    'completed'
    """

    status: str
    result: Mapping[str, Any] | None = None
    error: str | None = None
    progress: float | None = None
    cost: float | None = None
    external_id: str | None = None
    retry_after_seconds: float | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        _check_text(self, "status", optional=False)
        for name in ("error", "external_id", "note"):
            _check_text(self, name)
        for name in ("progress", "cost", "retry_after_seconds"):
            _check_number(self, name)
        if self.result is not None:
            object.__setattr__(self, "result", _kept_result(self))


@dataclass(frozen=True, slots=True)
class Submitted:
    """The provider took it, under this id. `expected_seconds`: when the first poll makes sense, if it said so.

    Raises `UsageError` for a value of another type.
    """

    external_id: str
    expected_seconds: float | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        _check_text(self, "external_id", optional=False)
        for name in ("expected_seconds", "cost"):
            _check_number(self, name)


class UnknownStatus(LookupError):
    """The provider used a word that `statuses` does not map."""


def meaning(update: TaskUpdate, statuses: Mapping[str, str]) -> Next:
    """What the update's status amounts to. Raises `UnknownStatus`."""
    word = statuses.get(update.status, update.status)
    found = _OURS.get(word)
    if found is None:
        known = ", ".join(sorted({*statuses, *_OURS}))
        raise UnknownStatus(f"the status {update.status!r} is none of {known}. Add it to `statuses`.")
    return found


def is_final(found: Next) -> bool:
    """Whether a task that is so has ended."""
    return found in FINAL


def check_statuses(owner: str, statuses: object) -> None:
    """Refuse a map that is none, or that leads to a word that is none of ours."""
    words = cast("Mapping[Any, Any]", statuses) if isinstance(statuses, Mapping) else None
    if words is None or not all(isinstance(word, str) for word in words):
        text = f"{owner}.statuses is {statuses!r}; expected a mapping of the provider's words (str) to ours."
        raise DeclarationError(Problem(UNKNOWN_STATUS, text))
    wrong = [word for word in words.values() if word not in tuple(_OURS)]
    if wrong:
        raise DeclarationError(
            Problem(
                UNKNOWN_STATUS,
                f"{owner}.statuses maps to {', '.join(map(repr, wrong))}; expected {', '.join(STATUSES)} or resubmit.",
            )
        )


def status_of(found: Next) -> TaskStatus:
    """The status that an event says for it."""
    return "queued" if found == "resubmit" else found


def answer_of_submit(answer: object, statuses: Mapping[str, str]) -> Submitted | TaskUpdate:
    """What `submit` gave, a plain id as a `Submitted`.

    Raises `UsageError`, and `UnknownStatus` where there is no id under which a poll could tell more.
    """
    if isinstance(answer, str):
        return Submitted(answer)
    if isinstance(answer, TaskUpdate) and answer.external_id is None:
        meaning(answer, statuses)
    if isinstance(answer, Submitted | TaskUpdate):
        return answer
    raise UsageError(
        f"submit() gave {_shown(answer)}; expected the provider's id of the task as str, a Submitted or a TaskUpdate."
    )


def answer_of_verify(answer: object) -> Submitted | TaskUpdate | bool | None:
    """What `verify` gave, a plain id as a `Submitted`. Raises `UsageError`."""
    if answer is None or isinstance(answer, bool):
        return answer
    if isinstance(answer, str):
        return Submitted(answer)
    if isinstance(answer, Submitted | TaskUpdate):
        return answer
    raise UsageError(
        f"verify() gave {_shown(answer)}; expected the provider's id of the task as str, True, False, or None if that "
        "can't be said now."
    )


def answers_of_poll_many(answers: object) -> Mapping[str, object]:
    """What `poll_many` gave, each answer still to be looked at. Raises `UsageError`."""
    if not isinstance(answers, Mapping):
        raise UsageError(f"poll_many() gave {_shown(answers)}; expected a mapping of ids to TaskUpdates.")
    return cast("Mapping[str, object]", answers)


def answer_of_poll(answer: object, statuses: Mapping[str, str]) -> TaskUpdate:
    """What `poll` gave, or `poll_many` for one task. Raises `UsageError`, `UnknownStatus`, or the error that was given."""
    if isinstance(answer, Exception):
        raise answer
    if not isinstance(answer, TaskUpdate):
        raise UsageError(f"poll() or poll_many() gave {_shown(answer)} for a task; expected a TaskUpdate.")
    meaning(answer, statuses)
    return answer


def _kept_result(given: TaskUpdate) -> dict[str, Any]:
    """The result of `given` as every database takes it: it may have been paid for, and must not be lost for one character."""
    result = cast("object", given.result)
    if not isinstance(result, Mapping):
        raise _wrong(given, "result", "a mapping, or None")
    try:
        plain = msgspec.to_builtins(dict(cast("Mapping[object, object]", result)), str_keys=True)
        return cast("dict[str, Any]", _kept(plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"TaskUpdate(result=…) holds what is no JSON: {error}") from error


def _kept(value: object) -> object:
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {escaped(key): _kept(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_kept(item) for item in cast("Sequence[object]", value)]
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX:
        return str(value)
    return value


def _check_text(given: TaskUpdate | Submitted, name: str, *, optional: bool = True) -> None:
    value = getattr(given, name)
    text = "text that is not empty (str)" if name == "external_id" else "text (str)"
    if not ((optional and value is None) or (isinstance(value, str) and (value or name != "external_id"))):
        raise _wrong(given, name, f"{text}, or None" if optional else text)
    if name == "external_id" and value is not None and escaped(value) != value:
        # Changed it would be nobody's id.
        raise UsageError(
            f"{type(given).__name__}(external_id=…) holds a NUL character or a lone surrogate, which no database takes."
        )


def _check_number(given: TaskUpdate | Submitted, name: str) -> None:
    value = getattr(given, name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise _wrong(given, name, "a finite number (int or float), or None")


def _wrong(given: object, name: str, expected: str) -> UsageError:
    return UsageError(
        f"{type(given).__name__}({name}=…) was given {_shown(getattr(given, name))}; expected {expected}."
    )


def _shown(value: object) -> str:
    """The kind of a value, and the value itself only where it is a number: what a provider answered may be secret."""
    kind = type(value).__name__
    return f"{kind} {value!r}" if isinstance(value, int | float | Decimal) else "None" if value is None else kind
