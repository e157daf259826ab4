"""Settings inside of declarations: `@webhook(verify=StripeSignature(secret=env("STRIPE_SECRET")))`.

Decides how an `env(...)` within a declaration's value is replaced when the app starts: by the setting of the integration
that it belongs to, else by the environment. Invariant: what is missing is reported with all other settings, and no
message shows a value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from ensue.errors import Origin, Problem
from ensue.integrations.settings.environment import MISSING_SETTING, UNSET, EnvSetting

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Sources:
    """Where values come from: the settings of the integration by attribute (and their variables), and the environment."""

    settings: Mapping[str, tuple[str | None, Any]]
    environ: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a declaration stands, for messages."""

    what: str
    origin: Origin | None


def resolve_embedded(value: T, sources: Sources, place: Place) -> tuple[T | None, list[Problem]]:
    """`value` with every `env(...)` in it replaced, in its fields and in the lists and tuples among them.

    None if something is missing; a setting of the integration itself that is missing is its own problem, not one here.
    """
    problems: list[Problem] = []
    try:
        found = cast("T", _resolved(value, sources, place, problems))
    except _OwnMissing:
        return None, problems
    return (None if problems else found), problems


class _OwnMissing(Exception):
    """A setting of the integration has no value."""


def _resolved(value: Any, sources: Sources, place: Place, problems: list[Problem]) -> Any:
    if isinstance(value, EnvSetting):
        return _value(value, sources, place, problems)
    if isinstance(value, list | tuple):
        items = cast("list[Any]", value)
        return type(items)(_resolved(item, sources, place, problems) for item in items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = {item.name: getattr(value, item.name) for item in dataclasses.fields(value) if item.init}
        found = {name: _resolved(item, sources, place, problems) for name, item in given.items()}
        if any(found[name] is not given[name] for name in given):
            return dataclasses.replace(value, **found)
    return value


def _value(setting: EnvSetting, sources: Sources, place: Place, problems: list[Problem]) -> Any:
    variable, own = sources.settings.get(setting.attribute, (None, UNSET))
    if variable == setting.variable:
        if own is UNSET:
            raise _OwnMissing
        return own
    text = sources.environ.get(setting.variable, "")
    if text:
        return text
    if setting.default is not UNSET:
        return setting.default
    text = f"{place.what} is not set. Expected a text in the environment variable {setting.variable}, named in its declaration."
    problems.append(Problem(MISSING_SETTING, text, place.origin))
    return ""
