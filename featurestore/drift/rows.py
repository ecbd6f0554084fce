"""Rows at hand beside rows of a baseline: exact tests on samples, and one on all numbers together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.drift import effects as e
from featurestore.drift.compare import schema_changes
from featurestore.drift.features import feature_drift
from featurestore.drift.seen import Seen, kind_of, of_column
from featurestore.drift.verdicts import DriftReport, FeatureDrift, Limits, Test, judged
from featurestore.evaluate.ranges import Array
from featurestore.statistics.columns import measured
from featurestore.statistics.summary import as_table
from featurestore.types import DType

TOGETHER = "(all numbers together)"
"""The feature that the test on principal components is told under."""

MOST_COMPONENTS = 10
EXPLAINED = 0.95
"""Components are looked at until they explain this share of the variance, and no more than `MOST_COMPONENTS`."""


def compare_rows(
    baseline: Any,
    window: Any,
    columns: Mapping[str, DType],
    limits: Limits | None = None,
    *,
    by: str | None = None,
    together: bool = True,
) -> DriftReport:
    """Rows beside rows of a baseline: Arrow, dicts of columns or frames. `by` is a column whose values are slices.

    Besides each feature alone, `together` looks at the principal components of all numbers: features that stay as they
    were, one by one, and no longer go together.
    """
    chosen = limits or Limits()
    before, after = as_table(baseline), as_table(window)
    found: list[FeatureDrift] = []
    notes: list[str] = []
    for name, base, now in _slices(before, after, by, notes):
        own = [*_features(base, now, columns, chosen)]
        if together:
            own += _together(base, now, columns, chosen)
        found += [replace(f, slice=name) for f in own]
    types = [{n: t for n, t in columns.items() if n in side.schema.names} for side in (before, after)]
    return DriftReport(judged(found, chosen), tuple(schema_changes(*types)), notes=tuple(notes))


def _slices(
    before: Any, after: Any, by: str | None, notes: list[str]
) -> Iterator[tuple[str | None, Any, Any]]:
    if by is None:
        yield None, before, after
        return
    import pyarrow.compute as pc

    texts = [pc.fill_null(pc.cast(t.column(by), pa.string()), "NULL") for t in (before, after)]
    names = [set(pc.unique(t).to_pylist()) for t in texts]
    for name in sorted(names[0] | names[1]):
        if name not in names[0] or name not in names[1]:
            here, there = ("window", "baseline") if name in names[1] else ("baseline", "window")
            notes.append(f"slice '{name}' is in the {here} and not in the {there}: not judged")
            continue
        yield name, *(t.filter(pc.equal(x, name)) for t, x in zip((before, after), texts, strict=True))


def _features(
    before: Any, after: Any, columns: Mapping[str, DType], limits: Limits
) -> Iterator[FeatureDrift]:
    for name, dtype in columns.items():
        base, now = (
            of_column(name, t.column(name) if name in t.schema.names else None, dtype, t.num_rows)
            for t in (before, after)
        )
        found = feature_drift(base, now, limits)
        if found.verdict != "not judged":
            found = replace(found, tests=(*found.tests, *_exact(base, now, limits)))
        yield found


def _exact(base: Seen, now: Seen, limits: Limits) -> Iterator[Test]:
    """What only whole samples allow: Cramér and von Mises."""
    if base.kind not in ("number", "items") or base.steps is None or now.steps is None:
        return
    if min(base.n, now.n) < limits.min_rows:
        return
    stats: Any = e.special()
    distance = e.kolmogorov_smirnov(base.steps, now.steps)
    found = stats.cramervonmises_2samp(base.steps.values, now.steps.values, method="asymptotic")
    said = f"Cramér–von Mises {found.statistic:.3g}"
    yield Test("cvm", e.of_distance(distance), float(found.pvalue), said, float(found.statistic))


# ------------------------------------------------------------------------------------------------- all numbers together


def _together(before: Any, after: Any, columns: Mapping[str, DType], limits: Limits) -> list[FeatureDrift]:
    """Kolmogorov and Smirnov on each principal component of the baseline, and on what the components leave over."""
    names = [n for n, t in columns.items() if kind_of(t) in ("number", "share")]
    names = [n for n in names if n in before.schema.names and n in after.schema.names]
    if len(names) < 2:
        return []
    try:
        sides = [_matrix(t, names, columns) for t in (before, after)]
    except ValueError as error:
        return [FeatureDrift(TOGETHER, "not judged", (), (before.num_rows, after.num_rows), str(error))]
    rows = (len(sides[0]), len(sides[1]))
    if min(rows) < max(limits.min_rows, 5 * len(names)):
        needed = max(limits.min_rows, 5 * len(names))
        why = f"{min(rows):,} rows without a NULL: {needed:,} are needed"
        return [FeatureDrift(TOGETHER, "not judged", (), rows, why)]
    spread = sides[0].std(axis=0)
    varied = spread > 0
    if varied.sum() < 2:
        return [FeatureDrift(TOGETHER, "not judged", (), rows, "fewer than two numbers vary")]
    base, now = ((s[:, varied] - sides[0][:, varied].mean(axis=0)) / spread[varied] for s in sides)
    values, vectors = np.linalg.eigh(base.T @ base / len(base))
    values, vectors = values[::-1], vectors[:, ::-1]
    enough = int(np.searchsorted(np.cumsum(values) / values.sum(), EXPLAINED)) + 1
    count = min(enough, MOST_COMPONENTS, len(values))
    return [FeatureDrift(TOGETHER, "stable", tuple(_components(base, now, vectors, count)), rows)]


def _components(base: Array, now: Array, vectors: Array, count: int) -> Iterator[Test]:
    """Each test is judged among all others, so each component counts as one."""
    stats: Any = e.special()
    scores = [side @ vectors for side in (base, now)]
    looked = [(scores[0][:, k], scores[1][:, k], f"component {k + 1}") for k in range(count)]
    if count < vectors.shape[1]:
        rest = [np.sqrt((s[:, count:] ** 2).sum(axis=1)) for s in scores]
        looked.append((rest[0], rest[1], "what the components leave over"))
    for before, after, what in looked:
        a, b = e.Steps.of(before), e.Steps.of(after)
        distance = e.kolmogorov_smirnov(a, b)
        p = float(stats.kstwobign.sf(math.sqrt(a.n * b.n / (a.n + b.n)) * distance))
        yield Test("ks", e.of_distance(distance), p, f"{what}: distributions {distance:.3f} apart", distance)


def _matrix(table: Any, names: list[str], columns: Mapping[str, DType]) -> Array:
    """The rows of which all numbers are known."""
    matrix = np.column_stack([measured(table.column(n), columns[n]).numbers for n in names])
    out: Array = matrix[np.isfinite(matrix).all(axis=1)]
    return out


__all__ = ["TOGETHER", "compare_rows"]
