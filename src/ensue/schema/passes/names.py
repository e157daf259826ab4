"""Checks of names: what is reserved, what clashes, in the schema and in the database.

Decides which names can't stand together; everything about types is found where it is built. Invariant: reports to the
`Build`, never raises.
"""

from __future__ import annotations

from ensue.schema.computations.contract import Computation
from ensue.schema.entity import Entity, Relation
from ensue.schema.member import Member
from ensue.schema.model import RecordKind
from ensue.schema.passes.build import Build
from ensue.schema.relation import Collection, Link
from ensue.schema.schema import Draft
from ensue.schema.written.names import ENTITY_RESERVED, INTERACTION_RESERVED, name_problem, snake_case

TABLE_BYTES_MAX = 54
"""PostgreSQL keeps 63 bytes of a name, and the sequence of a table's ids is called `ensue_id_` and the table's name."""
COLUMN_BYTES_MAX = 63
COLUMNS_MAX = 1500
HIDDEN_BYTES = len("__sum__scale")
"""Of the longest suffix of what is kept, or computed in an audit, beside a derived column."""
_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_PREFIXES = {"ensue_": "the framework", "sqlite_": "SQLite"}


def table_name(name: str, kind: RecordKind) -> str:
    """The table of a record type."""
    return f"ensue_event_{snake_case(name)}" if kind == "event" else snake_case(name)


def check_names(build: Build) -> None:
    """Report reserved names, clashing tables and columns, and subclasses that say nothing new."""
    tables: dict[str, Draft] = {}
    for draft in build.drafts.values():
        _check_class(build, draft)
        _check_members(build, draft)
        table = table_name(draft.name, draft.kind)
        first = tables.setdefault(table, draft)
        if first is not draft:
            build.problem(
                f"{first.name} and {draft.name} would both have the table {table!r}. Rename one of them.", draft.origin
            )
        elif draft.kind != "event" and (owned := _reserved_prefix(table)) is not None:
            build.problem(
                f"{draft.name} would have the table {table!r}, and names with {owned} belong to {_PREFIXES[owned]}. "
                "Rename it.",
                draft.origin,
            )
        elif (size := len(table.encode())) > TABLE_BYTES_MAX:
            build.problem(
                f"{draft.name} would have the table {table!r}, a name of {size} bytes; expected at most "
                f"{TABLE_BYTES_MAX}, as PostgreSQL cuts what is longer. Rename it.",
                draft.origin,
            )


def _reserved_prefix(table: str) -> str | None:
    return next((prefix for prefix in _PREFIXES if table.startswith(prefix)), None)


def _check_class(build: Build, draft: Draft) -> None:
    for base in draft.cls.__mro__[1:]:
        if issubclass(base, Entity) and base not in (Entity, Relation) and not base.__dict__.get("__ensue_abstract__"):
            build.problem(
                f"{draft.name} is a subclass of {base.__name__}, which has records of its own. Make {base.__name__} "
                f"abstract=True, or declare {draft.name} beside it.",
                draft.origin,
            )
            return


def _check_members(build: Build, draft: Draft) -> None:
    reserved = INTERACTION_RESERVED if draft.kind == "event" else ENTITY_RESERVED
    columns: dict[str, str] = {"id": "id"}
    for name, member in draft.members.items():
        problem = None if draft.implicit else name_problem(name, reserved)
        if problem is not None:
            build.problem(f"{draft.name}.{name}: {problem}", member.origin)
            build.give_up(draft.name, name)
        elif not isinstance(member, Collection):
            _check_column(build, draft, member, name, columns=columns)
    if len(columns) > COLUMNS_MAX:
        build.problem(
            f"{draft.name} would have {len(columns)} columns; expected at most {COLUMNS_MAX}, as databases have room for few "
            "more, and hidden ones come to them. Put some into a record of their own, or into one dict.",
            draft.origin,
        )


def _check_column(build: Build, draft: Draft, member: Member, name: str, *, columns: dict[str, str]) -> None:
    column = f"{name}_id" if isinstance(member, Link) else name
    if column in _SYSTEM_COLUMNS:
        build.problem(
            f"{draft.name}.{name}: PostgreSQL has a column {column!r} of its own in every table. Choose another name.",
            member.origin,
        )
    first = columns.setdefault(column.lower(), name)
    if first != name:
        build.problem(
            f"{draft.name}.{name}: its column {column!r} is that of {draft.name}.{first} too. Rename one of them.",
            member.origin,
        )
        build.give_up(draft.name, name)
    most = COLUMN_BYTES_MAX - (HIDDEN_BYTES if isinstance(member, Computation) else 0)
    if (size := len(column.encode())) > most:
        build.problem(
            f"{draft.name}.{name}: its column {column!r} has a name of {size} bytes; expected at most {most}, as PostgreSQL "
            "cuts what is longer. Rename it.",
            member.origin,
        )
        build.give_up(draft.name, name)
