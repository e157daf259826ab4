"""Consumers at work: the loop that all brokers share, and what is particular to each."""
