"""The value types of the language: what a column can hold, independent of any database.

Decides the closed set of kinds. How a kind is stored is the lowering's business (`expression.sql`, `store`).
"""

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["str", "int", "float", "decimal", "bool", "datetime", "date", "uuid", "bytes", "enum", "literal", "json"]


@dataclass(frozen=True, slots=True)
class ValueType:
    """One type of value.

    `python` is the class a value has in Python (for `json`: the annotation, `dict`, `list` or a msgspec Struct; for
    `literal`: `str` or `int`; for `enum`: the Enum class). `scale` is the number of decimals of a `decimal`. `values`
    are the allowed values of a `literal`, or the members' values of an `enum`, all `str` or all `int`.
    """

    kind: Kind
    python: Any
    scale: int | None = None
    values: tuple[Any, ...] = ()

    @property
    def base(self) -> Kind:
        """The kind that carries the value in expressions: `enum` and `literal` count as `str` or `int`."""
        if self.kind in ("enum", "literal"):
            return "int" if self.values and isinstance(self.values[0], int) else "str"
        return self.kind

    def __str__(self) -> str:
        if self.kind == "literal":
            return self.base
        return self.kind if self.scale is None else f"{self.kind}({self.scale})"
