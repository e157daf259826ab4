"""Group commit: dispatches that wait at the same moment share a transaction, and each is as if it was alone in it."""
