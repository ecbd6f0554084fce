"""`python -m featurestore.cli` is `fs`."""

from __future__ import annotations

import sys

from featurestore.cli import main

if __name__ == "__main__":
    sys.exit(main())
