"""Where a declaration stands: the first line outside of this package on the stack of its constructor.

Decides file and line only; what they are reported for is the caller's matter. Invariant: taking an origin never fails
and never reads a file; a member's own line is looked up when the schema is frozen.
"""

import linecache
import re
import sys
from pathlib import Path
from types import FrameType

from ensue.errors import Origin

_PACKAGE = str(Path(__file__).resolve().parent.parent)


def caller() -> FrameType | None:
    """The frame of the code that declares: the nearest one outside of this package and of `typing`."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # inspect.stack() reads files
    while frame is not None:
        code = frame.f_code.co_filename
        if not code.startswith(_PACKAGE) and frame.f_globals.get("__name__") != "typing":
            return frame
        frame = frame.f_back
    return None


def here() -> Origin:
    """The file and line of the declaration under construction."""
    frame = caller()
    return Origin("", 0) if frame is None else Origin(frame.f_code.co_filename, frame.f_lineno)


def member_line(declared: Origin, name: str) -> Origin:
    """The line `name: …` or `name = …` of the class whose statement is at `declared`; the class's own if it isn't
    found.
    """
    pattern = re.compile(rf"\s+{re.escape(name)}\s*[:=]")
    lines = linecache.getlines(declared.file)
    for number, line in enumerate(lines[declared.line :], start=declared.line + 1):
        if pattern.match(line):
            return Origin(declared.file, number)
    return declared
