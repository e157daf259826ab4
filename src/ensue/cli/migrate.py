"""`ensue migrate`: bring a database to the app's schema by adding to it, or take over one that was changed by hand.

Decides what is printed. Leaves the difference and its application to `ensue.migrate`.
"""

from __future__ import annotations

import argparse
import asyncio

from ensue.cli import FOUND, OK
from ensue.cli.locate import find_app
from ensue.cli.offline import plan_of
from ensue.cli.terminal import CommandError
from ensue.migrate.additive import AdditivePlan, adopt, apply_additive, plan_additive


def execute(given: argparse.Namespace) -> int:
    """Change the database, or say what would be changed."""
    return asyncio.run(_migrate(given))


async def _migrate(given: argparse.Namespace) -> int:
    if given.adopt and given.dry_run:
        raise CommandError("--dry-run was given with --adopt; expected --additive. Leave --dry-run out to take over.")
    plan, driver = await plan_of(find_app(given.app))
    await driver.open()
    try:
        if given.adopt:
            await adopt(plan, driver)
            print("The database was taken over: its columns fit, and everything derived was computed anew.")
            return OK
        if given.dry_run:
            return _show(await plan_additive(plan, driver), "would be")
        return _show(await apply_additive(plan, driver), "was")
    finally:
        await driver.close()


def _show(additive: AdditivePlan, verb: str) -> int:
    if additive.empty:
        print("The database fits the app: nothing to do.")
        return OK
    print(
        "Nothing would be done, as these differences can't all be added:" if additive.refused else f"This {verb} done:"
    )
    for difference in additive.differences:
        print(f"  {difference.text}")
    for note in additive.notes:
        print(f"Note: {note}")
    for refusal in additive.refused:
        print(f"Refused: {refusal}")
    return FOUND if additive.refused else OK
