"""What a label is, one behaviour a row: a row of entity "a" at 12:00, and what came of it by what is known at `as_of`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from featurestore import declare as d
from featurestore.declare import (
    count,
    count_distinct,
    first,
    histogram,
    last,
    last_k,
    max_by,
    mean,
    quantile,
    stddev_samp,
    sum,
)
from featurestore.expr import Expression, col
from featurestore.status import LabelState
from featurestore.time import Duration, hours, minutes, seconds
from featurestore.types import Bool, DType, Float64, Int64, String, Timestamp
from featurestore.types import Decimal as DecimalType

MATURE, IMMATURE, CENSORED = LabelState.MATURE, LabelState.IMMATURE, LabelState.CENSORED
HOUR = hours(1)
LATE = "2024-03-02"


@dataclass(frozen=True)
class LabelCase:
    """A row is `(time, x)` of entity "a", or a dict of columns for anything else. Asked of entity `key` at `at`."""

    name: str
    rows: Sequence[tuple[Any, ...] | Mapping[str, Any]]
    value: d.Aggregation | Expression
    want: Any
    state: LabelState = MATURE
    as_of: str = LATE
    at: str = "12:00"
    key: str | None = "a"
    horizon: Duration = HOUR
    gap: Duration | None = None
    lateness: Duration | None = None
    matures: Any = "horizon"
    observed: Any = "as_of"
    x: DType = Int64
    more: Mapping[str, DType] = field(default_factory=dict)
    where: Expression | None = None
    event_id: str | None = None
    arrival_time: str | None = None
    tiebreak: Sequence[str] = ()


def arrived(at: str, x: Any, arrival: str | None) -> dict[str, Any]:
    return {"at": at, "x": x, "arrival": arrival}


ARRIVALS: Mapping[str, Any] = {"more": {"arrival": Timestamp}, "arrival_time": "arrival"}

# fmt: off

LABEL_CASES = [
    LabelCase("an event at the very moment of the row is after it", [("12:00", 1)], count(), 1),
    LabelCase("an event a microsecond before the row is none of its label", [("11:59:59.999999", 1)], count(), 0),
    LabelCase("an event at the end of the horizon is none", [("13:00", 1)], count(), 0),
    LabelCase("an event a microsecond before the end is one", [("12:59:59.999999", 1)], count(), 1),
    LabelCase("a gap leaves out what follows at once", [("12:04:59.999999", 1), ("12:05", 2)], sum("x"), 2,
              gap=minutes(5)),
    LabelCase("the horizon begins after the gap", [("13:04:59.999999", 1), ("13:05", 2)], sum("x"), 1, gap=minutes(5)),
    LabelCase("a horizon starts on no grid", [("12:00:29.999999", 1), ("12:00:30", 2), ("12:01:29.999999", 4)], sum("x"),
              6, at="12:00:30", horizon=minutes(1)),
    LabelCase("nobody's label is a count of zero", [("12:10", 1)], count(), 0, key="b"),
    LabelCase("a mean of nothing is NULL, and mature", [("11:00", 1)], mean("x"), None),
    LabelCase("a comparison with NULL is NULL", [("11:00", 1)], mean("x") > 3, None),
    LabelCase("a condition over counts is a negative when the time is over", [("11:00", 1)], count() > 0, False),
    LabelCase("a condition over counts is a positive", [("12:10", 1)], count() > 0, True),
    LabelCase("an aggregate is compared by ==", [("12:10", 1)], count() == 1, True),
    LabelCase("a ratio of aggregates", [("12:10", 1), ("12:20", 4)], sum("x") / count(), 2.5),
    LabelCase("a share of the events", [("12:10", 1), ("12:20", 4)], count().where(col("x") > 2) / count(), 0.5),
    LabelCase("what is NULL may be filled", [], sum("x").fill_null(0), 0),
    LabelCase("an aggregate may have a default", [], sum("x").default(7), 7),
    LabelCase("a row without a key is censored", [("12:10", 1)], count() > 0, None, CENSORED, key=None),
    LabelCase("a row is immature until its horizon is over", [("12:10", 1)], count() > 0, None, IMMATURE,
              as_of="12:59:59.999999"),
    LabelCase("a row is mature at the very end of its horizon", [("12:10", 1)], count() > 0, True, as_of="13:00"),
    LabelCase("lateness is waited for", [("12:10", 1)], count() > 0, None, IMMATURE, as_of="13:09",
              lateness=minutes(10)),
    LabelCase("lateness is over", [("12:10", 1)], count() > 0, True, as_of="13:10", lateness=minutes(10)),
    LabelCase("gap, horizon and lateness add up", [("12:10", 1)], count() > 0, None, IMMATURE, as_of="13:14:59",
              gap=minutes(5), lateness=minutes(10)),
    LabelCase("the first event matures", [("12:10", 1)], count() > 0, True, as_of="12:10:01", matures="first_event"),
    LabelCase("an event at the moment it is known as of has not happened yet", [("12:10", 1)], count() > 0, None,
              IMMATURE, as_of="12:10", matures="first_event"),
    LabelCase("without an event the horizon matures", [("11:10", 1)], count() > 0, False, as_of="13:00",
              matures="first_event"),
    LabelCase("without an event it is immature before", [("11:10", 1)], count() > 0, None, IMMATURE, as_of="12:59",
              matures="first_event"),
    LabelCase("an event that is filtered away does not mature", [("12:10", 1)], count() > 0, None, IMMATURE,
              as_of="12:30", matures="first_event", where=col("x") > 5),
    LabelCase("only events that the source keeps count", [("12:10", 1), ("12:20", 9)], sum("x"), 9, where=col("x") > 5),
    LabelCase("what arrived later than the moment is not known", [arrived("12:10", 1, "14:00")], count(), 0,
              as_of="13:30", **ARRIVALS),
    LabelCase("what arrived at the very moment is known", [arrived("12:10", 1, "13:30")], count(), 1, as_of="13:30",
              **ARRIVALS),
    LabelCase("an arrival that is NULL is the event's time", [arrived("12:10", 1, None)], count(), 1, as_of="13:30",
              **ARRIVALS),
    LabelCase("an event that arrived late does not mature by itself", [arrived("12:10", 1, "12:50")], count() > 0, None,
              IMMATURE, as_of="12:40", matures="first_event", **ARRIVALS),
    LabelCase("a later label knows more", [arrived("12:10", 1, "14:00")], count(), 1, as_of="14:00", **ARRIVALS),
    LabelCase("copies of an event count once", [{"at": "12:10", "x": 1, "id": "e"}, {"at": "12:10", "x": 1, "id": "e"}],
              count(), 1, more={"id": String}, event_id="id"),
    LabelCase("a source that is observed to its last event censors what reaches past it", [("12:30", 1)], count() > 0,
              None, CENSORED, observed="last_event"),
    LabelCase("a source that is observed to its last event knows what it covers",
              [("12:30", 1), {"k": "b", "at": "13:00", "x": 2}], count(), 1, observed="last_event"),
    LabelCase("what is too early is immature before it is censored", [("12:30", 1)], count(), None, IMMATURE,
              as_of="12:59", observed="last_event"),
    LabelCase("the first event matures at the end of a source too", [("12:30", 1)], count() > 0, True,
              observed="last_event", matures="first_event"),
    LabelCase("an empty source covers nothing", [], count(), None, CENSORED, observed="last_event"),
    LabelCase("the first after the row", [("11:59", 1), ("12:20", 3), ("12:10", 2)], first("x"), 2),
    LabelCase("the last before the end", [("12:59", 1), ("12:20", 3), ("13:10", 2)], last("x"), 1),
    LabelCase("of several at one moment the last in order", [("12:59", 3), ("12:59", 7), ("12:59", 5)], last("x"), 7),
    LabelCase("the last by a tiebreak", [{"at": "12:59", "x": 7, "y": 1}, {"at": "12:59", "x": 5, "y": 2}], last("x"), 5,
              more={"y": Int64}, tiebreak=("y",)),
    LabelCase("the least and the greatest", [("12:10", 4), ("12:20", -2)], d.max("x") - d.min("x"), 6),
    LabelCase("the input of the greatest", [{"at": "12:10", "x": 4, "y": 9}, {"at": "12:20", "x": 5, "y": 1}],
              max_by("x", "y"), 4, more={"y": Int64}),
    LabelCase("a spread", [("12:10", 1.0), ("12:20", 3.0)], stddev_samp("x"), 2.0**0.5, x=Float64),
    LabelCase("an outlier before the row leaves no mark", [("11:59", 1e15), ("12:10", 0.1), ("12:20", 0.2)], sum("x"),
              0.1 + 0.2, x=Float64),
    LabelCase("an outlier after the horizon leaves no mark", [("13:00", 1e15), ("12:10", 0.1), ("12:20", 0.2)], sum("x"),
              0.1 + 0.2, x=Float64),
    LabelCase("a sum of decimals is exact", [("12:10", Decimal("0.10")), ("12:20", Decimal("0.20"))], sum("x"),
              Decimal("0.30"), x=DecimalType(9, 2)),
    LabelCase("a text", [("12:10", "é"), ("12:20", None)], last("x"), "é", x=String),
    LabelCase("distinct texts", [("12:10", "a"), ("12:20", "b"), ("12:30", "a")], count_distinct("x"), 2, x=String),
    LabelCase("a list", [("12:10", 1), ("12:20", 2), ("12:30", 3)], last_k("x", 2), [2, 3]),
    LabelCase("a histogram", [("12:10", 1), ("12:20", 2), ("12:30", 1)], histogram("x"), {1: 2, 2: 1}),
    LabelCase("a quantile", [("12:10", 1.0), ("12:20", 2.0), ("11:59", 50.0)], quantile("x", 1), 2.0078125, x=Float64),
    LabelCase("a truth", [("12:10", True), ("12:20", False)], first("x"), True, x=Bool),
    LabelCase("the time of the first event", [("12:10", 1)],
              d.min("at").expression.epoch_seconds(), 1709295000),
    LabelCase("a sum that overflows is NULL", [("12:10", 2**62), ("12:20", 2**62)], sum("x"), None),
    LabelCase("a row before 1970", [("1969-12-31T23:59:59.5", 1)], count(), 1, at="1969-12-31T23:59:59.25",
              horizon=seconds(0.5)),
    LabelCase("whether there is a value at all", [], mean("x").is_null(), True),
]

# fmt: on
