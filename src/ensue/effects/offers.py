"""What a worker asks the table for: names with room, the targets they go to, and where among the order keys it is.

Decides the parameters of a claim. Leaves the room to `flights` and the limits to the database. Invariants: keys are walked in
turn, each time from where the last walk ended, so that no key is passed over for ever; a floor comes from the database, which
ignores that of another server.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ensue.clock import whole_micros
from ensue.effects.outbox import Claim, Due, Gate, Served, Want, first_after, micros
from ensue.effects.target import Handling
from ensue.store.effect_table import NEVER

PROBE_MARGIN_SECONDS: Final = 5.0
ANEW_SECONDS: Final = 60.0
"""How often effects are looked for below the floors too: one that was changed by hand may be there."""


class Offers:
    """Of one worker."""

    def __init__(self, handlings: Mapping[str, Handling]) -> None:
        self._handlings = handlings
        self._keyed = {name for name, handling in handlings.items() if handling.ordered}
        self._after = {name: first_after(name) for name in handlings}
        self._floors: dict[str, int] = {}
        self._server = 0
        self._anew_at = float("-inf")
        self._gates: dict[str, Gate] = {}
        for name, handling in handlings.items():
            gate = _gate(name, handling)
            known = self._gates.get(gate.target)
            probe = gate.probe if known is None else max(known.probe, gate.probe)
            self._gates[gate.target] = Gate(gate.target, gate.rate, gate.burst, gate.concurrency, probe)
        self.limited = tuple(sorted(gate.target for gate in self._gates.values() if gate.limited))
        self.served = tuple(_served(name, handling) for name, handling in handlings.items())

    def wants(self, free: Sequence[tuple[str, int]]) -> list[Want]:
        """What to claim: up to so many calls of each name."""
        return [self._want(name, room) for name, room in free]

    def all(self, now: float | None = None) -> list[Want]:
        """Every name, with or without room. `now` is a monotonic instant by which floors are forgotten from time to time."""
        if now is not None and now - self._anew_at >= ANEW_SECONDS:
            self._anew_at = now
            self._floors.clear()
        return [self._want(name, 0) for name in self._handlings]

    def _want(self, name: str, free: int) -> Want:
        handling = self._handlings[name]
        gate = self._gates[handling.target_name(name)]
        keyed = name in self._keyed
        return Want(
            name,
            free,
            gate.target,
            handling.priority,
            keyed,
            self._after[name],
            rate=gate.rate,
            burst=gate.burst,
            limited=gate.limited,
            batch=handling.batch or 1,
            floor=self._floors.get(name, 0),
            server=self._server,
        )

    def gates_of(self, wants: Sequence[Want]) -> list[Gate]:
        """The targets that `wants` go to."""
        return [self._gates[target] for target in {want.target: None for want in wants}]

    def learn(self, seen: Sequence[Due]) -> None:
        """Ordered effects may be there of names that are declared without an order by now."""
        self._keyed.update(one.name for one in seen if one.keyed)
        self._floors.update((one.name, one.floor) for one in seen)
        self._server = max((one.server for one in seen), default=0)

    def rise(self, claims: Sequence[Claim]) -> None:
        """Claims found what nothing unsettled is older than."""
        self._floors.update((claim.row.name, claim.floor) for claim in claims)

    def missed(self, wants: Sequence[Want], claims: Sequence[Claim]) -> Iterator[Want]:
        """Those whose keys gave less than there was room for; the others go on from the last that they gave."""
        got = Counter(name for name, _ in {claim.call for claim in claims})
        last: dict[str, str] = {}
        for claim in claims:
            if claim.row.order_key is not None:
                last[claim.row.name] = max(last.get(claim.row.name, ""), claim.row.order_key)
        for want in wants:
            if not want.keyed:
                continue
            if got[want.name] >= want.free:
                self._after[want.name] = last.get(want.name, want.after)
            elif want.after != first_after(want.name):
                # The rest of a round: the next one begins anew, or where this walk had to stop.
                yield want
            elif not got[want.name]:
                yield want

    def go_on(self, name: str, end: str | None) -> None:
        """A walk over keys ended at `end`, or had come to the last."""
        self._after[name] = first_after(name) if end is None else end


def _gate(name: str, handling: Handling) -> Gate:
    target, rate = handling.target, handling.target.rate if handling.target is not None else None
    return Gate(
        handling.target_name(name),
        rate=None if rate is None else rate.refill_per_second / 1_000_000,
        burst=None if rate is None else rate.burst_count,
        concurrency=None if target is None else target.concurrency,
        probe=micros(handling.timeout_seconds + PROBE_MARGIN_SECONDS),
    )


def _served(name: str, handling: Handling) -> Served:
    guard = "ask" if handling.verify is not None else "doubt" if handling.key_ttl is not None else ""
    # `timedelta.max` says "for ever", and is more than the database's integers hold.
    return Served(name, min(whole_micros(handling.retry.max_age), NEVER), guard, handling.poison)
