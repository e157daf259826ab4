"""What `ensue new integration` writes is finished: it passes its own tests, ruff and pyright, and nothing is lost for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ensue.cli import main

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    assert main(["new", "integration", "mail_service", "--into", str(folder)]) == 0
    return folder


def test_it_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "integration", "crm", "--into", str(tmp_path)]) == 0
    *files, empty, needs, advice = capsys.readouterr().out.splitlines()
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(map(Path, files))
    assert [str(Path(path).relative_to(tmp_path)) for path in files] == [
        "crm/__init__.py",
        "crm/integration.py",
        "crm/double.py",
        "tests/test_crm.py",
        "docs/crm.md",
    ]
    assert needs.endswith("pip install 'ensue[http]' pytest pytest-asyncio")
    assert (empty, advice.endswith("python -m pytest tests/test_crm.py")) == ("", True)


def test_its_tests_pass(written: Path) -> None:
    options = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function", "-W", "error"]
    done = run(sys.executable, "-m", "pytest", *options, "tests/test_mail_service.py", cwd=written)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_it_is_typed_and_formatted(written: Path) -> None:
    (written / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict", "pythonVersion": "3.11"}))
    checked = run(PROGRAMS / "pyright", "--pythonpath", sys.executable, ".", cwd=written)
    assert checked.returncode == 0, checked.stdout
    settings = ["--config", ROOT / "pyproject.toml"]
    for command in (["check", "--no-cache"], ["format", "--no-cache", "--check"]):
        done = run(PROGRAMS / "ruff", *command, *settings, ".", cwd=written)
        assert done.returncode == 0, done.stdout


def test_its_page_says_which_settings_there_are(written: Path) -> None:
    page = (written / "docs" / "mail_service.md").read_text()
    code = (written / "mail_service" / "integration.py").read_text()
    assert "$" not in page + code
    for variable in ("MAIL_SERVICE_URL", "MAIL_SERVICE_API_KEY", "MAIL_SERVICE_TIMEOUT_SECONDS"):
        assert f"`{variable}`" in page
        assert f'env("{variable}"' in code


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "docs" / "crm.md"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert main(["new", "integration", "crm", "--into", str(tmp_path)]) == 2
    assert f"There is {mine} already; nothing was written." in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("name", ["", "Mail", "mail-service", "2mail", "class", "../x", "a__b", "mail_"])
def test_a_name_must_be_a_modules(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "integration", name, "--into", str(tmp_path)]) == 2
    assert f"{name!r} can't be the name of an integration" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["email", "ensue", "tests", "redis"])
def test_a_name_must_be_free(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "integration", name, "--into", str(tmp_path)]) == 2
    assert "is the name of another module" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
