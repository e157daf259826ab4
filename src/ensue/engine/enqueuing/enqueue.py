"""Effects of a transaction put into their table: positions of ordered ones, the insert, and the end of superseded ones.

Decides the order of these statements. Leaves what the effects are to `collect`. Invariant: positions are allotted last of
all, so that the locks on their keys are held as short as can be, to the commit.
"""

import msgspec

from ensue.engine.transaction import Transaction
from ensue.store.effect_table import (
    NewEffect,
    allot_params,
    allot_statement,
    enqueue_params,
    enqueue_statement,
    supersede_params,
    supersede_statements,
)
from ensue.store.statement import Run, Work


def enqueue(tx: Transaction, effects: list[NewEffect]) -> Work[None]:
    """Insert `effects`, which are the last thing that their transaction writes."""
    counts: dict[str, int] = {}
    for effect in effects:
        if effect.order_key is not None:
            counts[effect.order_key] = counts.get(effect.order_key, 0) + 1
    if counts:
        taken: list[tuple[str, int]] = yield Run(allot_statement(tx.plan.dialect), allot_params(counts))
        next_position = {key: last - counts[key] + 1 for key, last in taken}
        for n, effect in enumerate(effects):
            if effect.order_key is not None:
                effects[n] = msgspec.structs.replace(effect, position=next_position[effect.order_key])
                next_position[effect.order_key] += 1
    yield Run(enqueue_statement(tx.plan.dialect), enqueue_params(effects))
    newest = {
        effect.order_key: effect.position or 0
        for effect in effects
        if effect.order_key is not None and tx.plan.model.effects[effect.name].options.get("coalesce")
    }
    if newest:
        for statement in supersede_statements(tx.plan.dialect):
            yield Run(statement, supersede_params(newest))
