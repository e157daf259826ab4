"""Nodes as Python source, for plans that fuse many expressions into one generated function, and as closures.

Decides how a node reads in Python: where a null can occur and must be tested for, and nothing where it can't. What an
operator means is the table in `semantics`. Invariant: the source is one expression that evaluates each argument at most
once, apart from columns, which must be cheap and free of side effects (a name or `row[3]`).
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, cast

from ensue.errors import InternalError
from ensue.expression import arithmetic, semantics
from ensue.expression.nodes import Call, Column, Constant, Exists, Node, Parameter

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(arithmetic, name)
    for name in (
        "fit_int",
        "decimal_add",
        "decimal_sub",
        "decimal_mul",
        "decimal_neg",
        "to_decimal",
        "decimal_float",
        "float_fit",
        "float_mul",
        "float_div",
        "shift",
    )
}
_COMPARISONS = {"eq": "==", "ne": "==", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_SYMBOLS = {"add": "+", "sub": "-", "mul": "*"}


def source(
    node: Node,
    column: Callable[[Column], str],
    constants: dict[str, Any],
    *,
    parameter: Callable[[Parameter], str] | None = None,
    exists: Callable[[Exists], str] | None = None,
) -> str:
    """A Python expression that computes `node`, in parentheses where needed.

    `column` gives the source of a column's value (a name or a subscription). Values and functions that the source needs
    are put into `constants` by name; the same dictionary can serve many expressions of one function. Temporaries are
    named `_t0`, ….
    """
    return _Writer(column, constants, parameter, exists).write(node)


def predicate_source(
    node: Node,
    column: Callable[[Column], str],
    constants: dict[str, Any],
    *,
    parameter: Callable[[Parameter], str] | None = None,
    exists: Callable[[Exists], str] | None = None,
) -> str:
    """Like `source` for a bool whose null counts as false: the value is True or False."""
    return _Writer(column, constants, parameter, exists).predicate(node)


def compile_function(
    name: str, parameters: Sequence[str], body: str | Sequence[str], constants: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """A function from generated source: `body` is one expression to return, or the lines of a body.

    The source is kept for tracebacks under the file name `<ensue name>`. `constants` are its only globals besides the
    builtins.
    """
    lines = [f"return {body}"] if isinstance(body, str) else list(body)
    text = f"def {name}({', '.join(parameters)}):\n" + "".join(f"    {line}\n" for line in lines)
    namespace: dict[str, Any] = dict(constants or {})
    try:
        exec(compile(text, f"<ensue {name}>", "exec"), namespace)  # noqa: S102 - our own generated source
    except SyntaxError as error:
        raise InternalError(f"The generated function {name} is no Python: {error}\n{text}") from error
    function = cast("Callable[..., Any]", namespace[name])
    function.__doc__ = text
    return function


def evaluator(node: Node, column: Callable[[Column], str]) -> Callable[[Any], Any]:
    """A function of one `row`; `column` gives the source of a column's value in terms of `row`.

    >>> evaluator(score_above_3, lambda column: f"row.{column.field}")(comment)  # doctest: +SKIP
    True
    """
    constants: dict[str, Any] = {}
    return compile_function("evaluate", ("row",), source(node, column, constants), constants)


class _Writer:
    def __init__(
        self,
        column: Callable[[Column], str],
        constants: dict[str, Any],
        parameter: Callable[[Parameter], str] | None,
        exists: Callable[[Exists], str] | None,
    ) -> None:
        self._column = column
        self._constants = constants
        self._parameter = parameter
        self._exists = exists
        self._temporaries = 0

    def write(self, node: Node) -> str:
        if isinstance(node, Column):
            return self._column(node)
        if isinstance(node, Constant):
            return self.constant(node.value)
        if isinstance(node, Call):
            return getattr(self, f"_op_{node.op}", self.plain)(node)
        if isinstance(node, Parameter):
            if self._parameter is not None:
                return self._parameter(node)
        elif self._exists is not None:
            return self._exists(node)
        raise InternalError(f"{type(node).__name__} can't be evaluated in Python here: {node!r}")

    def predicate(self, node: Node) -> str:
        """The node as True or False."""
        text = self.write(node)
        return f"({text} is True)" if node.optional else text

    def constant(self, value: Any) -> str:
        if type(value) in (int, bool, str):
            return f"({value!r})" if type(value) is int and value < 0 else repr(value)
        if isinstance(value, tuple):
            value = frozenset(cast("tuple[Any, ...]", value))
        for name, known in self._constants.items():
            if (
                type(known) is type(value)
                and known == value
                and (not isinstance(value, float | Enum) or known is value)
            ):
                return name
        name = f"_c{len(self._constants)}"
        self._constants[name] = value
        return name

    def function(self, name: str) -> str:
        self._constants[name] = _FUNCTIONS[name]
        return name

    def bound(self, node: Node) -> tuple[str, str]:
        """The source to use first and the one to use from then on, so that nothing but columns is evaluated twice."""
        text = self.write(node)
        if isinstance(node, Column | Constant | Parameter):
            return text, text
        name = f"_t{self._temporaries}"
        self._temporaries += 1
        return f"({name} := {text})", name

    def guarded(self, args: Sequence[Node], build: Callable[[list[str]], str]) -> str:
        """`build` of the arguments, or None if one of them is null."""
        if not any(argument.optional for argument in args):
            return build([self.write(argument) for argument in args])
        # A temporary is bound in the test; arguments that need none are evaluated in place, after the tests.
        tests: list[str] = []
        names: list[str] = []
        for argument in args:
            if argument.optional:
                first, name = self.bound(argument)
                tests.append(f"{first} is None")
                names.append(name)
            else:
                names.append(self.write(argument))
        return f"(None if {' or '.join(tests)} else {build(names)})"

    # --- Two-valued ---------------------------------------------------------------------------------------------------

    def _op_and(self, node: Call) -> str:
        return f"({' and '.join(self.predicate(argument) for argument in node.args)})"

    def _op_or(self, node: Call) -> str:
        return f"({' or '.join(self.predicate(argument) for argument in node.args)})"

    def _op_not(self, node: Call) -> str:
        return f"(not {self.predicate(node.args[0])})"

    def _op_is_null(self, node: Call) -> str:
        return f"({self.write(node.args[0])} is None)"

    def _op_in(self, node: Call) -> str:
        # No null is among the values, so a null subject needs no test.
        return f"({self.write(node.args[0])} in {self.write(node.args[1])})"

    def _op_eq(self, node: Call) -> str:
        left, right = node.args
        if not (left.optional and right.optional):
            return f"({self.write(left)} == {self.write(right)})"
        first, name = self.bound(left)
        return f"({first} is not None and {name} == {self.write(right)})"

    def _op_ne(self, node: Call) -> str:
        left, right = node.args
        if left.optional and right.optional:
            return f"(not {self._op_eq(node)})"
        return f"({self.write(left)} != {self.write(right)})"

    def ordering(self, node: Call) -> str:
        tests: list[str] = []
        sides: list[str] = []
        for argument in node.args:
            if argument.optional:
                first, name = self.bound(argument)
                tests.append(f"{first} is not None and ")
                sides.append(name)
            else:
                sides.append(self.write(argument))
        return f"({''.join(tests)}{sides[0]} {_COMPARISONS[node.op]} {sides[1]})"

    _op_lt = _op_le = _op_gt = _op_ge = ordering

    # --- Values -------------------------------------------------------------------------------------------------------

    def _op_or_else(self, node: Call) -> str:
        if not node.args[0].optional:
            return self.write(node.args[0])
        first, name = self.bound(node.args[0])
        return f"({name} if {first} is not None else {self.write(node.args[1])})"

    def _op_cast(self, node: Call) -> str:
        kind, scale = node.type.kind, node.type.scale
        origin = semantics.plain(node.args[0].type)
        if kind == "decimal":
            name = self.function("to_decimal")
            return self.guarded(node.args, lambda args: f"{name}({args[0]}, {scale})")
        if origin.kind == "decimal":
            name = self.function("decimal_float")
            return self.guarded(node.args, lambda args: f"{name}({args[0]}, {origin.scale})")
        return self.guarded(node.args, lambda args: f"float({args[0]})")

    def _op_neg(self, node: Call) -> str:
        if node.type.kind == "int":
            name = self.function("fit_int")
            return self.guarded(node.args, lambda args: f"{name}(-{args[0]})")
        if node.type.kind == "decimal":
            name = self.function("decimal_neg")
            return self.guarded(node.args, lambda args: f"{name}({args[0]}, {node.type.scale})")
        return self.guarded(node.args, lambda args: f"(-{args[0]})")

    def _op_div(self, node: Call) -> str:
        name = self.function("float_div")
        return self.guarded(node.args, lambda args: f"{name}({args[0]}, {args[1]})")

    def arithmetic(self, node: Call) -> str:
        kind = node.type.kind
        if kind == "decimal":
            name = self.function(f"decimal_{node.op}")
            return self.guarded(node.args, lambda args: f"{name}({args[0]}, {args[1]}, {node.type.scale})")
        if kind == "float" and node.op == "mul":
            name = self.function("float_mul")
            return self.guarded(node.args, lambda args: f"{name}({args[0]}, {args[1]})")
        name = self.function("fit_int" if kind == "int" else "float_fit")
        return self.guarded(node.args, lambda args: f"{name}({args[0]} {_SYMBOLS[node.op]} {args[1]})")

    _op_add = _op_sub = _op_mul = arithmetic

    def _op_concat(self, node: Call) -> str:
        return self.guarded(node.args, lambda args: f"({args[0]} + {args[1]})")

    def _op_upper(self, node: Call) -> str:
        return self.guarded(node.args, lambda args: f"{args[0]}.{node.op}()")

    _op_lower = _op_upper

    def _op_shift(self, node: Call) -> str:
        name = self.function("shift")
        return self.guarded(node.args, lambda args: f"{name}({args[0]}, {args[1]})")

    def plain(self, node: Call) -> str:
        raise InternalError(f"The operator {node.op} has no form in Python.")
