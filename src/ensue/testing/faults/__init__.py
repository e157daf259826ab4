"""Peers that misbehave on request: a proxy in front of a real server, and an HTTP service that follows a script."""
