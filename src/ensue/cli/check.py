"""`ensue check`: compare derived data with what it derives from, and repair it.

Decides the exit status: 0 when all is right (or was repaired), 1 when something is wrong. Leaves comparing to `engine.audit`.
"""

from __future__ import annotations

import argparse
import asyncio

from ensue.cli import FOUND, OK
from ensue.cli.locate import look_at
from ensue.engine.audit import audit, format_report


def execute(given: argparse.Namespace) -> int:
    """Compare, print, and give the exit status."""
    return asyncio.run(_check(given))


async def _check(given: argparse.Namespace) -> int:
    async with look_at(given.app) as run:
        report = await audit(run.controller.engine, repair=given.repair, sample=given.sample)
    print(format_report(report))
    return OK if report.clean or report.repaired else FOUND
