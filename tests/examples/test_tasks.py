"""The examples of tasks run as they are told to, and say what they should."""

from __future__ import annotations

import pytest

from examples import drawings, pictures


async def test_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    await pictures.main()
    told, refused, ready = sorted(capsys.readouterr().out.splitlines())
    assert told == "Ann: 'a lighthouse' is completed: {'image_urls': ['https://links/1.jpg']}"
    assert refused.startswith("Ann: 'something bad' is failed: Rejected: content_refused")
    assert ready == "ready: 1"


async def test_drawings(capsys: pytest.CaptureFixture[str]) -> None:
    await drawings.main()
    assert capsys.readouterr().out.splitlines() == [
        "completed {'images': [{'url': 'https://images/1.png'}]}",
        "queued → processing → completed",
        "asked 2 times, made 1",
    ]
