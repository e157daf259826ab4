"""`ensue explain`: how a derived property is kept right.

Decides how the property is named. Leaves the explanation to the plan.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
from typing import Any

from ensue.cli import OK
from ensue.cli.failures import CommandError
from ensue.cli.locate import find_app
from ensue.cli.offline import plan_of
from ensue.errors import PlannedError
from ensue.schema.written.names import suggestion

EXPLAINER = "ensue.plan.explain"


def execute(given: argparse.Namespace) -> int:
    """Print the explanation."""
    return asyncio.run(_explain(given))


async def _explain(given: argparse.Namespace) -> int:
    plan, _ = await plan_of(find_app(given.app))
    record, separator, name = given.property.partition(".")
    if not separator:
        raise CommandError(
            f"{given.property!r} names no property; expected RECORD.PROPERTY, for example Post.comment_count."
        )
    if record not in plan.model.records:
        raise CommandError(f"The app has no record type {record!r}.{suggestion(record, plan.model.records)}")
    fields = plan.model.records[record].fields
    if name not in fields:
        raise CommandError(f"{record} has no property {name!r}.{suggestion(name, fields)}")
    if fields[name].computation is None:
        print(f"{record}.{name} is stored as given; nothing computes it. ({fields[name].origin})")
        return OK
    if importlib.util.find_spec(EXPLAINER) is None:
        raise PlannedError("ensue explain is planned.")
    explainer: Any = importlib.import_module(EXPLAINER)
    print(explainer.explain(plan, record, name))
    return OK
