"""Long-running external tasks: submitted once, then followed by polls or a callback until they end.

An author of an integration imports `integration` and `update` (through `ensue`); the rest is what they rest on.
"""
