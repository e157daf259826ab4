"""Clients over real sockets whose connections break under load: every one of them has everything, or was told."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fanout import Load, User, broken, channels_app, crowd, serving


@pytest.mark.parametrize("bus", ["memory", "redis"])
async def test_broken_connections_miss_nothing(bus: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    redis_url = "memory://" if bus == "memory" else str(request.getfixturevalue("redis_url"))
    load = Load(connections=40, channels=2, rate=1_000, seconds=1.5)
    async with crowd() as clients, channels_app(load, str(tmp_path), redis_url) as app:
        served = app.asgi(authenticate=lambda asked: User.ref(int(asked.query_params["user"])))
        async with serving(served, ws="ensue.server.live.wire:FrameProtocol") as port:
            await clients.ask("connect", port=port, count=load.connections, path="/ws?user={number}", joins=True)
            report = await broken(clients, load, app, 40)
    assert (report["drops"], report["untold_gaps"], report["told_gaps"]) == (40, 0, 0)
    assert report["recovered"] > 0
