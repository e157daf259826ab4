"""What delivery tells those who watch it: metrics, traces, hooks for what is given up.

Decides the form of what is told. Leaves what is made of it to observers, which are called on the event loop and must be
quick. Invariant: an observer that fails changes nothing for the effect.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ensue.effects.outbox import Rescued
from ensue.effects.target import EffectRow

_logger = logging.getLogger("ensue.effects")


@dataclass(frozen=True, slots=True)
class DeliveryEvent:
    """`claimed`: about to be called, `seconds` after it was due. `ended`: came to `state` after a call of `seconds`.

    `dead` and `unknown` among the states are what somebody should look at. `refused`: ended, but the lease was lost.
    `lost`: the lease ran out while it was being called. `rescued`: its worker did not come back; it came to `state`.
    """

    kind: Literal["claimed", "ended", "refused", "lost", "rescued"]
    row: EffectRow | Rescued
    target: str
    state: str = ""
    seconds: float = 0.0
    error_class: str | None = None
    provider_id: str | None = None


Observer = Callable[[DeliveryEvent], None]


def tell(observers: list[Observer], event: DeliveryEvent) -> None:
    """Tell all of them; nothing is raised."""
    for observer in observers:
        try:
            observer(event)
        except Exception:
            _logger.exception("an observer of delivery failed; the effect goes on")
