"""Which record type of a model a caller means: by class, by name, or as the relation of a plain n:n.

For what is called at run time (`find`, `create`, `link`); declarations are resolved when the schema is frozen.
"""

from __future__ import annotations

from typing import Any

from ensue.errors import UsageError
from ensue.expression.trace import Path
from ensue.schema.model import Model, RecordModel
from ensue.schema.written.names import suggestion


def record_model_of(model: Model, reference: Any) -> RecordModel:
    """The record type that `Post`, `"Post"` or `Post.tags.relation` stands for.

    Raises UsageError if the app has none such.

    >>> record_model_of(model, "Post").table  # doctest: +SKIP
    'post'
    """
    name = _name(model, reference)
    found = model.records.get(name)
    if found is None:
        raise UsageError(f"This app has no record type {name!r}.{suggestion(name, model.records)}")
    if isinstance(reference, type) and found.cls is not reference:
        raise UsageError(f"This app's {name} is another class than the one given. Use the class the app was made with.")
    return found


def _name(model: Model, reference: Any) -> str:
    if isinstance(reference, str):
        return reference
    if isinstance(reference, type):
        return reference.__name__
    if isinstance(reference, Path) and len(reference.steps) == 2 and reference.steps[1] == "relation":
        record = model.records.get(reference.root.record or "")
        collection = None if record is None else record.collections.get(reference.steps[0])
        if collection is not None and collection.relation is not None:
            return collection.relation
    raise UsageError(
        f"{reference!r} is no record type; expected a class, a name, or `Post.tags.relation` of a plain n:n."
    )
