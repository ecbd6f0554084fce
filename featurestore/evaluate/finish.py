"""From merged partials to values, defaults and statuses: written once, run over training rows and online reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from featurestore.aggregates import (
    AGGREGATES,
    Estimate,
    Finish,
    Items,
    Kurtosis,
    MostFrequent,
    Part,
    Quantile,
    Ratio,
    Root,
    Skewness,
    Tally,
    Variance,
)
from featurestore.evaluate.partials import Array, Mask, Partial
from featurestore.evaluate.ragged import middles
from featurestore.ir import Feature
from featurestore.status import Status
from featurestore.types import DecimalType, is_float, is_integer, numpy_dtype

Statuses = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Cells:
    """One feature for many rows: values in the feature's physical type, which of them are not NULL, and why.

    Lists are Python lists and maps dicts of physical values. Values under a false `valid` are zero (None for strings, lists
    and maps), never left over from a computation.
    """

    values: Array
    valid: Mask
    status: Statuses


def finish(feature: Feature, partials: Mapping[str, Partial], found: Mask) -> Cells:
    """The cells of a windowed feature from its merged partials, by their names in the aggregate.

    `found` says for each row whether the view has any visible event of the entity.
    """
    with np.errstate(all="ignore"):
        values, valid, fits = _whole(feature, partials)
    if fits is None:
        return settle(feature, values, valid, found)
    return settle(feature, values, valid & fits, found, overflow=valid & ~fits)


def finish_present(feature: Feature, partials: Mapping[str, Partial]) -> Array | None:
    """The values of `finish` when they are all there, the common case of an online read; None when one is not.

    For partials of ranges that hold rows of entities that were found. Call it where NumPy's warnings are off.
    """
    values, valid, fits = _whole(feature, partials)
    if not valid.all() or (fits is not None and not fits.all()):
        return None
    filled: Array = values.astype(numpy_dtype(feature.dtype), copy=False)
    if filled.dtype.kind == "f":
        filled = filled + 0
    return filled


def _whole(feature: Feature, partials: Mapping[str, Partial]) -> tuple[Array, Mask, Mask | None]:
    """Values, where they are not NULL, and where they fit: None is everywhere."""
    node = AGGREGATES[feature.aggregate].finish_of(feature.params)
    values, valid = _value(node, partials, feature)
    fits = _fits(values, feature)
    if isinstance(node, MostFrequent | Tally):
        fits = np.diff(partials[node.name]["ends"], prepend=0) <= node.bound
    return values[0].view(np.int64) if isinstance(values, tuple) else values, valid, fits


def settle(
    feature: Feature,
    values: Array,
    valid: Mask,
    found: Mask,
    *,
    expired: Mask | None = None,
    overflow: Mask | None = None,
) -> Cells:
    """Cells from values before defaults: puts the default in, and gives each cell the first status that holds."""
    dtype = numpy_dtype(feature.dtype)
    filled = np.array(values, dtype)
    if filled.dtype.kind == "f":
        filled += 0
    if valid.all() and found.all():  # a count is 0, not NULL, where nothing was found
        return Cells(filled, valid, np.zeros(len(valid), np.uint8))
    null = ~valid
    status = _missing(null, found, expired)
    if feature.default is not None:
        filled[null] = feature.default
        status[null] = Status.DEFAULT
        valid = np.ones_like(valid)
    else:
        filled[null] = None if dtype.kind == "O" else 0
    if overflow is not None:
        status[overflow] = Status.OVERFLOW
    return Cells(filled, valid, status)


def settle_block(
    features: Sequence[Feature], values: Array, valid: Mask | None, found: Mask, expired: Mask | None
) -> tuple[Array, Mask | None, Statuses | None]:
    """`settle` for features of one number type at once: `values` is (rows, features), and so is all that comes out.

    `valid` None stands for all, here and in the outcome; statuses None for all PRESENT.
    """
    filled = values + values.dtype.type(0) if values.dtype.kind == "f" else values
    if valid is None or valid.all():
        return filled, None, None
    null = ~valid
    status = _missing(null, found, expired)
    filled = np.where(valid, filled, filled.dtype.type(0))
    valid = valid.copy()
    for i, feature in enumerate(features):
        if feature.default is not None:
            filled[null[:, i], i] = feature.default
            status[null[:, i], i] = Status.DEFAULT
            valid[:, i] = True
    return filled, valid, status


def _missing(null: Mask, found: Mask, expired: Mask | None) -> Statuses:
    """PRESENT, or why a value is NULL before defaults; `null` may have a column for each feature."""
    status = null * np.uint8(Status.NULL)
    status[~found] = Status.NOT_FOUND
    if expired is not None:
        status[expired] = Status.EXPIRED
    return status


Limbs = tuple[Array, Array]


def _value(node: Finish, partials: Mapping[str, Partial], feature: Feature) -> tuple[Any, Mask]:
    match node:
        case Part(name):
            return _part(partials[name])
        case Ratio(top, bottom):
            total, valid = _part(partials[top.name])
            n = partials[bottom.name]["n"]
            dtype = feature.input_types[0]
            scale = 10.0**dtype.scale if isinstance(dtype, DecimalType) else 1.0
            whole = _to_double(total) if isinstance(total, tuple) else total
            return np.divide(whole, n * scale, out=np.zeros(len(n)), where=n != 0), valid & (n != 0)
        case Variance(name, ddof):
            n, m2 = partials[name]["n"], partials[name]["m2"]
            valid = n > ddof
            return np.divide(m2, n - ddof, out=np.zeros(len(n)), where=valid), valid
        case Skewness(name):
            n, spread, valid = _spread(partials[name])
            return (partials[name]["m3"] / n) / (spread * np.sqrt(spread)), valid
        case Kurtosis(name):
            n, spread, valid = _spread(partials[name])
            return (partials[name]["m4"] / n) / (spread * spread) - 3.0, valid
        case Items(name):
            return _lists(partials[name]["v"], partials[name]["ends"])
        case Estimate(name, k):
            return distinct_estimate(partials[name], k)
        case Quantile(name, p):
            return _quantile(partials[name], p)
        case MostFrequent(name, k):
            return _most_frequent(partials[name], k)
        case Tally(name):
            return _tallies(partials[name])
        case Root(of):
            values, valid = _value(of, partials, feature)
            return np.sqrt(values), valid
        case _:
            assert_never(node)


def _spread(moments: Partial) -> tuple[Array, Array, Mask]:
    """Counts and variances, with ones where there is none, and where there is one."""
    valid = moments["m2"] > 0
    n = np.where(valid, moments["n"], 1)
    return n, np.where(valid, moments["m2"], 1.0) / n, valid


def _part(partial: Partial) -> tuple[Array | Limbs, Mask]:
    if "lo" in partial:
        return (partial["lo"], partial["hi"]), partial["valid"]
    if "s" in partial:
        return partial["s"] + partial["c"], partial["valid"]
    if "known" in partial:
        return partial["v"], partial["valid"] & partial["known"]
    if "v" in partial:
        return partial["v"], partial["valid"]
    return partial["n"], np.ones(len(partial["n"]), np.bool_)


def _narrow(limbs: Limbs) -> Mask:
    """Which 128-bit numbers are 64-bit ones: the upper limb is all sign."""
    lo, hi = limbs
    narrow: Mask = hi == lo.view(np.int64) >> 63
    return narrow


def _to_double(limbs: Limbs) -> Array:
    """Each 128-bit whole number rounded once to a double, half to even."""
    lo, hi = limbs
    doubles = lo.view(np.int64).astype(np.float64)
    for i in np.flatnonzero(~_narrow(limbs)):
        doubles[i] = float((int(hi[i]) << 64) + int(lo[i]))
    return doubles


def _fits(values: Array | Limbs, feature: Feature) -> Mask | None:
    """Where a value fits the feature's type; None where it does everywhere."""
    if isinstance(values, tuple):
        narrow = _narrow(values)
        if isinstance(feature.dtype, DecimalType):
            bound = 10**feature.dtype.precision
            whole = values[0].view(np.int64)
            narrow &= (whole < bound) & (whole > -bound)
        return narrow
    if is_float(feature.dtype):
        finite: Mask = np.isfinite(values)
        return finite
    assert is_integer(feature.dtype) or values.dtype.kind in "iObu"
    return None


