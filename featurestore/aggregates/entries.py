"""The aggregates: one entry each, and an entry is all there is to one."""

from __future__ import annotations

from featurestore.aggregates.record import Aggregate, Parity, Part, Ratio, Root, Variance, register
from featurestore.aggregates.reductions import Count, First, Last, Maximum, Minimum, Moments, Sum, X
from featurestore.types import (
    Bool,
    Date,
    DecimalType,
    DType,
    Float64,
    Int64,
    String,
    Timestamp,
    is_float,
    is_integer,
    is_numeric,
)


def _any_or_rows(inputs: tuple[DType, ...]) -> DType | str:
    return Int64


def _total(inputs: tuple[DType, ...]) -> DType | str:
    (x,) = inputs
    if is_integer(x):
        return Int64
    if isinstance(x, DecimalType):
        return DecimalType(18, x.scale) if x.precision <= 18 else "numbers; decimals of at most 18 digits"
    return Float64 if is_float(x) else "numbers"


def _double(inputs: tuple[DType, ...]) -> DType | str:
    (x,) = inputs
    if isinstance(x, DecimalType) and x.precision > 18:
        return "numbers; decimals of at most 18 digits"
    return Float64 if is_numeric(x) else "numbers"


def _comparable(inputs: tuple[DType, ...]) -> DType | str:
    (x,) = inputs
    if isinstance(x, DecimalType) and x.precision > 18:
        return "decimals of at most 18 digits"
    return x if is_numeric(x) or x in (Timestamp, Date, Bool) else "numbers, timestamps, dates and booleans"


def _storable(inputs: tuple[DType, ...]) -> DType | str:
    (x,) = inputs
    return x if x == String or not isinstance(_comparable(inputs), str) else "scalars and strings"


def _by_summation(inputs: tuple[DType, ...]) -> Parity:
    return "close" if is_float(inputs[0]) else "exact"


def _close(inputs: tuple[DType, ...]) -> Parity:
    return "close"


register(
    Aggregate(
        "count",
        "How many events, or how many with a non-null input.",
        partials={"n": Count(X)},
        finish=Part("n"),
        accepts=_any_or_rows,
        empty=0,
    )
)

register(
    Aggregate(
        "sum",
        "The sum of the non-null inputs.",
        partials={"total": Sum(X)},
        finish=Part("total"),
        accepts=_total,
        parity=_by_summation,
    )
)

register(
    Aggregate(
        "mean",
        "The mean of the non-null inputs, one division at the end.",
        partials={"total": Sum(X), "n": Count(X)},
        finish=Ratio(Part("total"), Part("n")),
        accepts=_double,
        parity=_by_summation,
    )
)

register(
    Aggregate(
        "min", "The least non-null input.", partials={"v": Minimum(X)}, finish=Part("v"), accepts=_comparable
    )
)

register(
    Aggregate(
        "max",
        "The greatest non-null input.",
        partials={"v": Maximum(X)},
        finish=Part("v"),
        accepts=_comparable,
    )
)

register(
    Aggregate(
        "var_pop",
        "The variance of the non-null inputs, divided by n.",
        partials={"m": Moments(X)},
        finish=Variance("m", 0),
        accepts=_double,
        parity=_close,
    )
)

register(
    Aggregate(
        "var_samp",
        "The variance of the non-null inputs, divided by n - 1; null of fewer than two.",
        partials={"m": Moments(X)},
        finish=Variance("m", 1),
        accepts=_double,
        parity=_close,
    )
)

register(
    Aggregate(
        "stddev_pop",
        "The square root of var_pop.",
        partials={"m": Moments(X)},
        finish=Root(Variance("m", 0)),
        accepts=_double,
        parity=_close,
    )
)

register(
    Aggregate(
        "stddev_samp",
        "The square root of var_samp; null of fewer than two.",
        partials={"m": Moments(X)},
        finish=Root(Variance("m", 1)),
        accepts=_double,
        parity=_close,
    )
)

register(
    Aggregate(
        "first",
        "The non-null input that came first.",
        partials={"v": First(X)},
        finish=Part("v"),
        accepts=_storable,
    )
)

register(
    Aggregate(
        "last",
        "The non-null input that came last.",
        partials={"v": Last(X)},
        finish=Part("v"),
        accepts=_storable,
    )
)
