"""Say what a database's refusal means in the words of the schema: record types and members instead of tables and columns.

Invariant: the `code` of the error stays (`unique`, `reference`, `check`, `not_null`), and so does `constraint`.
"""

from collections.abc import Mapping

from ensue.errors import ConstraintViolated
from ensue.expression.wording import wording
from ensue.plan.plan import Plan, RecordPlan


def in_schema_words(plan: Plan, error: ConstraintViolated) -> ConstraintViolated:
    """The same refusal, naming the record type and its members where they are known."""
    if error.code == "check":
        return _check(plan, error)
    table, _, columns = error.constraint.partition("(")
    record = plan.by_table.get(table)
    if record is None or not columns.endswith(")"):
        return error
    names = [_member(record, column) for column in columns[:-1].split(",")]
    if error.code == "unique":
        shown = " and ".join(names)
        message = f"There is another {record.name} with the same {shown}."
        return _named(error, message, dict.fromkeys(names, "is already taken"))
    if error.code == "not_null":
        return _named(error, f"{record.name}.{names[0]} must not be None.", {names[0]: "must not be None"})
    return error


def _check(plan: Plan, error: ConstraintViolated) -> ConstraintViolated:
    found = plan.checks.get(error.constraint)
    if found is None:
        return error
    record, name = found
    field = plan.records[record].model.fields[name]
    named = _named(
        error, f"The value of {record}.{name} does not satisfy its check=.", {name: "does not satisfy its check"}
    )
    # The message goes to clients, whom the place of a declaration doesn't concern.
    if field.check is not None:
        named.add_note(f"declared at {field.origin}: {wording(field.check)}")
    return named


def _member(record: RecordPlan, column: str) -> str:
    return next((plan.name for plan in record.columns if plan.column == column.strip()), column)


def _named(error: ConstraintViolated, message: str, fields: Mapping[str, str]) -> ConstraintViolated:
    return ConstraintViolated(error.code, message, constraint=error.constraint, fields=fields)
