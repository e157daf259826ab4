"""Compile a frozen `Model` into a `Plan`: tables, statements as text, fused Python functions, strata of propagation steps.

Pure: no I/O, no clock. What a plan decides is decided once; the engine looks nothing up by name on its hot path.
"""
