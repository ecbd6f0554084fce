"""Two versions of a service on the requests that were captured: what the second would have served in the place of the first.

Both are computed for the same keys, request columns and moments, from the same events, so a cell that differs differs by its
definition alone. What the first really served is compared with what it computes, too: that is skew, and nobody's change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.config import Config
from featurestore.datasets.signal import numbers_of
from featurestore.errors import RequestError
from featurestore.evaluate.partials import Array, Mask
from featurestore.evaluate.ragged import hashes
from featurestore.ir import Service, View
from featurestore.logged import MOMENT, Logged
from featurestore.training import TrainingSet

Predict = Callable[[pa.Table], Any]
"""Predictions for rows: one for each, of a table with the features of a version under their names."""

EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class FeatureDiff:
    """One feature that both have. `lost` had a value in the first and have none in the second, `gained` the other way round.

    The greatest and the mean difference are of numbers that both have; `smape` is the mean of 2|a - b| / (|a| + |b|). `skewed`
    counts rows where the first had served something else than it computes; None where nothing of it was served.
    """

    feature: str
    rows: int
    differing: int
    lost: int
    gained: int
    mean_absolute: float | None
    max_absolute: float | None
    smape: float | None
    skewed: int | None
    examples: tuple[tuple[str, Any, Any], ...]


@dataclass(frozen=True, slots=True)
class PredictionDiff:
    """The predictions of both. `correlation` is of their ranks; `flipped` counts rows that lie on the other side of a half."""

    rows: int
    mean_first: float
    mean_second: float
    mean_absolute: float
    max_absolute: float
    correlation: float | None
    flipped: int | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two versions on captured requests: `rows` of them, in `[start, end]` (microseconds)."""

    first: str
    second: str
    rows: int
    start: int | None
    end: int | None
    features: tuple[FeatureDiff, ...]
    only_in_first: tuple[str, ...]
    only_in_second: tuple[str, ...]
    predictions: PredictionDiff | None = None

    @property
    def same(self) -> bool:
        """Whether every feature that both have is equal in every row."""
        return not any(f.differing for f in self.features)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"same": self.same, **asdict(self)}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.first} and {self.second} on {self.rows:,} captured rows"
        for f in self.features:
            if f.differing:
                yield f"{f.feature}: {f.differing:,} of {f.rows:,} differ{_how(f)}"
                for row_id, a, b in f.examples:
                    yield f"  {row_id}: {a!r} -> {b!r}"
        equal = sum(not f.differing for f in self.features)
        yield f"{equal} of {len(self.features)} features are equal in every row"
        for names, where in ((self.only_in_first, self.first), (self.only_in_second, self.second)):
            if names:
                yield f"only in {where}: {', '.join(names)}"
        skewed = [f"{f.feature} {f.skewed:,}" for f in self.features if f.skewed]
        if skewed:
            yield f"{self.first} had served something else than it computes now: {', '.join(skewed)} rows"
        if self.predictions is not None:
            p = self.predictions
            rank = "" if p.correlation is None else f", rank correlation {p.correlation:.4f}"
            flips = "" if p.flipped is None else f", {p.flipped:,} on the other side of a half"
            yield (
                f"predictions: mean {p.mean_first:.4g} -> {p.mean_second:.4g}, "
                f"{p.mean_absolute:.4g} apart on average, {p.max_absolute:.4g} at most{rank}{flips}"
            )


def _how(f: FeatureDiff) -> str:
    said = []
    if f.mean_absolute is not None:
        said.append(
            f"{f.mean_absolute:.4g} apart on average, {f.max_absolute:.4g} at most, SMAPE {f.smape:.3g}"
        )
    said += [f"{f.lost:,} became NULL"] if f.lost else []
    said += [f"{f.gained:,} are no longer NULL"] if f.gained else []
    return f" ({'; '.join(said)})" if said else ""


@dataclass(frozen=True, slots=True)
class Contender:
    """One of the two: what it is called, and what it reads."""

    reference: str
    service: Service
    views: Mapping[str, View]
    predict: Predict | None = None


def compare(
    config: Config, logged: Logged, first: Contender, second: Contender, *, sample: int
) -> Comparison:
    """Compares two contenders on up to `sample` rows of `logged`, which are the first's, drawn by a hash of their ids.

    Raises RequestError when nothing was captured, SpineError when the second wants a key that the rows do not have.
    """
    rows = _drawn(logged, sample)
    if not rows.num_rows:
        raise RequestError(
            f"nothing was captured of '{logged.service.name}' in that time\n"
            "  capture=Capture() keeps what a service gives, from then on"
        )
    served = {n for n, _ in logged.columns}
    spine = rows.select([n for n in rows.column_names if n not in served and n != "version"])
    made = [_computed(config, c, spine) for c in (first, second)]
    names = [n for n, _ in first.service.columns]
    others = [n for n, _ in second.service.columns]
    ids = rows.column("row_id")
    both = [n for n in names if n in others]
    moments = np.asarray(rows.column(MOMENT).cast(pa.int64()))
    return Comparison(
        first.reference,
        second.reference,
        rows.num_rows,
        int(moments.min()),
        int(moments.max()),
        tuple(_feature(n, ids, made[0].column(n), made[1].column(n), rows.column(n)) for n in both),
        tuple(n for n in names if n not in others),
        tuple(n for n in others if n not in names),
        _predictions(first, second, made),
    )


