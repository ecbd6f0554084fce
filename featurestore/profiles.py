"""Statistics of features where they are kept: one file for each name and origin, below the offline folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from featurestore.config import Config
from featurestore.errors import StatisticsError
from featurestore.statistics import Statistics
from featurestore.types import DType

ORIGINS = ("training", "materialized", "served", "stream")
"""Whose rows statistics are of. One is the default where nothing is said: the first there is."""

READ_ROWS = 10_000
"""Entities read from the online store at a time."""

_ENDING = ".fsstats"


def of_materialized(
    columns: dict[str, DType], keys: pa.Table, read: Callable[[dict[str, Any]], Any], at: int
) -> Statistics:
    """What the online store gives at a moment for every one of `keys`: a row for each entity, in one partition."""
    found = Statistics(columns)
    for start in range(0, keys.num_rows, READ_ROWS):
        result = read({n: keys[n].slice(start, READ_ROWS).to_pylist() for n in keys.column_names})
        found.update(result.to_arrow(), at)
    return found


# ------------------------------------------------------------------------------------------------------------- keeping


def save(config: Config, name: str, origin: str, statistics: Statistics, *, add: bool = False) -> Path:
    """Keeps the statistics of a service or view, in the place of what was kept of this origin; with `add`, merged with it.

    The file that lies there. Raises StatisticsError for an origin that is none, and when the two do not merge.
    """
    if origin not in ORIGINS:
        raise StatisticsError(f"statistics are of {', '.join(ORIGINS)}, not of '{origin}'")
    path = _path(config, name, origin)
    if add and path.exists():
        statistics = Statistics.from_bytes(path.read_bytes()).merge(statistics)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    partial.write_bytes(statistics.to_bytes())
    return partial.replace(path)


def kept(config: Config, name: str) -> list[str]:
    """Of which origins there are statistics of a service or view."""
    return [origin for origin in ORIGINS if _path(config, name, origin).exists()]


def load(config: Config, name: str, origin: str | None = None) -> Statistics:
    """What was kept, of an origin or the first there is. Raises StatisticsError when nothing was."""
    there = kept(config, name)
    if not there or origin not in (None, *there):
        of = "" if origin is None else f" of origin '{origin}'"
        have = (
            f"there is {', '.join(there)}"
            if there
            else f"`fs stats {name} --spine FILE` makes and keeps them"
        )
        raise StatisticsError(f"no statistics{of} are kept of '{name}'\n  {have}")
    path = _path(config, name, origin or there[0])
    try:
        return Statistics.from_bytes(path.read_bytes())
    except StatisticsError as error:
        raise StatisticsError(f"{path}: {error}\n  remove it, and make them again") from error


def _path(config: Config, name: str, origin: str) -> Path:
    return config.offline / "statistics" / f"{name}.{origin}{_ENDING}"


__all__ = ["ORIGINS", "kept", "load", "of_materialized", "save"]
