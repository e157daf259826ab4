"""Log records as JSON lines that carry the ids of the request and the dispatch they belong to.

Decides the form of a line and which ids are in it. Leaves what is logged, and where to, to the callers. Invariant:
nothing here reads bodies, headers or query strings, so no secret of a client can get into a line through it.
"""

from __future__ import annotations

import logging
import re
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec

request_id: ContextVar[str] = ContextVar("ensue_request_id", default="")
"""The id of the HTTP request or WebSocket connection that is being served; empty outside of one."""
dispatch_id: ContextVar[str] = ContextVar("ensue_dispatch_id", default="")
"""The id of the single call within it; empty outside of one."""

_ACCEPTED_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def new_id() -> str:
    """An id that no other request has."""
    return uuid.uuid4().hex


def accepted_id(given: str | None) -> str:
    """The id that a client or proxy gave (`X-Request-Id`) if it is fit for a log, else a new one."""
    return given if given is not None and _ACCEPTED_ID.fullmatch(given) else new_id()


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the ids, what was given as `extra=`, and the traceback.

    >>> served = {"name": "ensue", "msg": "served", "levelname": "INFO", "created": 0.0, "status": 200}
    >>> JsonFormatter().format(logging.makeLogRecord(served))
    '{"time":"1970-01-01T00:00:00Z","level":"INFO","logger":"ensue","message":"served","status":200}'
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for variable, name in ((request_id, "request_id"), (dispatch_id, "dispatch_id")):
            if value := variable.get():
                line[name] = value
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


QUIET: Final = ("httpx", "httpx2", "httpcore", "httpcore2")
"""HTTP clients: they log whole URLs, and headers of answers, in which tokens may be."""


def log_to(stream: TextIO, *, level: str = "INFO") -> None:
    """Write everything that is logged from `level` on to `stream`, as JSON lines; what `ensue run` does.

    Of HTTP clients only warnings, unless the application has set the level of their loggers before.
    """
    output = logging.StreamHandler(stream)
    output.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [output]
    root.setLevel(level)
    for name in QUIET:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel("WARNING")
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        # Its lines about connections quote query strings, where WebSocket clients put their tokens.
        logger.setLevel("WARNING")
