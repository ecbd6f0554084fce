"""Reductions: the partials a tile can hold, as a closed set.

A reduction says what is kept of the rows of one tile. How SQL makes it, how NumPy lifts, merges and stores it are
walks over this union; a new member shows up in each of them as a type error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np

from featurestore.expr import Column, Expr, substitute
from featurestore.types import DecimalType, DType, is_float, is_integer, numpy_dtype

X = Column("x")
BY = Column("by")


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows there are, or how many have a non-null `arg`. Never null; 0 of no rows."""

    arg: Expr | None


@dataclass(frozen=True, slots=True)
class Sum:
    """The sum of the non-null values: 128 bits in two limbs for whole numbers, sum and compensation for floats."""

    arg: Expr


@dataclass(frozen=True, slots=True)
class Minimum:
    """The least non-null value."""

    arg: Expr


@dataclass(frozen=True, slots=True)
class Maximum:
    """The greatest non-null value."""

    arg: Expr


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean (hi + lo) and the sums of powers, 2 to `order` (at most 4), of differences from the mean.

    Of the non-null values.
    """

    arg: Expr
    order: int = 2


@dataclass(frozen=True, slots=True)
class First:
    """The non-null value that comes first in the order of events, and its event time."""

    arg: Expr


@dataclass(frozen=True, slots=True)
class Last:
    """The non-null value that comes last in the order of events, and its event time."""

    arg: Expr


@dataclass(frozen=True, slots=True)
class MinBy:
    """The value, null or not, of the event with the least non-null `by`, the earliest of several; and its event time."""

    arg: Expr
    by: Expr


@dataclass(frozen=True, slots=True)
class MaxBy:
    """The value, null or not, of the event with the greatest non-null `by`, the earliest of several; and its event time."""

    arg: Expr
    by: Expr


@dataclass(frozen=True, slots=True)
class FirstK:
    """The first `k` non-null values in the order of events, and their event times."""

    arg: Expr
    k: int


@dataclass(frozen=True, slots=True)
class LastK:
    """The last `k` non-null values in the order of events, the oldest first, and their event times."""

    arg: Expr
    k: int


@dataclass(frozen=True, slots=True)
class Largest:
    """The `k` greatest non-null values, the greatest first; equal ones as often as they come."""

    arg: Expr
    k: int


@dataclass(frozen=True, slots=True)
class Smallest:
    """The `k` least non-null values, the least first; equal ones as often as they come."""

    arg: Expr
    k: int


@dataclass(frozen=True, slots=True)
class Distinct:
    """The `k` + 1 least distinct hashes of the non-null values, in order: the hash is `evaluate.ragged.hashes`."""

    arg: Expr
    k: int


@dataclass(frozen=True, slots=True)
class Buckets:
    """How many non-null values there are in each bucket of leading bits, in order: see `evaluate.ragged.buckets`."""

    arg: Expr


@dataclass(frozen=True, slots=True)
class Frequencies:
    """How often each non-null value comes, in the order of values: of the `bound` + 1 least ones, if there are more."""

    arg: Expr
    bound: int


Ragged = FirstK | LastK | Largest | Smallest | Distinct | Buckets | Frequencies
"""Reductions whose partials hold any number of items. `fields` is what an item consists of."""

Reduction = Count | Sum | Minimum | Maximum | Moments | First | Last | MinBy | MaxBy | Ragged


@dataclass(frozen=True, slots=True)
class Field:
    """One number (or string) of a partial, in NumPy's terms."""

    name: str
    dtype: np.dtype[np.generic]


def ordered(reduction: Reduction) -> bool:
    """Whether the outcome depends on the order of events, so that ties must be broken."""
    return isinstance(reduction, First | Last | MinBy | MaxBy | FirstK | LastK)


def inputs_of(reduction: Reduction) -> tuple[Expr, ...]:
    """The expressions that a partial is made of: its `arg`, if it has one, and what that goes by."""
    by = (reduction.by,) if isinstance(reduction, MinBy | MaxBy) else ()
    return by if reduction.arg is None else (reduction.arg, *by)


def fields(reduction: Reduction, dtype: DType | None, by: DType | None = None) -> tuple[Field, ...]:
    """What a partial of this reduction over values of `dtype` (that go by values of `by`) consists of.

    Each partial has a null bit besides, except Count and Moments, whose count says it, and the ragged ones, where these are
    the fields of an item.
    """
    i8, u8, f8 = np.dtype(np.int64), np.dtype(np.uint64), np.dtype(np.float64)
    match reduction:
        case Count():
            return (Field("n", i8),)
        case Sum():
            assert dtype is not None
            if is_float(dtype):
                return (Field("s", f8), Field("c", f8))
            assert is_integer(dtype) or isinstance(dtype, DecimalType)
            return (Field("lo", u8), Field("hi", i8))
        case Minimum() | Maximum():
            assert dtype is not None
            return (Field("v", numpy_dtype(dtype)),)
        case Moments():
            central = [Field(f"m{k}", f8) for k in range(2, reduction.order + 1)]
            return (Field("n", i8), Field("mean", f8), Field("low", f8), *central)
        case First() | Last():
            assert dtype is not None
            return (Field("at", i8), Field("v", numpy_dtype(dtype)))
        case MinBy() | MaxBy():
            assert dtype is not None
            assert by is not None
            known = Field("known", np.dtype(np.bool_))
            return (Field("by", numpy_dtype(by)), Field("at", i8), known, Field("v", numpy_dtype(dtype)))
        case FirstK() | LastK():
            assert dtype is not None
            return (Field("at", i8), Field("v", numpy_dtype(dtype)))
        case Largest() | Smallest():
            assert dtype is not None
            return (Field("v", numpy_dtype(dtype)),)
        case Distinct():
            return (Field("v", u8),)
        case Buckets():
            return (Field("v", i8), Field("n", i8))
        case Frequencies():
            assert dtype is not None
            return (Field("v", numpy_dtype(dtype)), Field("n", i8))
        case _:
            assert_never(reduction)


def has_null_bit(reduction: Reduction) -> bool:
    """Whether a partial can be null: nothing was reduced, and no count among its fields says so."""
    return not isinstance(reduction, Count | Moments | Ragged)


def bind(reduction: Reduction, inputs: dict[str, Expr]) -> Reduction:
    """The reduction over a feature's own inputs instead of the placeholders `x` (and `by`).

    Without inputs a count of `x` is a count of rows; nothing else does without.
    """
    if isinstance(reduction, Count) and not inputs:
        return Count(None)
    if reduction.arg is None:
        return reduction
    if isinstance(reduction, MinBy | MaxBy):
        return replace(reduction, arg=substitute(reduction.arg, inputs), by=substitute(reduction.by, inputs))
    return replace(reduction, arg=substitute(reduction.arg, inputs))
