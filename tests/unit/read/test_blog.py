"""The model that the read tests made by hand is the one that freezing its classes makes."""

from __future__ import annotations

import dataclasses

from ensue.schema.freeze import freeze
from ensue.schema.model import RecordModel
from ensue.schema.schema import Schema
from tests.unit.read.blog import Comment, Like, Post, Profile, Tag, User, make_model


def shape(record: RecordModel) -> object:
    """What reads depend on."""
    return (
        record.kind,
        record.table,
        record.source,
        record.target,
        {name: (field.type, field.optional, field.column) for name, field in record.fields.items()},
        {name: (link.target, link.optional, link.column) for name, link in record.links.items()},
        {name: dataclasses.replace(item, relation=None, origin=None) for name, item in record.collections.items()},
    )


def test_hand_made_is_as_frozen() -> None:
    schema = Schema()
    for cls in (User, Tag, Post, Comment, Like, Profile):
        schema.entities.add(cls)
    made = make_model().records
    for name, record in freeze(schema).records.items():
        assert shape(made[name]) == shape(record), name
