"""Which URLs and addresses may be called, and that a connection goes to what was checked."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ensue.clock import SystemClock
from ensue.integrations.http_out import resolving
from ensue.integrations.http_out import transport as transport_module
from ensue.integrations.http_out.addresses import AddressPolicy
from ensue.integrations.http_out.outcome import Outcome
from ensue.integrations.http_out.posting import Poster
from ensue.integrations.http_out.transport import checked_transport
from ensue.integrations.http_out.urls import url_problem
from ensue.testing import Answer, HttpDouble

LOCAL = AddressPolicy.of(["127.0.0.0/8"])


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "127.8.8.8",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.168.1.1",
        "198.18.0.1",
        "203.0.113.7",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "64:ff9b:1::a00:1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "4000::1",
    ],
)
def test_what_is_not_public_is_refused(text: str) -> None:
    assert AddressPolicy().refusal(ipaddress.ip_address(text)) is not None


@pytest.mark.parametrize(
    "text",
    ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_what_is_public_is_allowed(text: str) -> None:
    assert AddressPolicy().refusal(ipaddress.ip_address(text)) is None


def test_everything_that_python_calls_private_is_refused() -> None:
    policy = AddressPolicy()
    for number in range(0, 2**32, 65_521 * 16):
        address = ipaddress.IPv4Address(number)
        if not address.is_global or address.is_multicast:
            assert policy.refusal(address) is not None, address


def test_an_exception_is_made_by_name_only() -> None:
    policy = AddressPolicy.of(["10.1.0.0/16"])
    assert policy.refusal(ipaddress.ip_address("10.1.2.3")) is None
    assert policy.refusal(ipaddress.ip_address("::ffff:10.1.2.3")) is None
    assert policy.refusal(ipaddress.ip_address("10.2.0.1")) == "private"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com",
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://example.com@127.0.0.1/",
        "https://127.0.0.1\\@example.com/",
        "https://example.com\\.evil.example/",
        "https://example.com:8443/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://example.com/#x",
        "https://example.com/ x",
        "https://exa\tmple.com/",
        "https://ex\u00e4mple.com/",
        "https://\u2488\u2488\u2488\u2488/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://127.1/",
        "https://0177.0.0.1/",
        "https://127.0.0.0x1/",
        "https://-example.com/",
        "https://exam..ple.com/",
        "https://[::1]x/",
        "https://[fe80::1%25eth0]/",
        "https://" + "a" * 250 + ".com/",
        "https://example.com/" + "a" * 2_000,
        "https://%31%32%37.0.0.1/",
    ],
)
def test_a_url_that_could_be_read_in_two_ways_is_refused(url: str) -> None:
    assert url_problem(url) is not None


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/",
        "https://EXAMPLE.com:443/hooks?key=1&b=%20",
        "https://xn--exmple-cua.com/",
        "https://sub-domain.example.co.uk./x",
        "https://93.184.216.34/",
        "https://[2606:4700::1111]/x",
    ],
)
def test_an_ordinary_url_is_read_alike_by_all(url: str) -> None:
    assert url_problem(url) is None
    assert httpx2.URL(url).raw_host.decode() == url.partition("//")[2].lower().partition("/")[0].removesuffix(
        ":443"
    ).strip("[]")


def test_what_the_app_allows_besides() -> None:
    assert url_problem("http://example.com/", allow_http=True) is None
    assert url_problem("https://example.com:8443/", ports=[8443]) is None
    assert url_problem("http://example.com:443/", allow_http=True) is not None


class Resolver:
    """Gives addresses as it is told, one list after the other; the last one goes on."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextlib.asynccontextmanager
async def poster(
    resolve: Any, *, policy: AddressPolicy = LOCAL, seconds: float = 5.0, ca_file: str = ""
) -> AsyncIterator[Poster]:
    async with checked_transport(policy, resolve=resolve, ca_file=ca_file) as transport:
        yield Poster(transport, SystemClock(), deadline_seconds=seconds)


def port_of(service: HttpDouble) -> int:
    return int(service.address.rpartition(":")[2])


