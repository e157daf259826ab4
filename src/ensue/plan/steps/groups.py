"""Fuse the aggregates that share edges, host and stratum into one group: one function for an edge's contributions.

Equal filters and values are computed once per edge. The accumulator functions are generated for the group's slots, so that
summing a contribution is a few additions and no loop over kinds.
"""

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import Grouping

from ensue.expression.nodes import Call, Node
from ensue.expression.python import compile_function, predicate_source, source
from ensue.expression.sql import Compiled, ValueList, compile_statement, decoder, lower
from ensue.plan.plan import AggregatePlan, Group
from ensue.plan.rules.registry import rule_for
from ensue.plan.rules.rule import Slot
from ensue.plan.statements import row_function
from ensue.plan.tables import Located, link_of
from ensue.plan.views import Layout, ViewBuilder
from ensue.schema.model import ID_TYPE, Aggregate

Named = tuple[str, Aggregate]
"""(name of the derived column, its aggregate)"""

GLOBALS_ID = 1
ID_LIST = ValueList(ID_TYPE)


class GroupBuilder:
    """Compiles one group; two steps, because lock modes are known only when all groups' readings are."""

    def __init__(self, layout: Layout, named: Sequence[Named]) -> None:
        self._layout = layout
        self._named = named
        self._edge = named[0][1].edge
        self._host_path = named[0][1].host_path
        self.view = ViewBuilder(layout, self._edge)
        self._constants: dict[str, Any] = {}
        self._locals: dict[Node | str, str] = {}
        self._lines: list[str] = []
        self.slots: list[Slot] = []
        self.aggregates: list[AggregatePlan] = []
        self._cells: list[str] = []
        host = str(GLOBALS_ID)
        if self._host_path:
            host = self.view.value(self._host_path[:-1], self._host_path[-1])
        for name, aggregate in named:
            self._add(name, aggregate)
        self._lines.append(f"return ({', '.join([host, *self._cells])},)")

    @property
    def edge(self) -> str:
        """The record type of the edges."""
        return self._edge

    def _add(self, name: str, aggregate: Aggregate) -> None:
        rule = rule_for(aggregate, self._layout.dialect)
        self.aggregates.append(AggregatePlan(name, aggregate, rule, len(self.slots)))
        predicate = aggregate.kind in ("any", "every")
        where = "True" if aggregate.where is None else self._local(aggregate.where, predicate=True)
        value = "None" if aggregate.value is None else self._local(aggregate.value, predicate=predicate)
        self._cells.extend(rule.contributions(where, value))
        self.slots.extend(rule.slots)

    def _local(self, node: Node, *, predicate: bool) -> str:
        if node not in self._locals:
            name = f"v{len(self._locals)}"
            write = predicate_source if predicate else source
            self._lines.append(f"{name} = {write(node, self.view.source, self._constants)}")
            self._locals[node] = name
        return self._locals[node]

    def build(self, *, exclusive: frozenset[str]) -> Group:
        """The finished group."""
        entries = _entries(self.slots)
        reread_slots = tuple(i for i, slot in enumerate(self.slots) if slot.kind != "delta")
        reread, decode = self._reread(reread_slots)
        fresh, cells = _fresh(self.slots), _cells(self.slots, entries)
        plus, minus, change = (_fold(kind, self.slots, entries) for kind in ("plus", "minus", "change"))
        return Group(
            view=self.view.build(exclusive=exclusive),
            aggregates=tuple(self.aggregates),
            slots=tuple(self.slots),
            contribute=compile_function("contribute", self.view.parameters, self._lines, self._constants),
            fresh=fresh,
            cells=cells,
            idle=cells(fresh()),
            plus=plus,
            minus=minus,
            change=change,
            entry_of=tuple(entries),
            reread_slots=reread_slots,
            reread=reread,
            reread_decode=decode,
        )

    def _reread(self, slots: tuple[int, ...]) -> tuple[Compiled | None, Any]:
        """One statement that reads, for given hosts, every slot that can't be kept by subtraction alone."""
        if not slots:
            return None, None
        layout = self._layout
        located = Located(layout.model, layout.metadata, self._edge, alias="e")
        host: sa.ColumnElement[Any] = sa.literal_column(str(GLOBALS_ID))
        if self._host_path:
            table, record = located.at(self._host_path[:-1])
            host = table.c[record.links[link_of(record, self._host_path[-1])].column]
        selected: list[sa.ColumnElement[Any]] = []
        for plan in self.aggregates:
            where, value = lowered(layout, located, plan.model)
            answers = plan.rule.reread(where, value)
            selected.extend(
                answer for i, answer in enumerate(answers, plan.first_slot) if i in slots and answer is not None
            )
        ids = sa.bindparam("ids", type_=ID_LIST)
        query = sa.select(host.label("host"), *selected).select_from(located.source)
        if self._host_path:
            query = query.where(_among(host, ids, layout)).group_by(host)
        compiled = compile_statement(query, layout.dialect, f"{layout.table(self._edge).name}.reread", rows=True)
        decode = row_function([None, *(decoder(self.slots[i].type, layout.dialect) for i in slots)])
        return compiled, decode


