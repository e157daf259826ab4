"""The app of these tests: who writes a letter has it carried by a post office, which may fail as the letter says.

Also run by another process, which prints its spans as JSON lines: python -m tests.observation.post DATABASE
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ensue import (
    App,
    Context,
    Effect,
    Entity,
    Inbound,
    Integration,
    Interaction,
    NoVerification,
    Property,
    Receipt,
    Rejected,
    Retry,
    Target,
    Transform,
    UnknownOutcome,
    side_effect,
    webhook,
)


class User(Entity):
    name: Property[str]


class Write(Interaction):
    text: str

    async def allow(self, ctx: Context) -> bool:
        if self.text == "rude":
            raise Rejected("rude", "Write politely.")
        if self.text == "bug":
            raise RuntimeError("a defect")
        return True


class Letter(Entity, derived=Transform(Write, lambda event: {"text": event.text})):
    text: Property[str]


class Card(Entity):
    text: Property[str]


class PostOffice(Integration):
    """Keeps the trace that was current in each call."""

    async def setup(self, controller: Any) -> None:
        self.seen: list[tuple[str, str]] = []
        self.asked = 0

    @side_effect(Letter, on="create", target=Target("post"), retry=Retry(max_attempts=2), concurrency=1)
    async def carry(self, effect: Effect[Letter]) -> Receipt:
        self._see(effect.record.text)
        if effect.record.text == "slippery" and effect.attempt == 1:
            raise RuntimeError("it slipped, with a secret in it")
        if effect.record.text == "cursed":
            raise Rejected("cursed", "a secret")
        return Receipt(provider_id=f"post-{effect.record.id}")

    async def _sent(self, effect: Effect[Card]) -> bool:
        self.asked += 1
        return True

    @side_effect(Card, on="create", verify="_sent")
    async def send(self, effect: Effect[Card]) -> None:
        self._see(effect.record.text)
        if effect.record.text == "unclear":
            raise UnknownOutcome("no answer")

    @side_effect(Card, on="create", batch=10)
    async def count(self, effects: list[Effect[Card]]) -> None:
        self._see("batch")

    @side_effect(Card, on="create", delivery="after_commit")
    async def announce(self, effect: Effect[Card]) -> None:
        self._see("announced")

    @webhook(verify=NoVerification(reason="a test", id="json:id"))
    async def ordered(self, message: Inbound) -> Write | None:
        if message.json().get("broken"):
            raise RuntimeError("it broke")
        return Write(text=message.json()["text"])

    def _see(self, what: str) -> None:
        self.seen.append((what, f"{trace.get_current_span().get_span_context().trace_id:032x}"))


def post(database: str = "sqlite:///:memory:") -> App:
    return App(
        user=User,
        entities=[Letter, Card],
        interactions=[Write],
        integrations={"office": PostOffice()},
        database=database,
    )


def recording() -> tuple[TracerProvider, InMemorySpanExporter]:
    """A provider, and what is given to it."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


class Printing(SpanExporter):
    """Prints each span as one line."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            assert span.context is not None
            facts = {
                "name": span.name,
                "trace": f"{span.context.trace_id:032x}",
                "parent": None if span.parent is None else f"{span.parent.span_id:016x}",
                **(span.attributes or {}),
            }
            print(json.dumps(facts, default=str), flush=True)
        return SpanExportResult.SUCCESS


async def main(database: str) -> None:
    # As an application does: one global provider, configured before the app runs.
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Printing()))
    trace.set_tracer_provider(provider)
    async with post(database):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
