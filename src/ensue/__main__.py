"""`python -m ensue` is the command `ensue`, for where its script is not on the path.

Decides nothing. Leaves everything to `ensue.cli`.
"""

import sys

from ensue.cli import main

if __name__ == "__main__":
    sys.exit(main())
