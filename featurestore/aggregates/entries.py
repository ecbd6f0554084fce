"""The aggregates: one entry each, and an entry is all there is to one."""

from __future__ import annotations

from featurestore.aggregates.record import (
    Aggregate,
    Kurtosis,
    Parity,
    Part,
    Ratio,
    Root,
    Skewness,
    Variance,
    register,
)
from featurestore.aggregates.reductions import (
    BY,
    Count,
    First,
    Last,
    MaxBy,
    Maximum,
    MinBy,
    Minimum,
    Moments,
    Sum,
    X,
)
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


def _picked_by(inputs: tuple[DType, ...]) -> DType | str:
    x, by = inputs
    ranked = not isinstance(_comparable((by,)), str)
    both = "a scalar or string, by numbers, timestamps, dates or booleans"
    return x if ranked and not isinstance(_storable((x,)), str) else both


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

register(
    Aggregate(
        "skew",
        "The skewness of the non-null inputs, (m3 / n) / (m2 / n)^1.5; null when their variance is 0.",
        partials={"m": Moments(X, 3)},
        finish=Skewness("m"),
        accepts=_double,
        parity=_close,
    )
)

register(
    Aggregate(
        "kurtosis",
        "The excess kurtosis of the non-null inputs, (m4 / n) / (m2 / n)^2 - 3; null when their variance is 0.",
        partials={"m": Moments(X, 4)},
        finish=Kurtosis("m"),
        accepts=_double,
        parity=_close,
    )
)

register(
    Aggregate(
        "min_by",
        "The input, null or not, of the event with the least non-null `by`; the earliest of several.",
        partials={"v": MinBy(X, BY)},
        finish=Part("v"),
        accepts=_picked_by,
        inputs=2,
    )
)

register(
    Aggregate(
        "max_by",
        "The input, null or not, of the event with the greatest non-null `by`; the earliest of several.",
        partials={"v": MaxBy(X, BY)},
        finish=Part("v"),
        accepts=_picked_by,
        inputs=2,
    )
)
