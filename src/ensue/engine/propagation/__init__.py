"""What follows from a change: affected edges, moved hosts, formulas, customs, derived records, state machines."""
