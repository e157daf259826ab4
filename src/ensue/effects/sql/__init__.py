"""The statements of delivery, spelled out for each database; the one place of the effects that knows dialects.

Rows travel as one JSON parameter, so every text is constant; on PostgreSQL, several rows are locked either in order of id
or with SKIP LOCKED, so that no two workers deadlock.
"""
