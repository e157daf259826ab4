"""uvicorn's protocol for WebSockets, with a way for many frames past ASGI.

Decides when frames may be written, and ends a handshake that can't be read. Leaves the others, pings and closing to
uvicorn, and what is written to `flush`.
Invariant: nothing is written to a client that does not take what it was sent, or to whom the end was said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ensue.server.live.flush import EXTENSION, frame


class FrameProtocol(WebSocketsSansIOProtocol):
    """`uvicorn.Config(..., ws=FrameProtocol)`, as `ensue run` does: sending to many costs less than half."""

    on_resume: Callable[[], None] | None = None
    on_shutdown: Callable[[Callable[[], None]], None] | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # Too long a line, or too many headers: the refusal is ready, but uvicorn writes answers to requests only, of which
            # there will be none, and whoever connects would wait for ever.
            self.handshake_complete = self.close_sent = True
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    async def run_asgi(self) -> None:
        extensions: dict[str, Any] = cast("dict[str, Any]", self.scope).setdefault("extensions", {})
        extensions[EXTENSION] = {"wire": self}
        await super().run_asgi()

    def shutdown(self) -> None:
        if self.on_shutdown is None:
            return self._cut()
        # uvicorn would cut the connection at once, and with it the answers to what was asked.
        return self.on_shutdown(self._cut)

    def _cut(self) -> None:
        if not (self.disconnected or self.transport.is_closing()):
            super().shutdown()

    @property
    def paused(self) -> bool:
        """The client does not take what it was sent: wait for `on_resume`."""
        return not self.writable.is_set()

    def write_texts(self, texts: Sequence[str], /) -> None:
        """Write these messages at once. What is written to a connection that ends is lost, as on any network."""
        if not (self.disconnected or self.close_sent or self.transport.is_closing()):
            # Uncompressed, which is allowed also where compression was agreed on.
            self.transport.write(frame(texts[0]) if len(texts) == 1 else b"".join(map(frame, texts)))

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.on_resume is not None:
            self.on_resume()
