"""Which columns, references and collections a read asks for: every form of `fields=`, normalised to one tree.

Decides what a field means (a property, a to-one reference, a longer path, a nested selection, a name) and how several
that touch the same record merge. Leaves conditions and orders inside unresolved, and SQL to `build`. Invariant: a
selection holds only names that the model knows, the id is always read, there are at most DEPTH_MAX levels and
NODES_MAX records.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ensue.errors import DeclarationError, Problem
from ensue.expression.nodes import Hop
from ensue.expression.trace import Expr, Path, Shape
from ensue.plan.tables import link_of
from ensue.schema.model import FieldModel, LinkModel, Model, RecordModel

DEPTH_MAX = 8
NODES_MAX = 60
CODE = "E0120"


class UnknownField(DeclarationError):
    """A step of a field leads nowhere in the record type `record`; the message tells what that has."""

    def __init__(self, record: RecordModel, name: str) -> None:
        super().__init__(Problem(CODE, unknown(record, name)))
        self.record = record.name


@dataclass(slots=True)
class Selection:
    """What is read of one record type, by member name."""

    record: RecordModel
    fields: dict[str, FieldModel] = field(default_factory=dict[str, FieldModel])
    links: dict[str, Selection] = field(default_factory=dict[str, "Selection"])
    collections: dict[str, Nested] = field(default_factory=dict[str, "Nested"])

    @property
    def id_only(self) -> bool:
        """Whether nothing but the id is read: then a reference to it needs no join."""
        return not (self.fields or self.links or self.collections)


@dataclass(slots=True)
class Nested:
    """A collection within a selection. `limits` is the Shape whose condition, order and limit apply per parent."""

    hops: tuple[Hop, ...]
    single: bool
    selection: Selection
    limits: Shape | None = None


def select(model: Model, record: RecordModel, fields: Sequence[Any] | None) -> Selection:
    """The selection that `fields=` asks for; None: the record's own columns and its to-one references."""
    selection = Selection(record)
    if isinstance(fields, (str, Expr, Shape, type)):
        raise problem(f"`fields=` got {fields!r}; expected a list of fields. Write `fields=[{fields!r}]`.")
    if fields is None:
        _Selecting(model).add_own(selection)
    else:
        _Selecting(model).add_all(selection, fields)
    _check_size(selection)
    return selection


class _Selecting:
    """Adds fields, of whatever form, to a selection."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def add_own(self, selection: Selection) -> None:
        """Every stored and derived column, and every to-one reference."""
        selection.fields.update(selection.record.fields)
        for link in selection.record.links.values():
            self._link(selection, link)

    def add_all(self, selection: Selection, fields: Iterable[Any]) -> None:
        for item in fields:
            self._add(selection, item)

    def _fill(self, selection: Selection, fields: Sequence[Any]) -> None:
        """What stands in `.fields(…)` or the inner list; nothing there means the record's own."""
        if fields:
            self.add_all(selection, fields)
        else:
            self.add_own(selection)

    def _add(self, selection: Selection, item: Any) -> None:
        if isinstance(item, Path):
            _check_root(selection, item)
            self._add_path(selection, item.steps)
        elif isinstance(item, Shape):
            self._add_shape(selection, item)
        elif isinstance(item, str):
            self._add_path(selection, tuple(item.split(".")))
        elif isinstance(item, type):
            _check_class(selection, item)
            self.add_own(selection)
        elif _is_pair(item):
            self._fill(self._enter(selection, tuple(item[0].split("."))), item[1])
        else:
            raise problem(
                f"A field of {selection.record.name} is {item!r} ({type(item).__name__}); expected a property, "
                f"reference or collection such as `Post.title`, `Post.author.fields(…)`, or by name "
                f'"title", "author.name", ["author", ["name"]].'
            )

    def _add_path(self, selection: Selection, steps: tuple[str, ...]) -> None:
        if not steps:
            steps = ("*",)
        parent, last = self._enter(selection, steps[:-1]), steps[-1]
        if last == "*":
            self.add_own(parent)
        elif (property_ := parent.record.fields.get(last)) is not None:
            parent.fields[last] = property_
        elif (link := link_named(parent.record, last)) is not None:
            self._link(parent, link)
        elif last != "id":
            self.add_own(self._step(parent, last))

    def _add_shape(self, selection: Selection, shape: Shape) -> None:
        steps: tuple[str, ...] = ()
        if shape.path is not None:
            _check_root(selection, shape.path)
            steps = shape.path.steps
        if not steps:
            _refuse_limits(shape, f"`{selection.record.name}.fields(…)` as a field selects of the same record")
            self._fill(selection, shape.fields)
            return
        parent, last = self._enter(selection, steps[:-1]), steps[-1]
        target = self._step(parent, last)
        nested = parent.collections.get(last)
        if nested is None or nested.single:
            _refuse_limits(shape, f"{parent.record.name}.{last} leads to one record")
        elif _limits(shape):
            if nested.limits is not None and nested.limits is not shape:
                raise problem(
                    f"{parent.record.name}.{last} is selected twice, each time with a condition, order or limit. "
                    f"A record has one list under "
                    f"that name: write one `.fields(…)` with everything that is needed of it."
                )
            check_window(shape.limit)
            nested.limits = shape
        self._fill(target, shape.fields)

    def _enter(self, selection: Selection, steps: tuple[str, ...]) -> Selection:
        for name in steps:
            selection = self._step(selection, name)
        return selection

    def _step(self, selection: Selection, name: str) -> Selection:
        """The selection of what `name` leads to."""
        record = selection.record
        if (link := link_named(record, name)) is not None:
            return self._link(selection, link)
        if (collection := record.collections.get(name)) is None:
            raise UnknownField(record, name)
        nested = selection.collections.get(name)
        if nested is None:
            target = Selection(self.model.records[collection.target])
            nested = selection.collections[name] = Nested(collection.hops, collection.single, target)
        return nested.selection

    def _link(self, selection: Selection, link: LinkModel) -> Selection:
        return selection.links.setdefault(link.name, Selection(self.model.records[link.target]))


