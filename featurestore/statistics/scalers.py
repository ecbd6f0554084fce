"""Scalers: frozen numbers that turn features into what a model reads, by one code in training and serving.

Every operation is one that IEEE 754 defines to the last bit, or of `evaluate.elementary`, so the outcome does not depend on
how many rows or columns are scaled at a time, nor on the processor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from featurestore.compile.duckdb import DUCKDB, finite
from featurestore.compile.sql import ident, literal
from featurestore.errors import ScalerError
from featurestore.evaluate.elementary import ln
from featurestore.evaluate.partials import Array, Mask
from featurestore.statistics.feature import FeatureStatistics
from featurestore.types import DecimalType, DType, Float64

RANKS = 100
"""The steps of a rank scaler: its knots are the percentiles."""

FITTED = ("standard", "minmax", "robust", "rank")
KINDS = (*FITTED, "log1p", "clip")
_AFFINE = ("standard", "minmax", "robust")
_NAMES = {
    "standard": ("mean", "stddev"),
    "minmax": ("min", "range"),
    "robust": ("median", "spread"),
    "clip": ("lo", "hi"),
    "log1p": (),
}


@dataclass(frozen=True, slots=True)
class FeatureScaler:
    """How one feature is scaled, with all its numbers. `warning` says what is odd about them, empty if nothing is.

    `numbers` are offset and divisor of `standard`, `minmax` and `robust`, the bounds of `clip`, the fitted percentiles of
    `rank` in rising order, none of `log1p`.
    """

    feature: str
    kind: str
    numbers: tuple[float, ...] = ()
    warning: str = ""

    @property
    def constants(self) -> dict[str, Any]:
        """The numbers by name; `percentiles` of a rank scaler as an array."""
        if self.kind == "rank":
            return {"percentiles": np.array(self.numbers)}
        return dict(zip(_NAMES[self.kind], self.numbers, strict=True))


def fit(kind: str, numbers: Sequence[float], statistics: FeatureStatistics) -> FeatureScaler:
    """The scaler of one feature.

    Where its statistics give no spread, the warning says what is left:

    - of no values at all, or none that fit a double, values stay as they are (`rank`: 0.5);
    - of values that are all equal, or a middle half that is, `standard`, `minmax` and `robust` only take the offset away, and
      `rank` gives 0 below, 0.5 at and 1 above the value.
    """
    name = statistics.name
    if kind not in FITTED:
        return FeatureScaler(name, kind, tuple(map(float, numbers)))
    if kind == "rank":
        knots = statistics.quantiles([i / RANKS for i in range(RANKS + 1)])
        warning = "" if knots else "no value to fit: every value becomes 0.5"
        if statistics.constant:
            warning = f"constant ({knots[0]:g}): 0 below it, 0.5 at it, 1 above it"
        return FeatureScaler(name, kind, tuple(knots), warning)
    offset, spread = _affine(kind, statistics)
    if offset is None or spread is None:
        return FeatureScaler(name, kind, (0.0, 1.0), "no value to fit: values stay as they are")
    if spread == 0 or not math.isfinite(spread):
        what = "constant" if statistics.constant else "no spread to divide by"
        return FeatureScaler(name, kind, (offset, 1.0), f"{what} ({offset:g}): only the offset is taken away")
    return FeatureScaler(name, kind, (offset, spread))


def _affine(kind: str, statistics: FeatureStatistics) -> tuple[float | None, float | None]:
    if kind == "standard":
        return statistics.average, statistics.stddev
    if kind == "minmax":
        low, high = statistics.minimum, statistics.maximum
        return low, None if low is None or high is None else high - low
    low, middle, high = statistics.quantiles([0.25, 0.5, 0.75]) or (None, None, None)
    return middle, None if low is None or high is None else high - low


# --------------------------------------------------------------------------------------------------------------- values


def as_doubles(values: Array, dtype: DType) -> Array:
    """Physical numbers as doubles: a decimal by one division of its digits, as everywhere."""
    return values / 10.0**dtype.scale if isinstance(dtype, DecimalType) else values.astype(np.float64)


def scaled(values: Array, valid: Mask | None, by: Sequence[FeatureScaler]) -> tuple[Array, Mask]:
    """Columns of doubles, (rows, features), each by its scaler. What is not valid is 0; what is no number becomes so, −0 is 0."""
    out = np.empty(values.shape)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        affine = [j for j, s in enumerate(by) if s.kind in _AFFINE]
        if affine:
            offset, divisor = np.array([by[j].numbers for j in affine]).T
            some = values if len(affine) == len(by) else values[:, affine]
            out[:, affine] = (some - offset) / divisor
        for j, one in enumerate(by):
            if one.kind not in _AFFINE:
                out[:, j] = _column(one, values[:, j])
    out += 0.0
    known = np.isfinite(out) & np.isfinite(values)
    if valid is not None:
        known &= valid
    out[~known] = 0.0
    return out, known


def _column(one: FeatureScaler, x: Array) -> Array:
    match one.kind:
        case "log1p":
            return _log1p(x)
        case "clip":
            return np.minimum(np.maximum(x, one.numbers[0]), one.numbers[1])
        case "rank":
            return _rank(one, x)
        case _:
            raise AssertionError(f"{one.kind} is no scaler")


def _log1p(x: Array) -> Array:
    """Kahan's way: ln of 1 + x, put right by what the sum rounded away."""
    doubles = np.ascontiguousarray(x, np.float64)
    whole = 1.0 + doubles
    inside = doubles > -1.0
    logs = ln(np.where(inside, whole, 1.0))
    small = whole == 1.0
    return np.where(
        inside, np.where(small, doubles, logs * (doubles / np.where(small, 1.0, whole - 1.0))), np.nan
    )


