"""Workflows: the rules on a double, one contract for double and server, and the whole way on a real server."""
