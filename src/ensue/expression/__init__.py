"""The small typed expression language: traced from Python, resolved against a model, evaluated in Python and in SQL.

`trace` records what a user wrote, knowing no schema. `resolve` turns a trace into typed `nodes`. `python` and `sql`
evaluate the same nodes and agree by the one table in `semantics`. Nothing here does I/O.
"""
