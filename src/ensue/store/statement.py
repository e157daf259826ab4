"""The two requests that the sans-I/O engine can make, and the statement that one of them runs.

The engine is made of generators that yield `Run` or `Call`. A driver answers: to `Run` with the rows as a list of tuples, to
`Call` with what the callback returned. SQLite's driver runs a whole generator in its writer thread and comes back to the event
loop only at a `Call`; PostgreSQL's awaits each request. Invariant: nothing else is ever yielded.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")

Row = tuple[Any, ...]
Access = Literal["read", "write", "add", "aside"]


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """What must be known of a statement to run it for several pieces of work in one transaction, each as if alone in it.

    `access`: it reads rows or writes them; `add` moves them in a way that commutes, unseen; `aside` leaves nothing to roll back.
    `ids(run)`: the rows of `table` that a request is about; they are the requester's, alone if `exclusive`, until it is done.
    `lock` takes a list of ids and locks those rows in order, which one statement that writes several would not.
    `join(runs)`: the parameters of `many` (of the statement itself, if None) that do what the requests do. Without it they
    are run one after another. If it returns rows, each belongs to who asked for the id in its first cell, or `split(runs, rows)`
    says which are whose.
    """

    access: Access
    table: str = ""
    exclusive: bool = False
    ids: "Callable[[Run], Sequence[Any]] | None" = None
    lock: "Statement | None" = None
    many: "Statement | None" = None
    join: "Callable[[Sequence[Run]], Sequence[Any]] | None" = None
    split: "Callable[[Sequence[Run], Sequence[Row]], Sequence[list[Row]]] | None" = None


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """SQL text with positional parameters in the dialect of one driver, compiled once.

    `name` shows in logs, traces, errors and statement counts (`post.insert`). `rows` says whether it returns rows. `shared`: how
    it is run for several at once, if it can be.
    """

    name: str
    text: str
    rows: bool = False
    shared: Shared | None = None


class Run:
    """Run a statement; the answer is its rows (`list[tuple]`, empty when it returns none).

    `params` are database values already. With `many` they are a sequence of parameter tuples and the statement, which returns no
    rows, is run once for each. `given` is what `params` were made of, where `Shared.join` needs that.
    """

    __slots__ = ("given", "many", "params", "statement")

    def __init__(
        self, statement: Statement, params: Sequence[Any] = (), *, many: bool = False, given: Any = None
    ) -> None:
        self.statement = statement
        self.params = params
        self.many = many
        self.given = given


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
