"""What all instances have in common: values by name, read through the class's members, never changed.

Decides how a record keeps, gives and compares its values. Which names there are is the classes' matter; defaults,
types and whether a value may be given at all are applied when the app's plan admits the record. Invariant: a record
never fetches.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Never, Self, TypeVar

from ensue.errors import NotLoaded, UsageError
from ensue.schema.written.names import suggestion

if TYPE_CHECKING:
    from ensue.schema.member import Member
    from ensue.schema.model import LinkModel, Model

    S = TypeVar("S", bound="Record")


class Record:
    """A snapshot of one row: `_values` as they were given or loaded, `_model` of the app that loaded it."""

    __ensue_members__: ClassVar[Mapping[str, Member]] = {}
    __ensue_accepted__: ClassVar[frozenset[str]] = frozenset({"id"})
    __ensue_given__: ClassVar[frozenset[str]] = frozenset()
    """Names that the dispatch gives a value, not the caller."""
    __ensue_private__: ClassVar[bool] = False
    """Whether it holds secrets: it is shown by its id only, and never written as JSON."""
    _model: ClassVar[Model | None] = None  # an instance may have its own

    if TYPE_CHECKING:
        # No annotation: it would become a constructor parameter of every subclass.
        @property
        def _values(self) -> dict[str, Any]: ...

    else:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            return injected(self, name)

        def __setattr__(self, name: str, value: object) -> Never:
            raise AttributeError(
                f"{type(self).__name__}.{name} can't be assigned: records are snapshots. "
                f"To change the data use `await store.update({type(self).__name__}, id, {name}=…)`."
            )

        def __delattr__(self, name: str) -> Never:
            raise AttributeError(f"{type(self).__name__}.{name} can't be deleted: records are snapshots.")

    def __ensue_id__(self) -> int:
        """The record's id. Raises UsageError if it has none, because it was not saved."""
        identity = self._values.get("id")
        if identity is None:
            raise UsageError(
                f"This {type(self).__name__} has no id: it was not saved. Use the record that `await "
                "store.create(…)` returns."
            )
        return identity

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Record) or type(other) is not type(self):
            return NotImplemented
        identity = self._values.get("id")
        return identity is not None and identity == other._values.get("id")

    def __hash__(self) -> int:
        identity = self._values.get("id")
        return object.__hash__(self) if identity is None else hash((type(self), identity))

    def __getstate__(self) -> dict[str, Any]:
        # The model is the app's, and holds classes and functions that can't be pickled: what is unpickled knows its values.
        return {"_values": self._values}

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return make_record(type(self), copy.deepcopy(self._values, memo), self._model)

    def __repr__(self) -> str:
        if self.__ensue_private__:
            return f"{type(self).__name__}(id={self._values.get('id')}, …)"
        return f"{type(self).__name__}({', '.join(f'{name}={_shown(value)}' for name, value in self._values.items())})"


def make_record(cls: type[S], values: dict[str, Any], model: Model | None) -> S:
    """An instance of `cls` that holds `values` itself (not a copy), as loaded by `model`'s app."""
    record = cls.__new__(cls)
    state = record.__dict__
    state["_values"] = values
    state["_model"] = model
    return record


def refuse_private(record: Record) -> None:
    """Raises UsageError for a record that must not leave the app's own code, whoever is about to write it out."""
    if record.__ensue_private__:
        raise UsageError(
            f"{type(record).__name__} is declared private=True: its records are never written as JSON, for clients or "
            "for effects. Give what of it may be known, as a type of your own."
        )


def record_values(record: Record) -> dict[str, Any]:
    """The values that a record was given or loaded with, by member name; its own dictionary, not to be changed."""
    return record._values  # pyright: ignore[reportPrivateUsage]  # the door for the engine


def record_model(record: Record) -> Model | None:
    """The model of the app that loaded the record; None for one made by its constructor."""
    return record._model  # pyright: ignore[reportPrivateUsage]  # the door for members


def refuse_unknown(cls: type[Record], values: Mapping[str, Any]) -> Never:
    """Say which of the given names a constructor does not take, and why."""
    name = next(item for item in values if item not in cls.__ensue_accepted__)
    if name in cls.__ensue_members__:
        raise UsageError(
            f"{cls.__name__}({name}=…): {name!r} is derived, it can't be given. Leave it out; it follows from what "
            "it is declared over."
        )
    raise UsageError(f"{cls.__name__}({name}=…): there is no {name!r}.{suggestion(name, cls.__ensue_accepted__)}")


def not_loaded(record: Record, name: str) -> NotLoaded:
    """The error for a member that the record holds no value of."""
    cls = type(record).__name__
    if name in type(record).__ensue_given__:
        return NotLoaded(f"{cls}.{name} is given by the dispatch. Read it from `(await dispatch(…)).event`.")
    if record_model(record) is None:
        return NotLoaded(
            f"{cls}.{name} was not given to this {cls}, and it was not loaded. Read the record from the store, or "
            "give the value."
        )
    return NotLoaded(f"{cls}.{name} was not loaded. Add it to `fields=` of the read, e.g. fields=[{cls}.{name}].")


def injected(record: Record, name: str) -> Any:
    """A member that the app's model has and the class doesn't."""
    values = record.__dict__.get("_values")
    if values is None:
        raise AttributeError(name)
    model = record_model(record)
    known = model.records.get(type(record).__name__) if model is not None else None
    if known is not None and name in known.links and name in values:
        return linked(values[name], known.links[name], model)
    if name in values:
        return values[name]
    cls = type(record)
    in_model = known is not None and (name in known.fields or name in known.links or name in known.collections)
    # Python asks here again after a member raised NotLoaded, which is an AttributeError: say the same.
    if in_model or name in cls.__ensue_members__ or name in cls.__ensue_given__ or hasattr(cls, name):
        raise not_loaded(record, name)
    names = (*cls.__ensue_members__, "id")
    raise AttributeError(f"{type(record).__name__} has no {name!r}.{suggestion(name, names)}", name=name, obj=None)


def linked(value: Any, link: LinkModel, model: Model | None) -> Any:
    """The record that a to-one link's value stands for: itself, one with only its id, or None."""
    if isinstance(value, int) and model is not None:
        return make_record(model.records[link.target].cls, {"id": value}, model)
    return value


def _shown(value: object) -> str:
    if isinstance(value, Record):
        return f"{type(value).__name__}(id={record_values(value).get('id')})"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item) for item in value) + "]"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # a list of records
    return repr(value)