def link_named(record: RecordModel, name: str) -> LinkModel | None:
    """The to-one link `name`, also under the generic names `source` and `target` of a relation."""
    return record.links.get(link_of(record, name))


def problem(message: str) -> DeclarationError:
    """The error of a read that asks for what can't be read."""
    return DeclarationError(Problem(CODE, message))


def check_window(limit: Any, offset: Any = 0) -> None:
    """Refuse a limit or offset that is no count."""
    for name, value in (("limit", limit), ("offset", offset)):
        if value is not None and (value.__class__ is not int or not 0 <= value < 2**63):
            raise problem(f"`{name}=` got {value!r}; expected a whole number from 0 on.")


def unknown(record: RecordModel, name: str) -> str:
    """What to say about a step that leads nowhere."""
    if name == "id" or name in record.fields:
        return (
            f"{record.name}.{name} is a value; nothing can be selected below it. Select `{record.name}.{name}` itself."
        )
    names = ("id", *record.fields, *record.links, *record.collections)
    close = difflib.get_close_matches(name, names, n=1)
    advice = f"Did you mean {close[0]!r}?" if close else f"It has: {', '.join(names)}."
    return f"{record.name} has no field {name!r}. {advice}"


def _check_root(selection: Selection, path: Path) -> None:
    """A path of a field starts at the record it is selected of; the parameter of a lambda stands for any."""
    name = path.root.record
    record = selection.record
    if name is not None and path.root.token == 0 and name != record.name and name not in record.abstract:
        raise problem(
            f"The field {path!r} starts at {name}, but is selected of {record.name}. "
            f"Write it from {record.name}, or put it in the `.fields(…)` of the reference or collection "
            f"that leads to {name}."
        )


def _check_class(selection: Selection, item: type[Any]) -> None:
    if item is not selection.record.cls and item.__name__ not in selection.record.abstract:
        raise problem(
            f"The field {item.__name__} is a class, but what is selected of is {selection.record.name}. "
            f"Write the reference or collection that leads to {item.__name__}, "
            f"such as `{selection.record.name}.….fields(…)`."
        )


def _is_pair(item: Any) -> bool:
    if not isinstance(item, (list, tuple)):
        return False
    pair = cast("Sequence[Any]", item)
    return len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], (list, tuple))


def _limits(shape: Shape) -> bool:
    return shape.where is not None or bool(shape.order_by) or shape.limit is not None


def _refuse_limits(shape: Shape, what: str) -> None:
    if _limits(shape):
        raise problem(
            f"{what}: `where`, `order_by` and `limit` in `.fields(…)` are for collections. Leave them out here."
        )


def _check_size(selection: Selection) -> None:
    depth, nodes = _size(selection)
    if depth > DEPTH_MAX:
        raise problem(
            f"The fields of {selection.record.name} go {depth} records deep; "
            f"at most {DEPTH_MAX} are read at once. Split the read."
        )
    if nodes > NODES_MAX:
        raise problem(
            f"The fields of {selection.record.name} name {nodes} record selections; "
            f"at most {NODES_MAX} are read at once. Split the read."
        )


def _size(selection: Selection) -> tuple[int, int]:
    """Levels, and selections that read more than an id (an id costs no join)."""
    below = [_size(item) for item in selection.links.values() if not item.id_only]
    below += [_size(item.selection) for item in selection.collections.values()]
    return 1 + max((depth for depth, _ in below), default=0), 1 + sum(nodes for _, nodes in below)
