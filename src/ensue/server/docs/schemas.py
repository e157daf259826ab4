"""JSON Schema of records and values, as OpenAPI 3.1 uses it.

Decides how the model's types are described: the JSON form that `json_form` writes and `payload` reads. Leaves paths
and operations to `openapi`. Invariant: a description never promises a property that may be absent as required.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from ensue.expression.types import ValueType
from ensue.schema.model import FieldModel, LinkModel, Model, RecordModel
from ensue.schema.record import Record

Json = dict[str, Any]

REF = "#/components/schemas/"
_SCALARS: Mapping[str, Json] = {
    "str": {"type": "string"},
    "int": {"type": "integer", "format": "int64"},
    "float": {"type": "number", "format": "double"},
    "decimal": {"type": "string", "format": "decimal"},
    "bool": {"type": "boolean"},
    "datetime": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"},
    "bytes": {"type": "string", "contentEncoding": "base64"},
}


class Components:
    """The named schemas of one document: records under their own names, other classes beside them."""

    def __init__(self, model: Model, types: Iterable[Any]) -> None:
        self.schemas: dict[str, Json] = {
            record.name: self.record(record) for record in model.records.values() if _is_shown(record)
        }
        self._records = frozenset(self.schemas)
        # All at once: msgspec gives classes of one name in different modules different names only within a call.
        distinct = _distinct(types)
        described = [self._describable(kind) for kind in distinct]
        shown, defined = msgspec.json.schema_components(described, schema_hook=self._hook, ref_template=REF + "{name}")
        names = {name: f"{name}_" for name in defined if name in self._records}
        self._types = {id(kind): renamed(schema, names) for kind, schema in zip(distinct, shown, strict=True)}
        self._kept = distinct
        self.schemas |= {names.get(name, name): renamed(schema, names) for name, schema in defined.items()}

    def of(self, kind: Any) -> Json:
        """The schema of one of the types given to the constructor."""
        for known in self._kept:
            if known is kind or known == kind:
                return dict(self._types[id(known)])
        raise KeyError(kind)

    def record(self, record: RecordModel) -> Json:
        """A record as a client sees it; which fields there are depends on the read, so that only the id is certain."""
        properties: dict[str, Json] = {"id": {"type": "integer", "format": "int64"}}
        for field in record.fields.values():
            properties[field.name] = _field(field)
        for link in record.links.values():
            properties[link.name] = _link(link)
        for collection in record.collections.values():
            target = {"$ref": REF + collection.target}
            properties[collection.name] = nullable(target) if collection.single else {"type": "array", "items": target}
        return {"type": "object", "title": record.name, "properties": properties, "required": ["id"]}

    def _hook(self, cls: type[Any]) -> Json:
        if issubclass(cls, Record):
            return {"$ref": REF + cls.__name__} if cls.__name__ in self._records else {"type": "object"}
        # Whatever it is; msgspec takes an empty answer for none.
        return {"title": cls.__name__}

    def _describable(self, kind: Any) -> Any:
        """`kind`, or Any if msgspec can't describe it (two classes in a union, say), though it may write it."""
        try:
            msgspec.json.schema(kind, schema_hook=self._hook)
        except (TypeError, RuntimeError):
            return Any
        return kind


def nullable(schema: Json) -> Json:
    """`schema`, or null."""
    return {"anyOf": [schema, {"type": "null"}]} if schema else {}


def renamed(schema: Any, names: Mapping[str, str]) -> Any:
    """`schema` with references to the keys of `names` pointing at their values."""
    if isinstance(schema, dict):
        found: Json = {key: renamed(value, names) for key, value in cast("Json", schema).items()}
        reference = found.get("$ref")
        if isinstance(reference, str) and (name := reference.removeprefix(REF)) in names:
            found["$ref"] = REF + names[name]
        return found
    return [renamed(item, names) for item in cast("list[Any]", schema)] if isinstance(schema, list) else schema


def value_schema(kind: ValueType) -> Json:
    """The schema of a property's values."""
    if kind.kind in ("enum", "literal"):
        return {"type": "integer" if kind.base == "int" else "string", "enum": list(kind.values)}
    if kind.kind == "json":
        return {}
    return dict(_SCALARS[kind.kind])


def _field(field: FieldModel) -> Json:
    schema = value_schema(field.type)
    if field.optional:
        schema = nullable(schema)
    return {**schema, "readOnly": True} if field.computation is not None else schema


def _link(link: LinkModel) -> Json:
    target = {"$ref": REF + link.target}
    return nullable(target) if link.optional else target


def _is_shown(record: RecordModel) -> bool:
    return record.kind != "event"


def _distinct(types: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for kind in types:
        if not any(kind is known or kind == known for known in found):
            found.append(kind)
    return found
