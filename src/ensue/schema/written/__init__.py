"""What can be read off a declaration as it is written: annotations, value types, names, and where it stands."""
