"""Whether a run makes spans.

Decides by what the process has loaded: whoever configures OpenTelemetry has imported it, so that a run without it does not.
"""

import os
import sys


def tracing_wanted(provider: object = None) -> bool:
    """Whether spans may go anywhere: to `provider`, or to a global one that is configured in this process."""
    return provider is not None or "opentelemetry.trace" in sys.modules or "OTEL_PYTHON_TRACER_PROVIDER" in os.environ
