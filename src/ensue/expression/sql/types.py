"""The SQLAlchemy type of every value type, the same for both databases.

Decides how a column is declared, and that a user's own SQLAlchemy query over `app.metadata` reads and writes Python
values. ensue's statements are compiled with these types but run without SQLAlchemy, by the codecs. Invariant: what
SQLAlchemy and the codecs put into a column is identical.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import types as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect as SaDialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from ensue.errors import InternalError
from ensue.expression.sql.codecs import Codec, Dialect, decoder, encoder, list_encoder
from ensue.expression.types import ValueType

DECIMAL_PRECISION = 38


def raw_type(type_: ValueType, dialect: Dialect) -> TypeEngine[Any]:
    """The plain SQLAlchemy type of a column as the database knows it, with no conversion."""
    kind = type_.base
    if kind == "decimal" and dialect == "postgresql":
        return sa.Numeric(DECIMAL_PRECISION, type_.scale or 0)
    return (_POSTGRESQL if dialect == "postgresql" else _SQLITE)[kind]


def dialect_name(dialect: SaDialect) -> Dialect:
    if dialect.name == "sqlite":
        return "sqlite"
    if dialect.name == "postgresql":
        return "postgresql"
    raise InternalError(
        f"ensue's columns have no form for the SQLAlchemy dialect {dialect.name!r}; expected sqlite or postgresql."
    )


class ValueColumn(TypeDecorator[Any]):
    """The SQLAlchemy type of a column of `value_type`: encodes and decodes as ensue does, on either database."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, value_type: ValueType) -> None:
        super().__init__()
        self.value_type = value_type

    def load_dialect_impl(self, dialect: SaDialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(raw_type(self.value_type, dialect_name(dialect)))

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        # What a column is compared with is encoded as the column is.
        return self

    def bind_processor(self, dialect: SaDialect) -> Any:
        return _or_none(encoder(self.value_type, dialect_name(dialect)))

    def result_processor(self, dialect: SaDialect, coltype: object) -> Any:
        # SQLAlchemy's asyncpg engine decodes jsonb by itself unless told otherwise; the raw driver gives text.
        decode = decoder(self.value_type, dialect_name(dialect))
        return _or_none(decode)

    def __repr__(self) -> str:
        return f"ValueColumn({self.value_type})"


class ValueList(TypeDecorator[Any]):
    """The type of the one parameter that holds all values of an `in`: an array on PostgreSQL, JSON text on SQLite."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, value_type: ValueType) -> None:
        super().__init__()
        self.value_type = value_type

    def load_dialect_impl(self, dialect: SaDialect) -> TypeEngine[Any]:
        if dialect_name(dialect) == "sqlite":
            return dialect.type_descriptor(sa.Text())
        return dialect.type_descriptor(postgresql.ARRAY(raw_type(self.value_type, "postgresql")))

    def bind_processor(self, dialect: SaDialect) -> Any:
        return _or_none(list_encoder(self.value_type, dialect_name(dialect)))

    def result_processor(self, dialect: SaDialect, coltype: object) -> Any:
        return None


class SqlTypes:
    """The SQLAlchemy column types of value types; those of one instance serve both databases."""

    def column(self, type_: ValueType) -> TypeEngine[Any]:
        """The type of a column that holds values of `type_`."""
        return ValueColumn(type_)

    def values(self, type_: ValueType) -> TypeEngine[Any]:
        """The type of a parameter that holds a list of values of `type_`."""
        return ValueList(type_)


def parameter_encoder(type_: TypeEngine[Any], dialect: Dialect) -> Codec | None:
    """The raw encoder of a bind parameter of this SQLAlchemy type; None for types that are not ensue's."""
    if isinstance(type_, ValueColumn):
        return encoder(type_.value_type, dialect)
    return list_encoder(type_.value_type, dialect) if isinstance(type_, ValueList) else None


def _or_none(codec: Codec | None) -> Codec | None:
    return None if codec is None else lambda value: None if value is None else codec(value)


_SQLITE: dict[str, TypeEngine[Any]] = {
    "str": sa.Text(),
    "int": sa.Integer(),
    "float": sa.REAL(),
    "decimal": sa.Integer(),
    "bool": sa.Integer(),
    "datetime": sa.Integer(),
    "date": sa.Text(),
    "uuid": sa.Text(),
    "bytes": sa.BLOB(),
    "json": sa.Text(),
}
_POSTGRESQL: dict[str, TypeEngine[Any]] = {
    "str": sa.Text(collation="C"),
    "int": sa.BigInteger(),
    "float": sa.Double(),
    "bool": sa.Boolean(),
    "datetime": sa.DateTime(timezone=True),
    "date": sa.Date(),
    "uuid": postgresql.UUID(as_uuid=True),
    "bytes": sa.LargeBinary(),
    "json": postgresql.JSONB(),
}
