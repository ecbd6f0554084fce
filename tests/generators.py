"""Random declarations and events, as cases of the parity table: what a law is asked of."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import product
from typing import Any

from hypothesis import strategies as st

from featurestore import declare as d
from featurestore.aggregates import AGGREGATES
from featurestore.expr import col
from featurestore.time import DAY, HOUR, MINUTE, SECOND, Duration, lifetime
from featurestore.types import (
    Bool,
    Date,
    DType,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    Timestamp,
)
from featurestore.types import Decimal as DecimalType
from tests.parity.cases import Case

COLUMNS: Mapping[str, DType] = {
    "x": Int64,
    "small": Int32,
    "f": Float64,
    "g": Float32,
    "flag": Bool,
    "text": String,
    "price": DecimalType(12, 2),
    "seen": Timestamp,
    "day": Date,
    "version": Int64,
    "id": String,
}

NOON = int(datetime(2024, 3, 10, 12, tzinfo=UTC).timestamp()) * SECOND
"""The day on which New York's clocks go forward."""

# Multiples of an eighth: their sums are exact in a double, so a difference is a mistake and not rounding.
EIGHTHS = st.integers(-8000, 8000).map(lambda n: n / 8)
AWKWARD_FLOATS = st.sampled_from(
    [float("nan"), float("inf"), -0.0, 0.1, 1e9, 1e9 + 1e-3, 1e9 - 1e-3, 1e15, -1e15]
)
AWKWARD_WHOLES = st.sampled_from([0, 1, -1, 2**53, 2**53 + 1, 2**62, -(2**62), 2**63 - 1, -(2**63)])

VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "x": st.integers(-5, 5) | AWKWARD_WHOLES,
    "small": st.integers(-5, 5) | st.sampled_from([2**31 - 1, -(2**31)]),
    "f": EIGHTHS | AWKWARD_FLOATS,
    "g": EIGHTHS | st.just(float("inf")),
    "flag": st.booleans(),
    "text": st.sampled_from(["", "a", "b", "Z", "é", "\uffff", "\U00010000", "long " * 30]),
    "price": st.integers(-(10**12) + 1, 10**12 - 1).map(lambda n: Decimal(n).scaleb(-2)),
    "seen": st.integers(-(10**15), 2 * 10**15),
    "day": st.integers(-1000, 30000).map(lambda n: date(1970, 1, 1) + timedelta(n)),
    "version": st.integers(0, 2),
    "id": st.sampled_from(["e1", "e2", "e3"]),
}

STEPS = st.sampled_from([0, 1, SECOND, MINUTE, 5 * MINUTE, 7 * MINUTE, HOUR, DAY])
ORIGINS = st.sampled_from([NOON, NOON, NOON, 0, -3 * DAY])


def moments(origin: int) -> st.SearchStrategy[int]:
    """Instants that like to lie on, just before and just after edges of hops, up to some days from `origin`."""
    near = st.integers(-30, 6).flatmap(lambda n: STEPS.map(lambda step: origin + n * step))
    return near.flatmap(lambda t: st.sampled_from([t - 1, t, t + 1, t]))


KEYS: list[Mapping[str, tuple[DType, list[Any]]]] = [
    {"k": (String, ["a", "", "Zürich"])},
    {"k": (Int64, [0, -1, 7])},
    {"k1": (String, ["a", "ab"]), "k2": (String, ["bc", "c"])},
    {"k1": (Int64, [1, 2]), "k2": (String, ["", "c"])},
]

CONDITIONS = [None, None, None, col("x") > 0, col("flag"), col("text") == "a", col("f") < 1e9]
SIZES = [SECOND, 10 * MINUTE, 70 * MINUTE, HOUR, 6 * HOUR, DAY, 10 * DAY]


FITS = {
    name: [
        columns
        for columns in product(COLUMNS, repeat=aggregate.inputs)
        if not isinstance(aggregate.accepts(tuple(COLUMNS[c] for c in columns)), str)
    ]
    for name, aggregate in AGGREGATES.items()
}
"""The columns that each aggregate takes."""

