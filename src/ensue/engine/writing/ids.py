"""Ids: allotted by the process from blocks that the database gives out, so that no insert waits to learn its id.

SQLite: a row per family in `ensue_id_block`, taken inside the writing transaction, so a rollback takes the block back and it must
be forgotten here too, before the next transaction begins. PostgreSQL: a sequence that steps by the block's size. Ids are unique,
not chronological across processes. Invariant: an id that was found to be in use is not given out again.
"""

from collections.abc import Sequence

from ensue.plan.ddl import ID_BLOCK, sequence_name
from ensue.store.driver import Dialect
from ensue.store.statement import Run, Shared, Statement, Work

_SQLITE_TAKE = Statement(
    "ensue_id_block.take",
    "INSERT INTO ensue_id_block (table_name, next) VALUES (?1, 1 + ?2) "
    "ON CONFLICT (table_name) DO UPDATE SET next = ensue_id_block.next + ?2 RETURNING next",
    rows=True,
)
_SQLITE_MOVE = Statement(
    "ensue_id_block.move",
    "INSERT INTO ensue_id_block (table_name, next) VALUES (?1, 1 + ?2) "
    "ON CONFLICT (table_name) DO UPDATE SET next = max(ensue_id_block.next, 1 + ?2)",
)
_POSTGRES_TAKE = Statement(
    "ensue_id_block.take",
    "SELECT nextval($1::text::regclass) FROM generate_series(1, $2::bigint)",
    rows=True,
    shared=Shared("aside"),
)
_POSTGRES_MOVE = Statement(
    "ensue_id_block.move",
    "SELECT CASE WHEN coalesce(s.last_value, 0) <= $2::bigint THEN setval($1::text::regclass, $2::bigint) END "
    "FROM pg_sequences s WHERE s.schemaname = current_schema() AND s.sequencename = $3::text",
    rows=True,
)


class IdBlocks:
    """The blocks that this process holds, by family."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._free: dict[str, list[range]] = {}
        self._in_use: dict[str, int] = {}  # by family, up to which id some were found in use that should have been free

    def take(self, family: str, count: int, taken: list[str]) -> Work[Sequence[int]]:
        """`count` fresh ids. A family whose block came from the database now is added to `taken`."""
        ids: list[int] = []
        blocks = self._free.setdefault(family, [])
        while len(ids) < count:
            if not blocks:
                taken.append(family)
                blocks.extend((yield from self._fetch(family, count - len(ids))))
            block = blocks.pop()
            wanted = count - len(ids)
            ids.extend(block[:wanted])
            if len(block) > wanted:
                blocks.append(block[wanted:])
        return ids

    def _fetch(self, family: str, wanted: int) -> Work[list[range]]:
        blocks = yield from self._fetch_blocks(family, wanted)
        in_use = self._in_use.get(family, 0)
        if any(block.start <= in_use for block in blocks):
            yield from self._move(family, in_use)
            blocks = yield from self._fetch_blocks(family, wanted)
        return blocks

    def _fetch_blocks(self, family: str, wanted: int) -> Work[list[range]]:
        if self._dialect == "sqlite":
            size = max(ID_BLOCK, wanted)
            ((after,),) = yield Run(_SQLITE_TAKE, (family, size))
            return [range(after - size, after)]
        blocks = -(-wanted // ID_BLOCK)
        starts: list[tuple[int]] = yield Run(_POSTGRES_TAKE, (f'"{sequence_name(family)}"', blocks))
        return [range(start, start + ID_BLOCK) for (start,) in reversed(starts)]

    def reserve(self, family: str, highest: int) -> Work[None]:
        """An id up to `highest` was given by hand: later blocks start above it, and our own is dropped if it overlaps."""
        self.forget(family)
        yield from self._move(family, highest)

    def _move(self, family: str, highest: int) -> Work[None]:
        if self._dialect == "sqlite":
            yield Run(_SQLITE_MOVE, (family, highest))
        else:
            name = sequence_name(family)
            yield Run(_POSTGRES_MOVE, (f'"{name}"', highest, name))

    def forget(self, family: str) -> None:
        """Drop what is left of a family's blocks: rolled back."""
        self._free.pop(family, None)

    def found_in_use(self, family: str, highest: int) -> None:
        """One of the ids up to `highest` was in use already: later blocks start above it, whatever the database says."""
        self.forget(family)
        self._in_use[family] = max(highest, self._in_use.get(family, 0))
