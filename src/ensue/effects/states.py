"""The life of an effect as one table of transitions.

Decides which state may follow which, by what right, and what happens to the count of attempts. Leaves the SQL to
`outbox` and `ledger`, which take state names from here only. Invariant: a `fenced` transition is a compare-and-set on
(id, state, lease token); when it hits no row the lease was lost, and nothing may be reported as success.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from ensue.store.effect_table import CLAIMABLE, SETTLED, WAITING, EffectState, in_list

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
    Transition("claim", CLAIMABLE, "claimed", fenced=False, attempt="keep"),
    # By the worker that holds the lease, after a call.
    Transition("succeed", ("claimed",), "done", fenced=True, attempt="use"),
    Transition("retry", ("claimed",), "retry_wait", fenced=True, attempt="use"),
    Transition("throttle", ("claimed",), "retry_wait", fenced=True, attempt="keep"),
    Transition("outage", ("claimed",), "retry_wait", fenced=True, attempt="keep"),
    Transition("park", ("claimed",), "parked", fenced=True, attempt="keep"),
    Transition("set_aside", ("claimed",), "parked", fenced=True, attempt="use"),
    Transition("doubt", ("claimed",), "unknown", fenced=True, attempt="use"),
    Transition("suspect", ("claimed",), "unknown", fenced=True, attempt="keep"),
    Transition("bury", ("claimed",), "dead", fenced=True, attempt="use"),
    Transition("yield", ("claimed",), "cancelled", fenced=True, attempt="use"),
    # By it, after asking whether an earlier call arrived.
    Transition("confirm", ("claimed",), "done", fenced=True, attempt="keep"),
    Transition("deny", ("claimed",), "pending", fenced=True, attempt="keep"),
    Transition("give_up", ("claimed",), "dead", fenced=True, attempt="keep"),
    # By it, after a call with others: each is called alone next.
    Transition("split", ("claimed",), "pending", fenced=True, attempt="keep"),
    # By it, without having called.
    Transition("release", ("claimed",), "pending", fenced=True, attempt="keep"),
    # By anyone, once the lease has run out.
    Transition("rescue", ("claimed",), "retry_wait", fenced=False, attempt="keep"),
    Transition("mistrust", ("claimed",), "unknown", fenced=False, attempt="keep"),
    Transition("expire", ("claimed",), "dead", fenced=False, attempt="keep"),
    Transition("strand", ("claimed",), "parked", fenced=False, attempt="keep"),
    # By whoever closes the breaker of a target, or enqueues a newer effect of the key.
    Transition("unpark", ("parked",), "pending", fenced=False, attempt="keep"),
    Transition("supersede", (*WAITING, "parked"), "cancelled", fenced=False, attempt="keep"),
    # By whoever hears from a relay that nobody behind it could deliver.
    Transition("return", ("done",), "dead", fenced=False, attempt="keep"),
    # By an operator; a claimed effect is the worker's until its lease ends.
    Transition("requeue", ("dead", "cancelled", "parked", *WAITING), "pending", fenced=False, attempt="reset"),
    Transition("discard", ("dead", *CLAIMABLE), "cancelled", fenced=False, attempt="keep"),
    Transition("resolve", ("unknown", "dead"), "done", fenced=False, attempt="keep"),
    Transition("resend", ("unknown",), "pending", fenced=False, attempt="keep"),
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
    "CLAIMABLE",
    "SETTLED",
    "TRANSITIONS",
    "WAITING",
    "EffectState",
    "Transition",
    "attempts_after",
    "sources_of",
    "target_of",
]
