"""The table of external tasks as its writers know it: who submits, who polls, and where each task stands with its provider.

Decides the phases of a task's row. Leaves the statements, and with them what moves a row from one phase to another, to
`ensue.integrations.tasks`, and a task's status, which users see, to its state machine. Invariant: a row names at most
one submission that may be under way, and the worker that may poll it now.
"""

from typing import Final, Literal

TaskPhase = Literal["ready", "sending", "waiting", "settled"]
PHASES: Final[tuple[TaskPhase, ...]] = ("ready", "sending", "waiting", "settled")
"""`ready`: nothing is at the provider. `sending`: a submission is under way, or was when its worker died.

`waiting`: the provider has it. `settled`: it came to its end, and is not looked at again.
"""