def lowered(layout: Layout, located: Located, aggregate: Aggregate) -> tuple[Any, Any]:
    """An aggregate's filter and value in SQL, over located edge rows."""
    where = None if aggregate.where is None else enclosed(layout, located, aggregate.where, filter=True)
    value = None
    if aggregate.value is not None:
        predicate = aggregate.kind in ("any", "every")
        value = enclosed(layout, located, aggregate.value, filter=predicate)
    return where, value


def enclosed(layout: Layout, located: Located, node: Node, *, filter: bool = False) -> sa.ColumnElement[Any]:
    """An expression in SQL, in parentheses: SQLAlchemy does not know how tightly its parts bind when it is combined further."""
    element = lower(node, located.column, layout.dialect, filter=filter)
    return Grouping(element) if isinstance(node, Call) else element


def _among(host: sa.ColumnElement[Any], ids: sa.BindParameter[Any], layout: Layout) -> sa.ColumnElement[bool]:
    if layout.dialect == "postgresql":
        return host == sa.func.any(ids)
    return host.in_(sa.select(sa.func.json_each(ids).table_valued("value").c.value))


def _entries(slots: Sequence[Slot]) -> list[int]:
    entries: list[int] = []
    at = 0
    for slot in slots:
        entries.append(at)
        at += 1 if slot.kind == "delta" else 2
    return entries


class _Replace:
    """Marks a slot whose amount replaces the host's state."""


REPLACE = _Replace()


def _cells(slots: Sequence[Slot], entries: Sequence[int]) -> Callable[[list[Any]], tuple[Any, ...]]:
    """A function from an accumulator to its cells in a vector: amounts, and whether they replace the state."""
    cells: list[str] = []
    for slot, at in zip(slots, entries, strict=True):
        cells.append(f"a[{at}], " if slot.kind == "delta" else f"a[{at}], 1 if a[{at + 1}] is REPLACE else 0, ")
    return compile_function("cells", ("a",), f"({''.join(cells)})", {"REPLACE": REPLACE})


def _fresh(slots: Sequence[Slot]) -> Callable[[], list[Any]]:
    """A function that makes an accumulator over nothing; its zeros are of the slots' own types."""
    constants = {f"z{i}": slot.type.python(0) for i, slot in enumerate(slots) if slot.kind in ("delta", "exact")}
    cells = [{"delta": f"z{i}", "exact": f"z{i}, False"}.get(slot.kind, "None, None") for i, slot in enumerate(slots)]
    return compile_function("fresh", (), f"[{', '.join(cells)}]", constants)


def _fold(kind: str, slots: Sequence[Slot], entries: Sequence[int]) -> Any:
    """`plus`, `minus` or `change`: fold a contribution (host id first) into an accumulator."""
    lines: list[str] = []
    for i, (slot, at) in enumerate(zip(slots, entries, strict=True), start=1):
        lines.extend(_FOLDS[kind](slot, at, i))
    parameters = ("a", "old", "new") if kind == "change" else ("a", "t")
    return compile_function(kind, parameters, lines or ["pass"])


def _plus(slot: Slot, at: int, i: int, t: str = "t") -> list[str]:
    if slot.kind in ("delta", "exact"):
        return [f"a[{at}] += {t}[{i}]"]
    better = ">" if slot.kind == "max" else "<"
    return [f"if {t}[{i}] is not None and (a[{at}] is None or {t}[{i}] {better} a[{at}]): a[{at}] = {t}[{i}]"]


def _minus(slot: Slot, at: int, i: int, t: str = "t") -> list[str]:
    if slot.kind == "delta":
        return [f"a[{at}] -= {t}[{i}]"]
    if slot.kind == "exact":
        return [f"if {t}[{i}]: a[{at}] -= {t}[{i}]; a[{at + 1}] = True"]
    worse = ">" if slot.kind == "max" else "<"
    lost = at + 1
    return [f"if {t}[{i}] is not None and (a[{lost}] is None or {t}[{i}] {worse} a[{lost}]): a[{lost}] = {t}[{i}]"]


def _change(slot: Slot, at: int, i: int) -> list[str]:
    if slot.kind == "delta":
        return [f"a[{at}] += new[{i}] - old[{i}]"]
    lines = [*_minus(slot, at, i, "old"), *_plus(slot, at, i, "new")]
    return [f"if old[{i}] != new[{i}]:", *(f"    {line}" for line in lines)]


_FOLDS = {"plus": _plus, "minus": _minus, "change": _change}
