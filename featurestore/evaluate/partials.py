"""Partials in NumPy: made of raw events, or merged from tiles; the same partials come out.

A merged partial is a dict of arrays, one for each field of its reduction, with one entry for each range; reductions with
a null bit have a boolean array `valid` besides. Those of ragged reductions hold items, see `ragged`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from featurestore.aggregates import (
    Buckets,
    Count,
    Distinct,
    First,
    FirstK,
    Frequencies,
    Largest,
    Last,
    LastK,
    MaxBy,
    Maximum,
    MinBy,
    Minimum,
    Moments,
    Smallest,
    Sum,
)
from featurestore.evaluate import ragged
from featurestore.evaluate.ranges import Ranges
from featurestore.layout import Slot
from featurestore.types import Bool, DecimalType, is_float

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Partial = dict[str, Array]


@dataclass(frozen=True, slots=True)
class By:
    """What a value goes by, and where the value itself is not null (None: everywhere)."""

    values: Array
    known: Mask | None


_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def reduce_events(
    slot: Slot, x: Array | None, keep: Mask | None, times: Array, ranges: Ranges, by: By | None = None
) -> Partial:
    """The slot's partial over each range of events.

    `x` holds the input of each event, `keep` which of them count (not null, and the filter is true; None is all), `times`
    their event times. Values of `x` where `keep` is false are never looked at. For what goes by another input, `by` is that
    input and where `x` is not null, and `keep` does not ask for the latter.
    """
    match slot.reduction:
        case Count():
            return {"n": _count(keep, ranges)}
        case Sum():
            assert x is not None
            valid = _count(keep, ranges) > 0
            kept = _where(keep, x, 0)
            assert slot.dtype is not None
            if is_float(slot.dtype):
                total = ranges.reduce(np.add, kept.astype(np.float64, copy=False), 0.0)
                return {"s": total, "c": np.zeros_like(total), "valid": valid}
            return {**_integer_sums(kept.astype(np.int64, copy=False), ranges), "valid": valid}
        case Minimum():
            return _extreme(slot, x, keep, ranges, np.minimum, least=False)
        case Maximum():
            return _extreme(slot, x, keep, ranges, np.maximum, least=True)
        case Moments():
            assert x is not None
            return _moments(ranges.moments_of_values(_doubles(slot, x), keep, slot.reduction.order))
        case First():
            return _picked(x, times, ranges.first_true(keep))
        case Last():
            return _picked(x, times, ranges.last_true(keep))
        case MinBy() | MaxBy():
            assert x is not None
            assert by is not None
            known = np.ones(len(x), np.bool_) if by.known is None else by.known
            row = _best(slot, by.values, keep, ranges)
            return _taken({"by": by.values, "at": times, "known": known, "v": x}, row)
        case FirstK() | LastK() | Largest() | Smallest() | Distinct() | Buckets() | Frequencies():
            assert x is not None
            return ragged.over_events(slot, x, keep, times, *ranges.bounds)
        case _:
            assert_never(slot.reduction)


def merge_tiles(slot: Slot, tiles: Partial, ranges: Ranges) -> Partial:
    """The slot's partial over each range of tiles. Tiles of one range are in order of time.

    A reduction with a null bit has `valid` in `tiles`, or lacks it where no tile is null.
    """
    match slot.reduction:
        case Count():
            return {"n": ranges.reduce(np.add, tiles["n"], 0)}
        case Sum():
            keep = tiles.get("valid")
            valid = _any(keep, ranges)
            if "s" in tiles:
                s = ranges.reduce(np.add, _where(keep, tiles["s"], 0), 0.0)
                c = ranges.reduce(np.add, _where(keep, tiles["c"], 0), 0.0)
                return {"s": s, "c": c, "valid": valid}
            lo, hi = _where(keep, tiles["lo"], 0), _where(keep, tiles["hi"], 0)
            small = ranges.reduce(np.add, lo & _LOW, np.uint64(0))
            large = ranges.reduce(np.add, lo >> _32, np.uint64(0))
            return {**_limbs(small, large, ranges.reduce(np.add, hi, 0)), "valid": valid}
        case Minimum():
            return _extreme(slot, tiles["v"], tiles.get("valid"), ranges, np.minimum, least=False)
        case Maximum():
            return _extreme(slot, tiles["v"], tiles.get("valid"), ranges, np.maximum, least=True)
        case Moments():
            central = [tiles[f"m{k}"] for k in range(2, slot.reduction.order + 1)]
            return _moments(ranges.moments(tiles["n"], tiles["mean"], tiles["low"], *central))
        case First():
            return _picked(tiles["v"], tiles["at"], ranges.first_true(tiles.get("valid")))
        case Last():
            return _picked(tiles["v"], tiles["at"], ranges.last_true(tiles.get("valid")))
        case MinBy() | MaxBy():
            row = _best(slot, tiles["by"], tiles.get("valid"), ranges)
            return _taken({name: tiles[name] for name in ("by", "at", "known", "v")}, row)
        case FirstK() | LastK() | Largest() | Smallest() | Distinct() | Buckets() | Frequencies():
            return ragged.over_tiles(slot, tiles, *ranges.bounds)
        case _:
            assert_never(slot.reduction)


def _count(keep: Mask | None, ranges: Ranges) -> Array:
    return ranges.lengths if keep is None else ranges.reduce(np.add, keep, 0)


def _any(keep: Mask | None, ranges: Ranges) -> Mask:
    """Which ranges hold a row that counts."""
    return ranges.lengths > 0 if keep is None else ranges.reduce(np.logical_or, keep, identity=False)


def _where(keep: Mask | None, x: Array, fill: Any) -> Array:
    return x if keep is None else np.where(keep, x, np.asarray(fill, x.dtype))


def _integer_sums(x: Array, ranges: Ranges) -> Partial:
    """128-bit sums of int64 values. One running sum where 64 bits surely hold it, else one for each half."""
    largest = int(max(x.max(initial=0), -int(x.min(initial=0))))
    if largest * int(ranges.lengths.max(initial=0)) < 2**62:
        total = ranges.reduce(np.add, x, 0)
        return {"lo": total.view(np.uint64), "hi": total >> 63}
    small = ranges.reduce(np.add, x.view(np.uint64) & _LOW, np.uint64(0))
    upper = ranges.reduce(np.add, x >> 32, 0)
    return _limbs(small, upper.view(np.uint64) & _LOW, upper >> 32)


def _limbs(small: Array, large: Array, hi: Array) -> Partial:
    """`small + large x 2^32 + hi x 2^64` as two limbs; `small` and `large` are unsigned sums of 32-bit halves."""
    low = large << _32
    lo = small + low
    carry = (lo < low).astype(np.int64)
    return {"lo": lo, "hi": hi + (large >> _32).astype(np.int64) + carry}


def _extreme(
    slot: Slot, x: Array | None, keep: Mask | None, ranges: Ranges, ufunc: np.ufunc, *, least: bool
) -> Partial:
    assert x is not None
    values = x.astype(np.int8) if slot.dtype == Bool else x
    identity = _edge(values.dtype, least=least)
    merged = ranges.reduce(ufunc, _where(keep, values, identity), identity)
    valid = _any(keep, ranges)
    return {"v": np.where(valid, merged, merged.dtype.type(0)).astype(x.dtype, copy=False), "valid": valid}


def _edge(dtype: np.dtype[Any], *, least: bool) -> Any:
    if dtype.kind == "f":
        return dtype.type(-np.inf if least else np.inf)
    info = np.iinfo(dtype)
    return dtype.type(info.min if least else info.max)


def _moments(columns: tuple[Array, ...]) -> Partial:
    return dict(zip(("n", "mean", "low", "m2", "m3", "m4"), columns, strict=False))


def _best(slot: Slot, by: Array, keep: Mask | None, ranges: Ranges) -> Array:
    """For each range the first row with the least (or greatest) `by`, of those that count; -1 if none does."""
    rows = np.arange(len(by)) if keep is None else np.flatnonzero(keep)
    values = by[rows].astype(np.int8) if slot.by == Bool else by[rows]
    if isinstance(slot.reduction, MaxBy):
        values = -np.unique(values, return_inverse=True)[1]
    order = rows[np.argsort(values, kind="stable")]
    rank = np.full(len(by), len(by), np.int64)
    rank[order] = np.arange(len(order))
    least = ranges.reduce(np.minimum, rank, len(by))
    out = np.full(len(least), -1, np.int64)
    found = least < len(by)
    out[found] = order[least[found]]
    return out


def _taken(columns: Partial, row: Array) -> Partial:
    """The partials in these rows; null, with zeros for values, where the row is -1."""
    valid = row >= 0
    if not len(columns["v"]):
        return {name: np.zeros(len(row), c.dtype) for name, c in columns.items()} | {"valid": valid}
    safe = np.where(valid, row, 0)
    return {name: column[safe] for name, column in columns.items()} | {"valid": valid}


def _picked(x: Array | None, times: Array, index: Array) -> Partial:
    assert x is not None
    valid = index >= 0
    if len(x) == 0:
        return {"at": np.zeros(len(index), np.int64), "v": np.zeros(len(index), x.dtype), "valid": valid}
    safe = np.where(valid, index, 0)
    return {"at": np.where(valid, times[safe], 0), "v": x[safe], "valid": valid}


def _doubles(slot: Slot, x: Array) -> Array:
    values = x.astype(np.float64, copy=False)
    return values / 10.0**slot.dtype.scale if isinstance(slot.dtype, DecimalType) else values
