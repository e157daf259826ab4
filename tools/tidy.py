"""Hold the code to its budgets: sizes, names, docstrings, and the few calls that belong in one place only.

Decides what ruff, pyright and import-linter cannot: how large a thing may become before it must be two things. Leaves
style and types to them. Invariant: a limit has no exception that is not named below, with its reason, and in use.

Run `python tools/tidy.py [FOLDER]`: prints `path:line: what, found, limit` for each breach, and ends with 1 if any.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60
POSITIONAL_MAX = 4
PUBLIC_METHODS_MAX = 20
FOLDER_MODULES_MAX = 15
TEST_SLEEP_SECONDS_MAX = 0.2

ROOTS = ("src", "tests", "tools", "examples", "benchmarks")
# Where a reader must find their way by the names alone; a folder of tests may grow with what it tests.
COUNTED_ROOTS = ("src", "tools")
BANNED_NAMES = frozenset({"utils", "helpers", "common", "misc", "base", "core", "manager", "handler"})
LEFTOVERS = re.compile(r"\b(FIXME|TODO)\b")

CLOCK_MODULE = "src/ensue/clock.py"
CLOCK_READS = frozenset(
    {
        "time.time",
        "time.time_ns",
        "time.monotonic",
        "time.monotonic_ns",
        "datetime.now",
        "datetime.utcnow",
        "date.today",
    }
)

_CLOCK_NAMES = frozenset(read.rpartition(".")[2] for read in CLOCK_READS)

# What a package that only computes may not import: whatever waits, connects or stores.
PURE_FOLDERS = ("src/ensue/expression/", "src/ensue/schema/", "src/ensue/plan/")
IMPURE_MODULES = frozenset(
    {"apsw", "asyncio", "asyncpg", "redis", "socket", "sqlite3", "starlette", "subprocess", "threading", "uvicorn"}
)

# (path, rule): reason. A file is here because it must be, not because it is; the list only shrinks.
EXCEPTIONS: Mapping[tuple[str, str], str] = {}


@dataclass(frozen=True, order=True, slots=True)
class Breach:
    """One budget that one place exceeds; `rule` is its name in `EXCEPTIONS`."""

    path: str
    line: int
    rule: str
    what: str
    found: str
    limit: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what} [{self.rule}], found {self.found}, limit {self.limit}"


@dataclass(frozen=True, slots=True)
class Module:
    """One source file as the rules see it."""

    path: str
    text: str
    tree: ast.Module
    nodes: Sequence[ast.AST]

    @property
    def in_src(self) -> bool:
        return self.path.startswith("src/")

    @property
    def in_tests(self) -> bool:
        return self.path.startswith("tests/")


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def main(arguments: list[str]) -> int:
    """Check the folder given, or the one above this file, and print what is found."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    breaches = check(root)
    for breach in breaches:
        print(breach)
    return 1 if breaches else 0


def check(root: Path, *, exceptions: Mapping[tuple[str, str], str] = EXCEPTIONS) -> list[Breach]:
    """All breaches below `root`, sorted, without the excepted ones but with exceptions that nothing needs."""
    breaches: list[Breach] = []
    for path in _sources(root):
        breaches.extend(_check_file(root, path))
    breaches.extend(_check_folders(root))
    used = {(breach.path, breach.rule) for breach in breaches}
    kept = [breach for breach in breaches if (breach.path, breach.rule) not in exceptions]
    for path, rule in exceptions.keys() - used:
        kept.append(Breach(path, 1, "unused-exception", f"exception from {rule}", "no breach", "remove it"))
    return sorted(kept)


def _sources(root: Path) -> Iterator[Path]:
    for name in ROOTS:
        for path in sorted((root / name).rglob("*.py")):
            # Installed packages of a studio build are not ours.
            if "node_modules" not in path.parts:
                yield path


def _check_file(root: Path, path: Path) -> Iterator[Breach]:
    name = path.relative_to(root).as_posix()
    text = path.read_text(encoding="utf-8")
    yield from _check_name(name)
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield Breach(name, error.lineno or 1, "syntax", "source that Python can parse", str(error.msg), "none")
        return
    # Walked once for all rules: that is most of the time that this takes.
    module = Module(name, text, tree, list(ast.walk(tree)))
    lines = len(text.splitlines())
    if lines > FILE_LINES_MAX:
        yield Breach(name, lines, "file-lines", "file, lines", str(lines), str(FILE_LINES_MAX))
    if module.tree.body and ast.get_docstring(module.tree) is None:
        yield Breach(name, 1, "module-docstring", "module docstring", "none", "what it decides, and what it leaves")
    yield from _check_leftovers(module)
    for node in module.nodes:
        if isinstance(node, _FUNCTIONS):
            yield from _check_function(module, node)
        elif isinstance(node, ast.ClassDef):
            yield from _check_class(module, node)
    if module.in_src and name != CLOCK_MODULE:
        yield from _check_clock(module)
    if module.in_tests:
        yield from _check_sleeps(module)
    if name.startswith(PURE_FOLDERS):
        yield from _check_purity(module)


