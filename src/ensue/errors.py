"""Every error class of ensue, in the four families that a caller tells apart.

`DeclarationError`: fix the schema or the call. `RejectedError` (`Rejected`): this interaction or value is not allowed; it goes
to the client. `UnavailableError`: try again later. `InternalError`: a defect of ensue. Each class has a stable `code`.
Messages go: what, where, found, expected, what to do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


class EnsueError(Exception):
    """Root of all errors that ensue raises on purpose."""

    code = "E0000"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a declaration stands: file and line, taken in its constructor."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


# --- Declarations ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a declaration: `message` says what, found, expected and what to do."""

    code: str
    message: str
    origin: Origin | None = None

    def __str__(self) -> str:
        where = f" ({self.origin})" if self.origin is not None else ""
        return f"[{self.code}] {self.message}{where}"


class DeclarationError(EnsueError, ValueError):
    """The declarations are wrong. `problems` holds all that were found, each with file and line."""

    code = "E0100"
    summarised: ClassVar[bool] = False
    """Whether the first of `problems` is a summary of the others."""

    def __init__(self, problems: Sequence[Problem] | Problem | str) -> None:
        if isinstance(problems, str):
            problems = Problem(self.code, problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ExpressionError(DeclarationError, TypeError):
    """An expression was used as a plain Python value (`and`, `or`, `not`, `in`, `if`), or has wrong operand types."""

    code = "E0110"


class PlannedError(DeclarationError, NotImplementedError):
    """The API names this feature; it is not built yet, and it is refused rather than ignored."""

    code = "E0190"


class UsageError(EnsueError, RuntimeError):
    """A call at the wrong time or place: outside the life cycle, from another task, on a derived column."""

    code = "E0200"


class WrongResult(UsageError):
    """A function that the application gave to ensue returned what can't be used, such as a Transform no mapping.

    A fault of the application and not of who called it: a client is told no more than that something went wrong.
    """

    code = "E0220"


# --- Rejections: they go to the client -------------------------------------------------------------------------------


class Rejected(EnsueError):
    """An interaction or a write is not allowed; nothing was written.

    `reason` is a stable word for programs (`"not_allowed"`), `message` a sentence for people, `fields` says which
    inputs are wrong and why.

    >>> Rejected("too_long", "A title has at most 80 characters.").reason
    'too_long'
    """

    code = "E0300"

    def __init__(self, code: str, message: str = "", *, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.reason = code
        self.message = message
        self.fields: dict[str, str] = dict(fields or {})


class InvalidValue(Rejected, ValueError):
    """Values that the schema does not accept; `fields` names each wrong one."""

    def __init__(self, message: str, *, fields: Mapping[str, str] | None = None) -> None:
        super().__init__("invalid", message, fields=fields)


class ConstraintViolated(Rejected):
    """A unique, reference or check constraint refused a write. `constraint` is its name in the schema."""

    def __init__(
        self, code: str, message: str, *, constraint: str = "", fields: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code, message, fields=fields)
        self.constraint = constraint


class NotFound(EnsueError, LookupError):
    """The record that was to be read, updated or deleted does not exist."""

    code = "E0310"


class NotLoaded(EnsueError, AttributeError):
    """A field that was not among the `fields=` of the read. Nothing is fetched behind the user's back."""

    code = "E0210"


# --- Unavailable: try again ------------------------------------------------------------------------------------------


class Unavailable(EnsueError):
    """The database or a peer can't do it now. `retryable` says whether the same call may succeed later."""

    code = "E0400"

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class Conflict(Unavailable):
    """A deadlock or serialization failure: the transaction was rolled back and may be run again as a whole."""

    code = "E0410"


class Throttled(Unavailable):
    """The other side asked to wait: nothing more goes to the target of the effect until `retry_after_seconds` have passed.

    Uses up no attempt.

    >>> raise Throttled(float(response.headers["Retry-After"]))
    """

    code = "E0430"

    def __init__(self, retry_after_seconds: float, message: str = "") -> None:
        if not isinstance(retry_after_seconds, int | float):  # pyright: ignore[reportUnnecessaryIsInstance] - a header is text
            raise UsageError(
                f"Throttled({retry_after_seconds!r}): expected seconds as a number, such as float(…) of a header."
            )
        super().__init__(message or f"told to wait {retry_after_seconds:g} s")
        self.retry_after_seconds = retry_after_seconds


class UnknownOutcome(EnsueError):
    """The call may have been accepted: it must not be made again before somebody has asked.

    A side effect with `verify=` asks by itself; without, the effect waits for `ensue effects resolve`.
    """

    code = "E0431"


# --- Defects of ensue ------------------------------------------------------------------------------------------------


class InternalError(EnsueError):
    """A defect of ensue, not of the application: please report it with the message."""

    code = "E0900"
