"""DECLARE: what an application's data is, and the frozen model that it becomes.

Classes and values declare; a `Schema` gathers one app's declarations and may still be changed; `freeze` resolves every
name, types every expression, checks everything and gives the immutable `Model`. Nothing here does I/O or reads a
clock.
"""
