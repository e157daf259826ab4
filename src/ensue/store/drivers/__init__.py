"""One module (or a few) per database. Each passes `ensue.testing.driver_conformance`."""
