"""SERVE: an app over HTTP and WebSocket, as one ASGI application.

`asgi` composes it; `calls` runs what a client asks for, whichever way it came in; `subscriptions` and `websocket`
push what changes; `openapi` says what there is. Invariant: a client learns what it asked for and may know, and of a
defect only the request's id.
"""