FEW = st.integers(1, 4)
PARAMS: Mapping[str, st.SearchStrategy[Any]] = {
    **{name: FEW.map(lambda k: (("k", k),)) for name in ("first_k", "last_k", "largest_k", "smallest_k")},
    "count_distinct": st.just((("k", 16),)),
    "quantile": st.sampled_from([0, 0.05, 0.5, 0.95, 0.999, 1]).map(lambda p: (("p", p),)),
    "most_frequent": st.tuples(st.tuples(st.just("k"), FEW), st.tuples(st.just("bound"), st.integers(1, 9))),
    "histogram": st.integers(1, 9).map(lambda bound: (("bound", bound),)),
}
"""Parameters of the aggregates that have some."""


@st.composite
def aggregations(draw: st.DrawFn, number: int) -> d.Aggregation:
    """One windowed feature: any aggregate of any column it takes."""
    name = draw(st.sampled_from(sorted(AGGREGATES)))
    spec = d.Aggregation(name, draw(st.sampled_from(FITS[name])), params=draw(PARAMS.get(name, st.just(()))))
    if name == "count" and draw(st.booleans()):
        spec = d.count()
    if draw(st.integers(0, 5)) == 0:
        spec = spec.over(lifetime)
    else:
        size = draw(st.sampled_from(SIZES))
        hops = [Duration(size // n) for n in (1, 2, 10, 60) if size % n == 0]
        spec = spec.over(Duration(size), hop=draw(st.sampled_from([None, *hops])))
    condition = draw(st.sampled_from(CONDITIONS))
    return (spec if condition is None else spec.where(condition)).named(f"w{number}")


@st.composite
def cases(draw: st.DrawFn, *, events: int = 25) -> Case:
    """A view of random features over random events of a few entities; `at` is one of its moments."""
    origin = draw(ORIGINS)
    keys = draw(st.sampled_from(KEYS))
    columns = {name: st.none() | values for name, values in VALUES.items()}
    parts = {name: st.sampled_from([*values, *values, None]) for name, (_, values) in keys.items()}
    rows = draw(st.lists(st.fixed_dictionaries({"at": moments(origin), **parts, **columns}), max_size=events))
    windowed = draw(st.integers(0, 4))
    features = [draw(aggregations(i)) for i in range(windowed)]
    latest = draw(
        st.lists(st.sampled_from(sorted(COLUMNS)), unique=True, min_size=0 if windowed else 1, max_size=3)
    )
    features += [d.latest(c) for c in latest]
    ttl = None if windowed else draw(st.sampled_from([None, Duration(HOUR), Duration(DAY)]))
    condition = draw(st.sampled_from([None, None, col("x") < 4]))
    return Case(
        "random",
        rows=rows,
        at=draw(moments(origin)),  # type: ignore[arg-type]  # microseconds are a moment too
        feature=features[0],
        beside=features[1:],
        want=None,
        more={n: t for n, t in COLUMNS.items() if n != "x"},
        keys={name: dtype for name, (dtype, _) in keys.items()},
        key=tuple(values[0] for _, values in keys.values()),
        tiebreak=draw(st.sampled_from([(), ("version",), ("version", "f")])),
        event_id=draw(st.sampled_from([None, None, "id"])),
        reshape=None if condition is None else lambda source: source.where(condition),
        ttl=ttl,
    )


DELAYS = st.sampled_from([0, 0, 1, SECOND, MINUTE, 5 * MINUTE, HOUR, DAY, -1, -HOUR])
"""How long after it happened an event arrives; some do so before."""


@st.composite
def arriving(draw: st.DrawFn, kind: st.SearchStrategy[Case]) -> Case:
    """Of a case what had arrived: each event on time, late, early, at the same moment as another, or with no arrival."""
    case = draw(kind)
    lag = draw(st.sampled_from([0, 0, 1, MINUTE, HOUR, DAY]))
    if draw(st.integers(0, 4)) == 0:
        return replace(case, lag=lag)
    rows = []
    for row in map(case.row, case.rows):
        delayed = DELAYS.map(partial(operator.add, row["at"]))
        there = st.none() | delayed | moments(case.row(case.rows[0])["at"])
        rows.append({**row, "arrived": draw(there)})
    return replace(case, rows=rows, more={**case.more, "arrived": Timestamp}, arrival_time="arrived", lag=lag)


def everybody(case: Case) -> list[tuple[Any, ...]]:
    """Every entity that the case's events could be of, and some that have none."""
    found = [tuple(row[name] for name in case.keys) for row in map(case.row, case.rows)]
    nobody = tuple("nobody" if t == String else 999 for t in case.keys.values())
    return [*dict.fromkeys([case.key, *found]), nobody]
