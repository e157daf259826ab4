"""From what the user wrote to typed nodes: names are looked up, operands typed, literals fitted, joins found.

Decides which declarations and queries make sense, with an error for each that does not. What an operator accepts is the
table in `semantics`; which members exist the model knows. Invariant: a node that comes out can be evaluated by all
three evaluators, which agree (what one of them can't do, it refuses).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, cast

from ensue.errors import DeclarationError, EnsueError, ExpressionError, Origin, PlannedError, Problem
from ensue.expression import semantics
from ensue.expression.literals import LiteralError, constant, constants
from ensue.expression.nodes import Call, Column, Constant, Exists, Follow, Hop, Node, Operator, Parameter
from ensue.expression.records import CollectionType, FieldType, LinkType, Member, RecordTypes
from ensue.expression.semantics import BOOL, DATETIME, EXPECTED, FLOAT, INT, STR, SYMBOLS, plain
from ensue.expression.trace import Expr, Literal, Operation, Path, Quantified, Root
from ensue.expression.types import ValueType

NAME_CODE = "E0120"
"""The code of an unknown name, a name used as what it isn't, or a path from the wrong place."""


def resolve(
    expr: Expr[Any],
    record: str,
    types: RecordTypes,
    *,
    root: Root | None = None,
    expected: ValueType | None = None,
    now: datetime | None = None,
    aliases: Collection[str] = (),
    inverses: bool = False,
    origin: Origin | None = None,
) -> Node:
    """The typed form of `expr` over rows of `record`.

    `root` is the parameter of the lambda that was traced. `expected` is the type that the place wants: the result is
    cast to it (int to float, a decimal to another scale half-even) or refused. `now` is what `now` means; without it
    `now` is refused. `aliases` are further names under which the record's own class may appear (a base class, a view).
    With `inverses` a path may go over the other side of a one-to-one, which a read joins and nothing else knows how to
    follow. `origin` goes into errors.

    >>> resolve(Path(Root("Post"), ("title",)) == "x", "Post", types)  # doctest: +SKIP
    Call(op='eq', args=(Column(path=(), field='title', ...), Constant('x', ...)), ...)
    """
    resolver = _Resolver(types, [_Scope(record, root, frozenset((record, *aliases)))], now, origin, inverses)
    node = resolver.node(expr, expected)
    return node if expected is None else resolver.fitted(node, expected, expr)


def resolve_hops(
    path: Path, record: str, types: RecordTypes, *, root: Root | None = None, origin: Origin | None = None
) -> tuple[tuple[Hop, ...], str]:
    """Where a path of links and collections leads: the hops from `record` and the record type at the end.

    For `Through`, aggregates and nested selections; a path that ends at a value is refused.
    """
    resolver = _Resolver(types, [_Scope(record, root, frozenset((record,)))], None, origin)
    _, start = resolver.scope(path)
    return resolver.hops(path, start.record)


def trace(
    function: Callable[[Any], Any], record: str | None, *, what: str = "a condition", origin: Origin | None = None
) -> tuple[Expr[Any], Root]:
    """Call a user's lambda once with a path, and return the expression that it made with the root of that path.

    `what` says in errors what the lambda is for. Raises `ExpressionError` for a function that is not an expression.
    """
    root = Root.parameter(record)
    found = call_traced(function, Path(root), what=what, origin=origin)
    if isinstance(found, Expr):
        return cast("Expr[Any]", found), root
    raise _refusal(
        f"The function given as {what} returned {_shown(found)}; expected an expression made from its parameter, "
        f"such as `lambda c: c.score > 3`. {_OPAQUE}",
        origin,
    )


def call_traced(function: Callable[[Any], Any], path: Path, *, what: str, origin: Origin | None = None) -> Any:
    """Call a user's lambda with `path`, whatever it returns (a mapping, say); its errors say what is allowed in it."""
    try:
        found = function(path)
    except ExpressionError as error:
        raise _refusal(f"In the function given as {what}: {error.problems[0].message}", origin) from error
    except EnsueError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise _refusal(
            f"The function given as {what} can't be traced as an expression ({reason}). {_OPAQUE}", origin
        ) from error
    if hasattr(found, "__await__"):
        getattr(found, "close", lambda: None)()
        raise _refusal(f"The function given as {what} is async; expected an expression. {_OPAQUE}", origin)
    return found


