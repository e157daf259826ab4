"""The pages of the documentation as programs: their blocks, and running them in order.

Decides how a page is run: all its Python blocks are one module, in the order of the page. A block that awaits has
`harness`, `controller` and `store` of the last `app` that was made, which runs in memory. Invariant: an error
shows the line of the page that it came from.
"""

from __future__ import annotations
import __future__

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ensue.testing import AppHarness

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
REFERENCE = DOCS / "reference"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | __future__.annotations.compiler_flag


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its text, and the line of the page on which the text begins."""

    language: str
    text: str
    line: int


def blocks(page: Path, language: str) -> list[Block]:
    """The fenced blocks of a page in one language, in order."""
    text = page.read_text()
    return [
        Block(match[1], match[2], text.count("\n", 0, match.start()) + 2)
        for match in _FENCE.finditer(text)
        if match[1] == language
    ]


def program(page: Path) -> str:
    """The Python of a page, as the reader has it in one file at its end."""
    return "\n\n".join(block.text for block in blocks(page, "python"))


@contextmanager
def module_of(page: Path) -> Iterator[ModuleType]:
    """An empty module for the code of a page; declarations look names up in it."""
    module = ModuleType(f"page_{page.stem.replace('-', '_')}")
    module.__file__ = str(page)
    sys.modules[module.__name__] = module
    try:
        yield module
    finally:
        del sys.modules[module.__name__]


async def run_page(page: Path) -> None:
    """Run every Python block of a page, then every `test_` function in it."""
    async with AsyncExitStack() as stack:
        names = stack.enter_context(module_of(page)).__dict__
        running: Any = None
        for block in blocks(page, "python"):
            # Padded, so that lines in tracebacks and declarations are those of the page.
            text = "\n" * (block.line - 1) + block.text
            code = compile(text, str(page), "exec", _FLAGS, dont_inherit=True)
            if code.co_flags & inspect.CO_COROUTINE and running is not names["app"]:
                running = names["app"]
                await _enter(stack, names)
            result = eval(code, names)
            if inspect.isawaitable(result):
                await result
        for test in [item for name, item in names.items() if name.startswith("test_")]:
            result = test()
            if inspect.isawaitable(result):
                await result


async def _enter(stack: AsyncExitStack, names: dict[str, Any]) -> None:
    harness = await stack.enter_async_context(AppHarness(names["app"], env=names.get("ENVIRONMENT")))
    names.update(harness=harness, controller=harness.controller, store=harness.store)
