"""An outside service with moods, for the chaos run: a process of its own that is never killed, so that its log can be believed.

It accepts `POST /{sink}` with the headers `key`, `order` and `position`, and writes one line to its log for each request that
it accepted, before it answers. The sink `keyed` knows keys: it does its work once for each and answers repeats with what it
answered first. Its mood is set by `POST /mood`: `well`, `out` (the port is closed, connections are reset), `failing` (503),
`busy` (most requests get 429 with Retry-After), `forgetful` (some requests are accepted and the connection reset before the
answer). Invariant: a line is in the log if and only if the work was done.

    python -m tests.chaos.provider LOG
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MOODS: Final = ("well", "out", "failing", "busy", "forgetful")
BUSY_SHARE: Final = 0.8
FORGETFUL_SHARE: Final = 0.3
HEADER_BYTES_MAX: Final = 16 * 1024


@dataclass
class Provider:
    """The service: its mood, what it did, and the connections it has."""

    log: int
    mood: str = "well"
    done: set[str] = field(default_factory=set[str])
    dropped: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])
    server: asyncio.Server | None = None
    port: int = 0

    async def listen(self) -> None:
        self.server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=HEADER_BYTES_MAX, reuse_address=True
        )
        self.port = self.server.sockets[0].getsockname()[1]

    async def change(self, mood: str) -> None:
        """Be in another mood from now on."""
        before, self.mood = self.mood, mood
        if mood == "out" and self.server is not None:
            self.server.close()
            for writer in list(self.open):
                writer.transport.abort()
            self.server = None
        elif before == "out" and mood != "out":
            await self.listen()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    pass
        finally:
            self.open.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        await reader.readexactly(int(headers.get("content-length", "0")))
        if self.mood == "failing":
            return await _reply(writer, "503 Service Unavailable")
        if self.mood == "busy" and random.random() < BUSY_SHARE:
            return await _reply(writer, "429 Too Many Requests", "retry-after: 1\r\n")
        self._do(head[0].split(" ")[1].lstrip("/"), headers)
        if self.mood == "forgetful" and random.random() < FORGETFUL_SHARE:
            self.dropped += 1
            writer.transport.abort()
            return False
        return await _reply(writer, "200 OK")

    def _do(self, sink: str, headers: dict[str, str]) -> None:
        key = headers["key"]
        if sink == "keyed":
            if key in self.done:
                return
            self.done.add(key)
        line = "\t".join((sink, key, headers.get("order", ""), headers.get("position", ""), headers["token"]))
        os.write(self.log, f"{line}\n".encode())


async def _reply(writer: asyncio.StreamWriter, status: str, more: str = "") -> bool:
    writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n{more}\r\n".encode())
    await writer.drain()
    return True


async def main(log: Path) -> None:
    """Serve until the input ends; a line of input is a mood, and what was dropped so far is printed for each."""
    provider = Provider(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    await provider.listen()
    print(provider.port, flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        await provider.change(line.strip())
        print(provider.dropped, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