def lift(node: Node, start: int = 0) -> tuple[Node, tuple[Any, ...]]:
    """The node with its constants replaced by parameters (numbered from `start`), and the constants' values.

    Two queries that differ only in their values give the same node, so that one statement serves both.
    """
    values: list[Any] = []

    def lifted(item: Node) -> Node:
        if isinstance(item, Constant):
            values.append(_as_list(item.value))
            return Parameter(start + len(values) - 1, item.type, item.optional)
        if isinstance(item, Call):
            return replace(item, args=tuple(lifted(argument) for argument in item.args))
        if isinstance(item, Exists) and item.condition is not None:
            return replace(item, condition=lifted(item.condition))
        return item

    return lifted(node), tuple(values)


def cast_to(node: Node, target: ValueType) -> Node:
    """The node as a value of `target`; the types must be castable (`semantics.castable`)."""
    source = plain(node.type)
    if source == plain(target) or source.kind not in semantics.NUMBERS:
        return node
    if isinstance(node, Constant) and source.kind == "int" and target.kind == "float":
        return Constant(float(node.value), target)
    return Call("cast", (node,), target, node.optional)


_OPAQUE = (
    "An expression is built from the parameter's fields with operators; a plain Python function belongs in "
    "`Custom(compute=..., uses=...)`."
)


def _as_list(value: Any) -> Any:
    return list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value


def _shown(value: object) -> str:
    return (
        f"{value!r} ({type(value).__name__})"
        if value is None or isinstance(value, bool | int | float | str)
        else f"a {type(value).__name__}"
    )


def _id_at(links: Sequence[str], *, owned: bool, optional: bool, depth: int) -> Column:
    """The id of the record that `links` lead to: in the column of the last link, if that is `owned` by the row before."""
    path, field = (links[:-1], links[-1]) if links and owned else (links, "id")
    return Column(tuple(path), field, INT, optional, depth)


def _refusal(message: str, origin: Origin | None, *, code: str = ExpressionError.code) -> DeclarationError:
    kind = ExpressionError if code == ExpressionError.code else DeclarationError
    return kind(Problem(code, message, origin))


