"""The budgets hold for this repository, and each rule finds what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import tidy

REPOSITORY = Path(__file__).resolve().parents[2]


def test_repository_keeps_every_budget() -> None:
    breaches = tidy.check(REPOSITORY)
    assert not breaches, "\n".join(map(str, breaches))


def test_every_exception_has_a_reason() -> None:
    assert all(reason.strip() for reason in tidy.EXCEPTIONS.values())


def lines(count: int) -> str:
    return "".join(f"    x = {number}\n" for number in range(count))


def methods(count: int) -> str:
    return "".join(f"    def m{number}(self): ...\n" for number in range(count))


BREACHES = {
    "file-lines": ("src/ensue/a.py", "x = 1\n" * 600),
    "module-docstring": ("src/ensue/a.py", None),
    "function-lines": ("src/ensue/a.py", "def f():\n" + lines(60)),
    "positional": ("src/ensue/a.py", "def f(a, b, c, d, e): ...\n"),
    "public-methods": ("src/ensue/a.py", "class C:\n" + methods(21)),
    "module-name": ("src/ensue/utils.py", ""),
    "leftover": ("src/ensue/a.py", "x = 1  # TODO later\n"),
    "clock": ("src/ensue/a.py", "import time\nnow = time.time\n"),
    "test-sleep": ("tests/test_a.py", "import asyncio\nasync def f(): await asyncio.sleep(0.5)\n"),
    "purity": ("src/ensue/plan/a.py", "import asyncpg\n"),
    "syntax": ("src/ensue/a.py", "def\n"),
}


@pytest.mark.parametrize("rule", BREACHES)
def test_rule_reports_a_breach(rule: str, tmp_path: Path) -> None:
    path, body = BREACHES[rule]
    write(tmp_path, path, "x = 1\n" if body is None else f'"""A."""\n{body}')
    breaches = tidy.check(tmp_path, exceptions={})
    assert [breach.rule for breach in breaches] == [rule]
    assert str(breaches[0]).startswith(f"{path}:{breaches[0].line}: ")


ALLOWED = {
    "longest file": ("src/ensue/a.py", "x = 1\n" * 599),
    "longest function": ("src/ensue/a.py", 'def f():\n    """One.\n\n    Two."""\n' + lines(59)),
    "most positional": ("src/ensue/a.py", "class C:\n    def f(self, a, b, c, d, *, e): ...\n"),
    "fixtures of a test": ("tests/test_a.py", "def test_f(a, b, c, d, e): ...\n"),
    "most methods": ("src/ensue/a.py", "class C:\n" + methods(20) + "    def _own(self): ...\n"),
    "the clock": ("src/ensue/clock.py", "import time\nnow = time.time()\n"),
    "a test reads time": ("tests/test_a.py", "import time\nnow = time.time()\n"),
    "a short sleep": ("tests/test_a.py", "import time\ntime.sleep(0.2)\n"),
    "a word in a string": ("src/ensue/a.py", 'x = "TODO"\n'),
    "an attribute named time": ("src/ensue/a.py", "def f(row): return row.time\n"),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_rule_allows(name: str, tmp_path: Path) -> None:
    path, body = ALLOWED[name]
    write(tmp_path, path, f'"""A."""\n{body}')
    assert tidy.check(tmp_path, exceptions={}) == []


def test_empty_module_needs_no_docstring(tmp_path: Path) -> None:
    write(tmp_path, "src/ensue/a/__init__.py", "")
    assert tidy.check(tmp_path, exceptions={}) == []


@pytest.mark.parametrize("name", ["from time import monotonic", "import datetime\nx = datetime.datetime.now(None)"])
def test_clock_is_found_however_it_is_reached(name: str, tmp_path: Path) -> None:
    write(tmp_path, "src/ensue/a.py", f'"""A."""\n{name}\n')
    assert [breach.rule for breach in tidy.check(tmp_path, exceptions={})] == ["clock"]


@pytest.mark.parametrize(("count", "found"), [(15, []), (16, ["folder-modules"])])
def test_folder_holds_fifteen_modules(count: int, found: list[str], tmp_path: Path) -> None:
    for number in range(count):
        write(tmp_path, f"src/ensue/plan/m{number}.py", '"""A."""\n')
    write(tmp_path, "src/ensue/plan/__init__.py", '"""A."""\n')
    assert [breach.rule for breach in tidy.check(tmp_path, exceptions={})] == found


def test_exception_excuses_one_rule_in_one_file(tmp_path: Path) -> None:
    write(tmp_path, "src/ensue/utils.py", "x = 1\n")
    rules = [breach.rule for breach in tidy.check(tmp_path, exceptions={("src/ensue/utils.py", "module-name"): "why"})]
    assert rules == ["module-docstring"]


def test_exception_that_nothing_needs_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "src/ensue/a.py", '"""A."""\n')
    breaches = tidy.check(tmp_path, exceptions={("src/ensue/a.py", "file-lines"): "it was long once"})
    assert [breach.rule for breach in breaches] == ["unused-exception"]


def test_command_prints_breaches_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "src/ensue/a.py", "x = 1\n")
    assert tidy.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith("src/ensue/a.py:1: module docstring [module-docstring], found none, ")


def test_command_is_silent_when_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tidy.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""


def write(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
