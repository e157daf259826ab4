"""What is shown of the libraries that an app uses: nothing that may hold a secret, unless the app wants it."""

from __future__ import annotations

import io
import json
import logging

import httpx2
import pytest

from ensue.server.logs import QUIET, log_to
from ensue.testing import HttpDouble

SECRET = "token-of-somebody"


@pytest.fixture
def unset(kept_logging: None) -> None:
    """The levels of HTTP clients' loggers as Python sets them."""
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET)


async def called(stream: io.StringIO) -> list[dict[str, str]]:
    """What is logged of a request whose URL holds a token."""
    async with HttpDouble() as service, httpx2.AsyncClient(trust_env=False) as client:
        service.on("GET /", 200)
        await client.get(service.url, params={"token": SECRET})
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.usefixtures("unset")
@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
async def test_urls_of_http_clients_are_not_shown(level: str) -> None:
    stream = io.StringIO()
    log_to(stream, level=level)
    logging.getLogger("app").info("here")
    lines = await called(stream)
    assert "here" in {line["message"] for line in lines}
    assert SECRET not in stream.getvalue()
    assert not {line["logger"].partition(".")[0] for line in lines} & {*QUIET}


@pytest.mark.usefixtures("unset")
async def test_an_app_that_wants_them_gets_them() -> None:
    logging.getLogger("httpx2").setLevel(logging.INFO)
    stream = io.StringIO()
    log_to(stream)
    assert SECRET in {line["logger"]: line["message"] for line in await called(stream)}["httpx2"]
