"""Telling clients of changes: what can be subscribed to, and when it is read again."""
