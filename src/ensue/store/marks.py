"""How the parameters of a statement are written in each dialect.

Decides that PostgreSQL is told their types, as it can't know those of texts and numbers that nothing is compared with.
Invariant: parameters are positional, and numbered as they are given.
"""

from typing import Literal

from ensue.store.driver import Dialect


def marks(dialect: Dialect, *types: Literal["text", "bigint"], first: int = 1) -> tuple[str, ...]:
    """What stands for the parameters of these types, from number `first` on.

    >>> marks("sqlite", "text", "bigint")
    ('?1', '?2')
    >>> marks("postgresql", "text", "bigint", first=2)
    ('$2::text', '$3::bigint')
    """
    if dialect == "sqlite":
        return tuple(f"?{number}" for number in range(first, first + len(types)))
    return tuple(f"${number}::{type_}" for number, type_ in enumerate(types, start=first))
