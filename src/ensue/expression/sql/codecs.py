"""Between Python values and what the raw drivers (apsw, asyncpg) take and give.

Decides the encoding of every value type in each database. Knows no SQLAlchemy, so that hot paths can use it alone.
Invariant: `decode(encode(value)) == value` with the same Python type; None as a codec means that nothing is to be done,
and a codec is never called with None.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Literal, cast
from uuid import UUID

import msgspec

from ensue.clock import from_micros
from ensue.expression.arithmetic import fit_instant, instant_micros, scaled, unscaled
from ensue.expression.python import compile_function
from ensue.expression.semantics import SCALE_MAX
from ensue.expression.types import ValueType

Dialect = Literal["sqlite", "postgresql"]
Codec = Callable[[Any], Any]

_UNITS = tuple(Decimal(1).scaleb(-scale) for scale in range(SCALE_MAX + 1))


def encoder(type_: ValueType, dialect: Dialect) -> Codec | None:
    """From a Python value to what the driver takes; None if it takes the value itself."""
    kind = type_.kind
    if kind == "enum":
        return _enum_value
    if kind == "json":
        return encode_json
    if dialect == "postgresql":
        return fit_instant if kind == "datetime" else None
    if kind == "decimal":
        scale = type_.scale or 0
        return lambda value: scaled(value, scale)
    return _SQLITE_ENCODERS.get(kind)


def decoder(type_: ValueType, dialect: Dialect) -> Codec | None:
    """From what the driver gives to a Python value; None if it gives the value itself."""
    kind = type_.kind
    if kind == "enum":
        return _members(type_)
    if kind == "json":
        return msgspec.json.Decoder(type_.python).decode
    if dialect == "postgresql":
        if kind == "decimal":
            return _quantized(type_)
        # asyncpg gives a class of its own, which compares equal but is another type.
        return _uuid_copy if kind == "uuid" else None
    return _scaled_decoder(type_) if kind == "decimal" else _SQLITE_DECODERS.get(kind)


def json_decoder(type_: ValueType, dialect: Dialect) -> Codec | None:
    """From a value parsed out of JSON that the database built with `json_expression`, to a Python value.

    The JSON must be parsed with exact integers (as `msgspec.json.decode` and `json.loads` do).
    """
    kind = type_.kind
    if dialect == "postgresql" and kind in ("bool", "decimal", "date"):
        return _postgresql_json_decoder(type_)
    if kind in ("enum", "bool", "decimal", "uuid", "date"):
        return decoder(type_, "sqlite")
    if kind == "json":
        return lambda value: msgspec.convert(value, type_.python)
    if kind == "float":
        return float
    return {"datetime": from_micros, "bytes": bytes.fromhex}.get(kind)


def _postgresql_json_decoder(type_: ValueType) -> Codec | None:
    if type_.kind == "bool":
        return None
    unit = _UNITS[type_.scale or 0]
    return _date if type_.kind == "date" else lambda value: Decimal(value).quantize(unit)


def list_encoder(type_: ValueType, dialect: Dialect) -> Codec:
    """From the values of an `in` to its one parameter: a list on PostgreSQL, a JSON text on SQLite."""
    encode = encoder(type_, dialect)
    if dialect == "postgresql":
        return list if encode is None else lambda values: [encode(value) for value in values]
    if type_.kind == "bytes":
        return lambda values: json.dumps([value.hex() for value in values])
    if encode is None:
        return lambda values: json.dumps(list(values))
    return lambda values: json.dumps([encode(value) for value in values])


def encode_json(value: Any) -> str:
    """A JSON value as canonical text: keys sorted, nothing between the tokens."""
    return msgspec.json.encode(value, order="sorted").decode()


def row_decoder(
    types: Sequence[ValueType | None], dialect: Dialect
) -> Callable[[Sequence[Any]], tuple[Any, ...]] | None:
    """A function that decodes a whole row of columns of these types (None: leave as it is), or None if nothing needs
    it."""
    return _row_function([None if type_ is None else decoder(type_, dialect) for type_ in types])


def json_row_decoder(
    types: Sequence[ValueType | None], dialect: Dialect
) -> Callable[[Sequence[Any]], tuple[Any, ...]] | None:
    """`row_decoder` for a row that came as a JSON array."""
    return _row_function([None if type_ is None else json_decoder(type_, dialect) for type_ in types])


def _row_function(codecs: Sequence[Codec | None]) -> Callable[[Sequence[Any]], tuple[Any, ...]] | None:
    if not any(codecs):
        return None
    constants = {f"_d{index}": codec for index, codec in enumerate(codecs) if codec is not None}
    cells = [
        f"v{index}" if codec is None else f"None if v{index} is None else _d{index}(v{index})"
        for index, codec in enumerate(codecs)
    ]
    names = "".join(f"v{index}, " for index in range(len(codecs)))
    return compile_function("decode_row", ("row",), [f"{names}= row", f"return ({', '.join(cells)},)"], constants)


def _enum_value(member: Any) -> Any:
    return member.value


def _members(type_: ValueType) -> Codec:
    return {member.value: member for member in type_.python}.__getitem__


def _quantized(type_: ValueType) -> Codec:
    unit = _UNITS[type_.scale or 0]
    return lambda value: value.quantize(unit)


def _scaled_decoder(type_: ValueType) -> Codec:
    scale = type_.scale or 0
    return lambda value: unscaled(value, scale)


def _date(text: str) -> datetime.date:
    return _DATES.get(text) or datetime.date.fromisoformat(text)


def _uuid_copy(value: UUID) -> UUID:
    return UUID(bytes=value.bytes)


_SQLITE_ENCODERS: dict[str, Codec] = {
    "bool": int,
    "datetime": instant_micros,
    "date": datetime.date.isoformat,
    "uuid": cast("Codec", str),
}
_SQLITE_DECODERS: dict[str, Codec] = {
    "bool": bool,
    "datetime": from_micros,
    "date": datetime.date.fromisoformat,
    "uuid": cast("Codec", UUID),
}
# What asyncpg makes of the first and the last date.
_DATES = {"-infinity": datetime.date.min, "infinity": datetime.date.max}
