"""Declare data, derivations and interactions; the rest ensues."""
