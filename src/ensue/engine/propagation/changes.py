"""What changed, consolidated: per record the first old image and the last new one.

Invariant: a record that was created and deleted within the span is not in it, and one whose images are equal doesn't count.
"""

from ensue.plan.plan import Row

Images = tuple[Row | None, Row | None]
Changes = dict[str, dict[int, Images]]
"""record type -> id -> (old image, new image); None where there was, or is, no such record."""


def note(changes: Changes, record: str, old: Row | None, new: Row | None) -> None:
    """Add one change to `changes`, folding it into an earlier one of the same record."""
    row = new if new is not None else old
    assert row is not None
    table = changes.get(record)
    if table is None:
        table = changes[record] = {}
    id_ = row[0]
    earlier = table.get(id_)
    if earlier is None:
        table[id_] = (old, new)
    elif earlier[0] is None and new is None:
        del table[id_]
    else:
        table[id_] = (earlier[0], new)


def note_created(changes: Changes, record: str, rows: list[Row]) -> None:
    """Add many creations of one record type, whose ids are new."""
    table = changes.setdefault(record, {})
    for row in rows:
        id_ = row[0]
        earlier = table.get(id_)
        table[id_] = (None if earlier is None else earlier[0], row)


def merge(into: Changes, later: Changes) -> None:
    """Fold the changes of a later span into an earlier one; `later` must not be used any more."""
    for record, table in later.items():
        if record not in into:
            into[record] = table
            continue
        for old, new in table.values():
            note(into, record, old, new)
