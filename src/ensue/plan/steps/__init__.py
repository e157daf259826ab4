"""The steps of propagation: aggregates fused into groups, the updates that move hosts, and their order in strata."""
