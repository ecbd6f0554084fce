"""What an aggregate is: the partials it keeps, how they finish, and what may be said of the outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from featurestore.aggregates.reductions import Reduction
from featurestore.types import DType


@dataclass(frozen=True, slots=True)
class Part:
    """A partial's own value: the count, the sum, the least, the first."""

    name: str


@dataclass(frozen=True, slots=True)
class Ratio:
    """`top / bottom` in doubles by one division, and null when `bottom` is zero.

    A decimal sum is divided by `bottom x 10^scale`, so that there is still one division.
    """

    top: Part
    bottom: Part


@dataclass(frozen=True, slots=True)
class Variance:
    """`m2 / (n - ddof)` of a `Moments` partial, null unless `n > ddof`. Chan, Golub and LeVeque (1983)."""

    name: str
    ddof: int


@dataclass(frozen=True, slots=True)
class Skewness:
    """`(m3 / n) / (m2 / n)^1.5` of a `Moments` partial of order 3, null where m2 is 0: Fisher's g1, of the population."""

    name: str


@dataclass(frozen=True, slots=True)
class Kurtosis:
    """`(m4 / n) / (m2 / n)^2 - 3` of a `Moments` partial of order 4, null where m2 is 0: Fisher's g2, 0 for a normal."""

    name: str


@dataclass(frozen=True, slots=True)
class Root:
    """The square root, null of null."""

    of: Variance


@dataclass(frozen=True, slots=True)
class Items:
    """The values of a partial's items, as a list."""

    name: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """How many distinct values there are, of a `Distinct` partial: exactly up to `k`, then an estimate.

    Of more than `k`: `(k - 1) / (h / 2^64)` for the `k`-th least hash `h`, in doubles, rounded half to even. Its standard
    error is `1 / sqrt(k - 2)` of it. Bar-Yossef et al. (2002), Beyer et al. (2007).
    """

    name: str
    k: int


@dataclass(frozen=True, slots=True)
class Quantile:
    """The value of rank `max(1, ceil(p x n))`, of a `Buckets` partial: the middle of the bucket it lies in."""

    name: str
    p: Fraction


@dataclass(frozen=True, slots=True)
class MostFrequent:
    """The `k` most frequent values, the most frequent first, the lesser first of two; overflow past `bound` distinct ones."""

    name: str
    k: int
    bound: int


@dataclass(frozen=True, slots=True)
class Tally:
    """How often each value comes, in the order of values; overflow past `bound` distinct ones."""

    name: str
    bound: int


Finish = (
    Part | Ratio | Variance | Root | Skewness | Kurtosis | Items | Estimate | Quantile | MostFrequent | Tally
)
Params = tuple[tuple[str, int | float], ...]
"""Parameters of an aggregate by name, such as `k`, in the order of its entry."""

Parity = Literal["exact", "close", "approx"]


Given = Mapping[str, Any]
"""The parameters of one feature, by name."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a parameter may be: a number from `low` to `high`, both included; a whole one when `digits` is 0.

    `digits` is how many there may be after the point.
    """

    low: int
    high: int
    digits: int = 0

    def __str__(self) -> str:
        kind = "a whole number" if self.digits == 0 else f"a number of at most {self.digits} decimals"
        return f"{kind} from {self.low} to {self.high}"

    def fits(self, value: object) -> bool:
        """Whether `value` may be given."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and round(value, self.digits) == value


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One aggregate, whole: everything any engine has to know about it.

    `params` says which parameters there are and what they may be; with any, `partials` and `finish` may be functions of
    them, and `label` says how they show in the name of a feature. `accepts` gives the type of the result for the types of
    the inputs (as many as `inputs`), or a text that says what it accepts.
    `empty` is the value over no rows. `parity` is the class promised for a given input type: `exact` is the same bits in
    every engine, `close` differs by the order of summation only, `approx` is an approximation of what is wanted by a stated
    error, and the same bits in every engine.
    """

    name: str
    doc: str
    partials: Mapping[str, Reduction] | Callable[[Given], Mapping[str, Reduction]]
    finish: Finish | Callable[[Given], Finish]
    accepts: Callable[[tuple[DType, ...]], DType | str]
    empty: int | tuple[()] | None = None
    parity: Callable[[tuple[DType, ...]], Parity] = field(default=lambda _: "exact")
    inputs: int = 1
    params: Mapping[str, Parameter] = field(default_factory=dict)
    label: Callable[[Given], str] | None = None

    def partials_of(self, params: Params) -> Mapping[str, Reduction]:
        """The partials that are kept with these parameters."""
        return self.partials(dict(params)) if callable(self.partials) else self.partials

    def finish_of(self, params: Params) -> Finish:
        """How these partials finish with these parameters."""
        return self.finish(dict(params)) if callable(self.finish) else self.finish

    def label_of(self, params: Params) -> str:
        """What stands for the aggregate in the name of a feature."""
        return self.name if self.label is None else self.label(dict(params))


AGGREGATES: dict[str, Aggregate] = {}


def register(aggregate: Aggregate) -> Aggregate:
    """Adds an aggregate to the ones a definition may name."""
    assert aggregate.name not in AGGREGATES, f"{aggregate.name} is registered twice"
    AGGREGATES[aggregate.name] = aggregate
    return aggregate
