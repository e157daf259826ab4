"""Records as JSON and back: for HTTP, WebSocket, and the payloads of effects.

Decides the JSON form of each value kind: instants and dates in ISO 8601, decimals, UUIDs as text, bytes in base64,
enum members by value. A reference is an object with at least its id, a collection an array; what was not loaded is
absent. Leaves the choice of fields to the read. Invariant: `from_json(model, name, to_json(record))` has the same
loaded fields with equal values.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, cast
from uuid import UUID

import msgspec

from ensue.errors import InternalError
from ensue.expression.types import ValueType
from ensue.schema.model import Model, RecordModel
from ensue.schema.record import Record, make_record, record_model, record_values, refuse_private


def json_value(value: Any) -> Any:
    """One value in its JSON form: a scalar, a record, or a list or mapping of them.

    >>> json_value([Decimal("1.50"), b"x"])
    ['1.50', 'eA==']
    """
    form = _FORMS.get(value.__class__)
    return _other(value) if form is None else form(value)


def _same(value: Any) -> Any:
    return value


def _instant(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _bytes(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _list(value: list[Any]) -> list[Any]:
    return [json_value(item) for item in value]


def _mapping(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: json_value(item) for key, item in value.items()}


def _other(value: Any) -> Any:
    """Subclasses, and what only its behaviour tells."""
    if isinstance(value, Enum):
        return value.value
    for kind, form in _FORMS.items():
        if isinstance(value, kind):
            return form(value)
    return msgspec.to_builtins(value)


def to_json(record: Record) -> dict[str, Any]:
    """What a record holds, as a JSON object: `{"id": 1, "title": "x", "author": {"id": 7}}`."""
    refuse_private(record)
    values = record_values(record)
    model = record_model(record)
    known = model.records.get(type(record).__name__) if model is not None else None
    if known is None:
        return _mapping(values)
    return {name: _reference(value) if name in known.links else json_value(value) for name, value in values.items()}


def _reference(value: Any) -> Any:
    return {"id": value} if isinstance(value, int) else json_value(value)


_FORMS: dict[type[Any], Callable[[Any], Any]] = {
    type(None): _same,
    bool: _same,
    int: _same,
    float: _same,
    str: _same,
    datetime: _instant,
    date: date.isoformat,
    Decimal: str,
    UUID: str,
    bytes: _bytes,
    list: _list,
    tuple: _list,
    dict: _mapping,
    Record: to_json,
}


# --- And back ---------------------------------------------------------------------------------------------------------


def from_json(model: Model, name: str, data: Mapping[str, Any]) -> Any:
    """The record of type `name` that `to_json` gave as `data`. Raises InternalError for an unknown member."""
    record = model.records[name]
    return make_record(
        record.cls, {member: _member(model, record, member, value) for member, value in data.items()}, model
    )


def _member(model: Model, record: RecordModel, name: str, value: Any) -> Any:
    if name == "id" or value is None:
        return value
    if (field := record.fields.get(name)) is not None:
        return python_value(value, field.type)
    if (link := record.links.get(name)) is not None:
        return from_json(model, link.target, value)
    if (collection := record.collections.get(name)) is None:
        raise InternalError(
            f"The payload of a {record.name} has {name!r}, which the schema does not know. "
            f"It was written by another version of it."
        )
    if isinstance(value, list):
        return [from_json(model, collection.target, item) for item in cast("list[Any]", value)]
    return from_json(model, collection.target, value)


def python_value(value: Any, type_: ValueType) -> Any:
    """The Python value of a property from its JSON form."""
    if value is None:
        return None
    if type_.kind == "enum":
        return type_.python(value)
    if type_.kind == "json":
        return msgspec.convert(value, type_.python)
    parse = _PARSERS.get(type_.kind)
    return value if parse is None else parse(value)


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "decimal": Decimal,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "uuid": UUID,
    "bytes": base64.b64decode,
}
