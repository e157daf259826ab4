"""Channels: a chat whose counts, guards and pushes all follow from declarations; `python -m examples.channels` runs it."""
