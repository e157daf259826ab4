"""`ensue new integration NAME`: write an integration to begin with, that works, with its double, tests and a page.

Decides which files there are and what they are called; what is in them is in `templates`. Invariant: no file is
overwritten, and if one is in the way none is written.
"""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from importlib.metadata import packages_distributions
from importlib.resources import files
from pathlib import Path
from string import Template

from ensue.cli import OK
from ensue.cli.terminal import CommandError

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_FILES = {
    "package.py.template": "{name}/__init__.py",
    "integration.py.template": "{name}/integration.py",
    "double.py.template": "{name}/double.py",
    "test.py.template": "tests/test_{name}.py",
    "page.md.template": "docs/{name}.md",
}


def execute(given: argparse.Namespace) -> int:
    """Write the files and say which."""
    written = write_integration(given.name, Path(given.into))
    for path in written:
        print(path)
    print("\nIt needs an HTTP client, and its tests pytest: pip install 'ensue[http]' pytest pytest-asyncio")
    print(f"Run its tests in {Path(given.into)}: python -m pytest tests/test_{given.name}.py")
    return OK


def write_integration(name: str, folder: Path) -> list[Path]:
    """Write an integration called `name` below `folder`; gives the files. Raises `CommandError`, with nothing written."""
    _check_name(name)
    texts = {folder / path.format(name=name): text for path, text in integration_texts(name).items()}
    taken = [str(path) for path in texts if path.exists()]
    if taken:
        raise CommandError(
            f"There is {', '.join(taken)} already; nothing was written. Choose another name, or another folder with --into."
        )
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"{error.filename} can't be written: {error.strerror}. Choose a folder that you may write to with --into."
        ) from error
    return list(texts)


def integration_texts(name: str) -> dict[str, str]:
    """The texts of the files, by path with `{name}` in it."""
    words = name.split("_")
    values = {
        "name": name,
        "class_name": "".join(word.capitalize() for word in words),
        "prefix": name.upper(),
        "title": " ".join(word.capitalize() for word in words),
    }
    templates = files("ensue.cli") / "templates" / "integration"
    return {
        path: Template((templates / template).read_text(encoding="utf-8")).substitute(values)
        for template, path in _FILES.items()
    }


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) is None or keyword.iskeyword(name):
        raise CommandError(
            f"{name!r} can't be the name of an integration. Expected a Python module's: small letters, digits and "
            "underscores, such as mail_service."
        )
    if name in sys.stdlib_module_names or name in ("ensue", "tests", "docs") or name in packages_distributions():
        raise CommandError(f"{name!r} is the name of another module. Choose one of your own, such as {name}_service.")