@dataclass(frozen=True, slots=True)
class _Scope:
    record: str
    root: Root | None
    names: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Resolver:
    types: RecordTypes
    scopes: list[_Scope]
    now: datetime | None
    origin: Origin | None
    inverses: bool = False
    targets: dict[int, str] = field(default_factory=dict[int, str])
    """By the identity of a traced path: the record type whose id it means."""

    def refusal(self, message: str, code: str = ExpressionError.code) -> DeclarationError:
        return _refusal(message, self.origin, code=code)

    def node(self, expr: Expr[Any], hint: ValueType | None = None, target: str | None = None) -> Node:
        if isinstance(expr, Path):
            return self.column(expr)
        if isinstance(expr, Literal):
            return self.literal(expr, hint, target, "An expression")
        if isinstance(expr, Quantified):
            return self.quantified(expr)
        if isinstance(expr, Operation):
            return self.operation(expr)
        raise self.refusal(f"An expression of {type(expr).__name__} can't be used here.")

    def literal(self, expr: Literal, hint: ValueType | None, target: str | None, where: str) -> Constant:
        try:
            return constant(expr.value, hint, target=target)
        except LiteralError as error:
            raise self.refusal(f"{where} has {error}.{_expected(hint)}") from error

    def fitted(self, node: Node, expected: ValueType, expr: Expr[Any]) -> Node:
        if semantics.castable(node.type, expected):
            return cast_to(node, expected)
        raise self.refusal(f"The expression {expr!r} is {node.type}; expected {expected}.")

    # --- Paths --------------------------------------------------------------------------------------------------------

    def scope(self, path: Path) -> tuple[int, _Scope]:
        """How deep the path's root lies below the innermost scope, and that scope."""
        outermost = self.scopes[0]
        for depth, scope in enumerate(reversed(self.scopes)):
            if path.root.token and scope.root == path.root:
                return depth, scope
        if not path.root.token:
            if path.root.record is None or path.root.record in outermost.names:
                return len(self.scopes) - 1, outermost
            raise self.refusal(
                f"The path {path!r} starts at {path.root.record}; expected {outermost.record}, the record type "
                f"that is asked about. Follow a link from {outermost.record}, or use the parameter of the lambda.",
                NAME_CODE,
            )
        raise self.refusal(
            f"The path {path!r} starts at the parameter of another lambda; use the parameter of this one.", NAME_CODE
        )

    def column(self, path: Path) -> Column:
        depth, scope = self.scope(path)
        record, optional, links, owned = scope.record, False, list[str](), True
        for index, step in enumerate(path.steps):
            member = self.member(record, step, path)
            last = index == len(path.steps) - 1
            if isinstance(member, CollectionType) and not (member.single and self.inverses):
                raise self.collection_refusal(path, index, record, member)
            if isinstance(member, FieldType):
                if not last:
                    raise self.refusal(
                        f"{record}.{step} is a value ({member.type}): {path.steps[index + 1]!r} can't follow it "
                        f"in {path!r}.",
                        NAME_CODE,
                    )
                if step == "id":
                    self.targets[id(path)] = record
                    return _id_at(links, owned=owned, optional=optional, depth=depth)
                return Column(tuple(links), step, member.type, optional or member.optional, depth)
            if isinstance(member, LinkType):
                owned, optional = True, optional or member.optional
                links.append(member.name or step)
            else:
                owned, optional = False, True
                links.append(step)
            record = member.target
        self.targets[id(path)] = record
        return _id_at(links, owned=owned, optional=optional, depth=depth)

    def collection_refusal(self, path: Path, index: int, record: str, member: CollectionType) -> DeclarationError:
        name = path.steps[index]
        if member.single:
            return self.refusal(
                f"{record}.{name} is the other side of a one-to-one: its column belongs to {member.target}, so only the "
                f"conditions and orders of reads can follow {path!r}. Declare this on {member.target} instead, whose "
                f"{member.hops[0].link} leads to the {record}.",
                NAME_CODE,
            )
        rest = "".join(f".{step}" for step in path.steps[index + 1 :])
        before = ".".join((path.root.record or record, *path.steps[: index + 1]))
        advice = (
            f"Write `{before}.any(lambda x: x{rest} …)`."
            if self.inverses
            else f"Declare an AnyOf, Count or Max over {name} on {record} and use its name."
        )
        return self.refusal(
            f"{record}.{name} leads to many records, so {path!r} has no single value here. {advice}", NAME_CODE
        )

    def member(self, record: str, name: str, path: Path) -> Member:
        member = self.types.member(record, name)
        if member is not None:
            return member
        names = self.types.names(record)
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        advice = f"Did you mean {' or '.join(close)}?" if close else f"It has: {', '.join(sorted(names))}."
        raise self.refusal(f"{record} has no {name!r} (in {path!r}). {advice}", NAME_CODE)

    def hops(self, path: Path, record: str) -> tuple[tuple[Hop, ...], str]:
        found: list[Hop] = []
        for step in path.steps:
            member = self.member(record, step, path)
            if isinstance(member, FieldType):
                raise self.refusal(
                    f"{record}.{step} is a value ({member.type}), expected a link or a collection in {path!r}.",
                    NAME_CODE,
                )
            if isinstance(member, LinkType):
                found.append(Follow(member.name or step, member.target))
            else:
                found.extend(member.hops)
            record = member.target
        return tuple(found), record

    def quantified(self, expr: Quantified) -> Exists:
        depth, scope = self.scope(expr.collection)
        hops, record = self.hops(expr.collection, scope.record)
        if not hops:
            raise self.refusal(f"`.any` needs a collection; {expr.collection!r} is the record itself.", NAME_CODE)
        if expr.condition is None:
            return Exists(hops, None, BOOL, depth)
        self.scopes.append(_Scope(record, expr.root))
        try:
            condition = self.predicate(expr.condition, "`.any`")
        finally:
            self.scopes.pop()
        return Exists(hops, condition, BOOL, depth)

    def predicate(self, expr: Expr[Any], where: str) -> Node:
        node = self.node(expr, BOOL)
        if node.type.kind != "bool":
            raise self.refusal(f"{where} takes bool, found {expr!r}, which is {node.type}. Compare it with something.")
        return node

    # --- Operators ----------------------------------------------------------------------------------------------------

    def operation(self, expr: Operation) -> Node:
        op = expr.op
        if op in ("and", "or", "not"):
            args = tuple(self.predicate(argument, f"`{SYMBOLS[op]}`") for argument in expr.args)
            return Call(cast("Operator", op), args, BOOL, optional=False)
        if op == "is_null":
            return Call("is_null", (self.node(expr.args[0]),), BOOL, optional=False)
        if op in ("neg", "upper", "lower"):
            return self.unary(expr, cast("Operator", op))
        if op == "in":
            return self.membership(expr)
        if op == "now":
            if self.now is None:
                raise PlannedError(
                    Problem(
                        PlannedError.code,
                        "`now` in an expression that is stored is planned; as a default it works.",
                        self.origin,
                    )
                )
            return constant(self.now)
        if op in EXPECTED:
            return self.binary(expr)
        raise PlannedError(Problem(PlannedError.code, f"`{op}` in an expression is planned.", self.origin))

    def _refuse_records(self, expr: Operation) -> None:
        """A link means the id of its record, which nobody wants to add up or to order by mistake."""
        for argument in expr.args:
            if isinstance(argument, Path) and id(argument) in self.targets and argument.steps[-1:] != ("id",):
                raise self.refusal(
                    f"`{SYMBOLS[expr.op]}` in {expr!r} is applied to {argument!r}, which is a record. Compare records with "
                    f"`==` or `.in_()`; the number is `{argument!r}.id`."
                )

    def unary(self, expr: Operation, op: Operator) -> Call:
        node = self.node(expr.args[0])
        self._refuse_records(expr)
        type_ = plain(node.type)
        if type_.kind in (semantics.NUMBERS if op == "neg" else ("str",)):
            return Call(op, (node,), type_, node.optional)
        raise self.operands_refusal(expr, (node,))

    def membership(self, expr: Operation) -> Call:
        subject = self.node(expr.args[0])
        values = cast("Literal", expr.args[1]).value
        if not semantics.accepts("in", subject.type):
            raise self.operands_refusal(expr, (subject,))
        try:
            items = constants(cast("Sequence[object]", values), subject.type, target=self.targets.get(id(expr.args[0])))
        except LiteralError as error:
            raise self.refusal(f"{expr!r} has {error}.{_expected(subject.type)}") from error
        meeting = semantics.common(subject.type, items.type)
        if meeting is None:
            raise self.operands_refusal(expr, (subject, items))
        if items.type != meeting and meeting.kind in semantics.NUMBERS:
            converted = (constant(value, meeting).value for value in items.value)
            items = Constant(tuple(dict.fromkeys(converted)), meeting)
        return Call("in", (compared(subject, meeting), items), BOOL, optional=False)

    def binary(self, expr: Operation) -> Node:
        left, right = self.operands(expr)
        op = expr.op
        if op not in ("eq", "ne", "or_else"):
            self._refuse_records(expr)
        if isinstance(right, timedelta):
            return self.shifted(expr, left, right)
        meeting = semantics.common(left.type, right.type)
        kinds = {plain(left.type).kind, plain(right.type).kind}
        if op == "div" and kinds <= semantics.NUMBERS:
            return Call("div", (cast_float(left), cast_float(right)), FLOAT, optional=True)
        if meeting is None or not semantics.accepts(op, meeting):
            raise self.operands_refusal(expr, (left, right))
        if op in semantics.COMPARISONS:
            sides = (compared(left, meeting), compared(right, meeting))
            return Call(op, sides, BOOL, optional=False)
        if op == "or_else":
            return Call(
                "or_else", (cast_to(left, meeting), cast_to(right, meeting)), meeting, left.optional and right.optional
            )
        return self.arithmetic(expr, left, right, plain(meeting))

    def arithmetic(self, expr: Operation, left: Node, right: Node, meeting: ValueType) -> Call:
        optional = left.optional or right.optional
        if meeting.kind == "str":
            return Call("concat", (left, right), STR, optional)
        if expr.op == "mul" and meeting.kind == "decimal":
            scale = (left.type.scale or 0) + (right.type.scale or 0)
            if scale > semantics.SCALE_MAX:
                raise self.refusal(f"{expr!r} has {scale} decimals; expected at most {semantics.SCALE_MAX}.")
            sides = (cast_to(side, semantics.decimal(side.type.scale or 0)) for side in (left, right))
            return Call("mul", tuple(sides), semantics.decimal(scale), optional)
        return Call(cast("Operator", expr.op), (cast_to(left, meeting), cast_to(right, meeting)), meeting, optional)

    def operands(self, expr: Operation) -> tuple[Node, Node | timedelta]:
        """Both operands; a literal is typed from the other one."""
        left, right = expr.args
        if isinstance(right, Literal) and isinstance(right.value, timedelta):
            return self.node(left), right.value
        if isinstance(left, Literal) and isinstance(left.value, timedelta) and expr.op == "add":
            return self.node(right), left.value
        if isinstance(left, Literal) and not isinstance(right, Literal):
            other = self.node(right)
            return self.beside(left, other, right, expr), other
        node = self.node(left)
        return node, self.beside(right, node, left, expr)

    def beside(self, expr: Expr[Any], other: Node, traced: Expr[Any], whole: Operation) -> Node:
        if not isinstance(expr, Literal):
            return self.node(expr)
        hint: ValueType | None = other.type
        if whole.op in ("mul", "div") and other.type.kind == "decimal":
            hint = None  # a factor keeps its own decimals: they add up instead of meeting
        elif whole.op in ("add", "sub", "mul") and isinstance(expr.value, float):
            hint = None  # 2.0 beside an int makes a float, as 2.5 does: types don't hang on values
        elif whole.op not in ("eq", "ne", "or_else"):
            hint = plain(other.type)  # what is added to one of some values, or ordered beside it, is any value
        return self.literal(expr, hint, self.targets.get(id(traced)), repr(whole))

    def shifted(self, expr: Operation, left: Node, by: timedelta) -> Call:
        if left.type.kind != "datetime" or expr.op not in ("add", "sub"):
            raise self.operands_refusal(expr, (left,), "timedelta")
        micros = by // timedelta(microseconds=1)
        return Call("shift", (left, Constant(micros if expr.op == "add" else -micros, INT)), DATETIME, left.optional)

    def operands_refusal(self, expr: Operation, nodes: tuple[Node, ...], *more: str) -> DeclarationError:
        found = " and ".join((*(_named(node.type) for node in nodes), *more))
        message = f"`{SYMBOLS[expr.op]}` in {expr!r} takes {EXPECTED[expr.op]}; found {found}."
        kinds = {node.type.kind for node in nodes}
        if expr.op == "sub" and kinds == {"datetime"}:
            message += " The difference of two instants is no value type: compare them, or add a timedelta to one."
        elif kinds == {"float", "decimal"}:
            message += " Use Decimal values beside a decimal."
        elif expr.op in semantics.ORDERINGS and kinds == {"enum"}:
            message += " Members of an enum have no order here: use == or .in_()."
        return self.refusal(message)


def cast_float(node: Node) -> Node:
    """A number as a float: what division divides."""
    return cast_to(node, FLOAT)


def compared(node: Node, meeting: ValueType) -> Node:
    """The operand of a comparison; exact numbers compare as they are, whatever their scales."""
    return node if meeting.kind == "decimal" else cast_to(node, meeting)


def _named(type_: ValueType) -> str:
    return f"enum {type_.python.__name__}" if type_.kind == "enum" else str(type_)


def _expected(hint: ValueType | None) -> str:
    return "" if hint is None or hint.values else f" Expected {_named(hint)}."
