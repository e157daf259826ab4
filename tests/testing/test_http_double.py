"""Does the double answer as scripted, over a real socket, and record what was sent?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from ensue.errors import UsageError
from ensue.testing import Answer, HttpDouble, RecordedRequest


@pytest.fixture
async def service() -> AsyncIterator[HttpDouble]:
    async with HttpDouble(idempotency_header="Idempotency-Key") as double:
        yield double


@pytest.fixture
async def client(service: HttpDouble) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=service.url, timeout=5, trust_env=False) as found:
        yield found


async def test_queued_answers_come_first_and_the_lasting_one_stays(
    service: HttpDouble, client: httpx2.AsyncClient
) -> None:
    service.on("GET /tasks/{id}", {"status": "done"})
    service.queue("GET /tasks/{id}", Answer.failing(503), Answer.throttled(2), {"status": "running"})
    answers = [await client.get("/tasks/7") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [503, 429, 200, 200, 200]
    assert answers[1].headers["Retry-After"] == "2"
    assert [answer.json()["status"] for answer in answers[2:]] == ["running", "done", "done"]
    assert [request.values for request in service.requests] == [{"id": "7"}] * 5
    assert (len(service.accepted), service.connections) == (3, 1)


async def test_requests_are_recorded_with_their_bytes(service: HttpDouble, client: httpx2.AsyncClient) -> None:
    service.on("POST /?Action=Submit", "taken")
    await client.post("/?Action=Submit&v=a%20b", content=b'{"a" :1}', headers={"X-Sign": "s"})

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    answer = await client.post("/?Action=Submit", content=chunks())
    first, second = service.sent("POST /?Action=Submit")
    assert (first.body, first.json(), first.headers["x-sign"]) == (b'{"a" :1}', {"a": 1}, "s")
    assert first.query == {"Action": "Submit", "v": "a b"}
    assert (second.body, answer.text) == (b"one two", "taken")
    with pytest.raises(UsageError, match="no JSON"):
        second.json()


async def test_a_function_answers(service: HttpDouble, client: httpx2.AsyncClient) -> None:
    async def double(request: RecordedRequest) -> object:
        return {"twice": request.json()["n"] * 2}

    service.on("POST /double", double)
    assert (await client.post("/double", json={"n": 4})).json() == {"twice": 8}


async def test_keys_are_folded_even_when_the_first_answer_was_lost(
    service: HttpDouble, client: httpx2.AsyncClient
) -> None:
    numbers = iter(range(1, 10))
    service.queue("POST /pay", Answer.failing(500), Answer.ok({"id": 0}).lost())
    service.on("POST /pay", lambda _: {"id": next(numbers)})
    key = {"Idempotency-Key": "a"}
    assert (await client.post("/pay", headers=key)).status_code == 500
    with pytest.raises(httpx2.TransportError):
        await client.post("/pay", headers=key)
    assert (await client.post("/pay", headers=key)).json() == {"id": 0}
    assert (await client.post("/pay", headers={"Idempotency-Key": "b"})).json() == {"id": 1}
    assert service.accepted_keys == {"a": 1, "b": 1}
    assert len(service.folded) == 1


async def test_half_an_answer_ends_the_connection(service: HttpDouble, client: httpx2.AsyncClient) -> None:
    service.queue("GET /x", Answer.ok("0123456789").half())
    with pytest.raises(httpx2.RemoteProtocolError):
        await client.get("/x")
    assert len(service.accepted) == 1


@pytest.mark.parametrize(
    ("answer", "accepted"), [(Answer.hang(), 0), (Answer.ok().withheld(), 1), (Answer.ok("0123456789").late(30), 1)]
)
async def test_a_peer_that_says_nothing(
    service: HttpDouble, client: httpx2.AsyncClient, answer: Answer, accepted: int
) -> None:
    service.queue("GET /x", answer)
    with pytest.raises(httpx2.ReadTimeout):
        await client.get("/x", timeout=httpx2.Timeout(5, read=0.05))
    assert len(service.accepted) == accepted


async def test_a_dripping_answer_arrives_whole(service: HttpDouble, client: httpx2.AsyncClient) -> None:
    service.on("GET /x", Answer.ok("0123456789").dripping(bytes_each=3, seconds_between=0.01))
    assert (await client.get("/x")).text == "0123456789"


async def test_redirects_and_huge_bodies(service: HttpDouble, client: httpx2.AsyncClient) -> None:
    service.on("GET /old", Answer.redirect(f"{service.url}/new"))
    service.on("GET /new", Answer.huge(3_000_000))
    assert (await client.get("/old")).headers["Location"] == f"{service.url}/new"
    assert len((await client.get("/old", follow_redirects=True)).content) == 3_000_000
    assert len(service.accepted) == 1


async def test_what_no_route_is_for(service: HttpDouble, client: httpx2.AsyncClient) -> None:
    service.on("* /files/*", "any")
    assert (await client.put("/files/a/b")).text == "any"
    assert (await client.head("/files/a")).content == b""
    assert (await client.get("/other")).status_code == 404
    assert [request.path for request in service.unexpected] == ["/other"]
    with pytest.raises(UsageError, match="a method"):
        service.on("/other", "x")


async def test_a_failing_function_is_raised_at_the_end() -> None:
    def wrong(_: RecordedRequest) -> object:
        raise ZeroDivisionError

    async def ask() -> int:
        async with HttpDouble() as service, httpx2.AsyncClient(trust_env=False) as client:
            service.on("GET /x", wrong)
            return (await client.get(f"{service.url}/x")).status_code

    with pytest.raises(ZeroDivisionError):
        await ask()


async def test_a_test_that_fails_because_its_double_did_is_told() -> None:
    async def ask() -> None:
        async with HttpDouble() as service, httpx2.AsyncClient(trust_env=False) as client:
            service.on("GET /x", lambda request: request.values["nothing"])
            assert (await client.get(f"{service.url}/x")).status_code == 200

    with pytest.raises(AssertionError) as failed:
        await ask()
    [note] = failed.value.__notes__
    assert "the test's own server failed" in note
    assert "the function that answers GET /x" in note


async def test_a_service_that_is_down_and_back(service: HttpDouble, client: httpx2.AsyncClient) -> None:
    service.on("GET /x", "up")
    await client.get("/x")
    service.refuse()
    with pytest.raises(httpx2.TransportError):
        await client.get("/x")
    with pytest.raises(httpx2.ConnectError):
        await client.get("/x")
    service.heal()
    assert (await client.get("/x")).text == "up"


async def test_waiting_for_requests(service: HttpDouble, client: httpx2.AsyncClient) -> None:
    service.on("GET /x", "up")
    async with asyncio.TaskGroup() as group:
        group.create_task(service.until(lambda it: len(it.requests) == 2))
        await client.get("/x")
        await client.get("/x")
    with pytest.raises(TimeoutError, match="GET /x"):
        await service.until(lambda it: len(it.requests) == 3, seconds_max=0.01)
    service.forget()
    assert service.requests == []


async def test_nonsense_is_refused(service: HttpDouble) -> None:
    host, _, port = service.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"hello\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
    writer.close()
