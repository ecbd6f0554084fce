"""The version that is installed."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """As in the package's metadata; `unknown` when the sources are used without being installed."""
    try:
        return metadata.version("featurestore")
    except metadata.PackageNotFoundError:
        return "unknown"
