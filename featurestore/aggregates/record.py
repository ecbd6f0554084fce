"""What an aggregate is: the partials it keeps, how they finish, and what may be said of the outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

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
class Root:
    """The square root, null of null."""

    of: Variance


Finish = Part | Ratio | Variance | Root
Parity = Literal["exact", "close", "approx"]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One aggregate, whole: everything any engine has to know about it.

    `accepts` gives the type of the result for the types of the inputs, or a text that says what it accepts.
    `empty` is the value over no rows. `parity` is the class promised for a given input type: `exact` is the same bits in
    every engine, `close` differs by the order of summation only.
    """

    name: str
    doc: str
    partials: Mapping[str, Reduction]
    finish: Finish
    accepts: Callable[[tuple[DType, ...]], DType | str]
    empty: int | None = None
    parity: Callable[[tuple[DType, ...]], Parity] = field(default=lambda _: "exact")


AGGREGATES: dict[str, Aggregate] = {}


def register(aggregate: Aggregate) -> Aggregate:
    """Adds an aggregate to the ones a definition may name."""
    assert aggregate.name not in AGGREGATES, f"{aggregate.name} is registered twice"
    AGGREGATES[aggregate.name] = aggregate
    return aggregate
