"""Plan × store: admit values, apply writes, propagate what is derived, dispatch interactions, read.

Sans-I/O: everything that touches the database is a generator of `Run` and `Call` requests which a driver runs. Invariant: derived
data is right at every commit and at every read inside a transaction.
"""
