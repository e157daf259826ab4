"""JSON is stored as it was given or refused, on both databases and by both ways in: a record and a payload."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest

from ensue import App, Entity, Interaction, Property
from ensue.errors import InvalidValue


class Doc(Entity):
    body: Property[dict[str, Any]]


class Offer(Interaction):
    price: Decimal
    more: dict[str, Any]


@pytest.fixture
def app(database_url: str) -> App:
    return App(entities=[Doc], interactions=[Offer], database=database_url)


REFUSED = {
    "nan": ({"a": [1.0, math.nan]}, r"body: nan is not a finite number - at `\$\.a\[1\]`"),
    "infinity": ({"a": {"b": -math.inf}}, r"body: -inf is not a finite number - at `\$\.a\.b`"),
    "decimal": ({"a": Decimal("sNaN")}, r"body: sNaN is not a finite number - at `\$\.a`"),
    "text": ({"a": "x\0"}, r"body: holds a NUL character, .* - at `\$\.a`"),
    "key": ({"a": {"x\0": 1}}, r"body: holds a NUL character, .* - at `a key of \$\.a`"),
    "surrogate": ({"a": "\ud800"}, "body: is no JSON of the declared type"),
}


async def test_what_json_cannot_say_is_refused_and_not_changed(app: App) -> None:
    async with app:
        store = app.controller.store
        doc = await store.create(Doc(body={}))
        for body, told in REFUSED.values():
            with pytest.raises(InvalidValue, match=told):
                await store.create(Doc(body=body))
            with pytest.raises(InvalidValue, match=told):
                await store.update(Doc, doc.id, body=body)
            with pytest.raises(InvalidValue, match=told.replace("body", "more")):
                await app.controller.dispatch(Offer(price=Decimal(1), more=body))


async def test_json_that_only_looks_like_it_is_kept(app: App) -> None:
    body = {"none": None, "text": "NaN", "more": ["Infinity", "\\u0000", None, 2**70], "deep": {"é": [[], {}]}}
    async with app:
        store = app.controller.store
        doc = await store.create(Doc(body=body))
        assert (await store.get(Doc, doc.id)).body == body


async def test_a_payload_takes_no_decimal_that_is_no_number(app: App) -> None:
    async with app:
        for price in ("NaN", "sNaN", "Infinity", "-Infinity"):
            with pytest.raises(InvalidValue, match=f"price: {price} is not a finite number"):
                await app.controller.dispatch(Offer(price=Decimal(price), more={}))
        assert await app.controller.store.count(Offer) == 0
        assert (await app.controller.dispatch(Offer(price=Decimal("1E+3"), more={}))).event.price == 1000


async def test_json_nested_too_deep_to_be_read_again_is_refused(app: App) -> None:
    body: dict[str, Any] = {}
    for _ in range(100_000):
        body = {"a": body}
    async with app:
        with pytest.raises(InvalidValue, match=r"body: .*recursion"):
            await app.controller.store.create(Doc(body=body))
