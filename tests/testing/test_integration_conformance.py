"""The conformance suite on an integration of ours and on one as others would write it; and what it finds in bad ones."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import httpx2
import pytest
import redis.asyncio as redis

from ensue import App, Effect, Health, Integration, Property, Rate, Schema, Target, side_effect
from ensue.testing import Answer, FaultProxy, HttpDouble, IntegrationConformance, RecordedRequest
from tests.integrations.channel_app import Channel, Message, User, channels_integration
from tests.testing.letters import Letter, Letters, letters_app

if TYPE_CHECKING:
    from ensue import Controller

SECRET = "k-93hd7-secret"


class LettersConformance(IntegrationConformance[HttpDouble]):
    def peer(self) -> HttpDouble:
        def take(request: RecordedRequest) -> object:
            return Answer.failing(422, "bad text") if request.json()["text"] == "poison" else {"sent": True}

        service = HttpDouble(idempotency_header="Idempotency-Key")
        service.on("POST /letters", take)
        return service

    def integration(self, peer: HttpDouble) -> Integration:
        return Letters()

    def app(self, integration: Integration) -> App:
        return letters_app(integration)

    def environment(self, peer: HttpDouble) -> Mapping[str, str]:
        return {"LETTERS_URL": peer.url, "LETTERS_API_KEY": SECRET}

    async def cause(self, controller: Controller) -> None:
        await controller.store.create(Letter(text="hello"))

    async def cause_poison(self, controller: Controller) -> None:
        await controller.store.create(Letter(text="poison"))

    async def work(self, peer: HttpDouble) -> object:
        return len(peer.accepted)


class TestLetters(LettersConformance):
    """An integration of a third party, over HTTP."""


class PacedLetters(Letters):
    """Waits a second with each letter, and sends one in a second at most."""

    @side_effect(Letter, on="create", delay=timedelta(seconds=1), target=Target("post", rate=Rate(1, per_seconds=1)))
    async def send(self, effect: Effect[Letter]) -> None:
        await Letters.send(self, effect)


class TestPacedLetters(LettersConformance):
    """One whose effects wait: nothing of them is delivered while time stands still."""

    def integration(self, peer: HttpDouble) -> Integration:
        return PacedLetters()


class Channels(FaultProxy):
    """A Redis behind a proxy, and somebody who listens to all that one app publishes."""

    def __init__(self, url: str, prefix: str, listening: Any) -> None:
        super().__init__(url)
        self.prefix = prefix
        self._listening = listening
        self._keys: set[str] = set()

    async def keys(self, mark: Any) -> set[str]:
        """The keys of the messages published so far: those before a mark that is published now."""
        await mark.publish(f"{self.prefix}:mark", "now")
        async for found in self._listening.listen():
            if found["type"] != "pmessage":
                continue
            if found["channel"] == f"{self.prefix}:mark":
                return set(self._keys)
            # Whatever a message is wrapped in on the way.
            self._keys.update(re.findall(r'"key":"([^"]+)"', found["data"]))
        raise AssertionError("the listener of the test hears nothing any more")


class TestRedisChannels(IntegrationConformance[Channels]):
    """An integration that keeps a connection, and acts in the background."""

    @pytest.fixture(autouse=True)
    def _redis(self, redis_url: str) -> None:
        self.redis_url = redis_url

    @asynccontextmanager
    async def _peer(self) -> AsyncGenerator[Channels]:
        prefix = f"test-{uuid.uuid4().hex}"
        self.client = redis.Redis.from_url(self.redis_url, decode_responses=True)
        async with self.client, self.client.pubsub() as listening:
            await listening.psubscribe(f"{prefix}:*")
            async with Channels(self.redis_url, prefix, listening) as peer:
                yield peer

    def peer(self) -> AbstractAsyncContextManager[Channels]:
        return self._peer()

    def integration(self, peer: Channels) -> Integration:
        return channels_integration(prefix=peer.prefix)

    def app(self, integration: Integration) -> App:
        return App(user=User, entities=[Message], integrations={"channels": integration})

    def environment(self, peer: Channels) -> Mapping[str, str]:
        return {"REDIS_URL": peer.url}

    async def cause(self, controller: Controller) -> None:
        store = controller.store
        sender, channel = await store.create(User(name="Ann")), await store.create(Channel(title="News"))
        await store.create(Message(text="hello", sender=sender, channel=channel))

    async def work(self, peer: Channels) -> object:
        return await peer.keys(self.client)


# --- What the suite finds ---------------------------------------------------------------------------------------------


class Leaking(Letters):
    async def setup(self, controller: Controller) -> None:
        await super().setup(controller)
        self.task = asyncio.create_task(asyncio.Event().wait(), name="leaked")

    def stop(self) -> None:
        self.task.cancel()


class Talkative(Letters):
    async def setup(self, controller: Controller) -> None:
        await super().setup(controller)
        logging.getLogger("letters").debug("connecting with %s", self.api_key)


class Optimistic(Letters):
    async def health(self) -> Health:
        return Health(up=True)


class Keyless(Letters):
    @side_effect(Letter, on="create")
    async def send(self, effect: Effect[Letter]) -> None:
        await self.client.post("/letters", json={"text": effect.record.text})


class Careless(Letters):
    @side_effect(Letter, on="create")
    async def send(self, effect: Effect[Letter]) -> None:
        try:
            await super().send(effect)
        except httpx2.TransportError:
            return


class Shared(Letters):
    clients: ClassVar[list[Any]] = []

    async def setup(self, controller: Controller) -> None:
        await super().setup(controller)
        type(self).clients = [*type(self).clients, self.client]

    @side_effect(Letter, on="create")
    async def send(self, effect: Effect[Letter]) -> None:
        await self.clients[0].post("/letters", json={"text": "hi"}, headers={"Idempotency-Key": effect.key})


class Changing(Letters):
    async def configure(self, schema: Schema) -> None:
        schema.entity("Letter").add_property(f"note_{next(_numbers)}", Property[str | None](default=None))


_numbers = itertools.count()

BAD = {
    Leaking: ("it_lives_twice_and_leaves_nothing", "leaked"),
    Talkative: ("secrets_are_not_shown", "a log line shows the secret setting api_key"),
    Optimistic: ("health_follows_the_peer", r"health\(\) says down after its peer was gone"),
    Keyless: ("a_repeated_effect_is_harmless", "did work again"),
    Careless: ("an_outage_delays_and_loses_nothing", "every effect was noted as done"),
    Shared: ("two_apps_are_independent", "done for the other"),
    Changing: ("the_schema_changes_in_configure_only", "another schema the second time"),
}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
async def test_a_bad_integration_is_found(bad: type[Letters]) -> None:
    made: list[Letters] = []

    class Suite(LettersConformance):
        notice_seconds_max = 1.5

        def integration(self, peer: HttpDouble) -> Integration:
            made.append(bad())
            return made[-1]

    name, message = BAD[bad]
    try:
        with pytest.raises(AssertionError, match=message):
            await getattr(Suite(), f"test_{name}")()
    finally:
        for integration in made:
            if isinstance(integration, Leaking):
                integration.stop()


async def test_a_suite_that_is_not_finished_says_what_is_missing() -> None:
    class Suite(IntegrationConformance[HttpDouble]):
        pass

    with pytest.raises(NotImplementedError, match=r"Suite\.peer\(\) must give"):
        await Suite().test_it_lives_twice_and_leaves_nothing()
