"""The command line `ensue`: run, worker, check, explain, integrations, effects, inbox, migrate, new.

Decides how a command is run and an error is shown. Leaves arguments to `parsing`, and the work to the modules behind, which are
imported only when their command is given, so that `ensue --help` answers at once. Invariant: a mistake of the caller is one
message that says what to do, with exit status 2, and never a traceback; a defect is shown whole, with the same status, as 1
would say that the command found something.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

OK, FOUND, FAILED = 0, 1, 2
"""Exit statuses: all is well; the command looked for something wrong and found it; the command could not do its work."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit status. Wrong arguments, `--help` and `--version` raise `SystemExit`."""
    from ensue.cli.parsing.commands import make_parser

    given = make_parser().parse_args(arguments)
    from ensue.cli.terminal import shown
    from ensue.errors import EnsueError

    try:
        command = importlib.import_module(f"ensue.cli.{given.module}")
        return command.execute(given)
    except EnsueError as error:
        print(shown(error), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output (`| head`) has seen enough; what Python still flushes at its end must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception:  # noqa: BLE001 - whatever it is, its author wants to see all of it
        traceback.print_exc()
        return FAILED
