"""The bridge to imperative systems: what an integration is, how several are run, and those that come with ensue.

A new integration imports `contract` and what it re-exports through `ensue`; nothing else of the package.
"""
