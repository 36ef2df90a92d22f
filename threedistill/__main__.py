"""``python -m threedistill`` is the command ``threedistill``."""

import sys

from threedistill.cli import main

if __name__ == "__main__":
    sys.exit(main())
