"""Test support.

An app in memory, peers that misbehave on request, the conformance suites of drivers and integrations, and an independent
slow model of what derived data must be.
"""

from ensue.testing.conformance.integration import IntegrationConformance
from ensue.testing.faults.answer import Answer
from ensue.testing.faults.http_double import HttpDouble
from ensue.testing.faults.http_wire import RecordedRequest
from ensue.testing.faults.proxy import FaultCounts, FaultProxy
from ensue.testing.harness import AppHarness, FakeConnection
from ensue.testing.recorded.delivery import RecordedDelivery
from ensue.testing.recorded.signing import sign_delivery

__all__ = [
    "Answer",
    "AppHarness",
    "FakeConnection",
    "FaultCounts",
    "FaultProxy",
    "HttpDouble",
    "IntegrationConformance",
    "RecordedDelivery",
    "RecordedRequest",
    "sign_delivery",
]
