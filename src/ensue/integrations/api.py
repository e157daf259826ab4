"""The API calls that an integration offers to clients: `POST /api/integrations/{namespace}/{name}`.

Decides what a typed method accepts and how a payload is checked; leaves routing, authentication and the encoding of
results to the server. Invariant: a function is called only with values of the types it declares, and a refused payload
names every wrong field.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Never, TypeVar, Union, cast, get_args, get_origin

import msgspec

from ensue.errors import DeclarationError, InvalidValue, Origin, Problem, Rejected
from ensue.integrations.settings.annotations import evaluate, names_near
from ensue.integrations.settings.conversion import describe

if TYPE_CHECKING:
    from ensue.schema.effect import Context

F = TypeVar("F", bound=Callable[..., Any])

WRONG_API = "E0160"
REQUIRED = inspect.Parameter.empty
ANSWER_HEADERS = "ensue.answer_headers"
"""The place in a request's scope where a call leaves headers for its answer."""
_MARK = "__ensue_api__"
_PLAIN = inspect.Parameter.POSITIONAL_OR_KEYWORD
# Bounds in msgspec.Meta can't be those of 64 bits (they would not fit themselves), so they are checked apart.
_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an API call; `default` is `REQUIRED` if it must be given."""

    name: str
    type: Any
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@dataclass(frozen=True, slots=True)
class ApiMark:
    """What `@api` leaves on a method: its options, and the local names that its annotations may need."""

    allow_anonymous: bool
    names: Mapping[str, Any]


def api(*misplaced: Never, allow_anonymous: bool = False) -> Callable[[F], F]:
    """Offer an integration's method as an API call. Without `allow_anonymous` only a known user may call it.

    The method takes the `Context` and then typed parameters, which are the call's payload.

    >>> class Pictures(Integration):
    ...     @api()
    ...     async def query_status(self, ctx: Context, task_id: int) -> str: ...
    """
    if misplaced:
        raise DeclarationError(
            f"@api was given {misplaced[0]!r}; expected named options only. Write @api() with parentheses."
        )

    def mark(function: F) -> F:
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # inspect.stack() reads files
        names = names_near(function.__annotations__.values(), frame)
        setattr(function, _MARK, ApiMark(allow_anonymous, names))
        return function

    return mark


def add_answer_header(ctx: Context, name: str, value: str) -> None:
    """Add a header, such as a cookie, to the answer of the API call that `ctx` is of.

    Raises `Rejected("not_over_http")` if the call came in another way, which has no headers.
    """
    scope: Any = getattr(ctx.request, "scope", None)
    if scope is None or scope.get("type") != "http":
        raise Rejected("not_over_http", f"This call sets the header {name}, so it can be made over HTTP only.")
    scope.setdefault(ANSWER_HEADERS, []).append((name, value))


def api_mark(function: object) -> ApiMark | None:
    """What `@api` left on `function`, if anything."""
    return getattr(function, _MARK, None)


class API:
    """One API call: a name and an async function that takes a `Context` and typed parameters.

    `parameters` and `payload` (a msgspec Struct) say what it takes, `result` what it gives (the annotation, or `Any`),
    `description` is the function's docstring. Raises `DeclarationError` for a function that can't be offered.

    >>> async def ping(ctx: Context, text: str = "") -> str:
    ...     return text
    >>> [parameter.name for parameter in API("ping", ping).parameters]
    ['text']
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Awaitable[Any]],
        /,
        *,
        allow_anonymous: bool = False,
        names: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.function = function
        self.allow_anonymous = allow_anonymous
        self.origin = _origin(function)
        if not isinstance(allow_anonymous, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise self._refusal(f"has allow_anonymous={allow_anonymous!r}; expected True or False.")
        self.parameters, self.result = self._read_signature(names or {})
        self.payload = _payload_type(name, self.parameters)
        self.description = inspect.getdoc(function) or ""

    def __repr__(self) -> str:
        return f"API({self.name!r}, {getattr(self.function, '__qualname__', self.function)})"

    async def call(self, ctx: Context, payload: Mapping[str, Any], /) -> Any:
        """Check the user and `payload` (as decoded from JSON), then call the function.

        Raises `Rejected("not_authenticated")` without a user, and `InvalidValue` whose `fields` names each wrong field.
        """
        if ctx.user is None and not self.allow_anonymous:
            raise Rejected("not_authenticated", f"{self.name} is for known users only: sign in first.")
        return await self.function(ctx, **self.check(payload))

    def check(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The values of `payload` by parameter, converted. Raises `InvalidValue`."""
        values: dict[str, Any] = {}
        wrong: dict[str, str] = {}
        for parameter in self.parameters:
            if parameter.name not in payload:
                if parameter.required:
                    wrong[parameter.name] = f"is missing; expected {describe(parameter.type)}"
            elif _has_large_integer(payload[parameter.name]):
                wrong[parameter.name] = "is out of range; integers have 64 bits"
            else:
                try:
                    values[parameter.name] = msgspec.convert(payload[parameter.name], parameter.type, str_keys=True)
                except msgspec.ValidationError as failure:
                    text = str(failure)
                    wrong[parameter.name] = text[:1].lower() + text[1:]
        known = {parameter.name for parameter in self.parameters}
        for name in payload:
            if name not in known:
                wrong[name] = f"is not a parameter; {self.name} takes {', '.join(sorted(known)) or 'none'}"
        if wrong:
            listed = "; ".join(f"{name}: {reason}" for name, reason in wrong.items())
            raise InvalidValue(f"The payload of {self.name} is not as declared: {listed}.", fields=wrong)
        return values

    def _read_signature(self, names: Mapping[str, Any]) -> tuple[tuple[Parameter, ...], Any]:
        if not inspect.iscoroutinefunction(self.function):
            raise self._refusal("is not an async function. Write `async def`.")
        declared = list(inspect.signature(self.function).parameters.values())
        if not declared or not self._is_context(declared[0], names):
            raise self._refusal(
                "takes no Context. Its first parameter is the Context: `async def name(self, ctx: Context, ...)`."
            )
        parameters = tuple(self._parameter(item, names) for item in declared[1:])
        result = inspect.signature(self.function).return_annotation
        return parameters, Any if result is inspect.Signature.empty else self._type("the result", result, names)

    def _is_context(self, item: inspect.Parameter, names: Mapping[str, Any]) -> bool:
        from ensue.schema.effect import Context

        if item.kind not in (_PLAIN, inspect.Parameter.POSITIONAL_ONLY):
            return False
        try:
            kind = evaluate(item.annotation, module=getattr(self.function, "__module__", ""), names=names)
        except NameError:
            return True  # a name that is imported for type checkers only
        return kind in (REQUIRED, Any, object) or (isinstance(kind, type) and issubclass(kind, Context))

    def _parameter(self, item: inspect.Parameter, names: Mapping[str, Any]) -> Parameter:
        if item.kind not in (_PLAIN, inspect.Parameter.KEYWORD_ONLY):
            raise self._refusal(f"has the parameter {item}: a payload has named fields only.")
        if item.annotation is REQUIRED:
            raise self._refusal(f"has the parameter {item.name} without a type. Write `{item.name}: str`, for example.")
        kind = _instants_with_zone(self._type(f"the parameter {item.name}", item.annotation, names))
        try:
            msgspec.json.schema(kind)
        except (TypeError, RuntimeError) as failure:
            raise self._refusal(
                f"has the parameter {item.name}: {describe(kind)}, which JSON can't be checked against ({failure}). "
                f"Take a plain "
                "type, a dataclass or a msgspec Struct; for a record take its id (int) and read it with "
                "ctx.controller.store."
            ) from None
        return Parameter(item.name, kind, item.default)

    def _type(self, what: str, annotation: Any, names: Mapping[str, Any]) -> Any:
        module = getattr(self.function, "__module__", "")
        try:
            return evaluate(annotation, module=module, names=names)
        except Exception as failure:
            raise self._refusal(
                f"annotates {what} with {annotation!r}, which can't be evaluated: {failure}."
            ) from failure

    def _refusal(self, text: str) -> DeclarationError:
        return DeclarationError(Problem(WRONG_API, f"The API call {self.name!r} {text}", self.origin))


def _instants_with_zone(kind: Any) -> Any:
    """`kind`, in which each `datetime` must say its zone: without one it is no instant, and nothing here takes it."""
    if kind is datetime:
        return Annotated[datetime, msgspec.Meta(tz=True)]
    arguments = get_args(kind)
    if not arguments or get_origin(kind) is Annotated:
        return kind
    inner = tuple(_instants_with_zone(argument) for argument in arguments)
    if inner == arguments:
        return kind
    if isinstance(kind, UnionType):
        return Union[inner]  # noqa: UP007 - `|` takes no tuple
    return kind.copy_with(inner) if hasattr(kind, "copy_with") else get_origin(kind)[inner]


def _has_large_integer(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_large_integer, cast("dict[object, object]", value).values()))
    if isinstance(value, list):
        return any(map(_has_large_integer, cast("list[object]", value)))
    return isinstance(value, int) and not _INTEGER_MIN <= value <= _INTEGER_MAX


def _payload_type(name: str, parameters: tuple[Parameter, ...]) -> type[msgspec.Struct]:
    fields: list[Any] = [
        (item.name, item.type) if item.required else (item.name, item.type, _default(item.default))
        for item in parameters
    ]
    title = "".join(part.capitalize() for part in name.split("_"))
    return msgspec.defstruct(f"{title}Parameters", fields, kw_only=True, forbid_unknown_fields=True)


def _default(value: Any) -> Any:
    # A mutable default can't be a Struct's; the function keeps its own anyway.
    return msgspec.field(default_factory=lambda: value) if type(value) in (list, dict, set) else value


def _origin(function: Any) -> Origin | None:
    code = getattr(inspect.unwrap(getattr(function, "__func__", function)), "__code__", None)
    return None if code is None else Origin(code.co_filename, code.co_firstlineno)
