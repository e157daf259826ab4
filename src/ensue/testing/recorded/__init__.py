"""Webhooks as they were once delivered, to be delivered again in tests."""
