"""The tests; a package so that `tests.services` can be imported from benchmarks and other test folders."""