@dataclass(frozen=True, slots=True)
class _Steps:
    """The distinct knots of a rank scaler; for each the share of knots below it, up to it, and the rank at it."""

    knots: Array
    below: Array
    upto: Array
    at: Array

    @staticmethod
    def of(one: FeatureScaler) -> _Steps:
        knots, first, count = np.unique(np.array(one.numbers), return_index=True, return_counts=True)
        below, upto = first / RANKS, (first + count - 1) / RANKS
        return _Steps(knots, below, upto, (below + upto) / 2)


def _rank(one: FeatureScaler, x: Array) -> Array:
    if not one.numbers:
        return np.where(np.isnan(x), np.nan, 0.5)
    steps = _Steps.of(one)
    knots = steps.knots
    i = np.clip(np.searchsorted(knots, x, "right") - 1, 0, len(knots) - 1)
    j = np.minimum(i + 1, len(knots) - 1)
    width = np.where(j > i, knots[j] - knots[i], 1.0)
    between = steps.upto[i] + (x - knots[i]) / width * (steps.below[j] - steps.upto[i])
    out = np.where(x == knots[i], steps.at[i], between)
    out = np.where(x < knots[0], 0.0, np.where(x > knots[-1], 1.0, out))
    return np.where(np.isnan(x), np.nan, out)


# ------------------------------------------------------------------------------------------------------------------ SQL


def scaler_sql(one: FeatureScaler, column: str) -> str:
    """The scaled feature as a DuckDB expression over a numeric `column`, itself SQL: the same doubles.

    Of `log1p` within two units in the last place: the engine has a logarithm of its own. −0 is 0, and what is no number NULL.
    """
    x = f"CAST({column} AS DOUBLE)"

    def say(value: float) -> str:
        return literal(value, Float64, DUCKDB)

    if one.kind in _AFFINE:
        offset, divisor = map(say, one.numbers)
        return finite(f"(({x} - {offset}) / {divisor})")
    if one.kind == "clip":
        lo, hi = map(say, one.numbers)
        return f"(CASE WHEN isfinite({x}) THEN least(greatest({x}, {lo}), {hi}) + 0e0 END)"
    if one.kind == "log1p":
        logarithm = finite(f"(ln(1e0 + {x}) * ({x} / ((1e0 + {x}) - 1e0)))")
        small = f"WHEN 1e0 + {x} = 1e0 THEN {x} + 0e0"
        return f"(CASE WHEN NOT isfinite({x}) OR {x} <= -1e0 THEN NULL {small} ELSE {logarithm} END)"
    if not one.numbers:
        return f"(CASE WHEN isfinite({x}) THEN 5e-1 END)"
    steps = _Steps.of(one)
    knots = steps.knots.tolist()
    whens = [f"WHEN {x} IS NULL OR NOT isfinite({x}) THEN NULL", f"WHEN {x} < {say(knots[0])} THEN 0e0"]
    for i, knot in enumerate(knots):
        whens.append(f"WHEN {x} = {say(knot)} THEN {say(float(steps.at[i]))}")
        if i + 1 < len(knots):
            width, rise = knots[i + 1] - knot, float(steps.below[i + 1] - steps.upto[i])
            between = f"{say(float(steps.upto[i]))} + ({x} - {say(knot)}) / {say(width)} * {say(rise)}"
            whens.append(f"WHEN {x} < {say(knots[i + 1])} THEN {between}")
    return f"(CASE {' '.join(whens)} ELSE 1e0 END)"


