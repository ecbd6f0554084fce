"""Statistics of features where they are kept: one file for each name and origin, below the offline folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from featurestore import recipes
from featurestore.config import Config
from featurestore.errors import StatisticsError
from featurestore.evaluate.ranges import Array
from featurestore.recipes import Recipe
from featurestore.statistics import Statistics
from featurestore.statistics.partitions import UNDATED
from featurestore.status import Status
from featurestore.time import floor
from featurestore.types import DType

ORIGINS = ("training", "materialized", "served", "stream")
"""Whose rows statistics are of. One is the default where nothing is said: the first there is."""

READ_ROWS = 10_000
"""Entities read from the online store at a time."""

_ENDING = ".fsstats"


def of_materialized(
    columns: dict[str, DType], keys: pa.Table, read: Callable[[dict[str, Any]], Any], at: int
) -> tuple[Statistics, bool]:
    """What the online store gives at a moment for every one of `keys`: a row for each entity, in one partition.

    And whether the store still gave all of them as they were at that moment.
    """
    found, exact = Statistics(columns), True
    for start in range(0, keys.num_rows, READ_ROWS):
        result = read({n: keys[n].slice(start, READ_ROWS).to_pylist() for n in keys.column_names})
        found.update(result.to_arrow(), at)
        exact &= not bool((result.statuses == Status.INEXACT).any())
    return found, exact


# ------------------------------------------------------------------------------------------------------------- keeping


def save(
    config: Config,
    name: str,
    origin: str,
    statistics: Statistics,
    *,
    add: bool = False,
    recipe: Recipe | None = None,
) -> Path:
    """Keeps the statistics of a service or view, in the place of what was kept of this origin; with `add`, merged with it.

    `recipe` says how they are made again. The file that lies there. Raises StatisticsError for an origin that is none, and when
    the two do not merge.
    """
    if origin not in ORIGINS:
        raise StatisticsError(f"statistics are of {', '.join(ORIGINS)}, not of '{origin}'")
    path, recipe = path_of(config, name, origin), Recipe() if recipe is None else recipe
    with recipes.changing(path):
        if add and path.exists():
            statistics = Statistics.from_bytes(path.read_bytes()).merge(statistics)
            recipe = recipes.read(path).and_also(recipe)
        return recipes.write(path, statistics, recipe)


def mark(
    config: Config,
    names: Iterable[str],
    origins: Iterable[str],
    why: str,
    *,
    start: int | None = None,
    end: int | None = None,
    moments: Array | None = None,
) -> dict[tuple[str, str], int]:
    """Marks what is kept of services and views as no longer of the data there is: partitions that reach into [start, end).

    With `moments`, those that one of them lies in; without bounds all, those of rows without a time too. How many, by name and
    origin; those without any are left out.
    """
    done: dict[tuple[str, str], int] = {}
    for name in dict.fromkeys(names):
        for origin in origins:
            path = path_of(config, name, origin)
            if not path.exists():
                continue
            found = load(config, name, origin)
            step, bounded = found.every.microseconds, start is not None or end is not None
            first = None if start is None else floor(start, step)
            starts = [s for s in found.starts if (first is None or s >= first) and (end is None or s < end)]
            if moments is not None:
                starts = sorted({*starts} & set((moments // step * step).tolist()))
                bounded = True
            if found.partition(UNDATED) is not None and not bounded:
                starts.append(UNDATED)
            count = recipes.mark(path, why, starts)
            if count:
                done[name, origin] = count
    return done


def stale(config: Config, name: str) -> dict[str, dict[int, str]]:
    """Of which origins partitions are to be made again: where each begins, and why."""
    found = {}
    for origin in kept(config, name):
        marks = recipes.read(path_of(config, name, origin)).stale
        if marks:
            found[origin] = {start: m.why for start, m in sorted(marks.items())}
    return found


def kept(config: Config, name: str) -> list[str]:
    """Of which origins there are statistics of a service or view."""
    return [origin for origin in ORIGINS if path_of(config, name, origin).exists()]


def everything(config: Config) -> list[tuple[str, str]]:
    """The names and origins that anything is kept of."""
    there = sorted(p.name.removesuffix(_ENDING) for p in (config.offline / "statistics").glob(f"*{_ENDING}"))
    pairs = (name.rpartition(".") for name in there)
    return [(name, origin) for name, _, origin in pairs if origin in ORIGINS]


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
    path = path_of(config, name, origin or there[0])
    try:
        return Statistics.from_bytes(path.read_bytes())
    except StatisticsError as error:
        raise StatisticsError(f"{path}: {error}\n  remove it, and make them again") from error


def path_of(config: Config, name: str, origin: str) -> Path:
    """Where the statistics of a service or view lie, or would."""
    return config.offline / "statistics" / f"{name}.{origin}{_ENDING}"


__all__ = ["ORIGINS", "everything", "kept", "load", "mark", "of_materialized", "path_of", "save", "stale"]
