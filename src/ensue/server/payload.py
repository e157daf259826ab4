"""What an interaction takes, as types that JSON is checked against.

Decides how a payload becomes an interaction and what is said about one that doesn't fit. Leaves whether the
referenced records exist, and every rule of the application, to the dispatch. Invariant: an interaction is made only
of values of the declared types, and a refused payload names every wrong field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import msgspec

from ensue.errors import InvalidValue
from ensue.expression.types import ValueType
from ensue.schema.interaction import Interaction
from ensue.schema.model import InteractionModel, Model
from ensue.schema.property import MISSING, PayloadField
from ensue.schema.relation import Link
from ensue.schema.written.names import suggestion
from ensue.schema.written.value import payload_type
from ensue.server.answers import Refusal

# Bounds in msgspec.Meta can't be those of 64 bits (they would not fit themselves), so they are checked apart.
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class PayloadMember:
    """One field of a payload. `type` is what msgspec converts to; `target` names the record type of a reference."""

    name: str
    type: Any
    optional: bool
    required: bool
    default: Any
    target: str | None = None


class Payload:
    """The payload of one interaction."""

    def __init__(self, model: Model, interaction: InteractionModel) -> None:
        self.interaction = interaction
        self.members = tuple(_members(model, interaction))
        self._types: dict[str, Any] = {item.name: _convertible(item) for item in self.members}
        self._required = frozenset(item.name for item in self.members if item.required)

    def read(self, content: bytes | msgspec.Raw) -> Interaction:
        """The interaction that JSON text describes; no text counts as `{}`. Raises `Refusal` and `InvalidValue`."""
        return self.make(read_object(content))

    def make(self, given: Mapping[str, Any]) -> Interaction:
        """The interaction that decoded JSON describes. Raises `InvalidValue` naming each wrong field."""
        values: dict[str, Any] = {}
        wrong: dict[str, str] = {}
        for name, value in given.items():
            if name not in self._types:
                wrong[name] = f"is not a field of {self.interaction.name}.{suggestion(name, self._types)}"
                continue
            try:
                values[name] = _converted(value, self._types[name])
            except (msgspec.ValidationError, OverflowError) as failure:
                wrong[name] = _reason(failure)
        wrong |= dict.fromkeys(sorted(self._required - given.keys()), "is missing")
        if wrong:
            listed = "; ".join(f"{name}: {reason}" for name, reason in wrong.items())
            raise InvalidValue(f"The payload of {self.interaction.name} is not as declared: {listed}", fields=wrong)
        return cast("Interaction", self.interaction.cls(**values))


def read_object(content: bytes | msgspec.Raw) -> dict[str, Any]:
    """The JSON object in `content`; nothing at all counts as `{}`. Raises `Refusal` for anything else."""
    text = bytes(content)
    if not text.strip():
        return {}
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError) as failure:
        raise Refusal(400, "invalid_json", f"The body is not valid JSON: {failure}.") from None
    if not isinstance(found, dict):
        raise Refusal(422, "invalid", f"The payload is {_kind(found)}; expected an object with the fields by name.")
    return cast("dict[str, Any]", found)


def _members(model: Model, interaction: InteractionModel) -> list[PayloadMember]:
    cls = interaction.cls
    found: list[PayloadMember] = []
    for name, member in cls.__ensue_members__.items():
        if isinstance(member, Link):
            target = _target_name(model, interaction, name, member)
            required = member.default is MISSING
            found.append(PayloadMember(name, int, member.optional, required, member.default, target))
        elif isinstance(member, PayloadField):
            assert member.written is not None
            kind, optional = _value_type(model, interaction, name, member)
            required = member.default is MISSING
            found.append(PayloadMember(name, json_type(kind), optional, required, member.default))
    return found


def _value_type(model: Model, interaction: InteractionModel, name: str, member: PayloadField) -> tuple[ValueType, bool]:
    record = model.records.get(interaction.name)
    if record is not None and name in record.fields:
        return record.fields[name].type, record.fields[name].optional
    # An interaction that only reads has no record type, as nothing is stored of it.
    assert member.written is not None
    return payload_type(member.written.evaluate())


def _target_name(model: Model, interaction: InteractionModel, name: str, member: Link) -> str:
    record = model.records.get(interaction.name)
    if record is not None and name in record.links:
        return record.links[name].target
    return str(member.written).rsplit(".", 1)[-1]


def json_type(kind: ValueType) -> Any:
    """The type by which msgspec checks the JSON form of a value, and describes it."""
    if kind.kind == "literal":
        return Literal[kind.values]
    if kind.kind == "datetime":
        return Annotated[kind.python, msgspec.Meta(tz=True)]
    return kind.python


def _convertible(member: PayloadMember) -> Any:
    return member.type | None if member.optional else member.type


def _converted(value: Any, kind: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and not INTEGER_MIN <= value <= INTEGER_MAX:
        raise OverflowError("is out of range; integers have 64 bits")
    return msgspec.convert(value, kind, str_keys=True)


def _reason(failure: Exception) -> str:
    text = str(failure)
    return text[:1].lower() + text[1:]


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = ((list, "an array"), (str, "a string"), (bool, "a boolean"))
    return next((name for kind, name in names if isinstance(value, kind)), "a number")
