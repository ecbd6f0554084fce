"""The rows of the parity table that are about what single aggregates make of their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

from featurestore.declare import (
    Aggregation,
    count_distinct,
    first_k,
    histogram,
    kurtosis,
    largest_k,
    last_k,
    max_by,
    min_by,
    most_frequent,
    quantile,
    skew,
    smallest_k,
)
from featurestore.expr import col
from featurestore.status import Status
from featurestore.time import days, hours, lifetime
from featurestore.types import Bool, Date, DType, Float32, Float64, Int64, String, Timestamp
from featurestore.types import Decimal as DecimalType
from tests.parity.cases import Case

NULL, NOT_FOUND, OVERFLOW = Status.NULL, Status.NOT_FOUND, Status.OVERFLOW
HOUR = hours(1)
AT = "13:00"
NAN = float("nan")
BY = {"y": Int64}


def row(at: str, x: object, y: object) -> dict[str, object]:
    return {"at": at, "x": x, "y": y}


# fmt: off

SHAPES = [
    Case("skew is the third central moment over the spread", [("12:10", 1), ("12:20", 2), ("12:30", 9)], AT,
         skew("x").over(HOUR), 0.6654688661238353, scale=2),
    Case("kurtosis is what the fourth moment is more than a normal one's",
         [("12:10", 1), ("12:20", 2), ("12:30", 3), ("12:40", 10)], AT, kurtosis("x").over(HOUR), -0.7696, scale=2),
    Case("skew of two values is zero", [("12:10", 1.5), ("12:20", 2.5)], AT, skew("x").over(HOUR), 0.0, x=Float64,
         scale=1),
    Case("kurtosis of two values is that of a coin", [("12:10", 1.5), ("12:20", 2.5)], AT, kurtosis("x").over(HOUR),
         -2.0, x=Float64, scale=1),
    Case("one value has no skew", [("12:10", 1)], AT, skew("x").over(HOUR), None, NULL),
    Case("equal values have no skew", [("12:10", 0.1), ("12:20", 0.1), ("12:55", 0.1)], AT, skew("x").over(HOUR), None,
         NULL, x=Float64),
    Case("equal values have no kurtosis", [("12:10", 1e9), ("12:20", 1e9), ("12:55", 1e9)], AT,
         kurtosis("x").over(HOUR), None, NULL, x=Float64),
    Case("no value has no kurtosis", [("12:10", None)], AT, kurtosis("x").over(HOUR), None, NULL),
    Case("skew passes over NULL and NaN",
         [("12:10", 1.0), ("12:15", None), ("12:20", 2.0), ("12:25", NAN), ("12:30", 9.0)],
         AT, skew("x").over(HOUR), 0.6654688661238353, x=Float64, scale=2),
    Case("skew near 1e9 is as right as near zero", [("12:10", 1e9 + 1), ("12:20", 1e9 + 2), ("12:30", 1e9 + 9)], AT,
         skew("x").over(HOUR), 0.6654688661238353, x=Float64, scale=2),
    Case("kurtosis near 1e9 is as right as near zero",
         [("12:10", 1e9 + 1), ("12:20", 1e9 + 2), ("12:30", 1e9 + 3), ("12:40", 1e9 + 10)], AT,
         kurtosis("x").over(HOUR), -0.7696, x=Float64, scale=2),
    Case("an outlier that left the window leaves no mark on skew",
         [("11:30", 1e15), ("12:10", 1.0), ("12:20", 2.0), ("12:30", 9.0)], AT, skew("x").over(HOUR),
         0.6654688661238353, x=Float64, scale=2),
    Case("skew of decimals is that of their values",
         [("12:10", Decimal("0.01")), ("12:20", Decimal("0.02")), ("12:30", Decimal("0.09"))], AT,
         skew("x").over(HOUR), 0.6654688661238353, x=DecimalType(9, 2), scale=2),
    Case("kurtosis over a lifetime", [("2020-01-01", 1), ("2021-01-01", 2), ("12:30", 3), ("12:40", 10)], AT,
         kurtosis("x").over(lifetime), -0.7696, scale=2),
]

PICKED = [
    Case("min_by is the input of the least", [row("12:10", 5, 3), row("12:20", 6, 1), row("12:30", 7, 2)], AT,
         min_by("x", "y").over(HOUR), 6, more=BY),
    Case("max_by is the input of the greatest", [row("12:10", 5, 3), row("12:20", 6, 1), row("12:30", 7, 2)], AT,
         max_by("x", "y").over(HOUR), 5, more=BY),
    Case("of several least min_by takes the earliest", [row("12:20", 6, 1), row("12:10", 5, 1), row("12:30", 7, 2)],
         AT, min_by("x", "y").over(HOUR), 5, more=BY),
    Case("of several greatest max_by takes the earliest", [row("12:20", 6, 2), row("12:10", 5, 2), row("12:30", 7, 1)],
         AT, max_by("x", "y").over(HOUR), 5, more=BY),
    Case("of several greatest at one moment max_by takes the first in order",
         [row("12:10", 6, 2), row("12:10", 5, 2), row("12:10", 7, 2)], AT, max_by("x", "y").over(HOUR), 5, more=BY),
    Case("min_by keeps a NULL input", [row("12:10", None, 1), row("12:20", 6, 2)], AT, min_by("x", "y").over(HOUR),
         None, NULL, more=BY),
    Case("max_by keeps a NULL input", [row("12:10", 6, 1), row("12:20", None, 2)], AT, max_by("x", "y").over(HOUR),
         None, NULL, more=BY),
    Case("min_by passes over a NULL by", [row("12:10", 5, None), row("12:20", 6, 2)], AT, min_by("x", "y").over(HOUR),
         6, more=BY),
    Case("max_by of nothing but NULL by is NULL", [row("12:10", 5, None)], AT, max_by("x", "y").over(HOUR), None, NULL,
         more=BY),
    Case("max_by of an empty window is NULL", [row("10:10", 5, 1)], AT, max_by("x", "y").over(HOUR), None, NULL,
         more=BY),
    Case("max_by of nothing is NULL", [], AT, max_by("x", "y").over(HOUR), None, NOT_FOUND, more=BY),
    Case("max_by by the least number there is",
         [row("12:10", 5, -(2**63)), row("12:20", 6, -(2**63))], AT, max_by("x", "y").over(HOUR), 5, more=BY),
    Case("max_by across tiles", [row("12:01", 1, 5), row("12:31", 2, 9), row("12:59", 3, 9)], AT,
         max_by("x", "y").over(HOUR), 2, more=BY),
    Case("max_by over a lifetime", [row("2020-01-01", 1, 9), row("2021-01-01", 3, 9), row("12:59", 2, 9)], AT,
         max_by("x", "y").over(lifetime), 1, more=BY),
    Case("max_by of strings by a time",
         [row("12:10", "old", "11:00"), row("12:20", "new", "12:05"), row("12:30", "", "11:30")], AT,
         max_by("x", "y").over(HOUR), "new", x=String, more={"y": Timestamp}),
    Case("max_by of a string that is NULL", [row("12:10", "old", 1.0), row("12:20", None, 2.0)], AT,
         max_by("x", "y").over(HOUR), None, NULL, x=String, more={"y": Float64}),
    Case("max_by by floats passes over NaN", [row("12:10", 1, 5.5), row("12:20", 2, NAN), row("12:30", 3, -1.0)], AT,
         max_by("x", "y").over(HOUR), 1, more={"y": Float64}),
    Case("max_by takes zeros of both signs for equal", [row("12:10", 1, -0.0), row("12:20", 2, 0.0)], AT,
         max_by("x", "y").over(HOUR), 1, more={"y": Float64}),
    Case("max_by by a boolean", [row("12:10", 1, False), row("12:20", 2, True), row("12:30", 3, True)], AT,
         max_by("x", "y").over(HOUR), 2, more={"y": Bool}),
    Case("min_by by a boolean", [row("12:10", 1, True), row("12:20", 2, False), row("12:30", 3, False)], AT,
         min_by("x", "y").over(HOUR), 2, more={"y": Bool}),
    Case("max_by of a date by a decimal",
         [row("12:10", date(1969, 1, 1), Decimal("-0.50")), row("12:20", date(1970, 1, 2), Decimal("-0.75"))], AT,
         max_by("x", "y").over(HOUR), date(1969, 1, 1), x=Date, more={"y": DecimalType(9, 2)}),
    Case("min_by of a time by a date",
         [row("12:10", "12:00", date(1970, 1, 2)), row("12:20", "11:00", date(1969, 1, 1))], AT,
         min_by("x", "y").over(HOUR), datetime(2024, 3, 1, 11, tzinfo=UTC), x=Timestamp, more={"y": Date}),
    Case("min_by of some rows", [row("12:10", 5, 1), row("12:20", 6, 2), row("12:30", 7, 3)], AT,
         min_by("x", "y").where(col("x") > 5).over(HOUR), 6, more=BY),
    Case("max_by with a default", [row("12:10", None, 1)], AT, max_by("x", "y").over(HOUR).default(9), 9,
         Status.DEFAULT, more=BY),
    Case("min_by of a column by itself", [row("12:10", 5, 1), row("12:20", 4, 2)], AT, min_by("x", "x").over(HOUR), 4,
         more=BY),
]

DAYS = [f"2024-02-{day:02}" for day in range(1, 30)]

LISTS = [
    Case("first_k takes the first in the order of time", [("12:30", 3), ("12:10", 1), ("12:20", 2)], AT,
         first_k("x", 2).over(HOUR), [1, 2]),
    Case("last_k takes the last, the oldest first", [("12:30", 3), ("12:10", 1), ("12:20", 2)], AT,
         last_k("x", 2).over(HOUR), [2, 3]),
    Case("first_k of fewer than k takes all", [("12:30", 3)], AT, first_k("x", 5).over(HOUR), [3]),
    Case("last_k of fewer than k takes all", [("12:30", 3), ("12:31", 3)], AT, last_k("x", 5).over(HOUR), [3, 3]),
    Case("first_k of an empty window is an empty list", [("10:30", 3)], AT, first_k("x", 5).over(HOUR), []),
    Case("last_k of an empty window is an empty list", [("10:30", 3)], AT, last_k("x", 5).over(HOUR), []),
    Case("last_k of nobody is an empty list, and says so", [], AT, last_k("x", 5).over(HOUR), [], NOT_FOUND),
    Case("last_k passes over NULL", [("12:10", 1), ("12:20", None), ("12:30", 3), ("12:40", None)], AT,
         last_k("x", 2).over(HOUR), [1, 3]),
    Case("first_k of nothing but NULL is an empty list", [("12:10", None)], AT, first_k("x", 2).over(HOUR), []),
    Case("last_k at one moment goes by the order of events", [("12:10", 3), ("12:10", 1), ("12:10", 2)], AT,
         last_k("x", 2).over(HOUR), [2, 3]),
    Case("first_k at one moment goes by the tiebreak",
         [row("12:10", 1, 3), row("12:10", 2, 2), row("12:10", 3, 1)], AT, first_k("x", 2).over(HOUR), [3, 2], more=BY,
         tiebreak=("y",)),
    Case("last_k of strings, the empty one among them", [("12:10", "é"), ("12:20", ""), ("12:30", "b")], AT,
         last_k("x", 3).over(HOUR), ["é", "", "b"], x=String),
    Case("last_k of decimals", [("12:10", Decimal("0.10")), ("12:20", Decimal("-2.50"))], AT,
         last_k("x", 3).over(HOUR), [Decimal("0.10"), Decimal("-2.50")], x=DecimalType(9, 2)),
    Case("first_k of times", [("12:10", "11:00"), ("12:20", "10:00")], AT, first_k("x", 3).over(HOUR),
         [datetime(2024, 3, 1, 11, tzinfo=UTC), datetime(2024, 3, 1, 10, tzinfo=UTC)], x=Timestamp),
    Case("last_k of dates", [("12:10", date(1969, 12, 31)), ("12:20", date(2024, 2, 29))], AT,
         last_k("x", 3).over(HOUR), [date(1969, 12, 31), date(2024, 2, 29)], x=Date),
    Case("last_k of booleans", [("12:10", True), ("12:20", False)], AT, last_k("x", 3).over(HOUR), [True, False],
         x=Bool),
    Case("last_k of small floats", [("12:10", 0.5), ("12:20", NAN), ("12:30", -0.0)], AT, last_k("x", 3).over(HOUR),
         [0.5, 0.0], x=Float32),
    Case("last_k crosses tiles", [("12:01", 1), ("12:31", 2), ("12:32", 3), ("12:59", 4)], AT,
         last_k("x", 3).over(HOUR), [2, 3, 4]),
    Case("last_k in an open tile", [("12:01", 1), ("13:01", 2), ("13:02:29", 3), ("13:02:30", 4)], "13:02:30",
         last_k("x", 3).over(HOUR), [1, 2, 3]),
    Case("first_k leaves out what left the window", [("11:59", 1), ("12:00", 2), ("12:30", 3)], AT,
         first_k("x", 1).over(HOUR), [2]),
    Case("first_k over a lifetime", [("2020-01-01", 1), ("2021-01-01", 2), ("12:30", 3)], AT,
         first_k("x", 2).over(lifetime), [1, 2]),
    Case("last_k over a lifetime", [("2020-01-01", 1), ("2021-01-01", 2), ("12:30", 3)], AT,
         last_k("x", 2).over(lifetime), [2, 3]),
    Case("last_k of some rows", [("12:10", 1), ("12:20", -2), ("12:30", 3)], AT,
         last_k("x", 2).where(col("x") > 0).over(HOUR), [1, 3]),
    Case("largest_k takes the greatest, the greatest first", [("12:10", 2), ("12:20", 9), ("12:30", -3), ("12:40", 5)],
         AT, largest_k("x", 2).over(HOUR), [9, 5]),
    Case("smallest_k takes the least, the least first", [("12:10", 2), ("12:20", 9), ("12:30", -3), ("12:40", 5)],
         AT, smallest_k("x", 2).over(HOUR), [-3, 2]),
    Case("largest_k takes equal ones as often as they come", [("12:10", 2), ("12:20", 2), ("12:50", 2), ("12:40", 1)],
         AT, largest_k("x", 3).over(HOUR), [2, 2, 2]),
    Case("largest_k of fewer than k takes all", [("12:10", 2), ("12:20", None), ("12:50", 3)], AT,
         largest_k("x", 9).over(HOUR), [3, 2]),
    Case("largest_k of an empty window is an empty list", [("10:30", 3)], AT, largest_k("x", 5).over(HOUR), []),
    Case("smallest_k of floats passes over NaN", [("12:10", 2.5), ("12:20", NAN), ("12:50", -0.0), ("12:55", 1e15)], AT,
         smallest_k("x", 2).over(HOUR), [0.0, 2.5], x=Float64),
    Case("smallest_k of the edges of whole numbers", [("12:10", 2**63 - 1), ("12:20", -(2**63)), ("12:50", 0)], AT,
         smallest_k("x", 2).over(HOUR), [-(2**63), 0]),
    Case("largest_k of decimals", [("12:10", Decimal("0.10")), ("12:20", Decimal("-2.50")), ("12:30", Decimal("7.00"))],
         AT, largest_k("x", 2).over(HOUR), [Decimal("7.00"), Decimal("0.10")], x=DecimalType(9, 2)),
    Case("largest_k of times", [("12:10", "11:00"), ("12:20", "12:00")], AT, largest_k("x", 1).over(HOUR),
         [datetime(2024, 3, 1, 12, tzinfo=UTC)], x=Timestamp),
    Case("smallest_k of booleans", [("12:10", True), ("12:20", False), ("12:30", True)], AT,
         smallest_k("x", 2).over(HOUR), [False, True], x=Bool),
    Case("an outlier that left the window leaves largest_k", [("11:30", 10**15), ("12:10", 1), ("12:20", 2)], AT,
         largest_k("x", 2).over(HOUR), [2, 1]),
    Case("largest_k over a month of days", [(day, i % 7) for i, day in enumerate(DAYS)], AT,
         largest_k("x", 5).over(days(30)), [6, 6, 6, 6, 5]),
]


def distinct(name: str, n: int, want: int) -> Case:
    return Case(name, [(f"12:{i % 60:02}:{i % 7:02}", i) for i in range(n)] * 2, AT,
                count_distinct("x", k=16).over(HOUR), want)


DISTINCT = [
    Case("count_distinct counts equal values once", [("12:10", 1), ("12:20", 2), ("12:30", 1), ("12:55", 2)], AT,
         count_distinct("x").over(HOUR), 2),
    Case("count_distinct passes over NULL", [("12:10", 1), ("12:20", None)], AT, count_distinct("x").over(HOUR), 1),
    Case("count_distinct of an empty window is zero", [("10:10", 1)], AT, count_distinct("x").over(HOUR), 0),
    Case("count_distinct of nothing is zero", [], AT, count_distinct("x").over(HOUR), 0, NOT_FOUND),
    distinct("count_distinct of exactly k is exact", 16, 16),
    distinct("count_distinct of one less than k is exact", 15, 15),
    distinct("count_distinct of one more than k is the estimate of the hash", 17, 20),
    Case("count_distinct tells an empty string from NULL", [("12:10", ""), ("12:20", None), ("12:30", "a")], AT,
         count_distinct("x").over(HOUR), 2, x=String),
    Case("count_distinct of strings beyond ASCII", [("12:10", "é"), ("12:20", "e"), ("12:30", "é"), ("12:40", "\uffff")],
         AT, count_distinct("x").over(HOUR), 3, x=String),
    Case("count_distinct takes zeros of both signs for one", [("12:10", 0.0), ("12:20", -0.0), ("12:30", NAN)], AT,
         count_distinct("x").over(HOUR), 1, x=Float64),
    Case("count_distinct of decimals", [("12:10", Decimal("0.10")), ("12:20", Decimal("0.1")), ("12:30", Decimal(1))],
         AT, count_distinct("x").over(HOUR), 2, x=DecimalType(9, 2)),
    Case("count_distinct of dates", [("12:10", date(1969, 1, 1)), ("12:20", date(1969, 1, 1))], AT,
         count_distinct("x").over(HOUR), 1, x=Date),
    Case("count_distinct of booleans", [("12:10", True), ("12:20", False), ("12:30", True)], AT,
         count_distinct("x").over(HOUR), 2, x=Bool),
    Case("count_distinct over a lifetime", [("2020-01-01", 1), ("2021-01-01", 2), ("12:30", 1)], AT,
         count_distinct("x").over(lifetime), 2),
]


def middle(name: str, values: Sequence[object], p: float, want: float | None, x: DType = Float64) -> Case:
    rows = [(f"12:{10 + i % 50}", v) for i, v in enumerate(values)]
    return Case(name, rows, AT, quantile("x", p).over(HOUR), want, NULL if want is None else None, x=x)


QUANTILES = [
    middle("the median of one value is the middle of its bucket", [1.0], 0.5, 1.00390625),
    middle("the median of an even number is the lower one", [1.0, 2.0], 0.5, 1.00390625),
    middle("the median of three is the second", [100.0, 1.0, 2.0], 0.5, 2.0078125),
    middle("the quantile of 0 is the least", [2.0, 1.0, 4.0], 0, 1.00390625),
    middle("the quantile of 1 is the greatest", [2.0, 1.0, 4.0], 1, 4.015625),
    middle("a quantile of negative numbers", [-1.0, -2.0, -4.0], 0.5, -2.0078125),
    middle("a quantile that is zero is zero", [-1.0, 0.0, -0.0, 5.0], 0.5, 0.0),
    middle("a quantile of numbers of both signs", [-8.0, -4.0, 1.0, 2.0], 0.25, -8.03125),
    middle("a rank is what is written and not the nearest double", [1.0] * 7 + [2.0] * 93, 0.07, 1.00390625),
    middle("a quantile passes over NULL and NaN", [None, 1.0, NAN, None], 0.95, 1.00390625),
    middle("a quantile of nothing but NULL is NULL", [None], 0.5, None),
    middle("a quantile of whole numbers", [3, 3, 1000], 0.5, 3.0078125, Int64),
    middle("a quantile of decimals is that of their values", [Decimal("0.50"), Decimal("0.25")], 0.9, 0.501953125,
           DecimalType(9, 2)),
    Case("a quantile of an empty window is NULL", [("10:10", 1)], AT, quantile("x", 0.5).over(HOUR), None, NULL),
    Case("a quantile of nothing is NULL", [], AT, quantile("x", 0.5).over(HOUR), None, NOT_FOUND),
    Case("a quantile with a default", [("10:10", 1)], AT, quantile("x", 0.5).over(HOUR).default(7), 7.0,
         Status.DEFAULT),
    Case("a quantile over a month of days", [(day, i + 1) for i, day in enumerate(DAYS)], AT,
         quantile("x", 0.5).over(days(30)), 15.03125),
    Case("a quantile over a lifetime", [("2020-01-01", 1), ("2021-01-01", 2), ("12:30", 4)], AT,
         quantile("x", 0.5).over(lifetime), 2.0078125),
]


def tallied(name: str, values: list[object], feature: Aggregation, want: object, x: DType = Int64,
            status: Status | None = None) -> Case:
    return Case(name, [(f"12:{i % 60:02}", v) for i, v in enumerate(values)], AT, feature.over(HOUR), want, status, x=x)


TALLIES = [
    tallied("most_frequent is a list of the one that comes most often", [1, 2, 2, None, 3], most_frequent("x"), [2]),
    tallied("most_frequent takes the most frequent first", [1, 2, 2, 3, 3, 3], most_frequent("x", 2), [3, 2]),
    tallied("of equally frequent ones the lesser is first", [5, 3, 9, 3, 5], most_frequent("x", 3), [3, 5, 9]),
    tallied("most_frequent of fewer than k takes all", [5], most_frequent("x", 3), [5]),
    tallied("most_frequent of strings goes by their bytes", ["b", "\U00010000", "\uffff", ""], most_frequent("x", 4),
            ["", "b", "\uffff", "\U00010000"], String),
    tallied("most_frequent of decimals", [Decimal("1.50"), Decimal("-1.50"), Decimal("1.5")], most_frequent("x", 2),
            [Decimal("1.50"), Decimal("-1.50")], DecimalType(9, 2)),
    tallied("most_frequent of booleans", [True, False, True], most_frequent("x", 2), [True, False], Bool),
    tallied("most_frequent of exactly as many as the bound", [1, 2, 3, 3], most_frequent("x", 1, bound=3), [3]),
    tallied("most_frequent past its bound overflows", [1, 2, 3, 4, 4], most_frequent("x", 1, bound=3), None,
            status=OVERFLOW),
    tallied("histogram counts each value", [2, 1, 2, None], histogram("x"), {1: 1, 2: 2}),
    tallied("histogram of strings tells an empty one from NULL", ["b", "", None, "b"], histogram("x"),
            {"": 1, "b": 2}, String),
    tallied("histogram of dates", [date(1969, 1, 1), date(1970, 1, 2), date(1969, 1, 1)], histogram("x"),
            {date(1969, 1, 1): 2, date(1970, 1, 2): 1}, Date),
    tallied("histogram of floats takes zeros of both signs for one", [0.0, -0.0, NAN, 1.5], histogram("x"),
            {0.0: 2, 1.5: 1}, Float64),
    tallied("histogram of exactly as many as the bound", [1, 2, 3, 3], histogram("x", bound=3),
            {1: 1, 2: 1, 3: 2}),
    tallied("histogram past its bound overflows", [1, 2, 3, 4, 4], histogram("x", bound=3), None, status=OVERFLOW),
    Case("histogram of an empty window is empty", [("10:10", 1)], AT, histogram("x").over(HOUR), {}),
    Case("histogram of nothing is empty", [], AT, histogram("x").over(HOUR), {}, NOT_FOUND),
    Case("most_frequent of an empty window is an empty list", [("10:10", 1)], AT, most_frequent("x").over(HOUR), []),
    Case("histogram recovers when many values left the window",
         [(f"11:{i:02}", i) for i in range(9)] + [("12:10", 5)], AT, histogram("x", bound=3).over(HOUR), {5: 1}),
    Case("histogram over a lifetime", [("2020-01-01", 1), ("2021-01-01", 2), ("12:30", 1)], AT,
         histogram("x").over(lifetime), {1: 2, 2: 1}),
    Case("histogram of some rows", [("12:10", 1), ("12:20", 2)], AT, histogram("x").where(col("x") > 1).over(HOUR),
         {2: 1}),
    Case("many kinds of partials side by side",
         [("12:01", "b"), ("12:31", "a"), ("12:32", "b"), ("13:01", "ü")], "13:02:30",
         last_k("x", 2).over(HOUR), ["b", "ü"], x=String,
         beside=[histogram("x").over(HOUR), count_distinct("x").over(HOUR)]),
]

# fmt: on

AGGREGATE_CASES: list[Case] = [
    *SHAPES,
    *PICKED,
    *LISTS,
    *DISTINCT,
    *QUANTILES,
    *TALLIES,
]
