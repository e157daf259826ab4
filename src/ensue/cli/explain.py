"""`ensue explain`: how a derived property, or everything about a record type, is kept right.

Decides nothing but where the plan comes from. Leaves the explanation, and what is no name of it, to `plan.explain`.
"""

from __future__ import annotations

import argparse
import asyncio

from ensue.cli import OK
from ensue.cli.locate import find_app
from ensue.cli.offline import plan_of
from ensue.plan.explain import explain


def execute(given: argparse.Namespace) -> int:
    """Print the explanation."""
    plan, _ = asyncio.run(plan_of(find_app(given.app)))
    print(explain(plan, given.name))
    return OK
