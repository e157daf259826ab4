"""The whole life of effects as a state machine: random claims, ends, lost leases, pauses, breakers and operators, against a model.

The model is a dict of what each effect must be; whoever holds a token that is not the newest must change nothing (P1, P2, P3),
whatever the order (P4, P5), and of a key only the lowest unsettled one is ever claimed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from ensue.effects.ledger import discard_effects, retry_effects
from ensue.effects.operate import resolve_effects
from ensue.effects.outbox import Claim, Move, Served, move, outcome
from ensue.effects.states import SETTLED, TRANSITIONS, attempts_after
from tests.effects.world import NAME, World, query

T = TypeVar("T")
SERVED = Served(NAME, timedelta(days=1) // timedelta(microseconds=1))
FENCED = sorted(name for name, transition in TRANSITIONS.items() if transition.fenced)
WITH_PAUSE = ("retry", "throttle", "outage", "park", "doubt", "suspect")


@dataclass
class Known:
    """What one effect must be."""

    state: str = "pending"
    attempt: int = 0
    token: str | None = None
    key: str | None = None
    never: bool = False


class Life(RuleBasedStateMachine):
    """Everything that may happen to effects, in any order."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = self.run(World("sqlite:///:memory:").__aenter__())
        self.known: dict[int, Known] = {}
        self.paused = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize(plain=st.integers(1, 4), ordered=st.integers(0, 3))
    def begin(self, plain: int, ordered: int) -> None:
        self.enqueue(plain, None)
        self.enqueue(ordered, "a")

    @rule(count=st.integers(1, 3), key=st.sampled_from([None, "a", "b"]))
    def enqueue(self, count: int, key: str | None) -> None:
        first = len(self.known) + 1
        if count:
            self.run(self.world.enqueue(self.world.effects(count, order=key)))
        self.known |= {id_: Known(key=key) for id_ in range(first, first + count)}

    @rule(target=claims, free=st.integers(1, 3))
    def claim(self, free: int) -> Any:
        self.run(
            self.world.set("available_at = CASE WHEN available_at < 253402300799000000 THEN 0 ELSE available_at END")
        )
        claims = self.run(self.world.claim(free=free))
        may = [id_ for id_, item in self.known.items() if self.may_go(id_, item)]
        assert {one.row.id for one in claims} <= set(may)
        assert len(claims) == (0 if self.paused else min(free, len(may)))
        for one in claims:
            item = self.known[one.row.id]
            assert one.row.attempt == item.attempt + 1
            item.state, item.token = "claimed", one.token
        return multiple(*claims)

    def may_go(self, id_: int, item: Known) -> bool:
        waits = item.state in ("pending", "retry_wait", "parked", "unknown") and not item.never
        behind = item.key is not None and any(
            other < id_ and them.key == item.key and them.state not in SETTLED for other, them in self.known.items()
        )
        return waits and not behind

    @rule(claim=claims, transition=st.sampled_from(FENCED), for_ever=st.booleans())
    def end(self, claim: Claim, transition: str, for_ever: bool) -> None:
        item = self.known[claim.row.id]
        pause = None if for_ever and transition in WITH_PAUSE else 0.0
        error = ("transient", "x") if transition not in ("succeed", "confirm", "deny", "release") else None
        end = outcome(claim, transition, delay_seconds=pause, error=error)
        held = item.state == "claimed" and item.token == claim.token
        state = TRANSITIONS[transition].target
        assert self.run(self.world.settle([end])) == ({claim.row.id: state} if held else {})
        if held:
            item.attempt = attempts_after(transition, claim.row.attempt - 1)
            item.state, item.token, item.never = state, None, pause is None

    @rule()
    def lose_leases(self) -> None:
        self.run(self.world.set("lease_until = CASE WHEN lease_until IS NULL THEN NULL ELSE 0 END"))
        lost = {one.id: one.state for one in self.run(self.world.rescue(SERVED))}
        assert lost == {id_: "retry_wait" for id_, item in self.known.items() if item.state == "claimed"}
        for id_ in lost:
            self.known[id_].state, self.known[id_].token = "retry_wait", None

    @rule(claim=claims)
    def give_back(self, claim: Claim) -> None:
        self.run(self.world.release(claim.token))
        for item in self.known.values():
            if item.state == "claimed" and item.token == claim.token:
                item.state, item.token = "pending", None

    @rule(data=st.data(), action=st.sampled_from(["requeue", "discard", "resolve", "resend"]))
    def operate(self, data: st.DataObject, action: str) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.known)))
        item, driver = self.known[id_], self.world.driver
        work = {
            "requeue": lambda: retry_effects(driver, [id_]),
            "discard": lambda: discard_effects(driver, [id_]),
            "resolve": lambda: resolve_effects(driver, [id_], arrived=True),
            "resend": lambda: resolve_effects(driver, [id_], arrived=False),
        }[action]
        allowed = item.state in TRANSITIONS[action].sources
        assert self.run(work()) == ([id_] if allowed else [])
        if allowed:
            item.attempt = attempts_after(action, item.attempt)
            item.state = TRANSITIONS[action].target
            item.never = item.never and action == "discard"

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.paused = paused
        self.run(self.world.driver.write(move("sqlite", [Move("pause" if paused else "resume", NAME, reason="x")])))

    @invariant()
    def table_is_as_known(self) -> None:
        rows = self.run(
            self.world.driver.read(query("SELECT id, state, attempt, lease_token FROM ensue_effect ORDER BY id"))
        )
        assert rows == [(id_, item.state, item.attempt, item.token) for id_, item in sorted(self.known.items())]

    def teardown(self) -> None:
        self.run(self.world.__aexit__())
        self.loop.close()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
