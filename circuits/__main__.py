"""`python -m circuits` is the command `circuits`."""

import sys

from circuits.cli import main

if __name__ == "__main__":
    sys.exit(main())
