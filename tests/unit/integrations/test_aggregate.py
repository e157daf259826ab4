"""Several integrations as one: namespaces, classes and instances."""

from typing import Any

import pytest

from ensue.errors import DeclarationError
from ensue.integrations.aggregate import AggregatedIntegration, flatten
from ensue.integrations.contract import Integration


class Mail(Integration):
    server: str = "localhost"


class Chat(Integration): ...


def test_inner_namespaces_replace_the_outer_one_at_any_depth() -> None:
    backup = Mail(server="backup")
    inner = AggregatedIntegration({"chat": Chat})
    everything = AggregatedIntegration({"mail": Mail, "backup": backup, "ignored": inner})
    found = flatten({"all": everything, "own": Chat()})
    assert list(found) == ["mail", "backup", "chat", "own"]
    assert found["backup"] is backup
    assert isinstance(found["mail"], Mail)
    assert isinstance(everything, Integration)
    assert "Mail(server='backup')" in repr(everything) or "Mail()" in repr(everything)


def test_parts_keep_their_identity() -> None:
    everything = AggregatedIntegration({"mail": Mail})
    assert flatten({"a": everything})["mail"] is flatten({"b": everything})["mail"]


def test_a_namespace_claimed_twice_is_refused_with_both_claimants() -> None:
    with pytest.raises(DeclarationError, match=r"claim the namespace 'mail': Mail and Chat\. .*Rename one"):
        flatten({"all": AggregatedIntegration({"mail": Mail}), "mail": Chat()})


@pytest.mark.parametrize("name", ["", "a.b", "a-b", "1a", "ä"])
def test_namespaces_are_words(name: str) -> None:
    with pytest.raises(DeclarationError, match="must be letters, digits and underscores"):
        flatten({name: Mail()})


def test_an_aggregate_with_hooks_of_its_own_is_refused() -> None:
    with pytest.raises(DeclarationError, match="overrides setup of AggregatedIntegration, which is never called"):

        class Bad(AggregatedIntegration):
            async def setup(self, controller: object) -> None: ...  # type: ignore[override]


def test_what_is_no_integration_is_refused_with_advice() -> None:
    wrong: dict[str, Any] = {"mail": Mail, "chat": object()}
    with pytest.raises(DeclarationError) as caught:
        flatten(wrong)
    assert "gives the class. Make an object of it: Mail()" in str(caught.value)
    assert "'chat'" in str(caught.value)
    assert "is no Integration" in str(caught.value)


def test_parts_without_names_are_refused_with_advice() -> None:
    parts: Any = [Integration]
    with pytest.raises(DeclarationError, match="expected a mapping of namespaces to integrations"):
        AggregatedIntegration(parts)
    numbered: Any = {5: Integration()}
    with pytest.raises(DeclarationError, match="The namespace 5 must be letters"):
        flatten(numbered)
