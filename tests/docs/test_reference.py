"""The reference: every page runs, and says neither more nor less than the code has."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ensue
from ensue.cli.parsing.commands import make_parser
from ensue.expression.semantics import SYMBOLS
from ensue.schema.computations.aggregate import AggregateComputation, Extremum, Quantifier
from ensue.store.effect_table import SETTLED, WAITING
from tests.docs.pages import DOCS, REFERENCE, REPOSITORY, blocks, run_page

PAGES = sorted(REFERENCE.glob("*.md"))
EVERY_PAGE = sorted([REPOSITORY / "README.md", REPOSITORY / "ARCHITECTURE.md", *DOCS.rglob("*.md")])
_CODE = re.compile(r'"(E0\d{3})"')
_LINK = re.compile(r"\]\((?!https?:)([\w./-]*)(?:#([\w-]+))?\)")


# The server's page is held to a real server by test_server_page.
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem != "server" and blocks(page, "python")], ids=lambda page: page.stem
)
async def test_a_page_runs_in_order(page: Path) -> None:
    await run_page(page)


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"`[^`\n]*`", "", without_blocks(page))
    for target, anchor in _LINK.findall(prose):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), target
        assert not anchor or anchor in set(anchors(linked)), f"{target}#{anchor}"


def test_the_table_of_contents_leads_to_every_page() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / target).resolve() for target, _ in _LINK.findall(index.read_text())}
    assert [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page not in linked | {index}] == []


def without_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> Iterator[str]:
    """What can follow a `#` to this page."""
    for heading in re.findall(r"^#+ (.+)$", without_blocks(page), flags=re.MULTILINE):
        yield re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_every_public_name_is_in_the_reference() -> None:
    words = set(re.findall(r"\w+", "\n".join(page.read_text() for page in PAGES)))
    assert set(ensue.__all__) <= words


def test_every_code_of_an_error_has_a_heading() -> None:
    found = {code for path in (REPOSITORY / "src").rglob("*.py") for code in _CODE.findall(path.read_text())}
    headings = re.findall(r"^## (E\d+)$", (REFERENCE / "errors.md").read_text(), flags=re.MULTILINE)
    assert headings == sorted(found)


def test_every_reason_of_a_rejection_is_listed() -> None:
    raised = re.compile(r'(?:Rejected|ConstraintViolated)\(\s*"(\w+)"')
    found = {reason for path in (REPOSITORY / "src").rglob("*.py") for reason in raised.findall(path.read_text())}
    listed = set(re.findall(r"^\| `(\w+)` \|", (REFERENCE / "errors.md").read_text(), flags=re.MULTILINE))
    # An example in a docstring of `Rejected`.
    assert found - {"too_long"} <= listed


def test_every_refusal_of_the_server_is_listed() -> None:
    refused = re.compile(r'(?:Refusal|ErrorAnswer)\([\w.]+, "(\w+)"|_refusal\([^"\n]+"(\w+)"|return "(\w+)", f?"')
    found = {
        code
        for path in (REPOSITORY / "src/ensue/server").rglob("*.py")
        for groups in refused.findall(path.read_text())
        for code in groups
        if code
    }
    assert len(found) > 10
    assert found <= set(re.findall(r"`(\w+)`", (REFERENCE / "server.md").read_text()))


def test_every_command_and_option_is_described() -> None:
    text = (REFERENCE / "cli.md").read_text()
    options = {option for parser in parsers(make_parser()) for option in option_names(parser)}
    assert set(re.findall(r"--[a-z][a-z-]+", text)) == options - {"--help"}
    for parser in parsers(make_parser()):
        assert parser.prog in text


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action.choices.values():
                yield from parsers(choice)


def option_names(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from (name for name in action.option_strings if name.startswith("--"))


def test_every_operator_has_its_meaning() -> None:
    text = (REFERENCE / "semantics.md").read_text().replace("\\|", "|")
    for symbol in SYMBOLS.values():
        assert f"`{symbol}`" in text or f"`{symbol.removesuffix(')')}" in text, symbol


def test_every_aggregate_and_state_is_listed() -> None:
    text = (REFERENCE / "declarations.md").read_text()
    kinds = {kind for base in (AggregateComputation, Extremum, Quantifier) for kind in base.__subclasses__()}
    for kind in kinds - {Extremum, Quantifier}:
        assert f"`{kind.__name__}(" in text
    states = (REFERENCE / "effects.md").read_text()
    for state in ("claimed", *WAITING, *SETTLED):
        assert f"| `{state}` |" in states


def test_pages_keep_to_themselves() -> None:
    """Pages speak of ensue to its users: no paths of a machine, no wildcards for what is still to be written."""
    for page in EVERY_PAGE:
        assert not re.search(r"/(work|tmp|home|root)/|\b(TODO|FIXME|TBD)\b", page.read_text()), page
