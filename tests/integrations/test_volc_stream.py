"""Stream addresses: signed as the service documents it, made once, renewed when declared, and without the key anywhere."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ensue import App, Context, DeclarationError, Entity, Interaction, InvalidValue, Property, Ref
from ensue.engine.audit.audit import audit
from ensue.integrations.volc_stream import Stream, StreamRenewal, VolcStream, signed_url, stream_path
from ensue.testing import AppHarness, IntegrationConformance

KEY = "a-key-that-nobody-sees"
PULL_KEY = "another-key-that-nobody-sees"
ENVIRONMENT = {
    "VOLC_STREAM_PUSH_DOMAIN": "push.example.com",
    "VOLC_STREAM_PULL_DOMAIN": "pull.example.com",
    "VOLC_STREAM_KEY": KEY,
    "VOLC_STREAM_PULL_KEY": PULL_KEY,
}


class User(Entity):
    name: Property[str]


class Broadcast(Stream):
    title: Property[str] = Property(default="")


class Rehearsal(Stream):
    room: Property[int] = Property(default=0)


class Renew(Interaction):
    stream: Ref[Broadcast]

    async def allow(self, ctx: Context) -> bool:
        return ctx.user is not None


def app(**settings: Any) -> App:
    return App(
        user=User,
        entities=[Broadcast, Rehearsal],
        interactions=[Renew],
        integrations={"streams": VolcStream(**settings)},
    )


def signature_of(url: str, key: str) -> tuple[str, int]:
    """The signature that the service would expect of `url`, and the time in it."""
    parts = urlsplit(url)
    at = parse_qs(parts.query)["volcTime"][0]
    path = parts.path.removesuffix(".flv").removesuffix(".m3u8")
    return hashlib.md5(f"{path}{key}{at}".encode()).hexdigest(), int(at)


# The example of the vendor's documentation, and its code sample's input with its sum by md5sum.
@pytest.mark.parametrize(
    ("path", "key", "at", "signature"),
    [
        ("/live/livestream", "A1B2C3d4e5f6", 1653632422, "e5bb77201cbaa2f9ccdd316fcda4c212"),
        ("/testApp/testStream", "testKey", 1636963457, "55573f1a6dfb5c053e33cf651bb97aa9"),
    ],
)
def test_the_signature_is_the_documented_one(path: str, key: str, at: int, signature: str) -> None:
    url = signed_url(f"rtmp://push.example.com{path}", path, key=key, expires_at=datetime.fromtimestamp(at, UTC))
    assert url == f"rtmp://push.example.com{path}?volcTime={at}&volcSecret={signature}"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ü", "x" * 101, "a?b", "a\n"])
def test_a_name_that_no_path_can_hold_is_refused(name: str) -> None:
    with pytest.raises(InvalidValue):
        stream_path("live", name)


async def test_every_declared_stream_gets_both_addresses_once() -> None:
    async with AppHarness(app(), env=ENVIRONMENT) as harness:
        now = harness.clock.now()
        for kind in (Broadcast, Rehearsal):
            made = await harness.store.create(kind(name=kind.__name__.lower()))
            assert made.urls_expire_at == now + timedelta(days=1)
            for url, key in ((made.push_url, KEY), (made.pull_url, PULL_KEY)):
                assert parse_qs(urlsplit(url).query)["volcSecret"][0] == signature_of(url, key)[0]
                assert signature_of(url, key)[1] == made.urls_expire_at.timestamp()
            assert made.push_url.startswith(f"rtmp://push.example.com/live/{made.name}?")
            assert made.pull_url.startswith(f"https://pull.example.com/live/{made.name}.flv?")
            harness.clock.advance(seconds=600)
            if kind is Broadcast:
                await harness.store.update(Broadcast, made.id, title="changed")
                assert (await harness.store.get(Broadcast, made.id)).push_url == made.push_url
            now = harness.clock.now()


async def test_a_stream_of_another_name_is_another_address_and_a_wrong_name_is_refused() -> None:
    async with AppHarness(app(pull_format="hls", pull_key=""), env=ENVIRONMENT) as harness:
        made = await harness.store.create(Broadcast(name="one"))
        await harness.store.update(Broadcast, made.id, name="two")
        moved = await harness.store.get(Broadcast, made.id)
        assert urlsplit(moved.push_url).path == "/live/two"
        with pytest.raises(InvalidValue):
            await harness.store.create(Broadcast(name="one two"))
        assert moved.urls_expire_at == made.urls_expire_at


async def test_without_a_key_for_pulling_its_address_is_plain() -> None:
    settings = {name: value for name, value in ENVIRONMENT.items() if name != "VOLC_STREAM_PULL_KEY"}
    async with AppHarness(app(pull_format="hls"), env=settings) as harness:
        made = await harness.store.create(Broadcast(name="one"))
        assert made.pull_url == "https://pull.example.com/live/one.m3u8"


async def test_a_declared_interaction_renews_that_stream_alone() -> None:
    async with AppHarness(app(renew_on={Broadcast: Renew}), env=ENVIRONMENT) as harness:
        ann = await harness.store.create(User(name="Ann"))
        one = await harness.store.create(Broadcast(name="one"))
        two = await harness.store.create(Broadcast(name="two"))
        other = await harness.store.create(Rehearsal(name="one"))
        harness.clock.advance(seconds=3600)
        await harness.controller.dispatch(Renew(stream=one), user=ann)
        renewed = await harness.store.get(Broadcast, one.id)
        assert renewed.urls_expire_at == harness.clock.now() + timedelta(days=1)
        assert renewed.push_url != one.push_url
        assert renewed.renewals == 1
        assert (await harness.store.get(Broadcast, two.id)).push_url == two.push_url
        assert (await harness.store.get(Rehearsal, other.id)).push_url == other.push_url


async def test_a_renewal_is_an_event_and_all_can_be_renewed() -> None:
    async with AppHarness(app(), env=ENVIRONMENT) as harness:
        made = [await harness.store.create(Broadcast(name=f"b{n}")) for n in range(3)]
        other = await harness.store.create(Rehearsal(name="r"))
        harness.clock.advance(seconds=60)
        await harness.store.create(StreamRenewal(stream_type="Broadcast", stream_id=made[1].id))
        assert [item.renewals for item in await harness.store.find(Broadcast)] == [0, 1, 0]
        assert await harness.integration("streams").renew_all(Broadcast) == 3
        assert [item.renewals for item in await harness.store.find(Broadcast)] == [1, 2, 1]
        assert (await harness.store.get(Rehearsal, other.id)).renewals == 0


async def test_addresses_are_renewed_before_they_expire() -> None:
    settings = {"lifetime": timedelta(hours=2), "renew_before": timedelta(minutes=30)}
    async with AppHarness(app(**settings), env=ENVIRONMENT) as harness:
        made = await harness.store.create(Broadcast(name="one"))
        gone = await harness.store.create(Rehearsal(name="gone"))
        await harness.store.delete(Rehearsal, gone.id)
        await harness.drain()
        assert (await harness.store.get(Broadcast, made.id)).renewals == 0
        for renewals in (1, 2):
            harness.clock.advance(seconds=90 * 60 + 1)
            await harness.drain()
            current = await harness.store.get(Broadcast, made.id)
            assert current.renewals == renewals
            assert current.urls_expire_at == (harness.clock.now() + timedelta(hours=2)).replace(microsecond=0)


async def test_one_renewed_by_hand_is_not_renewed_for_its_old_address() -> None:
    settings = {"lifetime": timedelta(hours=2), "renew_before": timedelta(minutes=30)}
    async with AppHarness(app(**settings), env=ENVIRONMENT) as harness:
        made = await harness.store.create(Broadcast(name="one"))
        harness.clock.advance(seconds=60 * 60)
        await harness.store.create(StreamRenewal(stream_type="Broadcast", stream_id=made.id))
        harness.clock.advance(seconds=31 * 60)
        await harness.drain()
        assert (await harness.store.get(Broadcast, made.id)).renewals == 1


async def test_after_a_change_of_key_a_check_finds_and_repairs_what_was_signed_with_the_old_one(
    sqlite_url: str,
) -> None:
    async with AppHarness(app(), env=ENVIRONMENT, database=sqlite_url) as harness:
        made = await harness.store.create(Broadcast(name="one"))
    changed = {**ENVIRONMENT, "VOLC_STREAM_KEY": "the new key"}
    async with AppHarness(app(), env=changed, database=sqlite_url) as harness:
        engine = harness.controller.engine
        report = await audit(engine)
        assert [(item.record, item.column) for item in report.findings] == [("Broadcast", "push_url")]
        await audit(engine, repair=True)
        repaired = await harness.store.get(Broadcast, made.id)
        assert (
            parse_qs(urlsplit(repaired.push_url).query)["volcSecret"][0]
            == signature_of(repaired.push_url, "the new key")[0]
        )
        assert repaired.pull_url == made.pull_url
        assert repaired.urls_expire_at == made.urls_expire_at


async def test_the_keys_are_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with AppHarness(app(), env=ENVIRONMENT) as harness:
        made = await harness.store.create(Broadcast(name="one"))
        streams = harness.integration("streams")
        for key in (KEY, PULL_KEY):
            assert key not in repr(streams)
            assert key not in repr(made) + made.push_url + made.pull_url
            assert key not in caplog.text
        with pytest.raises(InvalidValue) as refused:
            await harness.store.create(Broadcast(name="one two"))
        assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"lifetime": timedelta(0)},
        {"lifetime": timedelta(hours=1), "renew_before": timedelta(hours=1)},
        {"renew_before": timedelta(0)},
    ],
)
async def test_impossible_times_are_refused_at_the_start(settings: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match="streams"):
        async with AppHarness(app(**settings), env=ENVIRONMENT):
            raise AssertionError("started")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("push_domain", "http://push.example.com"),
        ("pull_domain", "pull.example.com/live"),
        ("pull_domain", "-"),
        ("application", "live/one"),
        ("application", ".."),
    ],
)
async def test_places_that_are_none_are_refused_at_the_start(setting: str, value: str) -> None:
    with pytest.raises(DeclarationError, match=f"{setting} is '{value}'; expected"):
        async with AppHarness(app(**{setting: value}), env=ENVIRONMENT):
            raise AssertionError("started")


@pytest.mark.parametrize("name", [".", ".."])
async def test_a_name_that_is_a_step_in_a_path_is_refused(name: str) -> None:
    async with AppHarness(app(), env=ENVIRONMENT) as harness:
        with pytest.raises(InvalidValue, match="can't be called"):
            await harness.store.create(Broadcast(name=name))


async def test_what_is_missing_is_said_at_once() -> None:
    with pytest.raises(DeclarationError) as missing:
        async with AppHarness(app()):
            raise AssertionError("started")
    for name in ("VOLC_STREAM_PUSH_DOMAIN", "VOLC_STREAM_PULL_DOMAIN", "VOLC_STREAM_KEY"):
        assert name in str(missing.value)


class Nobody:
    """What a `VolcStream` talks to: nobody, it only signs."""

    open_connections = 0

    async def __aenter__(self) -> Nobody:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def refuse(self) -> None: ...

    def black_hole(self) -> None: ...

    def heal(self) -> None: ...


class TestVolcStream(IntegrationConformance[Nobody]):
    """Streams as any integration."""

    health_exempt = "There is nobody to ask: addresses are signed here."

    def peer(self) -> Nobody:
        return Nobody()

    def integration(self, peer: Nobody) -> VolcStream:
        return VolcStream()

    def app(self, integration: VolcStream) -> App:
        return App(entities=[Broadcast, Rehearsal], integrations={"streams": integration})

    def environment(self, peer: Nobody) -> Mapping[str, str]:
        return ENVIRONMENT
