"""How fast messages come in: webhooks over HTTP, and messages of brokers, each to a committed change.

Decides what is measured. Invariant: what is counted as done was committed with its inbox row.
"""
