"""What ensue costs beside SQL written by hand for the same duties, on the same driver and tables, in the same run.

`python -m benchmarks [--quick] [--only W1,W6] [--database sqlite|memory|postgresql] [--json FILE]`. Invariant: every comparison
alternates its sides in rounds and takes the median of the rounds' ratios, and afterwards both databases are audited.
"""
