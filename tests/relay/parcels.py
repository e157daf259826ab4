"""The app of the relay's tests, and the program that a worker process runs: it writes one line for each call.

python -m tests.relay.parcels URL FILE
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from ensue import App, Effect, Entity, Integration, Nats, Property, Receipt, Rejected, Retry, Throttled, side_effect
from ensue.cli.relayed import RelayedRun
from ensue.schema.delivery import ErrorClass

LEASE_SECONDS = 2.0


class Parcel(Entity):
    label: Property[str]
    trouble: Property[str] = Property(default="")


class Moved(Exception):
    """Only the courier knows that this is for good."""


class OddError(Exception):
    """One that the courier's own judgement stumbles over."""


class Courier(Integration):
    """Carries parcels, with the trouble that their labels ask for."""

    nats_url: str
    stream: str
    file: str = ""
    pause_seconds: float = 0.0

    @side_effect(
        Parcel,
        on="create",
        concurrency=20,
        retry=Retry(max_attempts=3),
        relay=lambda self: Nats(self.nats_url, stream=self.stream, subject=self.stream.lower()),
    )
    async def carry(self, effect: Effect[Parcel]) -> Receipt | None:
        with open(self.file, "a") as file:  # noqa: ASYNC230 - one short line
            file.write(f"{effect.key}\t{effect.record.label}\t{effect.attempt}\t{os.getpid()}\n")
        trouble = effect.record.trouble
        if trouble == "broken":
            raise RuntimeError("it broke")
        if trouble == "refused":
            raise Rejected("no_such_address", "nobody lives there")
        if trouble == "moved":
            raise Moved("to another town")
        if trouble == "exit":
            raise SystemExit(f"exit {effect.attempt}")
        if trouble == "interrupt":
            raise KeyboardInterrupt
        if trouble == "cancel":
            raise asyncio.CancelledError
        if trouble == "odd":
            raise OddError
        if trouble == "once" and effect.attempt == 1:
            raise RuntimeError("it slipped")
        if trouble == "busy" and not Path(f"{self.file}.busy").exists():  # noqa: ASYNC240
            Path(f"{self.file}.busy").touch()  # noqa: ASYNC240
            raise Throttled(0.1)
        await asyncio.sleep(self.pause_seconds)
        return None

    def classify(self, error: BaseException) -> ErrorClass | None:
        if isinstance(error, OddError):
            raise LookupError("no opinion")
        return "rejected" if isinstance(error, Moved) else None


def app(
    url: str, stream: str, database: str = "sqlite:///:memory:", *, file: str = "", pause_seconds: float = 0
) -> App:
    courier = Courier(nats_url=url, stream=stream, file=file, pause_seconds=pause_seconds)
    return App(entities=[Parcel], integrations={"courier": courier}, database=database)


async def main(url: str, stream: str, file: str, pause_seconds: float) -> None:
    served = app(url, stream, file=file, pause_seconds=pause_seconds)
    async with RelayedRun(served, url, lease_seconds=LEASE_SECONDS):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
