"""The page on testing integrations: its suite passes as it stands there, and it names all that the kit has."""

from __future__ import annotations

import re
from typing import Any
from unittest import SkipTest

import pytest

from ensue.testing import Answer, AppHarness, FaultProxy, HttpDouble, IntegrationConformance, RecordedDelivery
from ensue.testing.conformance.subject import Peer
from tests.docs.pages import DOCS, module_of, program

PAGE = DOCS / "how-to" / "test-an-integration.md"
TESTS = sorted(name for name in dir(IntegrationConformance) if name.startswith("test_"))


@pytest.mark.parametrize("name", TESTS)
async def test_the_suite_on_the_page_passes(name: str) -> None:
    with module_of(PAGE) as module:
        exec(compile(program(PAGE), str(PAGE), "exec"), module.__dict__)
        test = getattr(module.TestPrinter(), name)
        if name == "test_poison_holds_up_nobody":
            # The page leaves this one out, and says so.
            with pytest.raises(SkipTest, match="cause_poison"):
                await test()
        else:
            await test()


@pytest.mark.parametrize("kind", [Answer, FaultProxy, HttpDouble, Peer])
def test_all_that_a_peer_can_do_is_on_the_page(kind: type[Any]) -> None:
    words = set(re.findall(r"\w+", PAGE.read_text()))
    told = {name for name, item in vars(kind).items() if callable(item) and not name.startswith("_")}
    assert told - words <= {"forget", "sent", "waiting", "until", "queue"}


def test_what_the_page_names_exists() -> None:
    text = PAGE.read_text()
    for name in re.findall(r"`Answer\.(\w+)\(", text):
        assert hasattr(Answer, name)
    for name in ("redeliver", "receive", "advance", "drain"):
        assert f"{name}(" in text
        assert hasattr(AppHarness, name)
    assert hasattr(RecordedDelivery, "load")
