"""READ: from a query as the user wrote it to records, by one SQL statement however deep.

`selection` normalises the fields, `conditions` resolves expressions, `build` makes the statement and the layout of
its rows, `layout` decodes them, `reads` is what the engine calls. Invariant: reading never writes, and never asks
twice.
"""

from ensue.engine.read.json_form import from_json, json_value, to_json
from ensue.engine.read.query import CompiledQuery, Query, compile_query
from ensue.engine.read.reads import Reader, count, find, find_one, get, read_globals, select_fields

__all__ = [
    "CompiledQuery",
    "Query",
    "Reader",
    "compile_query",
    "count",
    "find",
    "find_one",
    "from_json",
    "get",
    "json_value",
    "read_globals",
    "select_fields",
    "to_json",
]