def _check_name(name: str) -> Iterator[Breach]:
    for part in Path(name).with_suffix("").parts:
        if part.strip("_") in BANNED_NAMES:
            yield Breach(name, 1, "module-name", "name that says nothing", part, "the verb or thing it is")


def _check_folders(root: Path) -> Iterator[Breach]:
    counts: dict[str, int] = {}
    for path in _sources(root):
        name = path.relative_to(root)
        if name.parts[0] in COUNTED_ROOTS and name.name != "__init__.py":
            folder = name.parent.as_posix()
            counts[folder] = counts.get(folder, 0) + 1
    for folder, count in counts.items():
        if count > FOLDER_MODULES_MAX:
            yield Breach(folder, 1, "folder-modules", "folder, modules", str(count), str(FOLDER_MODULES_MAX))


def _check_leftovers(module: Module) -> Iterator[Breach]:
    if not LEFTOVERS.search(module.text):
        return
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        found = LEFTOVERS.search(token.string) if token.type == tokenize.COMMENT else None
        if found:
            yield Breach(module.path, token.start[0], "leftover", "note to self", found[0], "do it, or file it")


def _check_function(module: Module, node: Function) -> Iterator[Breach]:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1 - _docstring_lines(node)
    if lines > FUNCTION_LINES_MAX:
        what = f"function {node.name}, lines without docstring"
        yield Breach(module.path, node.lineno, "function-lines", what, str(lines), str(FUNCTION_LINES_MAX))
    if module.in_tests and _called_by_pytest(node):
        return
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    count = len(names) - (1 if names[:1] in (["self"], ["cls"]) else 0)
    if count > POSITIONAL_MAX:
        what = f"function {node.name}, positional parameters"
        yield Breach(module.path, node.lineno, "positional", what, str(count), f"{POSITIONAL_MAX} (keyword-only after)")


def _called_by_pytest(node: Function) -> bool:
    """Whether its parameters are fixtures, which pytest passes by name."""
    return node.name.startswith("test_") or any("fixture" in ast.unparse(one) for one in node.decorator_list)


def _docstring_lines(node: Function) -> int:
    if ast.get_docstring(node, clean=False) is None:
        return 0
    first = node.body[0]
    return (first.end_lineno or first.lineno) - first.lineno + 1


def _check_class(module: Module, node: ast.ClassDef) -> Iterator[Breach]:
    # A set, as overloads and the setter of a property repeat the name.
    names = {item.name for item in node.body if isinstance(item, _FUNCTIONS) and not item.name.startswith("_")}
    if len(names) > PUBLIC_METHODS_MAX:
        what = f"class {node.name}, public methods"
        yield Breach(module.path, node.lineno, "public-methods", what, str(len(names)), str(PUBLIC_METHODS_MAX))


def _check_clock(module: Module) -> Iterator[Breach]:
    for node in module.nodes:
        for name in _names_read(node):
            if ".".join(name.split(".")[-2:]) in CLOCK_READS:
                yield Breach(module.path, _line(node), "clock", "reading of time", name, f"only in {CLOCK_MODULE}")


def _names_read(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and node.attr in _CLOCK_NAMES:
        yield ast.unparse(node)
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            yield f"{node.module}.{alias.name}"


def _check_sleeps(module: Module) -> Iterator[Breach]:
    for node in module.nodes:
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).split(".")[-1] == "sleep":
            seconds = node.args[0]
            if (
                isinstance(seconds, ast.Constant)
                and isinstance(seconds.value, int | float)
                and seconds.value > TEST_SLEEP_SECONDS_MAX
            ):
                what, limit = "sleep in a test, seconds", f"{TEST_SLEEP_SECONDS_MAX} (wait for a condition instead)"
                yield Breach(module.path, node.lineno, "test-sleep", what, str(seconds.value), limit)


def _check_purity(module: Module) -> Iterator[Breach]:
    for node in module.nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        else:
            continue
        for name in names:
            if name.split(".")[0] in IMPURE_MODULES:
                yield Breach(module.path, node.lineno, "purity", "import in a package that only computes", name, "none")


def _line(node: ast.AST) -> int:
    return int(getattr(node, "lineno", 1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
