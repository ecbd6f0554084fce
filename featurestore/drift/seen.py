"""What two sides of a comparison have to show of one feature, whether it was kept as statistics or lies there as rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from featurestore.drift.effects import Steps
from featurestore.evaluate.ranges import Array
from featurestore.statistics import FeatureStatistics
from featurestore.statistics.columns import measured, measures
from featurestore.types import Date, DType, Timestamp

Kind = Literal["number", "share", "category", "instant", "items"]


@dataclass(frozen=True, slots=True)
class Seen:
    """One feature over some rows. `n` are finite numbers: of texts their lengths, of booleans 0 and 1.

    `counts` are of categories, each too low by at most `short`. None where nothing is kept.
    """

    name: str
    kind: Kind
    rows: int
    unread: int
    nulls: int
    strange: int
    n: int
    mean: float | None
    variance: float | None
    skewness: float | None
    steps: Steps | None
    counts: Mapping[object, int] | None = None
    short: int = 0
    why: str = ""

    @property
    def read(self) -> int:
        return self.rows - self.unread


def kind_of(dtype: DType) -> Kind:
    """How a type is compared."""
    if dtype in (Timestamp, Date):
        return "instant"
    said: dict[str, Kind] = {"share": "share", "characters": "category", "items": "items"}
    return said.get(measures(dtype), "number")


def of_statistics(f: FeatureStatistics) -> Seen:
    """A feature as it was kept."""
    steps = None
    if f.ranks is not None and f.ranks.n:
        values, weights = f.ranks.weighted()
        steps = Steps.of(values, weights, f.ranks.error)
    kind = kind_of(f.dtype)
    counts: dict[object, int] | None = None
    short = 0
    if kind == "category" and f.frequent_sketch is not None:
        counts, short = dict(f.frequent_sketch.counts.items()), f.frequent_sketch.error
    return Seen(
        f.name,
        kind,
        f.rows,
        f.unread,
        f.nulls,
        f.nans + f.positive + f.negative,
        f.count,
        f.average,
        f.variance,
        f.skewness,
        steps,
        counts,
        short,
        f.why or "",
    )


def of_column(name: str, column: pa.Array | pa.ChunkedArray | None, dtype: DType, rows: int) -> Seen:
    """A feature as rows hold it; a column that is missing, or of another type, is unread."""
    if column is None:
        return _unread(name, dtype, rows, "the column is missing")
    try:
        found = measured(column, dtype)
    except ValueError as error:
        return _unread(name, dtype, rows, str(error))
    finite = np.isfinite(found.numbers)
    values = found.numbers[finite] + 0.0
    strange = len(finite) - int(finite.sum()) - found.nulls
    counts = None if found.texts is None else dict(zip(*(a.tolist() for a in found.texts), strict=True))
    mean, variance, skewness = _moments(values)
    steps = Steps.of(values) if len(values) else None
    return Seen(
        name,
        kind_of(dtype),
        rows,
        0,
        found.nulls,
        strange,
        len(values),
        mean,
        variance,
        skewness,
        steps,
        counts,
    )


def _moments(values: Array) -> tuple[float | None, float | None, float | None]:
    if not len(values):
        return None, None, None
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(values.mean())
        apart = values - mean
        variance = float((apart * apart).mean())
        third = float((apart**3).mean())
    if not (np.isfinite(mean) and np.isfinite(variance)):
        return None, None, None
    skewness = third / variance**1.5 if variance > 0 and np.isfinite(third) else None
    return mean, variance, skewness


def _unread(name: str, dtype: DType, rows: int, why: str) -> Seen:
    return Seen(name, kind_of(dtype), rows, rows, 0, 0, 0, None, None, None, None, None, 0, why)


__all__ = ["Kind", "Seen", "kind_of", "of_column", "of_statistics"]
