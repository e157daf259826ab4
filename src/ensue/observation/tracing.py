"""A run's telemetry as OpenTelemetry spans: request → dispatch → effect → attempt → the provider's id, in one trace.

Decides which span is whose child, and what is written on it. Leaves where spans go to the process, which configures a
provider. Work that happens within other work is its child. What comes later (an effect, a poll, a message) continues the
trace of its cause; what has several causes links to them. Invariant: no payload,
no message of an exception and no header is written on a span.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final

from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.trace.status import Status, StatusCode

from ensue.effects.observe import DeliveryEvent
from ensue.telemetry import NOTHING, Attempted, Fact, Kind, Under, outcome_of

TRACER: Final = "ensue"
_W3C: Final = TraceContextTextMapPropagator()
_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "request": SpanKind.SERVER,
    "call": SpanKind.SERVER,
    "message": SpanKind.CONSUMER,
    "poll": SpanKind.CLIENT,
}
_VERBS: Final[Mapping[Kind, str]] = {
    "dispatch": "dispatch ",
    "message": "process ",
    "poll": "poll ",
    "record": "record ",
}
_NAMES: Final[Mapping[Kind, str]] = {
    "dispatch": "ensue.interaction",
    "message": "messaging.destination.name",
    "poll": "ensue.integration",
}
_FACTS: Final[Mapping[str, str]] = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "event_id": "ensue.event.id",
    "message_id": "messaging.message.id",
    "provider_id": "ensue.provider_id",
    "provider_ids": "ensue.provider_ids",
    "request_id": "ensue.request_id",
}
_FINE: Final = ("done", "cancelled", "pending")


class Tracing:
    """Makes spans; `close` ends what is still open."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._tracer = provider.get_tracer(TRACER)
        self._attempts: dict[tuple[str, int], Span] = {}

    # --- Work ---------------------------------------------------------------------------------------------------------

    def activity(
        self,
        kind: Kind,
        name: str,
        *,
        causes: Sequence[str | None] = (),
        carrier: Mapping[str, str] | None = None,
        **facts: Fact | None,
    ) -> Under:
        """A span for the work, current while it lasts."""
        within = trace.get_current_span().get_span_context()
        if kind == "request" and within.is_valid:
            # The host's own instrumentation has made the span of this request.
            return NOTHING
        before = [_context_of(cause) for cause in dict.fromkeys(causes) if cause is not None]
        if carrier is not None:
            before.append(propagate.extract(carrier, context=Context()))
        parent, links = _family(within, before)
        span = self._tracer.start_span(
            f"{_VERBS.get(kind, '')}{name}", context=parent, kind=_KINDS.get(kind, SpanKind.INTERNAL), links=links
        )
        if kind in _NAMES:
            span.set_attribute(_NAMES[kind], name)
        if kind == "message":
            span.set_attributes({"messaging.system": "ensue", "messaging.operation.type": "process"})
        activity = _Activity(span)
        activity.note(**facts)
        return activity

    def attempt(self, name: str, effects: Sequence[Attempted]) -> Under:
        """A span for each effect of the call, which ends with the attempt; those of a batch are linked to by the call."""
        spans = [self._attempt(name, effect) for effect in effects]
        if len(spans) == 1:
            # An effect without a row has no later end.
            return _Activity(spans[0], ends=effects[0].id == 0)
        links = [Link(span.get_span_context()) for span in spans]
        call = self._tracer.start_span(f"process {name}", context=Context(), kind=SpanKind.CONSUMER, links=links)
        call.set_attribute("messaging.batch.message_count", len(spans))
        return _Activity(call)

    def _attempt(self, name: str, effect: Attempted) -> Span:
        span = self._attempts.get((effect.key, effect.attempt))
        if span is not None:
            return span
        parent = Context() if effect.trace is None else _context_of(effect.trace)
        span = self._tracer.start_span(f"process {name}", context=parent, kind=SpanKind.CONSUMER)
        span.set_attributes(
            {
                "messaging.system": "ensue",
                "messaging.operation.type": "process",
                "messaging.operation.name": "process",
                "messaging.destination.name": name,
                "messaging.message.id": effect.key,
                "ensue.effect.name": name,
                "ensue.effect.key": effect.key,
                "ensue.effect.id": effect.id,
                "ensue.effect.attempt": effect.attempt,
                "ensue.record": effect.record,
                "ensue.record.id": effect.record_id,
            }
        )
        if effect.id:
            self._attempts[effect.key, effect.attempt] = span
        return span

    # --- Ends ---------------------------------------------------------------------------------------------------------

    def told(self, event: object) -> None:
        """Ends the span of an attempt that ended."""
        if not isinstance(event, DeliveryEvent) or event.kind in ("claimed", "rescued"):
            return
        attempt: int = getattr(event.row, "attempt", 0)
        span = self._attempts.pop((event.row.key, attempt), None)
        if span is None:
            return
        outcome = event.state if event.kind == "ended" else event.kind
        span.set_attributes({"ensue.effect.outcome": outcome, "ensue.effect.target": event.target})
        if event.error_class is not None:
            span.set_attribute("ensue.effect.error_class", event.error_class)
        if event.provider_id is not None:
            span.set_attribute("ensue.provider_id", event.provider_id)
        if outcome not in _FINE:
            span.set_attribute("error.type", event.error_class or outcome)
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def count(self, kind: Kind, name: str, outcome: str) -> None:
        """Spans are not counted."""

    def traceparent(self) -> str | None:
        """Of the current span, whoever made it."""
        if not trace.get_current_span().get_span_context().is_valid:
            return None
        carrier: dict[str, str] = {}
        _W3C.inject(carrier)
        return carrier.get("traceparent")

    def close(self) -> None:
        """End the spans of attempts whose ends nobody told."""
        while self._attempts:
            _, span = self._attempts.popitem()
            span.set_attribute("ensue.effect.outcome", "lost")
            span.end()