# ------------------------------------------------------------------------------------------- of any number of items


def _lists(values: Array, ends: Array) -> tuple[Array, Mask]:
    flat, stops = values.tolist(), ends.tolist()
    lists = (flat[a:b] for a, b in zip([0, *stops[:-1]], stops, strict=True))
    return np.fromiter(lists, np.dtype(object), len(stops)), np.ones(len(stops), np.bool_)


def distinct_estimate(partial: Partial, k: int) -> tuple[Array, Mask]:
    ends, hashes = partial["ends"], partial["v"]
    sizes = np.diff(ends, prepend=0)
    counts = sizes.astype(np.int64)
    many = np.flatnonzero(sizes > k)
    last = hashes[ends[many] - 2].astype(np.float64)  # the k-th of k + 1
    counts[many] = np.rint((k - 1) / (last / 2.0**64)).astype(np.int64)
    return counts, np.ones(len(ends), np.bool_)


def _quantile(partial: Partial, p: Fraction) -> tuple[Array, Mask]:
    ends = partial["ends"]
    starts = np.concatenate([[0], ends[:-1]])
    valid = ends > starts
    if not len(partial["v"]):
        return np.zeros(len(ends)), valid
    running = np.cumsum(partial["n"])
    before = np.concatenate([[0], running])[starts]
    total = running[np.maximum(ends - 1, 0)] - before
    rank = np.maximum(-(-total * p.numerator // p.denominator), 1)
    found = np.searchsorted(running, before + rank, "left")
    return np.where(valid, middles(partial["v"][np.where(valid, found, 0)]), 0.0), valid


def _most_frequent(partial: Partial, k: int) -> tuple[Array, Mask]:
    ends, n = partial["ends"], partial["n"]
    sizes = np.diff(ends, prepend=0)
    group = np.repeat(np.arange(len(ends)), sizes)
    order = np.lexsort((-n, group))  # stable: of equally many the lesser value stays first
    rank = np.arange(len(n)) - np.repeat(ends - sizes, sizes)
    return _lists(partial["v"][order[rank < k]], np.cumsum(np.minimum(sizes, k)))


def _tallies(partial: Partial) -> tuple[Array, Mask]:
    keys, _ = _lists(partial["v"], partial["ends"])
    counts, valid = _lists(partial["n"], partial["ends"])
    pairs = zip(keys, counts, strict=True)
    tallies = (dict(zip(k, n, strict=True)) for k, n in pairs)
    return np.fromiter(tallies, np.dtype(object), len(keys)), valid
