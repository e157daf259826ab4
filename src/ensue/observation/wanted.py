"""Whether a run makes spans, and where they go.

Decides by what the process has loaded and configured: whoever configures OpenTelemetry has imported it, so that a run without
it does not. Invariant: without a provider nobody listens, so that nothing is spent on spans that go nowhere.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


def provider_of(given: TracerProvider | None) -> TracerProvider | None:
    """`given`, or the global provider if one is configured in this process."""
    if given is not None:
        return given
    if "opentelemetry.trace" not in sys.modules and "OTEL_PYTHON_TRACER_PROVIDER" not in os.environ:
        return None
    from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider, get_tracer_provider

    found = get_tracer_provider()
    return None if isinstance(found, ProxyTracerProvider | NoOpTracerProvider) else found
