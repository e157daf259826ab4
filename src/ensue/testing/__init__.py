"""Test support.

An app in memory, the conformance suite of drivers, and an independent slow model of what derived data must be.
"""

from ensue.testing.harness import AppHarness, FakeConnection

__all__ = ["AppHarness", "FakeConnection"]
