"""The aggregates: one entry each, and an entry is all there is to one."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from featurestore.aggregates.record import (
    Aggregate,
    Estimate,
    Given,
    Items,
    Kurtosis,
    MostFrequent,
    Parameter,
    Parity,
    Part,
    Quantile,
    Ratio,
    Root,
    Skewness,
    Tally,
    Variance,
    register,
)
from featurestore.aggregates.reductions import (
    BY,
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
    X,
)
from featurestore.types import (
    Bool,
    Date,
    DecimalType,
    DType,
    Float64,
    Int64,
    List,
    Map,
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


def _list_of_storable(inputs: tuple[DType, ...]) -> DType | str:
    item = _storable(inputs)
    return item if isinstance(item, str) else List(item)


def _list_of_comparable(inputs: tuple[DType, ...]) -> DType | str:
    item = _comparable(inputs)
    return item if isinstance(item, str) else List(item)


def _tally_of(inputs: tuple[DType, ...]) -> DType | str:
    item = _storable(inputs)
    return item if isinstance(item, str) else Map(item, Int64)


def _number_of(inputs: tuple[DType, ...]) -> DType | str:
    item = _storable(inputs)
    return item if isinstance(item, str) else Int64


def _rank(given: Given) -> Fraction:
    """A rank as it was written: 0.95 is 19/20, which no double is."""
    return Fraction(str(given["p"]))


def _percent(given: Given) -> str:
    """95 of 0.95, 99_9 of 0.999."""
    percent = (Decimal(str(given["p"])) * 100).normalize()
    return f"p{percent:f}".replace(".", "_")


_K = {"k": Parameter(1, 10_000)}
_BOUND = Parameter(1, 100_000)


def _by_summation(inputs: tuple[DType, ...]) -> Parity:
    return "close" if is_float(inputs[0]) else "exact"


def _approx(inputs: tuple[DType, ...]) -> Parity:
    return "approx"


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

register(
    Aggregate(
        "first_k",
        "The first k non-null inputs, in the order of events.",
        partials=lambda given: {"v": FirstK(X, given["k"])},
        finish=Items("v"),
        accepts=_list_of_storable,
        empty=(),
        params=_K,
        label=lambda given: f"first_{given['k']}",
    )
)

register(
    Aggregate(
        "last_k",
        "The last k non-null inputs, in the order of events: the oldest first.",
        partials=lambda given: {"v": LastK(X, given["k"])},
        finish=Items("v"),
        accepts=_list_of_storable,
        empty=(),
        params=_K,
        label=lambda given: f"last_{given['k']}",
    )
)

register(
    Aggregate(
        "largest_k",
        "The k greatest non-null inputs, the greatest first.",
        partials=lambda given: {"v": Largest(X, given["k"])},
        finish=Items("v"),
        accepts=_list_of_comparable,
        empty=(),
        params=_K,
        label=lambda given: f"largest_{given['k']}",
    )
)

register(
    Aggregate(
        "smallest_k",
        "The k least non-null inputs, the least first.",
        partials=lambda given: {"v": Smallest(X, given["k"])},
        finish=Items("v"),
        accepts=_list_of_comparable,
        empty=(),
        params=_K,
        label=lambda given: f"smallest_{given['k']}",
    )
)

register(
    Aggregate(
        "count_distinct",
        "How many distinct non-null inputs: exactly up to k, then an estimate by the k least hashes.",
        partials=lambda given: {"v": Distinct(X, given["k"])},
        finish=lambda given: Estimate("v", given["k"]),
        accepts=_number_of,
        empty=0,
        params={"k": Parameter(16, 65_536)},
        label=lambda _: "count_distinct",
    )
)

register(
    Aggregate(
        "quantile",
        "The non-null input of rank ceil(p x n), to within 2^-8 of itself: the middle of its bucket of leading bits.",
        partials={"v": Buckets(X)},
        finish=lambda given: Quantile("v", _rank(given)),
        accepts=_double,
        parity=_approx,
        params={"p": Parameter(0, 1, digits=6)},
        label=_percent,
    )
)

register(
    Aggregate(
        "most_frequent",
        "The k most frequent non-null inputs, the lesser first of two; overflow past `bound` distinct ones.",
        partials=lambda given: {"v": Frequencies(X, given["bound"])},
        finish=lambda given: MostFrequent("v", given["k"], given["bound"]),
        accepts=_list_of_storable,
        empty=(),
        params={**_K, "bound": _BOUND},
        label=lambda given: f"most_frequent_{given['k']}",
    )
)

register(
    Aggregate(
        "histogram",
        "How often each non-null input comes; overflow past `bound` distinct ones.",
        partials=lambda given: {"v": Frequencies(X, given["bound"])},
        finish=lambda given: Tally("v", given["bound"]),
        accepts=_tally_of,
        empty=(),
        params={"bound": _BOUND},
        label=lambda _: "histogram",
    )
)
