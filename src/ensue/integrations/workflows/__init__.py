"""Workflows on a Temporal server: as records, as requests, and how their ends are heard of."""