def _drawn(logged: Logged, sample: int) -> pa.Table:
    """The rows with the least hashes of their ids: the same ones every time, whatever order they come in."""
    kept: pa.Table | None = None
    for table in logged.tables():
        kept = table if kept is None else pa.concat_tables([kept, table])
        if kept.num_rows > 2 * sample:
            kept = _least(kept, sample)
    assert kept is not None
    return _least(kept, sample)


def _least(table: pa.Table, sample: int) -> pa.Table:
    if table.num_rows <= sample:
        return table
    drawn = hashes(np.array(table.column("row_id").to_pylist(), object))
    return table.take(pa.array(np.sort(np.argpartition(drawn, sample)[:sample])))


def _computed(config: Config, one: Contender, spine: pa.Table) -> pa.Table:
    return TrainingSet(config, one.service, one.views, spine, MOMENT).to_arrow()


def _feature(
    name: str, ids: pa.ChunkedArray, a: pa.ChunkedArray, b: pa.ChunkedArray, served: pa.ChunkedArray
) -> FeatureDiff:
    there, here = (np.asarray(c.is_valid()) for c in (a, b))
    differing = _differing(a, b)
    numbers = [numbers_of(c) for c in (a, b)]
    apart = _apart(numbers, there & here)
    worst = np.flatnonzero(differing)[:EXAMPLES]
    examples = tuple((ids[int(i)].as_py(), a[int(i)].as_py(), b[int(i)].as_py()) for i in worst)
    known = np.asarray(served.is_valid())
    skewed = int((_differing(served, a) & known).sum()) if known.any() else None
    return FeatureDiff(
        name,
        len(a),
        int(differing.sum()),
        int((there & ~here).sum()),
        int((here & ~there).sum()),
        *apart,
        skewed,
        examples,
    )


def _differing(a: pa.ChunkedArray, b: pa.ChunkedArray) -> Mask:
    numbers = [numbers_of(c) for c in (a, b)]
    there, here = (np.asarray(c.is_valid()) for c in (a, b))
    if numbers[0] is not None and numbers[1] is not None:
        apart: Mask = (there != here) | (there & here & (numbers[0] != numbers[1]))
        return apart
    pairs = zip(a.to_pylist(), b.to_pylist(), strict=True)
    return np.array([x != y for x, y in pairs], np.bool_)


def _apart(numbers: list[Array | None], both: Mask) -> tuple[float | None, float | None, float | None]:
    a, b = numbers
    if a is None or b is None or not both.any():
        return None, None, None
    distance = np.abs(a[both] - b[both])
    size = np.abs(a[both]) + np.abs(b[both])
    smape = np.divide(2 * distance, size, out=np.zeros_like(distance), where=size > 0)
    return float(distance.mean()), float(distance.max()), float(smape.mean())


def _predictions(first: Contender, second: Contender, made: list[pa.Table]) -> PredictionDiff | None:
    if first.predict is None or second.predict is None:
        return None
    found = []
    for one, table in zip((first, second), made, strict=True):
        assert one.predict is not None
        given = np.asarray(one.predict(table.select([n for n, _ in one.service.columns])))
        if given.shape != (table.num_rows,):
            raise RequestError(
                f"the model of {one.reference} gave predictions of shape {given.shape} for {table.num_rows} rows\n"
                "  give one number for each row"
            )
        found.append(given.astype(np.float64))
    a, b = found
    distance = np.abs(a - b)
    chances = bool(min(a.min(), b.min()) >= 0 and max(a.max(), b.max()) <= 1)
    return PredictionDiff(
        len(a),
        float(a.mean()),
        float(b.mean()),
        float(distance.mean()),
        float(distance.max()),
        _rank_correlation(a, b),
        int(((a >= 0.5) != (b >= 0.5)).sum()) if chances else None,
    )


def _rank_correlation(a: Array, b: Array) -> float | None:
    ranks = []
    for values in (a, b):
        _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(sizes) - (sizes - 1) / 2)[group])
    if min(np.ptp(r) for r in ranks) == 0:
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


__all__ = ["Comparison", "Contender", "FeatureDiff", "Predict", "PredictionDiff", "compare"]
