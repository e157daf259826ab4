"""Effects with `delivery="after_commit"`: called once, not in the table, lost with the process.

Decides only that such a call is bounded in time and that its failure is reported. Leaves waiting for it, and how many
run at a time, to its caller. Invariant: nothing is raised into the commit that caused the call.
"""

import asyncio
import logging

from ensue.effects.retry import describe
from ensue.effects.target import EffectRow, Handling

_logger = logging.getLogger("ensue.effects")


async def run_after_commit(target: Handling, row: EffectRow) -> bool:
    """Call the handler of `target` once; answers whether it succeeded.

    A failure is logged with the key of the effect.
    """
    try:
        async with asyncio.timeout(target.timeout_seconds):
            await target.handler(row)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - logged with its text; the caller has committed already
        _logger.error(
            'after-commit effect %s (%s) failed, not tried again: %s. Use delivery="durable" for what must arrive.',
            row.name,
            row.key,
            describe(error),
            extra={"effect_name": row.name, "effect_key": row.key},
        )
        return False
    return True