async def test_the_connection_goes_to_the_checked_address_and_the_name_stays() -> None:
    resolve = Resolver(["127.0.0.1"], ["10.0.0.1"])
    async with HttpDouble() as service, poster(resolve) as post:
        service.on("POST /", 200)
        outcome = await post.post(f"http://hooks.example:{port_of(service)}/", b"{}", {})
        assert outcome.delivered
        assert service.requests[0].headers["host"] == f"hooks.example:{port_of(service)}"
        # A name that is looked up once can't be another's at the second look.
        assert resolve.asked == ["hooks.example"]


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1", "10.0.0.1"], ["10.0.0.1"], ["127.0.0.1", "::1"], ["::ffff:10.0.0.1"], ["169.254.169.254"]],
)
async def test_one_address_that_is_refused_refuses_all(addresses: list[str]) -> None:
    async with HttpDouble() as service, poster(Resolver(addresses)) as post:
        service.on("POST /", 200)
        outcome = await post.post(f"http://hooks.example:{port_of(service)}/", b"{}", {})
        assert outcome.status is None
        assert "may not be called" in outcome.error
        assert service.connections == 0
        assert not any(address in outcome.error for address in addresses)


async def test_a_name_that_moves_inside_later_is_refused() -> None:
    resolve = Resolver(["127.0.0.1"], ["10.0.0.1"])
    async with HttpDouble() as service, poster(resolve) as post:
        service.on("POST /", Answer.ok(headers={"Connection": "close"}))
        url = f"http://hooks.example:{port_of(service)}/"
        assert (await post.post(url, b"{}", {})).delivered
        service.refuse()
        assert "may not be called" in (await post.post(url, b"{}", {})).error


async def test_the_systems_own_loopback_is_refused_without_an_exception() -> None:
    async with HttpDouble() as service:
        service.on("POST /", 200)
        for policy in (AddressPolicy(), AddressPolicy.of(["127.0.0.2/32"])):
            async with checked_transport(policy) as transport:
                post = Poster(transport, SystemClock(), deadline_seconds=5)
                for host in ("127.0.0.1", "localhost", "2130706433", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]"):
                    outcome = await post.post(f"http://{host}:{port_of(service)}/", b"{}", {})
                    assert outcome.status is None, host
        assert service.connections == 0


async def test_the_second_address_is_tried_when_the_first_is_dead() -> None:
    async with HttpDouble() as service, poster(Resolver(["127.0.0.2", "127.0.0.1"])) as post:
        service.on("POST /", 200)
        assert (await post.post(f"http://hooks.example:{port_of(service)}/", b"{}", {})).delivered


async def test_the_second_address_is_tried_when_the_first_takes_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "CONNECT_SECONDS_MAX", 0.2)
    async with HttpDouble() as service, poster(Resolver(["127.0.0.2", "127.0.0.1"])) as post:
        service.on("POST /", 200)
        with contextlib.ExitStack() as stack:
            silent = stack.enter_context(socket.create_server(("127.0.0.2", port_of(service)), backlog=0))
            for _ in range(3):
                # Who fills the queue of a listener that accepts nobody: whoever comes then is not answered at all.
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(silent.getsockname())
            outcome = await post.post(f"http://hooks.example:{port_of(service)}/", b"{}", {})
        assert outcome.delivered, outcome


async def test_a_name_that_is_nobodys() -> None:
    async def fail(host: str, port: int) -> Sequence[str]:
        raise OSError(8, "nodename nor servname provided, or not known")

    # Nobody can tell from it which names there are in the app's own network.
    outcomes: list[Outcome] = []
    for resolve in (fail, Resolver([]), Resolver(["10.0.0.1"]), Resolver(["169.254.169.254"])):
        async with poster(resolve) as post:
            outcomes.append(await post.post("http://nowhere.example/", b"{}", {}))
    text = "AddressRefused: nowhere.example has no address, or one that may not be called."
    assert outcomes == [Outcome(None, text)] * 4


