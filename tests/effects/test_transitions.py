"""Each transition of an effect, on both databases: what it does, and that it is refused from anywhere else."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ensue.effects.ledger import discard_effects, retry_effects
from ensue.effects.outbox import Lease, Served, Want, beat, due, outcome
from ensue.effects.states import CLAIMABLE, SETTLED, TRANSITIONS, WAITING
from ensue.errors import ConstraintViolated, Rejected
from ensue.store.effect_table import NewEffect, enqueue_params, enqueue_statement
from ensue.store.statement import Run, Work
from tests.effects.world import NAME, World, query

FENCED = sorted(name for name, transition in TRANSITIONS.items() if transition.fenced)
DAY = Served(NAME, timedelta(days=1) // timedelta(microseconds=1))


def test_the_table_of_transitions_is_whole() -> None:
    assert {t.target for t in TRANSITIONS.values()} == {"claimed", *CLAIMABLE, *SETTLED}
    assert all(t.sources == ("claimed",) for t in TRANSITIONS.values() if t.fenced)
    using = {name for name, t in TRANSITIONS.items() if t.attempt == "use"}
    assert using == {"succeed", "retry", "bury", "set_aside", "doubt", "yield"}
    assert not set(CLAIMABLE) & set(SETTLED)


async def test_what_is_enqueued_is_pending_now(world: World) -> None:
    await world.enqueue(world.effects(3))
    assert await world.rows("state, attempt, name, record, record_id") == [
        ("pending", 0, NAME, "Message", number) for number in (1, 2, 3)
    ]
    assert all(abs(difference) < 1_000_000 for difference in await world.rows("available_at - enqueued_at"))
    [found] = await world.driver.read(due(world.driver.dialect, [Want(NAME, 1, NAME)]))
    assert found.claimable_in is not None
    assert -5_000_000 < found.claimable_in <= 0
    assert found.lease_ends_in is None


async def test_any_number_is_one_statement_and_order_is_kept(world: World) -> None:
    names: list[str] = []
    world.driver.observers.append(lambda statement, _count: names.append(statement.name))
    await world.enqueue(world.effects(500))
    assert names.count("effect.enqueue") == 1
    world.driver.observers.clear()
    assert await world.rows("record_id") == list(range(1, 501))


async def test_a_key_is_enqueued_once(world: World) -> None:
    [effect] = world.effects()
    await world.enqueue([effect])
    with pytest.raises(ConstraintViolated):
        await world.enqueue([effect])
    assert await world.rows() == ["pending"]


async def test_text_of_every_kind_survives(world: World) -> None:
    payload = '{"v":1,"text":"\\u0000 \\" \\\\ ü 😀"}'
    await world.enqueue([NewEffect(name=NAME, key="k'1", record="M", record_id=2**62, payload=payload, trace="t")])
    [claim] = await world.claim()
    assert claim.row.payload == payload
    assert (claim.row.key, claim.row.record_id, claim.row.trace) == ("k'1", 2**62, "t")
    assert payload not in repr(claim)


def test_a_payload_over_the_limit_is_refused_with_advice() -> None:
    large = NewEffect(name=NAME, key="k", record="M", record_id=1, payload="ü" * 600_000)
    with pytest.raises(Rejected, match=r"1200000 bytes.*by reference"):
        enqueue_params([large])


async def test_a_rolled_back_transaction_enqueues_nothing(world: World) -> None:
    def failing() -> Work[None]:
        yield Run(enqueue_statement(world.driver.dialect), enqueue_params(world.effects(2)))
        raise Rejected("changed_my_mind")

    with pytest.raises(Rejected):
        await world.driver.write(failing())
    assert await world.rows() == []


async def test_claim(world: World) -> None:
    await world.enqueue(world.effects(5))
    claims = await world.claim(free=3, worker="ann", lease=30)
    assert [claim.row.record_id for claim in claims] == [1, 2, 3]
    assert [claim.row.attempt for claim in claims] == [1, 1, 1]
    assert all(0 <= claim.age_micros < 5_000_000 for claim in claims)
    assert await world.rows("state, attempt, worker") == [("claimed", 0, "ann")] * 3 + [("pending", 0, None)] * 2
    assert [claim.row.record_id for claim in await world.claim()] == [4, 5]
    assert await world.claim() == []


@pytest.mark.parametrize(
    ("transition", "state", "attempt"),
    [
        ("succeed", "done", 1),
        ("retry", "retry_wait", 1),
        ("throttle", "retry_wait", 0),
        ("bury", "dead", 1),
        ("release", "pending", 0),
    ],
)
async def test_fenced_transitions(world: World, transition: str, state: str, attempt: int) -> None:
    await world.enqueue()
    [claim] = await world.claim()
    end = outcome(claim, transition, delay_seconds=100, error=("transient", "it's down"))
    assert await world.settle([end]) == {claim.row.id: state}
    [row] = await world.rows("state, attempt, lease_token, lease_until, error_class, error")
    assert row == (state, attempt, None, None, "transient", "it's down")
    [(settled_at, waits)] = await world.rows("settled_at IS NOT NULL, available_at - enqueued_at")
    assert bool(settled_at) == (state in SETTLED)
    if state in WAITING:
        assert 99_000_000 < waits < 110_000_000


@pytest.mark.parametrize("transition", FENCED)
async def test_a_fenced_transition_needs_the_lease(world: World, transition: str) -> None:
    await world.enqueue()
    [old] = await world.claim(worker="old", lease=-1)
    assert [rescued.state for rescued in await world.rescue(DAY)] == ["retry_wait"]
    [new] = await world.claim(worker="new")
    before = await world.rows("state, attempt, lease_token, worker")
    assert await world.settle([outcome(old, transition)]) == {}
    assert await world.rows("state, attempt, lease_token, worker") == before
    assert list(await world.settle([outcome(new, transition)])) == [new.row.id]
    after = await world.rows("state, attempt, lease_token, worker")
    assert await world.settle([outcome(new, transition)]) == {}, "twice is refused, too"
    assert await world.rows("state, attempt, lease_token, worker") == after


async def test_beat(world: World) -> None:
    await world.enqueue(world.effects(2))
    one, two = await world.claim(lease=1)
    forged = Lease(two.row.id, "another")
    work = beat(world.driver.dialect, [one.lease, forged], 60_000_000)
    assert await world.driver.write(work) == {one.row.id}
    left = await world.rows("lease_until - enqueued_at")
    assert left[0] > 50_000_000
    assert left[1] < 10_000_000


async def test_rescue_leaves_live_leases_alone(world: World) -> None:
    await world.enqueue(world.effects(3))
    await world.claim(free=1, worker="dead", lease=-1)
    [mine] = await world.claim(free=1, worker="me", lease=-1)
    await world.claim(free=1, worker="alive", lease=30)
    result = await world.rescue(DAY, live_tokens=[mine.token])
    assert [(rescued.id, rescued.worker) for rescued in result] == [(1, "dead")]
    assert await world.rows("state, attempt") == [("retry_wait", 0), ("claimed", 0), ("claimed", 0)]
    assert (await world.rows("error_class, error"))[0] == ("lost", "the lease of worker dead ran out")


async def test_what_is_too_old_when_its_worker_is_lost_is_dead(world: World) -> None:
    # Otherwise an effect that kills its worker would be tried for ever.
    await world.enqueue()
    await world.claim(lease=-1)
    await world.set("enqueued_at = enqueued_at - 90000000000")
    assert [rescued.state for rescued in await world.rescue(DAY)] == ["dead"]
    assert await world.rows("state, error_class") == [("dead", "lost")]


async def test_claims_of_a_doubtful_commit_are_given_back(world: World) -> None:
    await world.enqueue(world.effects(2))
    [first] = await world.claim(free=1)
    await world.claim(free=1)
    await world.release(first.token)
    assert await world.rows("state, attempt") == [("pending", 0), ("claimed", 0)]


@pytest.mark.parametrize("state", ["pending", "claimed", "retry_wait", "done", "dead", "cancelled"])
async def test_an_operator_may_change_what_no_worker_has(world: World, state: str) -> None:
    lease = "'t'" if state == "claimed" else "NULL"
    for transition, change in (("requeue", retry_effects), ("discard", discard_effects)):
        await world.driver.write(query("DELETE FROM ensue_effect RETURNING id"))
        await world.enqueue()
        await world.set(f"state = '{state}', attempt = 7, lease_token = {lease}, enqueued_at = 0")
        [id_] = await world.rows("id")
        allowed = state in TRANSITIONS[transition].sources
        assert await change(world.driver, [id_, 999]) == ([id_] if allowed else [])
        [(found, attempt, enqueued_at)] = await world.rows("state, attempt, enqueued_at")
        assert found == (TRANSITIONS[transition].target if allowed else state)
        assert attempt == (0 if allowed and transition == "requeue" else 7)
        assert (enqueued_at > 0) == (allowed and transition == "requeue")
