"""Cases of wrong declarations: a function that declares, and what the one problem that it has must say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ensue.errors import DeclarationError
from ensue.schema.freeze import freeze
from ensue.schema.model import Model
from ensue.schema.schema import Schema


class Cases:
    """The cases of one test module."""

    def __init__(self) -> None:
        self.expected: dict[str, str] = {}
        self.declare: dict[str, Callable[[], Any]] = {}

    def __call__(self, expected: str) -> Callable[[Callable[[], Any]], None]:
        """Register a function whose declarations have exactly one problem, which holds `expected`."""

        def register(declare: Callable[[], Any]) -> None:
            assert declare.__name__ not in self.declare
            self.expected[declare.__name__] = expected
            self.declare[declare.__name__] = declare

        return register

    def check(self, name: str) -> None:
        """Freeze what the case declares, and compare: one problem, with its text, in the file that declares it."""
        declare = self.declare[name]
        given = declare()
        with pytest.raises(DeclarationError) as caught:
            freeze_all(given)
        problems = caught.value.problems
        assert len(problems) == 1, "\n".join(map(str, problems))
        assert self.expected[name] in problems[0].message
        origin = problems[0].origin
        assert origin is not None
        assert origin.file == declare.__code__.co_filename
        assert origin.line > 0


def freeze_all(given: Any) -> Model:
    """Freeze a class or several of any kind; the last item may be a dict of side effects."""
    classes = list(given) if isinstance(given, tuple) else [given]
    effects = classes.pop() if isinstance(classes[-1], dict) else {}
    schema = Schema()
    for cls in classes:
        schema.include(cls)
    return freeze(schema, side_effects=effects)