async def test_a_slow_resolver_holds_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    looked: list[str] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> Any:
        looked.append(host)
        goes_on.wait(30)
        return [(None, None, None, "", ("127.0.0.1", port))]

    monkeypatch.setattr(resolving.socket, "getaddrinfo", getaddrinfo)
    resolver = resolving.SystemResolver(at_once=2)
    # One waits for a thread of its own, and one that is given up keeps its place until its thread ends.
    lookups = [asyncio.create_task(resolver(f"h{n}.example", 443)) for n in range(3)]
    async with asyncio.timeout(20):
        while len(looked) < 2:  # noqa: ASYNC110 - threads add to it
            await asyncio.sleep(0.01)
        lookups[0].cancel()
        # The threads that everybody shares are free.
        assert await asyncio.to_thread(lambda: "free") == "free"
        assert looked == ["h0.example", "h1.example"]
        goes_on.set()
        assert await lookups[1] == await lookups[2] == ["127.0.0.1"]
    assert lookups[0].cancelled()


async def test_the_systems_resolver() -> None:
    resolver = resolving.SystemResolver()
    assert "127.0.0.1" in await resolver("127.0.0.1", 443)
    with pytest.raises(OSError, match=r".+"):
        await resolver("nowhere.invalid", 443)


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with HttpDouble() as proxy, HttpDouble() as service:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        service.on("POST /", 200)
        async with poster(Resolver(["127.0.0.1"])) as post:
            assert (await post.post(f"http://hooks.example:{port_of(service)}/", b"{}", {})).delivered
        assert proxy.connections == 0


@pytest.mark.parametrize(
    ("answer", "delivered", "error"),
    [
        (Answer.hang(), False, "no answer within"),
        (Answer.ok("x" * 100).dripping(bytes_each=1, seconds_between=0.1), True, ""),
        (Answer.huge(50_000_000), True, ""),
        (Answer.ok("half of this").half(), True, ""),
        (Answer.failing(500, "x" * 1_000_000), False, "answered 500"),
        (Answer.redirect("http://10.0.0.1/"), False, "redirects are not followed"),
        (Answer.ok().lost(), False, "Error"),
        (Answer.ok().late(5.0), False, "no answer within"),
    ],
    ids=["hang", "drip", "huge", "half", "500", "redirect", "reset", "late"],
)
async def test_an_attempt_ends_whatever_the_other_side_does(answer: Answer, delivered: bool, error: str) -> None:
    loop = asyncio.get_running_loop()
    async with HttpDouble() as service, poster(Resolver(["127.0.0.1"]), seconds=0.7) as post:
        service.on("POST /", answer)
        began = loop.time()
        outcome = await post.post(f"http://hooks.example:{port_of(service)}/", b"{}", {})
        assert loop.time() - began < 5
        assert outcome.delivered is delivered
        assert error in outcome.error
        assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": "999999999"}, 86_400.0),
        ({"Retry-After": "-5"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({}, None),
    ],
)
async def test_what_is_asked_by_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    async with HttpDouble() as service, poster(Resolver(["127.0.0.1"])) as post:
        service.on("POST /", Answer.failing(429, headers=headers))
        found = await post.post(f"http://hooks.example:{port_of(service)}/", b"{}", {})
        assert found.retry_after_seconds == seconds


_OPENSSL = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
    "-subj /CN=hooks.example -addext subjectAltName=DNS:hooks.example"
)


@contextlib.asynccontextmanager
async def tls_server(certificate: tuple[Path, Path], seen: list[str | None]) -> AsyncIterator[int]:
    """Answers 204 over TLS; `seen` gets the name that each client asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def note(_socket: Any, name: str | None, _context: Any) -> None:
        seen.append(name)

    context.sni_callback = note

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for hooks.example that is signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    found = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [*_OPENSSL.split(), "-out", str(found[0]), "-keyout", str(found[1])],
        check=True,
        capture_output=True,
    )
    return found


async def test_tls_is_with_the_name_and_not_with_the_address(certificate: tuple[Path, Path]) -> None:
    seen: list[str | None] = []
    resolve = Resolver(["127.0.0.1"])
    async with tls_server(certificate, seen) as port:
        async with poster(resolve, ca_file=str(certificate[0])) as post:
            assert (await post.post(f"https://hooks.example:{port}/", b"{}", {})).status == 204
            other = await post.post(f"https://other.example:{port}/", b"{}", {})
            assert other.status is None
            assert "certificate" in other.error.lower()
        async with poster(resolve) as post:
            untrusted = await post.post(f"https://hooks.example:{port}/", b"{}", {})
            assert untrusted.status is None
            assert "certificate" in untrusted.error.lower()
    assert seen == ["hooks.example", "other.example", "hooks.example"]
