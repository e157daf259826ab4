"""From `module:app` to the app.

Decides how a module is looked for, and what is said when there is no app. Invariant: an error inside the module is shown as Python
shows it, as it is the author's; everything else is one message.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensue.cli.failures import CommandError
from ensue.schema.written.names import suggestion

if TYPE_CHECKING:
    from ensue.app import App


def find_app(where: str) -> App:
    """The app at `where`, `module:name`; the working directory is on the path. Raises `CommandError`."""
    from ensue.app import App

    name, separator, attribute = where.partition(":")
    if not (separator and name and attribute):
        raise CommandError(f"{where!r} names no app; expected MODULE:APP, for example shop.main:app.")
    module = _import(name, where)
    names: dict[str, Any] = vars(module)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            apps = [key for key, value in names.items() if isinstance(value, App)]
            advice = f" It has the app {', '.join(apps)}." if apps else suggestion(part, names)
            raise CommandError(f"The module {name} ({getattr(module, '__file__', '')}) has no {attribute!r}.{advice}")
        found = getattr(found, part)
    if not isinstance(found, App):
        raise CommandError(
            f"{where} is a {type(found).__name__}; expected an ensue App. Name the App itself, not what app.asgi() gives."
        )
    return found


def _import(name: str, where: str) -> Any:
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that the app's module itself fails to import is another matter.
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        raise CommandError(
            f"There is no module {error.name!r}, looked for because of {where!r} in {directory} and the installed packages. "
            "Run ensue in the directory that has it, or install it."
        ) from None
