"""What a client is told when something went wrong, the same over HTTP and WebSocket, and what the log is told instead.

Decides the status and the words for each family of errors. Leaves transport to the callers. Invariant: an error that is
not the client's business tells it nothing but that it happened, and the log why; everything else has a stable `code`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec

from ensue.engine.read.json_form import to_json
from ensue.errors import ConstraintViolated, NotFound, Rejected, Unavailable
from ensue.schema.record import Record

logger = logging.getLogger("ensue.server")

INTERNAL = "internal"
RETRY_AFTER_SECONDS = 1

_STATUS_OF_REJECTION: Mapping[str, int] = {
    "not_authenticated": HTTPStatus.UNAUTHORIZED,
    "wrong_credentials": HTTPStatus.UNAUTHORIZED,
    "not_allowed": HTTPStatus.FORBIDDEN,
    "origin_not_allowed": HTTPStatus.FORBIDDEN,
    "idempotency_mismatch": HTTPStatus.CONFLICT,
    "effect_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}
_CONFLICTS = frozenset({"unique", "reference"})


class Refusal(Exception):
    """A request that the server itself refuses; `answer` is what the client is told."""

    def __init__(self, status: int, code: str, message: str, *, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.answer = ErrorAnswer(status, code, message, dict(fields or {}))


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """What a client is told: an HTTP status, a word for programs, a sentence for people, and the wrong inputs."""

    status: int
    code: str
    message: str
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    retry_after_seconds: int | None = None

    @property
    def is_defect(self) -> bool:
        """Whether somebody should look into the log."""
        return self.status == HTTPStatus.INTERNAL_SERVER_ERROR

    def body(self, request_id: str) -> dict[str, Any]:
        """The one shape of errors: `{"error": {"code", "message", "fields", "request_id"}}`."""
        return {
            "error": {"code": self.code, "message": self.message, "fields": dict(self.fields), "request_id": request_id}
        }


def answer_to(error: BaseException) -> ErrorAnswer:
    """What to tell the client that caused `error`."""
    if isinstance(error, Refusal):
        return error.answer
    if isinstance(error, Rejected):
        pause: object = getattr(error, "retry_after_seconds", None)
        if isinstance(pause, int | float):
            return ErrorAnswer(
                HTTPStatus.TOO_MANY_REQUESTS,
                error.reason,
                error.message or error.reason,
                error.fields,
                retry_after_seconds=max(1, math.ceil(pause)),
            )
        return ErrorAnswer(_status_of(error), error.reason, error.message or error.reason, error.fields)
    if isinstance(error, NotFound):
        return ErrorAnswer(HTTPStatus.NOT_FOUND, "not_found", str(error))
    if isinstance(error, Unavailable) and error.retryable:
        # The message names databases and hosts, which are for the log.
        text = "This can't be done now. Try again in a moment."
        return ErrorAnswer(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", text, retry_after_seconds=RETRY_AFTER_SECONDS)
    if isinstance(error, Unavailable):
        return ErrorAnswer(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "This can't be done now.")
    text = "Something went wrong on the server. The log has it under this request_id."
    return ErrorAnswer(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL, text)


def log_failure(what: str, error: Exception, answer: ErrorAnswer) -> None:
    """Tell the log what `answer` keeps from the client that asked for `what`: what broke, or why it can't be done now."""
    if answer.is_defect:
        logger.error("%s failed", what, exc_info=error)
    elif isinstance(error, Unavailable):
        logger.warning("%s can't be done now: %s", what, error)


def encode(value: Any) -> bytes:
    """`value` as JSON, records in it by their loaded fields. Raises TypeError for what JSON can't say."""
    return msgspec.json.encode(value, enc_hook=_encode_other)


def _encode_other(value: object) -> Any:
    if isinstance(value, Record):
        return to_json(value)
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


def _status_of(error: Rejected) -> int:
    if isinstance(error, ConstraintViolated) and error.reason in _CONFLICTS:
        return HTTPStatus.CONFLICT
    return _STATUS_OF_REJECTION.get(error.reason, HTTPStatus.UNPROCESSABLE_ENTITY)
