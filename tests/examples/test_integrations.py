"""The small examples of integrations run as they are told to, and say what they should."""

from __future__ import annotations

import pytest

from examples import fulfilment, live_streams, uploads

pytestmark = pytest.mark.xdist_group("temporal")


async def test_uploads(capsys: pytest.CaptureFixture[str]) -> None:
    await uploads.main({})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("upload to memory://")
    assert "uploaded" in lines
    # Told of by effects, in whichever order with what was printed meanwhile.
    assert {"me.png is uploaded", "me.png is deleted"} <= set(lines)


async def test_live_streams(capsys: pytest.CaptureFixture[str]) -> None:
    await live_streams.main()
    out = capsys.readouterr().out
    assert out.count("push to rtmp://push.example.com/live/show-7?volcTime=") == 2


async def test_fulfilment(temporal_address: str, capsys: pytest.CaptureFixture[str]) -> None:
    await fulfilment.main({"TEMPORAL_ADDRESS": temporal_address})
    assert capsys.readouterr().out.splitlines() == ["running", "completed {'parcel': 'parcel-7'}"]
