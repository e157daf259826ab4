"""Turn the values of a new record into its row: defaults, checks, initial values of what derives, local formulas.

One generated function per record type: it tests the exact type of each value first and goes through the full check only when that
fails, so a correct record costs little. Wrong values are reported all at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ensue.errors import InvalidValue, WrongResult
from ensue.expression.nodes import Column, columns
from ensue.expression.python import compile_function, source
from ensue.plan.plan import ColumnPlan
from ensue.plan.strata import Heights
from ensue.plan.values import ID_MAX, INT_MAX, INT_MIN, Normalise, link_normaliser, normaliser, placeholder
from ensue.schema.model import NO_DEFAULT, NOW, CustomModel, FieldModel, Formula, LinkModel, Machine, Model, RecordModel

MISSING: Any = object()

_FAST_TESTS = {
    "str": "type(v) is str and v.isascii() and '\\0' not in v",
    "int": f"type(v) is int and {INT_MIN} <= v <= {INT_MAX}",
    "bool": "type(v) is bool",
    "bytes": "type(v) is bytes",
    "datetime": "type(v) is datetime and v.tzinfo is UTC",
}

Admit = Callable[[Mapping[str, Any], Any], list[Any]]


def normalisers(model: Model, record: RecordModel) -> dict[str, Normalise]:
    """The check of each member that holds a value, by name: of what is written, and of what the app's functions give."""
    found: dict[str, Normalise] = {
        field.name: normaliser(field.type, optional=field.optional) for field in record.fields.values()
    }
    for link in record.links.values():
        names = frozenset({link.target, model.records[link.target].cls.__name__})
        found[link.name] = link_normaliser(link.target, names, optional=link.optional)
    return found


def given(record: RecordModel, checks: Mapping[str, Normalise]) -> dict[str, Normalise]:
    """The checks of the members that a write may give: neither derived nor owned by a Transform."""
    derived = {field.name for field in record.fields.values() if field.computation is not None}
    withheld = derived | _owned(record)
    return {name: check for name, check in checks.items() if name not in withheld}


def _owned(record: RecordModel) -> frozenset[str]:
    transform = record.transform
    if transform is None or transform.event:
        return frozenset()
    return (
        frozenset(record.fields) | frozenset(record.links)
        if transform.mapping is None
        else frozenset(transform.mapping)
    )


def compile_admit(
    record: RecordModel, plans: Sequence[ColumnPlan], checks: Mapping[str, Normalise], classes: Mapping[str, type[Any]]
) -> Admit:
    """The function from given values (and the transaction's instant) to a row as a list, id None unless given."""
    writer = _AdmitWriter(record, checks, classes)
    body = writer.lines(plans)
    reject = _Rejecter(record, checks)
    constants: dict[str, Any] = {
        **writer.constants,
        "MISSING": MISSING,
        "reject": reject,
        "datetime": datetime,
        "UTC": UTC,
    }
    return compile_function("admit", ("values", "now"), body, constants)


class _AdmitWriter:
    def __init__(self, record: RecordModel, checks: Mapping[str, Normalise], classes: Mapping[str, type[Any]]) -> None:
        self._record = record
        self._classes = classes
        self._checks = checks
        self.constants: dict[str, Any] = {}

    def lines(self, plans: Sequence[ColumnPlan]) -> list[str]:
        lines = ["get = values.get", "used = 0", "try:"]
        names: list[str] = []
        for position, column in enumerate(plans):
            name = f"c{position}"
            names.append(name)
            lines.extend(f"    {line}" for line in self._column(column, name))
        lines += [
            "except (ValueError, TypeError):",
            "    raise reject(values) from None",
            "if used != len(values):",
            "    raise reject(values)",
            f"return [{', '.join(names)}]",
        ]
        return lines

    def constant(self, value: Any) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = value
        return name

    def _column(self, column: ColumnPlan, name: str) -> Iterator[str]:
        if column.role == "id":
            yield f"{name} = get('id')"
            yield f"if {name} is not None or 'id' in values:"
            yield "    used += 1"
            yield f"    if {name} is not None and (type({name}) is not int or not 0 < {name} <= {ID_MAX}): raise ValueError"
        elif column.role in ("given", "link") and column.name in self._checks:
            yield from self._given(column, name)
        else:
            yield f"{name} = {self._initial(column)}"

    def _initial(self, column: ColumnPlan) -> str:
        field = self._record.fields.get(column.name)
        if field is not None and isinstance(field.computation, Machine | CustomModel | Formula):
            return self._start(field, field.computation)
        if field is not None and field.computation is None and field.default is not NO_DEFAULT:
            return self._default_of(field, normaliser(field.type, optional=field.optional))
        return "None" if column.initial is None else self.constant(column.initial)

    def _start(self, field: FieldModel, computation: Machine | CustomModel | Formula) -> str:
        """What a derived column holds until its computation has run: the default that it inherited, or its first value."""
        if field.default is not NO_DEFAULT:
            return self._default_of(field, normaliser(field.type, optional=field.optional))
        if isinstance(computation, Machine):
            function = computation.values.get(computation.initial)
            if function is None:
                return self.constant(normaliser(field.type, optional=True)(computation.initial))
            check = normaliser(field.type, optional=field.optional)
            what = f"value= of the initial state {computation.initial!r} of {self._place(field)}"
            return f"{self.constant(_called(lambda: function(None, None), what, check=check))}()"
        return "None" if field.optional else self.constant(placeholder(field.type))

    def _default_of(self, field: FieldModel, check: Normalise) -> str:
        default = field.default
        if default is NOW:
            return "now"
        if callable(default):
            what = f"default= of {self._place(field)}"
            return f"{self.constant(_called(default, what, check=check))}()"
        return self.constant(check(default))

    def _place(self, field: FieldModel) -> str:
        return f"{self._record.name}.{field.name} ({field.origin})"

    def _given(self, column: ColumnPlan, name: str) -> Iterator[str]:
        check = self.constant(self._checks[column.name])
        yield f"v = get({column.name!r}, MISSING)"
        yield "if v is MISSING:"
        yield f"    {name} = {self._default(column)}"
        yield "else:"
        yield "    used += 1"
        if column.role == "link":
            # A saved record of the very class, or an id: what it nearly always is.
            assert column.target is not None
            yield f"    i = v._values.get('id') if type(v) is {self.constant(self._classes[column.target])} else None"
            yield f"    {name} = v if type(v) is int else i if i is not None else {check}(v)"
            return
        fast = _FAST_TESTS.get(column.type.kind)
        yield f"    {name} = {check}(v)" if fast is None else f"    {name} = v if {fast} else {check}(v)"

    def _default(self, column: ColumnPlan) -> str:
        if column.role == "link":
            return "None" if self._record.links[column.name].has_default else "reject.missing()"
        default = self._record.fields[column.name].default
        if default is NO_DEFAULT:
            return "reject.missing()"
        return self._default_of(self._record.fields[column.name], self._checks[column.name])


