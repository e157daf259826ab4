"""The life of an effect as one table of transitions.

Decides which state may follow which, by what right, and what happens to the count of attempts. Leaves the SQL to
`outbox` and `ledger`, which take state names from here only. Invariant: a `fenced` transition is a compare-and-set on
(id, state, lease token); when it hits no row the lease was lost, and nothing may be reported as success.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from ensue.store.effect_table import SETTLED, WAITING, EffectState, in_list

AttemptRule = Literal["keep", "use", "reset"]


@dataclass(frozen=True, slots=True)
class Transition:
    """From any of `sources` to `target`. `attempt`: whether this uses up one, leaves the count, or starts it anew."""

    name: str
    sources: tuple[EffectState, ...]
    target: EffectState
    fenced: bool
    attempt: AttemptRule


def _table(*transitions: Transition) -> Mapping[str, Transition]:
    return MappingProxyType({transition.name: transition for transition in transitions})


TRANSITIONS: Final = _table(
    Transition("claim", WAITING, "claimed", fenced=False, attempt="keep"),
    # By the worker that holds the lease.
    Transition("succeed", ("claimed",), "done", fenced=True, attempt="use"),
    Transition("retry", ("claimed",), "retry_wait", fenced=True, attempt="use"),
    Transition("throttle", ("claimed",), "retry_wait", fenced=True, attempt="keep"),
    Transition("bury", ("claimed",), "dead", fenced=True, attempt="use"),
    Transition("release", ("claimed",), "pending", fenced=True, attempt="keep"),
    # By anyone, once the lease has run out.
    Transition("rescue", ("claimed",), "retry_wait", fenced=False, attempt="keep"),
    Transition("expire", ("claimed",), "dead", fenced=False, attempt="keep"),
    # By an operator; a claimed effect is the worker's until its lease ends.
    Transition("requeue", ("dead", "cancelled", *WAITING), "pending", fenced=False, attempt="reset"),
    Transition("discard", ("dead", *WAITING), "cancelled", fenced=False, attempt="keep"),
)


def sources_of(name: str) -> str:
    """The states that transition `name` starts from, as an SQL list."""
    return in_list(TRANSITIONS[name].sources)


def target_of(name: str) -> EffectState:
    """The state that transition `name` leads to."""
    return TRANSITIONS[name].target


def attempts_after(name: str, attempts: int) -> int:
    """How many attempts are used up after transition `name`, when `attempts` were before."""
    rule = TRANSITIONS[name].attempt
    return {"keep": attempts, "use": attempts + 1, "reset": 0}[rule]


__all__ = [
    "SETTLED",
    "TRANSITIONS",
    "WAITING",
    "EffectState",
    "Transition",
    "attempts_after",
    "sources_of",
    "target_of",
]
