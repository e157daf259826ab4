"""Records that are declared private: no client, effect or repr gets what is in them."""

from __future__ import annotations

from typing import Any

import pytest

from ensue import (
    App,
    DeclarationError,
    Effect,
    Entity,
    Integration,
    Interaction,
    One,
    Property,
    UsageError,
    side_effect,
)
from ensue.server.answers import encode
from ensue.server.options import ServerOptions
from ensue.testing.harness import AppHarness
from tests.server.network import serving

SECRET = "correct horse"


class Person(Entity):
    name: Property[str]


class Diary(Entity, private=True):
    text: Property[str]
    owner: One[Person]


class Page(Entity):
    diary: One[Diary]


class ReadDiaries(Interaction, reads=Diary):
    """What must be refused."""


class Listens(Integration):
    """What must be refused, too."""

    @side_effect(Diary, on="create")
    async def tell(self, effect: Effect[Diary]) -> None: ...


class Selects(Integration):
    """The same, by a way round."""

    @side_effect(Page, on="create", fields=[Page.diary.text])
    async def tell(self, effect: Effect[Page]) -> None: ...


async def test_its_repr_tells_the_id_and_it_is_never_written_as_json() -> None:
    async with AppHarness(App(entities=[Page])) as harness:
        owner = await harness.store.create(Person(name="ann"))
        diary = await harness.store.create(Diary(text=SECRET, owner=owner))
        assert repr(diary) == f"Diary(id={diary.id}, …)"
        assert SECRET not in repr(Diary(text=SECRET, owner=owner))
        assert (await harness.store.get(Diary, diary.id)).text == SECRET
        with pytest.raises(UsageError, match="private"):
            encode({"nested": [diary]})
        page = await harness.store.create(Page(diary=diary))
        (found,) = await harness.store.find(Page, fields=[Page.diary.text])
        with pytest.raises(UsageError, match="private"):
            encode(found)
        assert encode(page) == b'{"id":1,"diary":{"id":1}}'


@pytest.mark.parametrize(
    "more", [{"interactions": [ReadDiaries]}, {"integrations": {"x": Listens()}}, {"integrations": {"x": Selects()}}]
)
async def test_what_would_give_it_away_is_a_mistake_at_the_start(more: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match="private=True"):
        await App(entities=[Page], **more).freeze()


async def test_nobody_can_subscribe_to_it() -> None:
    app = App(user=Person, entities=[Page], database="sqlite:///:memory:")
    with pytest.raises(DeclarationError, match="private=True"):
        ServerOptions(subscribable=["Diary"]).subscribable_in(await app.freeze())
    async with (
        app,
        serving(app.asgi(authenticate=lambda _: 1, allow_subscribe=lambda *_: True), app) as served,
        served.connect(user=None) as talk,
    ):
        owner = await app.controller.store.create(Person(name="ann"))
        await app.controller.store.create(Diary(text=SECRET, owner=owner))
        answer = await talk.ask({"id": 1, "type": "subscribe", "record": "Diary", "key": 1})
        assert answer["error"]["code"] == "not_allowed"
