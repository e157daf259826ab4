"""What can be subscribed to: a record by its id, and what an interaction declared with `reads=` gives.

Decides who may, what is read, and which changes can matter to it. Leaves when to read to `subscriptions`. Invariant:
what was not opened in the server's options, or by the interaction's own `allow`, is never read for a client, nor are
its types and fields named to one who did not name them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any

import msgspec

from ensue.clock import EPOCH
from ensue.engine.read.selection import Selection, UnknownField, select
from ensue.errors import DeclarationError, Rejected
from ensue.expression.nodes import Column, Exists, walk
from ensue.expression.resolve import resolve
from ensue.expression.trace import Order, Path, Root
from ensue.schema.interaction import Context
from ensue.schema.model import InteractionModel, Model, RecordModel
from ensue.schema.record import Record
from ensue.schema.written.names import suggestion
from ensue.server.answers import Refusal, encode
from ensue.server.calls import Calls
from ensue.server.live.subscriptions import NOTHING, Source, Watched
from ensue.server.options import SUBSCRIBABLE_KINDS, ServerOptions
from ensue.server.protocol import SubscribeRequest

if TYPE_CHECKING:
    from ensue.app import AppRun
    from ensue.server.serving import Serving

FIELDS_MAX = 200
ANYTHING = Watched(types=None)


class Gate:
    """Who may subscribe to which records."""

    def __init__(self, model: Model, options: ServerOptions) -> None:
        self._open = options.subscribable_in(model)
        self._allow = options.allow_subscribe
        self._model = model

    def find(self, name: str) -> RecordModel:
        """The record type that a client names. Raises `Refusal`, which suggests nothing but types that are open."""
        record = self._model.records.get(name)
        if record is None or record.kind not in SUBSCRIBABLE_KINDS:
            hint = suggestion(name, self._open)
            raise Refusal(404, "unknown_record", f"There is no record type {name!r}.{hint}")
        return record

    async def check(self, ctx: Context, record: str, key: int) -> None:
        """Raises `Rejected` if `ctx.user` may not see that record."""
        if self._model.records[record].cls.__ensue_private__:
            raise Rejected("not_allowed", f"{record} can't be subscribed to: it is private.")
        if self._allow is not None:
            allowed = self._allow(ctx, self._model.records[record].cls, key)
            if not (await allowed if inspect.isawaitable(allowed) else allowed):
                raise Rejected("not_allowed", f"This {record} can't be subscribed to.")
            return
        if record not in self._open:
            text = f"{record} can't be subscribed to: the app opens no subscriptions to it (asgi(subscribable=...))."
            raise Rejected("not_allowed", text)
        if ctx.user is None:
            raise Rejected("not_authenticated", "Only known users can subscribe to records: sign in first.")

    def check_nested(self, record: str, names: Set[str]) -> None:
        """Raises `Rejected` if records of types `names`, which a selection of `record` also reads, are not open."""
        closed = sorted(names - self._open)
        if closed:
            text = f"The fields of {record} also read {', '.join(closed)}, to which the app opens no subscriptions."
            raise Rejected("not_allowed", text)


class RecordSource:
    """One record, with the fields asked for or its own."""

    def __init__(self, run: AppRun, selection: Selection, key: int, fields: list[Any] | None) -> None:
        self._run = run
        self._name = selection.record.name
        self._key = key
        self._fields = fields
        self.watched = Watched((self._name, key), frozenset((*_nested_types(selection), *_edge_types(selection))))
        self.key: Hashable = ("record", self._name, key, msgspec.json.encode(fields))

    async def read(self) -> bytes:
        store = self._run.controller.store
        cls = self._run.model.records[self._name].cls
        more = {} if self._fields is None else {"fields": self._fields}
        found = await store.find_one(self._name, cls.id == self._key, **more)
        return NOTHING if found is None else encode(found)


class ReadSource:
    """What an interaction with `reads=` gives to one user."""

    def __init__(self, run: AppRun, calls: Calls, request: SubscribeRequest, context: Context) -> None:
        assert request.read is not None
        payload = calls.payload(request.read)
        if payload.interaction.reads is None:
            text = f"{request.read} does more than read, so it can't be subscribed to. Dispatch it instead."
            raise Refusal(422, "invalid", text)
        interaction = payload.read(request.payload)
        self._calls = calls
        self._name = request.read
        self._payload = bytes(request.payload)
        self._context = context
        self.watched = _watched_by(run.model, payload.interaction, interaction, context)
        # What it gives may depend on the user: only equal questions of one user are shared.
        asked = msgspec.json.encode(msgspec.json.decode(self._payload), order="sorted")
        self.key: Hashable = ("read", self._name, asked, *_identity(context.user))

    async def read(self) -> bytes:
        context = self._context
        return await self._calls.interaction(self._name, self._payload, user=context.user, request=context.request)


def _identity(user: Any) -> tuple[str, Any]:
    if user is None or isinstance(user, int | str):
        return type(user).__name__, user
    return ("record", user.__ensue_id__()) if isinstance(user, Record) else ("object", id(user))


async def source_for(serving: Serving, request: SubscribeRequest, context: Context) -> Source:
    """The source that a request names, if the client may see it. Raises `Refusal` and `Rejected`."""
    if request.record is None:
        return ReadSource(serving.run, serving.calls, request, context)
    assert request.key is not None
    record = serving.gate.find(request.record)
    # Before its fields are looked at: what is wrong with them tells which there are.
    await serving.gate.check(context, record.name, request.key)
    selection = _selection(serving, record, request.fields)
    return RecordSource(serving.run, selection, request.key, request.fields)


def _selection(serving: Serving, record: RecordModel, fields: list[Any] | None) -> Selection:
    """What is read of `record`, of open types only. Raises `Refusal` and `Rejected`."""
    if fields is not None and len(fields) > FIELDS_MAX:
        raise Refusal(422, "invalid", f"{len(fields)} fields are asked for; expected at most {FIELDS_MAX}.")
    try:
        selection = select(serving.run.model, record, fields)
    except (DeclarationError, RecursionError) as error:
        if isinstance(error, UnknownField):
            serving.gate.check_nested(record.name, {error.record} - {record.name})
        raise Refusal(422, "invalid", str(error), fields={"fields": "can't be read"}) from error
    serving.gate.check_nested(record.name, set(_nested_types(selection)))
    return selection


def _watched_by(model: Model, declared: InteractionModel, interaction: Any, context: Context) -> Watched:
    """What can change a read: rows of the types that it selects; anything, if its conditions look elsewhere."""
    assert declared.reads is not None
    record = model.records[declared.reads]
    query: Callable[[Any, Context], Mapping[str, Any]] | None = getattr(declared.cls, "query", None)
    try:
        asked: Mapping[str, Any] = {} if query is None else query(interaction, context)
        selection = select(model, record, asked.get("fields"))
        if _crosses(model, record, asked) or _limited(selection):
            return ANYTHING
    except Exception:  # noqa: BLE001  # it will be told when the read is run, where `allow` comes before `query`
        return ANYTHING
    return Watched(types=frozenset({record.name, *_nested_types(selection), *_edge_types(selection)}))


def _crosses(model: Model, record: RecordModel, asked: Mapping[str, Any]) -> bool:
    """Whether the condition or the order of a read looks at other records than those it gives."""
    expressions = [] if asked.get("where") is None else [asked["where"]]
    for item in asked.get("order_by", ()):
        if isinstance(item, str):
            item = Path(Root(None), tuple(item.removeprefix("-").split(".")))
        expressions.append(item.value if isinstance(item, Order) else item)
    # Any instant will do for `now`: only columns are looked at.
    resolved = (resolve(expr, record.name, model, now=EPOCH, inverses=True) for expr in expressions)
    found = [node for top in resolved for node in walk(top)]
    return any(isinstance(node, Exists) or (isinstance(node, Column) and node.path) for node in found)


def _limited(selection: Selection) -> bool:
    """Whether a selected collection has conditions of its own, which may look anywhere."""
    nested = selection.collections.values()
    below = [*selection.links.values(), *(item.selection for item in nested)]
    return any(item.limits is not None for item in nested) or any(_limited(item) for item in below)


def nested_types(selection: Selection) -> frozenset[str]:
    """The record types below the selected record of which more than the id is read."""
    return frozenset(_nested_types(selection))


def _nested_types(selection: Selection) -> Iterator[str]:
    for link in selection.links.values():
        if not link.id_only:
            yield link.record.name
            yield from _nested_types(link)
    for nested in selection.collections.values():
        yield nested.selection.record.name
        yield from _nested_types(nested.selection)


def _edge_types(selection: Selection) -> Iterator[str]:
    """The record types over which the selected collections are reached."""
    for link in selection.links.values():
        yield from _edge_types(link)
    for nested in selection.collections.values():
        for hop in nested.hops:
            yield hop.record
        yield from _edge_types(nested.selection)
