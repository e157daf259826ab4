"""What is derived: one file per kind or family, each with its declaration and how it becomes part of the model.

A new kind is a class here, built on `contract.Computation`, and a rule in `plan.rules`.
"""
