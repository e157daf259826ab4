"""Nodes in SQL: column types, codecs, lowering, and compilation of SQLAlchemy statements to text for the raw
drivers."""

from ensue.expression.sql.codecs import (
    Codec,
    Dialect,
    decoder,
    encode_json,
    encoder,
    json_decoder,
    json_row_decoder,
    list_encoder,
    row_decoder,
)
from ensue.expression.sql.compile import Compiled, compile_statement, sqlalchemy_dialect
from ensue.expression.sql.functions import sqlite_functions
from ensue.expression.sql.lower import json_expression, literal, lower
from ensue.expression.sql.types import SqlTypes, ValueColumn, ValueList, raw_type

__all__ = [
    "Codec",
    "Compiled",
    "Dialect",
    "SqlTypes",
    "ValueColumn",
    "ValueList",
    "compile_statement",
    "decoder",
    "encode_json",
    "encoder",
    "json_decoder",
    "json_expression",
    "json_row_decoder",
    "list_encoder",
    "literal",
    "lower",
    "raw_type",
    "row_decoder",
    "sqlalchemy_dialect",
    "sqlite_functions",
]
