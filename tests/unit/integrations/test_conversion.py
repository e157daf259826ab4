"""Text from the environment to typed values."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest

from ensue.integrations.settings.conversion import accepts, describe, from_text, optional


class Level(Enum):
    LOW = "low"
    HIGH = "high"


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (str, "a b", "a b"),
        (int, "42", 42),
        (float, "0.5", 0.5),
        (bool, "Yes", True),
        (bool, "off", False),
        (Decimal, "1.50", Decimal("1.50")),
        (timedelta, "250ms", timedelta(milliseconds=250)),
        (timedelta, "90", timedelta(seconds=90)),
        (timedelta, "1.5h", timedelta(minutes=90)),
        (Path, "/tmp/x", Path("/tmp/x")),
        (Level, "low", Level.LOW),
        (Level, "HIGH", Level.HIGH),
        (Literal["a", 2], "2", 2),
        (list[int], "1, 2,,3", [1, 2, 3]),
        (Sequence[str], "a,b", ["a", "b"]),
        (tuple[str, ...], "a,b", ("a", "b")),
        (frozenset[int], "1,1", frozenset({1})),
        (list, "a,b", ["a", "b"]),
        (int | None, "3", 3),
        (Optional[bool], "true", True),  # noqa: UP045 - both spellings are understood
        (int | str, "x", "x"),
        (Annotated[int, "note"], "7", 7),
        (Any, "x", "x"),
    ],
)
def test_text_becomes_the_annotated_type(annotation: Any, text: str, value: object) -> None:
    assert from_text(annotation, text) == value
    assert type(from_text(annotation, text)) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text", "expected"),
    [
        (int, "4.5", "whole number"),
        (float, "nan", "finite"),
        (float, "x", "number"),
        (bool, "maybe", "true or false"),
        (Decimal, "x", "decimal"),
        (Decimal, "Infinity", "finite"),
        (timedelta, "soon", "duration"),
        (Level, "medium", "low"),
        (Literal["a", "b"], "c", "one of a, b"),
        (list[int], "1,x", "whole number"),
        (int | bool, "x", "whole number or true or false"),
        (dict, "x", "dict is none"),
    ],
)
def test_what_does_not_fit_says_what_was_expected_and_not_what_was_found(
    annotation: Any, text: str, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        from_text(annotation, text)
    assert text not in str(caught.value).split() or text in expected


@pytest.mark.parametrize(
    ("annotation", "value", "fits"),
    [
        (int, 1, True),
        (int, True, False),
        (int, "1", False),
        (float, 1, True),
        (float, True, False),
        (str, None, False),
        (str | None, None, True),
        (Literal["a"], "a", True),
        (Literal[1], True, False),
        (Level, Level.LOW, True),
        (Level, "low", False),
        (dict[str, int], object(), True),
        (Any, object(), True),
    ],
)
def test_constructor_values_are_checked_against_the_annotation(annotation: Any, value: object, fits: bool) -> None:
    assert accepts(annotation, value) is fits


def test_descriptions_read_as_written() -> None:
    assert describe(int) == "int"
    assert describe(list[int]) == "list[int]"
    assert describe(int | None) == "int | None"
    assert optional(int | None)
    assert not optional(int)
