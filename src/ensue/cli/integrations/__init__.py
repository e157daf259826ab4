"""`ensue integrations`: the integrations of an app, with what they offer, how they are, and what they were told.

Decides how that is printed, and the exit status: 1 when a setting is missing or wrong, or an integration is down. Leaves what is
told to `facts`.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ensue.cli import FOUND, OK
from ensue.cli.integrations.facts import MISSING, WRONG, HealthFact, IntegrationFact, SettingFact, gather
from ensue.cli.locate import find_app


def execute(given: argparse.Namespace) -> int:
    """Gather, print, and give the exit status."""
    facts = asyncio.run(gather(find_app(given.app), ask=not given.offline))
    if given.json:
        print(msgspec.json.format(msgspec.json.encode(facts)).decode())
    elif not facts:
        print("The app has no integrations.")
    else:
        print("\n\n".join("\n".join(_lines(fact)) for fact in facts))
    return OK if all(fact.well for fact in facts) else FOUND


def _lines(fact: IntegrationFact) -> Iterator[str]:
    yield f"{fact.namespace}  ({fact.class_name})"
    if fact.description:
        yield f"  {fact.description}"
    yield from _part("health", [(_how(fact.health), fact.health.detail)])
    yield from _part("settings", [_setting(item) for item in fact.settings])
    yield from _part("side effects", [(name, _side_effect(item)) for name, item in fact.side_effects.items()])
    yield from _part("API calls", [(f"POST {item['path']}", _api(item)) for item in fact.apis.values()])
    yield from _part("webhooks", [(f"POST {item['path']}", _webhook(item)) for item in fact.webhooks.values()])
    yield from _part("consumers", [(name, _listed(item)) for name, item in fact.consumers.items()])
    yield from _part("tasks", [(name, _task(item)) for name, item in fact.tasks.items()])


def _part(title: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    width = max((len(name) for name, _ in rows), default=0)
    for number, (name, text) in enumerate(rows):
        yield f"  {title if number == 0 else '':<13} {name:<{width}}  {text}".rstrip()


def _how(health: HealthFact) -> str:
    return {True: "up", False: "DOWN", None: "unknown"}[health.up]


def _setting(item: SettingFact) -> tuple[str, str]:
    where = {
        "given": "given to the constructor",
        "environment": f"from {item.variable}",
        "default": f"default, or {item.variable}" if item.variable else "default",
        WRONG: f"WRONG, what {item.variable} says is no {item.type}",
        MISSING: f"MISSING, set {item.variable}" if item.variable else "MISSING, give it to the constructor",
    }[item.origin]
    return item.name, f"{item.value}  ({where})" if item.value is not None else f"({where})"


def _side_effect(item: Mapping[str, Any]) -> str:
    order = ", in order" if item["ordered"] else ""
    return f"{item['record']} {'/'.join(item['on'])}, {item['delivery'].replace('_', ' ')}{order}, to {item['target']}"


def _api(item: Mapping[str, Any]) -> str:
    parameters = ", ".join(f"{name}: {kind}" for name, kind in item["parameters"].items())
    return f"({parameters}) {'for anybody' if item['anonymous'] else 'for known users'}"


def _webhook(item: Mapping[str, Any]) -> str:
    return f"{item['verified_by']}{', handled after it was answered' if item['deferred'] else ''}"


def _task(item: Mapping[str, Any]) -> str:
    return (
        f"polled after {item['first_poll_seconds']:g} s, then up to every {item['last_poll_seconds']:g} s; "
        f"given up after {item['deadline']}"
    )


def _listed(item: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in item.items())
