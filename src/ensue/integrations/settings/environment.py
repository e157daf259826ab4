"""The settings of integrations: what an integration needs to be told, and where it is read from.

A setting is an annotated attribute of an `Integration` class. Its value is the one given to the constructor, else the
environment's, else the default. Decides how these are found, converted and reported; leaves the spelling of types to
`conversion`. Invariant: everything that is missing or wrong, over all integrations of an app, is reported in one
error, and no message or repr shows a secret.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar, overload
from urllib.parse import urlsplit, urlunsplit

from ensue.errors import DeclarationError, Origin, Problem, UsageError
from ensue.integrations.settings.annotations import evaluate, names_near
from ensue.integrations.settings.conversion import accepts, describe, from_text, optional
from ensue.schema.written.annotation import own_annotations

T = TypeVar("T")

MISSING_SETTING = "E0150"
WRONG_SETTING = "E0151"
HIDDEN = "<hidden>"
_SECRET_WORDS = ("key", "secret", "password", "token")


class Unset:
    """The mark that there is no value."""

    def __repr__(self) -> str:
        return "<unset>"


UNSET = Unset()


class EnvSetting:
    """What `env(...)` leaves on the class until the app starts: reading it earlier is an error that says so."""

    __slots__ = ("attribute", "default", "owner", "secret", "variable")

    def __init__(self, variable: str, *, default: object, secret: bool | None) -> None:
        self.variable = variable
        self.default = default
        self.secret = secret
        self.attribute = ""
        self.owner = ""

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.attribute = name
        self.owner = owner.__name__

    def __get__(self, obj: object, owner: type[Any]) -> Any:
        if obj is None:
            return self
        raise UsageError(
            f"{self.owner}.{self.attribute} has no value yet: the environment ({self.variable}) is read when the app "
            f"starts. "
            "Read the setting in configure(), setup() or later, not in the constructor."
        )

    def __repr__(self) -> str:
        return f"env({self.variable!r})"


@overload
def env(name: str, *, secret: bool | None = ...) -> Any: ...
@overload
def env(name: str, *, default: T, secret: bool | None = ...) -> T: ...
def env(name: str, *, default: Any = UNSET, secret: bool | None = None) -> Any:
    """A setting read from the environment variable `name` when the app starts, converted to the annotation beside it.

    Without a `default` it must be set, unless its type is optional (then it is None); an empty variable counts as not
    set. `secret=True` hides the value in reprs and messages; names with key, secret, password or token in them are
    hidden anyway.

    >>> class Mail(Integration):
    ...     server: str = env("MAIL_SERVER", default="localhost")
    ...     api_key: str = env("MAIL_API_KEY")
    """
    return EnvSetting(name, default=default, secret=secret)


@dataclass(frozen=True, slots=True)
class Setting:
    """One declared setting. `annotation` may still be text, which is evaluated in `module` and then `names`."""

    attribute: str
    annotation: Any
    variable: str | None
    default: Any
    secret: bool
    module: str
    names: Mapping[str, Any]
    origin: Origin

    def type(self) -> Any:
        """The annotation as a type. Raises `NameError` or the like when it can't be evaluated."""
        return evaluate(self.annotation, module=self.module, names=self.names)


def declared_settings(cls: type[Any], frame: FrameType | None) -> dict[str, Setting]:
    """The settings that the body of `cls` declares; `frame` is the one that runs the class statement."""
    found: dict[str, Setting] = {}
    origin = Origin("", 0) if frame is None else Origin(frame.f_code.co_filename, frame.f_lineno)
    annotations = own_annotations(cls)
    for name, annotation in annotations.items():
        if name.startswith("_") or _is_class_variable(annotation):
            continue
        given = cls.__dict__.get(name, UNSET)
        declared = given if isinstance(given, EnvSetting) else None
        secret = declared.secret if declared is not None else None
        found[name] = Setting(
            attribute=name,
            annotation=annotation,
            variable=None if declared is None else declared.variable,
            default=given if declared is None else declared.default,
            secret=_sounds_secret(name, declared) if secret is None else secret,
            module=cls.__module__,
            names=names_near((annotation,), frame),
            origin=origin,
        )
    for name, value in cls.__dict__.items():
        if isinstance(value, EnvSetting) and name not in annotations:
            raise DeclarationError(
                Problem(
                    WRONG_SETTING,
                    f"{cls.__name__}.{name} = {value!r} has no annotation, so its type is unknown. Write `{name}: "
                    f"str = {value!r}`.",
                    origin,
                )
            )
    return found


def resolve(
    where: str, settings: Iterable[Setting], given: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, Any], list[Problem]]:
    """The value of each setting that has one, and what is missing or wrong; `where` is for messages."""
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for setting in settings:
        try:
            value = _value(setting, given, environ)
        except _Wrong as wrong:
            problems.append(Problem(wrong.code, f"{where}.{setting.attribute} {wrong.text}", setting.origin))
        else:
            values[setting.attribute] = value
    return values, problems


def shown(setting: Setting, value: object) -> str:
    """The value's repr, without what is secret in it."""
    if setting.secret and value is not None:
        return HIDDEN
    return repr(_without_password(value) if isinstance(value, str) and "://" in value else value)


class _Wrong(Exception):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def _value(setting: Setting, given: Mapping[str, Any], environ: Mapping[str, str]) -> Any:
    try:
        kind = setting.type()
    except Exception as failure:
        raise _Wrong(
            WRONG_SETTING, f"has the annotation {setting.annotation!r}, which can't be evaluated ({failure})."
        ) from failure
    if setting.attribute in given:
        return _given_value(setting, kind, given[setting.attribute])
    text = environ.get(setting.variable, "") if setting.variable is not None else ""
    if text:
        return _read(setting, kind, text)
    if setting.default is not UNSET:
        return setting.default
    if setting.variable is not None and optional(kind):
        return None
    raise _Wrong(MISSING_SETTING, _missing(setting, kind))


def _given_value(setting: Setting, kind: Any, value: object) -> object:
    if accepts(kind, value):
        return value
    raise _Wrong(
        WRONG_SETTING,
        f"was given {shown(setting, value)} ({type(value).__name__}) in the constructor; expected {describe(kind)}.",
    )


def _read(setting: Setting, kind: Any, text: str) -> Any:
    try:
        return from_text(kind, text)
    except ValueError as failure:
        found = "a value that is hidden" if setting.secret else repr(_without_password(text))
        raise _Wrong(
            WRONG_SETTING, f"reads the environment variable {setting.variable}, found {found}; expected {failure}."
        ) from None


def _missing(setting: Setting, kind: Any) -> str:
    if setting.variable is not None:
        return (
            f"is not set. Expected {describe(kind)} in the environment variable {setting.variable}, "
            f"or {setting.attribute}=... in the constructor."
        )
    return (
        f"has no value. Expected {describe(kind)} as {setting.attribute}=... in the constructor. If it is no setting "
        f"but made in "
        "setup(), annotate it there, where it is assigned, not in the class body."
    )


def _sounds_secret(name: str, declared: EnvSetting | None) -> bool:
    names = f"{name} {'' if declared is None else declared.variable}".lower()
    return any(word in names for word in _SECRET_WORDS)


def _without_password(text: str) -> str:
    try:
        parts = urlsplit(text)
        if parts.password is None:
            return text
        place = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{parts.username}:{HIDDEN}@{place}"))
    except ValueError:
        return HIDDEN


def _is_class_variable(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return re.match(r"(typing\.)?ClassVar\b", annotation) is not None
    return annotation is typing.ClassVar or typing.get_origin(annotation) is typing.ClassVar
