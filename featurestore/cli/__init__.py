"""The `fs` command. A command's module is imported when it runs, so that `fs --help` answers at once."""

from __future__ import annotations

from featurestore.cli.app import main

__all__ = ["main"]