def _called(function: Callable[[], Any], what: str, *, check: Normalise) -> Callable[[], Any]:
    """A function of the application that makes a value. What goes wrong in it is no fault of the values that were given."""

    def make() -> Any:
        try:
            value = function()
        except (ValueError, TypeError) as error:
            raise WrongResult(f"The function given as {what} raised {type(error).__name__}: {error}") from error
        try:
            return check(value)
        except (ValueError, TypeError) as error:
            raise WrongResult(f"The function given as {what} gave a wrong value: {error}.") from error

    return make


class _Rejecter:
    """Builds the one error for all that is wrong with the values of a new record."""

    def __init__(self, record: RecordModel, checks: Mapping[str, Normalise]) -> None:
        self._record = record
        self._checks = checks

    def missing(self) -> Any:
        raise ValueError

    def __call__(self, values: Mapping[str, Any]) -> InvalidValue:
        wrong = dict(_problems(self._record, self._checks, values))
        listed = "; ".join(f"{name}: {why}" for name, why in wrong.items())
        return InvalidValue(f"{self._record.name} does not accept: {listed}.", fields=wrong)


def _problems(
    record: RecordModel, checks: Mapping[str, Normalise], values: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        check = checks.get(name)
        if check is None:
            if name != "id":
                yield name, _refusal(record, name, checks)
            elif value is not None and (type(value) is not int or not 0 < value <= ID_MAX):
                yield name, f"an id is an int from 1 to {ID_MAX}; what is allotted later comes above it"
            continue
        try:
            check(value)
        except (ValueError, TypeError) as error:
            yield name, str(error)
    for name in checks:
        if name not in values and is_required(record, name):
            yield name, "is required"


def is_required(record: RecordModel, name: str) -> bool:
    """Whether a new record must be given the field or link."""
    link: LinkModel | None = record.links.get(name)
    return not link.has_default if link is not None else record.fields[name].default is NO_DEFAULT


def _refusal(record: RecordModel, name: str, checks: Mapping[str, Normalise]) -> str:
    field = record.fields.get(name)
    if field is not None and field.computation is not None:
        return (
            f"is derived (declared at {field.origin}) and can't be given; change what it derives from, or create an event "
            "record that its state machine listens to"
        )
    if name in record.fields or name in record.links:
        return f"is owned by the Transform that derives {record.name}; change the record it derives from"
    return f"is no stored property or link of {record.name}; there are: {', '.join(sorted(checks))}"


def compile_local(
    heights: Heights, record: RecordModel, plans: Sequence[ColumnPlan]
) -> Callable[[list[Any]], None] | None:
    """A function that recomputes, in a row given as a list, the formulas over its own stored columns."""
    index = {column.name: position for position, column in enumerate(plans)}
    local = [
        (field.name, field.computation.value)
        for field in record.fields.values()
        if isinstance(field.computation, Formula) and heights.is_local(record.name, field.computation.value)
    ]
    if not local:
        return None
    constants: dict[str, Any] = {}
    ordered = _by_dependency(local)

    def column(node: Column) -> str:
        return f"row[{index[node.field]}]"

    lines = [f"row[{index[name]}] = {source(value, column, constants)}" for name, value in ordered]
    return compile_function("local", ("row",), lines, constants)


def _by_dependency(local: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Formulas ordered so that one that reads another comes after it."""
    values = dict(local)
    ordered: dict[str, Any] = {}

    def visit(name: str) -> None:
        if name in ordered:
            return
        for node in columns(values[name]):
            if node.field in values:
                visit(node.field)
        ordered[name] = values[name]

    for name in values:
        visit(name)
    return list(ordered.items())
