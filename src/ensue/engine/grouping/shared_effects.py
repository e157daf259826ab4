"""How the statements that enqueue effects are run for several members at once.

Order keys are one upsert whose answer is divided. Leaves the statements themselves to `store.effect_table`. Invariant: positions of
a key are as if members had come one after another: who asked first has the lower ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ensue.store.driver import Dialect
from ensue.store.effect_table import allot_params, allot_statement, enqueue_statement, supersede_statements
from ensue.store.statement import Row, Run, Shared, Statement


def shared_effects(dialect: Dialect) -> dict[Statement, Shared]:
    """What `Lockstep` must know of them."""
    return {
        allot_statement(dialect): Shared("write", join=_join_counts, split=_split_positions),
        enqueue_statement(dialect): Shared("write", join=_join_lists),
        **dict.fromkeys(supersede_statements(dialect), Shared("write")),
    }


def _join_lists(runs: Sequence[Run]) -> Sequence[Any]:
    inner = (run.params[0].strip()[1:-1] for run in runs)
    return (f"[{','.join(text for text in inner if text)}]",)


def _counts(run: Run) -> Mapping[str, int]:
    return msgspec.json.decode(run.params[0], type=dict[str, int])


def _join_counts(runs: Sequence[Run]) -> Sequence[Any]:
    total: dict[str, int] = {}
    for run in runs:
        for key, count in _counts(run).items():
            total[key] = total.get(key, 0) + count
    return allot_params(total)


def _split_positions(runs: Sequence[Run], rows: Sequence[Row]) -> Sequence[list[Row]]:
    last: dict[str, int] = dict(rows)
    answers: list[list[Row]] = []
    for run in reversed(runs):
        counts = _counts(run)
        answers.append([(key, last[key]) for key in counts])
        for key, count in counts.items():
            last[key] -= count
    return answers[::-1]
