"""Running integrations.

Their life in order, what they claim and hold open, and their side effects as targets of delivery.
"""