# --------------------------------------------------------------------------------------------------------------- whole


@dataclass(frozen=True)
class Scaler:
    """One version of the scaler of a service. `columns` are those of its tensor, in order; `features` are what is scaled.

    `rows` it was fitted on, of times up to `until` (microseconds; None if they had none). `basis` is the version that a refit
    began with.
    """

    service: str
    version: int
    columns: tuple[str, ...]
    features: tuple[FeatureScaler, ...]
    rows: int = 0
    until: int | None = None
    basis: int | None = None

    @property
    def by_feature(self) -> Mapping[str, FeatureScaler]:
        return {s.feature: s for s in self.features}

    @property
    def warnings(self) -> list[str]:
        """What is odd about features, a sentence each."""
        return [f"{s.feature}: {s.warning}" for s in self.features if s.warning]

    @property
    def constants(self) -> dict[str, dict[str, Any]]:
        """For each scaled feature its kind and its numbers, as doubles and arrays of them."""
        return {s.feature: {"kind": s.kind, **s.constants} for s in self.features}

    def transform(self, x: Any) -> Array:
        """Rows of the service's tensor, (rows, columns) float32 or float64, NaN for NULL, scaled: an array of the same type.

        From `to_numpy("float64")` it gives the doubles that `scaled=True` gives. Raises ScalerError for another shape.
        """
        given = np.asarray(x)
        if given.ndim != 2 or given.shape[1] != len(self.columns):
            raise ScalerError(
                f"the scaler of '{self.service}' takes rows of {len(self.columns)} columns, not an array {given.shape}\n"
                f"  they are {', '.join(self.columns)}"
            )
        out = given.astype(given.dtype if given.dtype.kind == "f" else np.float64)
        if self.features:
            places = [self.columns.index(s.feature) for s in self.features]
            values, valid = scaled(given[:, places].astype(np.float64), None, self.features)
            out[:, places] = np.where(valid, values, np.nan)
        return out

    def to_sql(self, table: str | None = None) -> str:
        """What scales, as DuckDB SQL: `expression AS feature` by lines, or a whole query over `table` when it is named."""
        columns = [(s, ident(s.feature, DUCKDB)) for s in self.features]
        lines = ",\n  ".join(f"{scaler_sql(s, column)} AS {column}" for s, column in columns)
        if table is None:
            return lines
        return f"FROM {ident(table, DUCKDB)} SELECT * REPLACE (\n  {lines}\n)"

    def numbered(self, version: int) -> Self:
        """The same under a version."""
        return replace(self, version=version)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives an equal scaler back."""
        return {
            "service": self.service,
            "version": self.version,
            "columns": list(self.columns),
            "features": [[s.feature, s.kind, list(s.numbers), s.warning] for s in self.features],
            "rows": self.rows,
            "until": self.until,
            "basis": self.basis,
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        features = tuple(FeatureScaler(f, k, tuple(map(float, n)), w) for f, k, n, w in said["features"])
        kept = {k: said[k] for k in ("service", "version", "rows", "until", "basis")}
        return cls(columns=tuple(said["columns"]), features=features, **kept)


__all__ = [
    "FITTED",
    "KINDS",
    "FeatureScaler",
    "Scaler",
    "as_doubles",
    "fit",
    "scaled",
    "scaler_sql",
]