class _Activity:
    """A span that is current while it is entered; `ends`: and ends with it."""

    __slots__ = ("_ends", "_outcome", "_span", "_token")

    def __init__(self, span: Span, *, ends: bool = True) -> None:
        self._span = span
        self._ends = ends
        self._outcome: tuple[str, str] = ("ok", "")

    def __enter__(self) -> _Activity:
        self._token = contexts.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        contexts.detach(self._token)
        if not self._ends:
            return
        outcome, code = outcome_of(error) if error is not None else self._outcome
        self._span.set_attribute("ensue.outcome", outcome)
        if code:
            self._span.set_attribute("ensue.code", code)
        if outcome in ("error", "unavailable", "failed"):
            self._span.set_attribute("error.type", type(error).__qualname__ if error is not None else outcome)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    def note(self, **facts: Fact | None) -> None:
        for name, value in facts.items():
            if value is not None:
                self._span.set_attribute(_FACTS.get(name, f"ensue.{name}"), value)

    def end_as(self, outcome: str, code: str = "") -> None:
        self._outcome = (outcome, code)


def _context_of(traceparent: str) -> Context:
    return _W3C.extract({"traceparent": traceparent}, context=Context())


def _family(within: SpanContext, before: Sequence[Context]) -> tuple[Context | None, list[Link]]:
    """The parent of new work, and what it links to: several causes have no claim to be its parent, nor has a foreign one."""
    found = [trace.get_current_span(one).get_span_context() for one in before]
    contexts_before = [(one, context) for one, context in zip(before, found, strict=True) if context.is_valid]
    if within.is_valid:
        others = [context for _, context in contexts_before if context.trace_id != within.trace_id]
        return None, [Link(context) for context in others]
    if len(contexts_before) == 1:
        return contexts_before[0][0], []
    return Context(), [Link(context) for _, context in contexts_before]
