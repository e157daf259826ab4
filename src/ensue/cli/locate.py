"""From `module:app` to the app.

Decides how a module is looked for, and what is said when there is no app, or no such part of it. Invariant: an error inside the
module is shown as Python shows it, as it is the author's; everything else is one message.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from ensue.cli.terminal import CommandError
from ensue.schema.written.names import suggestion

if TYPE_CHECKING:
    from ensue.app import App, AppRun
    from ensue.server.asgi import Server


def find_app(where: str) -> App:
    """The app at `where`, `module:name`, or the one that is served there. Raises `CommandError`."""
    from ensue.app import App

    found = find_served(where)
    return found if isinstance(found, App) else found.app


def look_at(where: str) -> AppRun:
    """A run of the app at `where` for commands that look at its data: nothing is set up, delivered or made."""
    return find_app(where).run(deliver=False, setup=False, create_tables=False)


def find_served(where: str) -> App | Server:
    """The app, or what `app.asgi(...)` gave, at `where`; the working directory is on the path. Raises `CommandError`."""
    from ensue.app import App

    name, separator, attribute = where.partition(":")
    dotted = [*name.split("."), *attribute.split(".")]
    if not (separator and all(part.isidentifier() for part in dotted)):
        path = re.fullmatch(r"(?:\./)*([\w./]+?)(?:\.py)?(?::(\w+))?", where)
        meant = f" Did you mean {path[1].replace('/', '.')}:{path[2] or 'app'}?" if path and "/" in where else ""
        raise CommandError(f"{where!r} names no app; expected MODULE:APP, for example shop.main:app.{meant}")
    module = _import(name, where)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            apps = [key for key in dir(module) if isinstance(getattr(module, key), App)]
            advice = f" It has the app {', '.join(apps)}." if apps else suggestion(part, dir(module))
            raise CommandError(f"The module {name} ({getattr(module, '__file__', '')}) has no {attribute!r}.{advice}")
        found = getattr(found, part)
    if isinstance(found, App) or _is_served(found):
        return found
    what = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
    raise CommandError(f"{where} is {what}; expected an ensue App, or what its asgi(...) gives.")


def require_known(what: str, name: str, known: Iterable[str]) -> None:
    """Raise `CommandError` unless `name` is among the `known` names of such parts of the app."""
    names = set(known)
    if name not in names:
        raise CommandError(f"The app has no {what} {name!r}, and nothing is stored of one.{suggestion(name, names)}")


def _is_served(found: object) -> TypeGuard[Server]:
    # An app that is not served leaves the server's modules alone.
    module = sys.modules.get("ensue.server.asgi")
    return module is not None and isinstance(found, module.Server)


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
        file = name.endswith(".py") and f" Did you mean {where.replace('.py:', ':', 1)}?"
        raise CommandError(
            f"There is no module {error.name!r}, looked for because of {where!r} in {directory} and the installed packages."
            f"{file or ' Run ensue in the directory that has it, or install it.'}"
        ) from None
