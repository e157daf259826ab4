"""The JSON form of values and records, without a database."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from ensue.engine.read import from_json, json_value, to_json
from ensue.errors import InternalError
from ensue.schema.record import make_record
from tests.unit.read.blog import Color, Options, Post, User, make_model

MODEL = make_model()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (2**63 - 1, 2**63 - 1),
        (Decimal("1.50"), "1.50"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "2026-01-02T03:04:05.000006Z"),
        (datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T01:00:00Z"),
        (date(2026, 1, 2), "2026-01-02"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"\x00\xff", "AP8="),
        (Color.RED, "red"),
        (Options(1, ["x"]), {"size": 1, "names": ["x"]}),
        ([Decimal(1), {"a": b""}], ["1", {"a": ""}]),
    ],
)
def test_value(value: Any, expected: Any) -> None:
    assert json_value(value) == expected
    json.dumps(json_value(value))


def test_record_without_an_app() -> None:
    assert to_json(Post(title="x", author=User.ref(7))) == {"title": "x", "author": {"id": 7}}


def test_record_of_an_app() -> None:
    user = make_record(User, {"id": 1, "name": "n"}, MODEL)
    post = make_record(Post, {"id": 2, "author": user, "editor": 3, "comments": []}, MODEL)
    data = {"id": 2, "author": {"id": 1, "name": "n"}, "editor": {"id": 3}, "comments": []}
    assert to_json(post) == data
    back: Any = from_json(MODEL, "Post", data)
    assert to_json(back) == data
    assert (back.author.name, back.editor.id, back.comments) == ("n", 3, [])


def test_unknown_member_is_named() -> None:
    with pytest.raises(InternalError, match=r"payload of a Post has 'colour'.*another version"):
        from_json(MODEL, "Post", {"id": 1, "colour": "red"})
