"""Object storage: its records and rules in memory, and one contract for every place that keeps objects."""
