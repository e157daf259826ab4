"""The commands and options of the command line, and which values they take."""
