"""The two requests that the sans-I/O engine can make, and the statement that one of them runs.

The engine is made of generators that yield `Run` or `Call`. A driver answers: to `Run` with the rows as a list of tuples, to
`Call` with what the callback returned. SQLite's driver runs a whole generator in its writer thread and comes back to the event
loop only at a `Call`; PostgreSQL's awaits each request. Invariant: nothing else is ever yielded.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """SQL text with positional parameters in the dialect of one driver, compiled once.

    `name` shows in logs, traces, errors and statement counts (`post.insert`). `rows` says whether it returns rows.
    """

    name: str
    text: str
    rows: bool = False


class Run:
    """Run a statement; the answer is its rows (`list[tuple]`, empty when it returns none).

    `params` are database values already. With `many` they are a sequence of parameter tuples and the statement, which returns no
    rows, is run once for each.
    """

    __slots__ = ("many", "params", "statement")

    def __init__(self, statement: Statement, params: Sequence[Any] = (), *, many: bool = False) -> None:
        self.statement = statement
        self.params = params
        self.many = many


class Call:
    """Await `function(session)` on the event loop, in the task that waits for the work; the answer is its result.

    `session` (a `driver.Session`) runs further work in the same transaction while this one waits: a callback may read. An
    exception of the function is raised inside the generator.
    """

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Any], Awaitable[Any]]) -> None:
        self.function = function


Request = Run | Call
Work = Generator[Request, Any, T]
"""A piece of engine work that ends with a T."""
