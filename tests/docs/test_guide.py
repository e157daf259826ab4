"""The code of the integration pages runs as it stands there.

The blocks of `integrations.md` are one module; in `integration-guide.md` each section is one. Every `test_` function
in them is run.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_TEST = re.compile(r"^async def (test_\w+)\(", re.MULTILINE)


def sections(page: str) -> dict[str, str]:
    """The code of each section of a page, by heading."""
    found: dict[str, str] = {}
    for part in re.split(r"^## ", (DOCS / page).read_text(), flags=re.MULTILINE)[1:]:
        code = "\n\n".join(_BLOCK.findall(part))
        if code:
            found[part.partition("\n")[0]] = code
    return found


GUIDE = sections("integration-guide.md")
TUTORIAL = {"the tutorial": "\n\n".join(sections("integrations.md").values())}
TESTS = [(section, name) for code in (TUTORIAL, GUIDE) for section in code for name in _TEST.findall(code[section])]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[object]:
    """Imports the code of one section as a module of its own."""
    loaded: list[str] = []

    def load(section: str) -> ModuleType:
        name = "guide_" + re.sub(r"\W+", "_", section.lower())
        path = tmp_path / f"{name}.py"
        path.write_text({**TUTORIAL, **GUIDE}[section])
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        loaded.append(name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        del sys.modules[name]


@pytest.mark.parametrize(("section", "name"), TESTS, ids=lambda item: item.replace(" ", "_"))
async def test_the_test_in_the_guide_passes(section: str, name: str, load: object) -> None:
    assert callable(load)
    await getattr(load(section), name)()


@pytest.mark.parametrize("section", list(GUIDE), ids=lambda item: item.replace(" ", "_"))
def test_every_section_stands_on_its_own(section: str, load: object) -> None:
    assert callable(load)
    module = load(section)
    assert _TEST.search(GUIDE[section]) or hasattr(module, "Everything")


@pytest.mark.parametrize("page", ["integrations.md", "integration-guide.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (DOCS / page).read_text()
    for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", text):
        linked = DOCS / target if target else DOCS / page
        assert linked.exists()
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
