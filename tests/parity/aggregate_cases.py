"""The rows of the parity table that are about what single aggregates make of their inputs."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

from featurestore.declare import kurtosis, max_by, min_by, skew
from featurestore.expr import col
from featurestore.status import Status
from featurestore.time import hours, lifetime
from featurestore.types import Bool, Date, Float64, Int64, String, Timestamp
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

# fmt: on

AGGREGATE_CASES: list[Case] = [
    *SHAPES,
    *PICKED,
]
