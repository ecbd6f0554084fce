"""What a value is, one behaviour a row. `docs/semantics.md` says the same in prose."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa

from featurestore import declare as d
from featurestore.declare import (
    count,
    first,
    last,
    latest,
    mean,
    stddev_pop,
    stddev_samp,
    sum,
    var_pop,
    var_samp,
)
from featurestore.expr import col
from featurestore.status import Status
from featurestore.time import Duration, Lifetime, days, hours, lifetime, minutes
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

low, high = d.min, d.max
TODAY = "2024-03-01"
NULL, NOT_FOUND, OVERFLOW = Status.NULL, Status.NOT_FOUND, Status.OVERFLOW
DEFAULT, EXPIRED = Status.DEFAULT, Status.EXPIRED
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BIG = 2**62
NAN, INF = float("nan"), float("inf")


def instant(text: str | int) -> int:
    """Microseconds since 1970 of `12:00[:30.5]` on TODAY, of an ISO text (in UTC unless it says otherwise), or as they are."""
    if isinstance(text, int):
        return text
    when = datetime.fromisoformat(text if text[2] != ":" else f"{TODAY}T{text}")
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    gone = when - EPOCH
    return (gone.days * 86_400 + gone.seconds) * 1_000_000 + gone.microseconds


def moment(text: str) -> datetime:
    """The same as a datetime."""
    when = datetime.fromisoformat(text if text[2] != ":" else f"{TODAY}T{text}")
    return when.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Case:
    """What is asked of every engine.

    A row is `(time, x)`, an event of entity "a", or a dict of columns for anything else; a time is what `instant` reads.
    `x` is the type of column x, `more` further columns, `unread` columns of the file that no source declares, `stored`
    the Arrow types of the file where they differ. `status` is PRESENT unless said. `scale` is what closeness is
    measured by, the wanted value itself by default. `materialized` is the moment the online store was written as of,
    `at` by default; `beside` are further features of the view. With a `lag` in microseconds, also 0, what had arrived is asked
    for: engines that cannot say are not asked.
    """

    name: str
    rows: Sequence[tuple[Any, ...] | Mapping[str, Any]]
    at: str
    feature: d.Aggregation
    want: Any
    status: Status | None = None
    x: DType = Int64
    more: Mapping[str, DType] = field(default_factory=dict)
    unread: Mapping[str, DType] = field(default_factory=dict)
    stored: Mapping[str, pa.DataType] = field(default_factory=dict)
    keys: Mapping[str, DType] = field(default_factory=lambda: {"k": String})
    key: tuple[Any, ...] = ("a",)
    reshape: Callable[[Any], Any] | None = None
    tiebreak: tuple[str, ...] = ()
    event_id: str | None = None
    arrival_time: str | None = None
    static: bool = False
    ttl: Duration | None = None
    scale: Any = None
    zone: str | None = None
    materialized: str | None = None
    beside: Sequence[d.Aggregation] = ()
    lag: int | None = None

    @property
    def columns(self) -> dict[str, DType]:
        return {"x": self.x, **self.more}

    @property
    def want_status(self) -> Status:
        return Status.PRESENT if self.status is None else self.status

    def row(self, row: tuple[Any, ...] | Mapping[str, Any]) -> dict[str, Any]:
        """A row by column."""
        if isinstance(row, tuple):
            return dict(zip(("k", "at", "x"), ("a", *row), strict=True))
        return {"k": "a", **row}


HOUR = hours(1)
AT = "13:00"

# fmt: off

VISIBILITY = [
    Case("an event just before the moment of asking counts", [("12:59:59.999999", 5)], AT, sum("x").over(HOUR), 5),
    Case("an event at the moment of asking is not yet visible", [("13:00", 5)], AT, sum("x").over(HOUR), None,
         NOT_FOUND),
    Case("an event after the moment of asking is not visible", [("14:00", 5)], AT, count().over(HOUR), 0, NOT_FOUND),
    Case("an event at the moment of asking does not hide the ones before", [("12:30", 1), ("13:00", 5)], AT,
         sum("x").over(HOUR), 1),
    Case("the latest value is strictly before the moment of asking", [("12:30", 1), ("13:00", 5)], AT, latest("x"),
         1),
    Case("the latest value at the moment of asking is not found", [("13:00", 5)], AT, latest("x"), None, NOT_FOUND),
    Case("a lifetime does not see the moment of asking", [("2020-01-01", 1), ("13:00", 5)], AT,
         sum("x").over(lifetime), 1),
    Case("between hop edges the moment of asking is exact", [("13:02:29.999999", 1), ("13:02:30", 5)], "13:02:30",
         sum("x").over(HOUR), 1),
    Case("an event exactly at a cut between past and open tile counts once",
         [("12:59", 1), ("13:00", 10), ("13:01", 100)],
         "13:02:30", sum("x").over(HOUR), 111),
    Case("an event exactly at the end of what was materialised is not in it", [("12:30", 1), ("12:45", 10)], "12:45",
         sum("x").over(HOUR), 1),
]

TAILS = [
    Case("an event exactly one window old is still inside", [("12:00", 5)], AT, sum("x").over(HOUR), 5),
    Case("an event a microsecond older than the window is outside", [("11:59:59.999999", 5)], AT, sum("x").over(HOUR),
         None, NULL),
    Case("an event before the window leaves a count of zero, and the entity is known", [("11:00", 5)], AT,
         count().over(HOUR), 0),
    Case("between hop edges the tail waits", [("12:00", 5)], "13:04:59.999999", sum("x").over(HOUR), 5),
    Case("at the hop edge the tail moves", [("12:04:59.999999", 5), ("12:05", 7)], "13:05", sum("x").over(HOUR), 7),
    Case("the default hop of ten minutes is one minute", [("12:50:59", 1), ("12:51", 2)], "13:01",
         sum("x").over(minutes(10)), 2),
    Case("the default hop of nine minutes is one second", [("12:51:00", 1), ("12:51:01", 2)], "13:00:01",
         sum("x").over(minutes(9)), 2),
    Case("the default hop of ten hours is one hour", [("03:59", 1), ("04:00", 2)], "14:00", sum("x").over(hours(10)),
         2),
    Case("the default hop of nine hours is five minutes", [("04:04", 1), ("04:05", 2)], "13:05",
         sum("x").over(hours(9)), 2),
    Case("the default hop of ten days is a day", [("2024-02-19T23:59", 1), ("2024-02-20", 2)], "13:00",
         sum("x").over(days(10)), 2),
    Case("the default hop of nine days is an hour", [("2024-02-21T12:59", 1), ("2024-02-21T13:00", 2)], "13:59",
         sum("x").over(days(9)), 2),
    Case("a hop as long as the window makes windows that tumble and never empty",
         [("11:59", 1), ("12:00", 2), ("13:10", 4)],
         "13:20", sum("x").over(HOUR, hop=HOUR), 6),
    Case("a hop of seven minutes lies on multiples of seven minutes since 1970", [("11:41:59", 1), ("11:42", 2)],
         "12:56",
         sum("x").over(minutes(70), hop=minutes(7)), 2),
    Case("a hop of a microsecond makes an exact window", [("12:00:00.000001", 1), ("12:00:00.000002", 2)],
         "13:00:00.000002", sum("x").over(HOUR, hop=Duration(1)), 2),
    Case("hops that do not nest share a view",
         [("09:00", 1), ("11:00", 2), ("11:42", 4), ("12:00", 8), ("12:55:59", 16)],
         "12:56", sum("x").over(minutes(70), hop=minutes(7)), 28, beside=[sum("x").over(hours(2), hop=HOUR)]),
    Case("hops that do not nest share a view, and the coarse one is right too",
         [("09:00", 1), ("10:00", 2), ("11:42", 4), ("12:00", 8), ("12:55:59", 16)],
         "12:56", sum("x").over(hours(2), hop=HOUR), 30, beside=[sum("x").over(minutes(70), hop=minutes(7))]),
    Case("windows of one view with different hops do not disturb each other",
         [("2024-02-01T12:00", 1), ("11:00", 10), ("12:59:59", 100)], AT, sum("x").over(days(30)), 111,
         beside=[sum("x").over(minutes(1), HOUR, lifetime), latest("x")]),
]

EMPTY = [
    Case("a key without events has no sum", [], AT, sum("x").over(HOUR), None, NOT_FOUND),
    Case("a key without events is counted as zero, and not found", [], AT, count("x").over(HOUR), 0, NOT_FOUND),
    Case("a key without events has no latest value", [], AT, latest("x"), None, NOT_FOUND),
    Case("another key's events are not this key's", [{"k": "b", "at": "12:30", "x": 5}], AT, sum("x").over(HOUR),
         None, NOT_FOUND),
    Case("an empty window has no mean", [("09:00", 5)], AT, mean("x").over(HOUR), None, NULL),
    Case("an empty window has no variance", [("09:00", 5)], AT, var_pop("x").over(HOUR), None, NULL),
    Case("an empty window has no first value", [("09:00", 5)], AT, first("x").over(HOUR), None, NULL),
    Case("nulls alone have no sum", [("12:30", None)], AT, sum("x").over(HOUR), None, NULL),
    Case("nulls alone have no maximum", [("12:30", None)], AT, high("x").over(HOUR), None, NULL),
    Case("nulls are no values and still rows", [("12:30", None), ("12:40", 1)], AT, count().over(HOUR), 2),
    Case("nulls are not counted by count of a column", [("12:30", None), ("12:40", 1)], AT, count("x").over(HOUR), 1),
    Case("an event without a time never happened", [("12:30", 1), {"at": None, "x": 5}], AT, sum("x").over(lifetime),
         1),
    Case("one value has a population variance of zero", [("12:30", 5)], AT, var_pop("x").over(HOUR), Fraction(0)),
    Case("one value has no sample variance", [("12:30", 5)], AT, var_samp("x").over(HOUR), None, NULL),
    Case("one value has no sample deviation", [("12:30", 5)], AT, stddev_samp("x").over(HOUR), None, NULL),
]

DEFAULTS = [
    Case("a default stands in for an empty window", [("09:00", 5)], AT, sum("x").over(HOUR).default(-1), -1, DEFAULT),
    Case("a default stands in for an unknown entity", [], AT, sum("x").over(HOUR).default(-1), -1, DEFAULT),
    Case("a count of nothing is zero, not its default", [], AT, count().over(HOUR).default(9), 0, NOT_FOUND),
    Case("a default stands in for a latest value that is null", [("12:30", None)], AT, latest("x").default(7), 7,
         DEFAULT),
    Case("a default stands in for a latest value that expired", [("09:00", 5)], AT, latest("x").default(7), 7,
         DEFAULT,
         ttl=HOUR),
    Case("a default leaves a value alone", [("12:30", 5)], AT, sum("x").over(HOUR).default(-1), 5),
    Case("a sum that does not fit takes its default and says so", [("12:30", BIG), ("12:31", BIG)], AT,
         sum("x").over(HOUR).default(-1), -1, OVERFLOW),
    Case("a default of a text", [], AT, last("x").over(HOUR).default(""), "", DEFAULT, x=String),
    Case("a default of a decimal", [], AT, sum("x").over(HOUR).default(1.25), Decimal("1.25"), DEFAULT,
         x=DecimalType(12, 2)),
    Case("a default of a boolean", [], AT, latest("x").default(False), False, DEFAULT, x=Bool),
    Case("a whole default of a float is a float", [], AT, mean("x").over(HOUR).default(0), 0.0, DEFAULT),
]

STATIC = [
    Case("a static row is visible always", [{"x": 5}], "1971-01-01", latest("x"), 5, static=True),
    Case("a static row is visible before 1970", [{"x": 5}], "1900-01-01", latest("x"), 5, static=True),
    Case("a key without a static row is not found", [{"k": "b", "x": 5}], AT, latest("x"), None, NOT_FOUND,
         static=True),
    Case("of several static rows the greatest by the columns read counts", [{"x": 5}, {"x": 9}, {"x": 7}], AT,
         latest("x"), 9,
         static=True),
    Case("of several static rows the greatest by tiebreak counts", [{"x": 5, "v": 2}, {"x": 9, "v": 1}], AT,
         latest("x"), 5,
         static=True, more={"v": Int64}, tiebreak=("v",)),
    Case("a static null is null", [{"x": None}], AT, latest("x"), None, NULL, static=True),
]

TTL = [
    Case("a latest value exactly one ttl old is still valid", [("12:00", 5)], AT, latest("x"), 5, ttl=HOUR),
    Case("a latest value a microsecond older has expired", [("11:59:59.999999", 5)], AT, latest("x"), None, EXPIRED,
         ttl=HOUR),
    Case("a ttl is exact between hop edges", [("12:02:30", 5)], "13:02:30.000001", latest("x"), None, EXPIRED,
         ttl=HOUR),
    Case("a ttl never reaches past the latest event", [("12:10", 5), ("12:20", None)], AT, latest("x"), None, NULL,
         ttl=HOUR),
    Case("an unknown entity is not found, not expired", [], AT, latest("x"), None, NOT_FOUND, ttl=HOUR),
    Case("a value expires without anything being written", [("12:30", 5)], "14:00", latest("x"), None, EXPIRED,
         ttl=HOUR,
         materialized="13:00"),
]

LATEST = [
    Case("a latest null counts as a value", [("12:10", 5), ("12:20", None)], AT, latest("x"), None, NULL),
    Case("last skips nulls", [("12:10", 5), ("12:20", None)], AT, last("x").over(HOUR), 5),
    Case("first skips nulls", [("12:10", None), ("12:20", 5), ("12:30", 6)], AT, first("x").over(HOUR), 5),
    Case("rows in a file need no order", [("12:40", 4), ("12:10", 1), ("12:30", 3)], AT, last("x").over(HOUR), 4),
    Case("first is the earliest in the window, not ever", [("11:00", 1), ("12:10", 2), ("12:20", 3)], AT,
         first("x").over(HOUR), 2),
    Case("the latest value of a text", [("12:10", "ü"), ("12:20", "日本")], AT, latest("x"), "日本", x=String),
    Case("the latest value of an expression", [("12:10", 3), ("12:20", 4)], AT, latest(col("x") * 2).named("twice"),
         8),
    Case("a latest value far in the past is still the latest", [("1999-01-01", 3)], AT, latest("x"), 3),
    Case("the latest value in the middle of an open tile", [("12:59", 3), ("13:00:10", 4), ("13:00:20", 5)],
         "13:00:20",
         latest("x"), 4, beside=[count().over(HOUR)]),
]

SAME = "12:30"


def tie(name: str, values: Sequence[Any], want: Any, x: DType, feature: d.Aggregation, **more: Any) -> Case:
    """Events of one microsecond that differ in x alone."""
    return Case(name, [(SAME, v) for v in values], AT, feature, want, x=x, **more)


def versions(*rows: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"at": SAME, "v": v, "x": x} for v, x in rows]


ORDER = [
    tie("ties of latest go by the values read", [5, 9, 7], 9, Int64, latest("x")),
    tie("ties of last go by the values read", [5, 9, 7], 9, Int64, last("x").over(HOUR)),
    tie("ties of first go by the values read", [7, 5, 9], 5, Int64, first("x").over(HOUR)),
    tie("null is least", [None, -5, None], -5, Int64, latest("x")),
    tie("texts go by their bytes, so lower case comes after upper", ["a", "Z", "B"], "a", String, latest("x")),
    tie("an accent comes after all of ASCII", ["z", "é"], "é", String, latest("x")),
    tie("texts past the basic plane come last, as UTF-8 has it and UTF-16 has not", ["\uffff", "\U00010000"],
        "\U00010000", String,
        latest("x")),
    tie("an empty text is more than null", [None, ""], "", String, latest("x")),
    tie("a text is more than its beginning", ["ab", "abc", "abb"], "abc", String, last("x").over(HOUR)),
    tie("false is less than true", [True, False], True, Bool, latest("x")),
    tie("floats tie by value, not by text", [10.0, 9.0], 10.0, Float64, latest("x")),
    tie("negative floats tie by value", [-10.0, -9.0], -9.0, Float64, latest("x")),
    tie("a NaN is null, and so the least", [NAN, -1.0], -1.0, Float64, latest("x")),
    tie("decimals tie by value", [Decimal("9.99"), Decimal("10.00")], Decimal("10.00"), DecimalType(6, 2),
        latest("x")),
    tie("dates tie by value", [date(2024, 3, 1), date(1969, 3, 1)], date(2024, 3, 1), Date, latest("x")),
    Case("tiebreak columns come before values", versions((2, 5), (1, 9)), AT, latest("x"), 5, more={"v": Int64},
         tiebreak=("v",)),
    Case("tiebreak columns decide first", versions((2, 5), (1, 9)), AT, first("x").over(HOUR), 9, more={"v": Int64},
         tiebreak=("v",)),
    Case("tiebreak columns decide last", versions((2, 5), (1, 9)), AT, last("x").over(HOUR), 5, more={"v": Int64},
         tiebreak=("v",)),
    Case("a null tiebreak is least", versions((None, 9), (-1, 5)), AT, latest("x"), 5, more={"v": Int64},
         tiebreak=("v",)),
    Case("of equal tiebreaks values decide", versions((1, 5), (1, 9)), AT, latest("x"), 9, more={"v": Int64},
         tiebreak=("v",)),
    Case("tiebreak columns go in declared order",
         [{"at": SAME, "v": 1, "b": 2, "x": 5}, {"at": SAME, "v": 2, "b": 1, "x": 9}], AT,
         latest("x"), 5, more={"v": Int64, "b": Int64}, tiebreak=("b", "v")),
    Case("the event id comes before values", [{"at": SAME, "id": "2", "x": 5}, {"at": SAME, "id": "1", "x": 9}], AT,
         latest("x"), 5,
         more={"id": String}, event_id="id"),
    Case("the event id comes after tiebreak columns",
         [{"at": SAME, "id": "2", "v": 1, "x": 5}, {"at": SAME, "id": "1", "v": 2, "x": 9}], AT, latest("x"), 9,
         more={"id": String, "v": Int64}, event_id="id", tiebreak=("v",)),
    Case("of events without an id values decide", [{"at": SAME, "id": None, "x": 9}, {"at": SAME, "id": None, "x": 5}],
         AT, last("x").over(HOUR), 9, more={"id": String}, event_id="id"),
    Case("of events without an id null is least", [{"at": SAME, "id": None, "x": 1}, {"at": SAME, "id": None, "x": None}],
         AT, latest("x"), 1, more={"id": String}, event_id="id"),
    Case("of copies that differ in a tiebreak alone the least stays, and ties as such",
         [{"at": SAME, "id": "1", "v": 2, "x": 4}, {"at": SAME, "id": "2", "v": 1, "x": 9},
          {"at": SAME, "id": "1", "v": 0, "x": 4}],
         AT, latest("x"), 9, more={"id": String, "v": Int64}, event_id="id", tiebreak=("v",)),
    Case("columns that a view reads break ties by their names",
         [{"at": SAME, "c": 1, "x": 9}, {"at": SAME, "c": 2, "x": 5}], AT,
         latest("x"), 5, more={"c": Int64}, beside=[latest("c")]),
    Case("columns that a view does not read break no ties",
         [{"at": SAME, "c": 1, "x": 9}, {"at": SAME, "c": 2, "x": 5}], AT,
         latest("x"), 9, more={"c": Int64}),
    Case("time comes before any tiebreak", [{"at": "12:30:00.000001", "v": 1, "x": 5}, {"at": SAME, "v": 2, "x": 9}],
         AT,
         latest("x"), 5, more={"v": Int64}, tiebreak=("v",)),
    Case("nulls are skipped among ties as well", versions((2, None), (1, 9)), AT, last("x").over(HOUR), 9,
         more={"v": Int64},
         tiebreak=("v",)),
]

COPY = {"at": "12:30", "id": "e1", "x": 5}
IDS: dict[str, Any] = {"more": {"id": String}, "event_id": "id"}
ARRIVALS: dict[str, Any] = {"more": {"id": String, "in": Timestamp}, "event_id": "id", "arrival_time": "in"}

DUPLICATES = [
    Case("a copy of an event counts once", [COPY, COPY, COPY], AT, sum("x").over(HOUR), 5, **IDS),
    Case("without an id equal events are events", [COPY, COPY, COPY], AT, sum("x").over(HOUR), 15,
         more={"id": String}),
    Case("an id with a new time is a new event", [COPY, {**COPY, "at": "12:31"}], AT, sum("x").over(HOUR), 10, **IDS),
    Case("another id at the same time is another event", [COPY, {**COPY, "id": "e2"}], AT, sum("x").over(HOUR), 10,
         **IDS),
    Case("an id belongs to its key", [COPY, {**COPY, "k": "b"}], AT, sum("x").over(HOUR), 5, **IDS),
    Case("a copy counts once in a lifetime", [COPY, COPY, {**COPY, "id": "e2"}], AT, count().over(lifetime), 2,
         **IDS),
    Case("a copy counts once in a variance", [COPY, COPY, {**COPY, "id": "e2", "x": 7}], AT, var_pop("x").over(HOUR),
         Fraction(1), **IDS),
    Case("of unequal copies the one that arrived first stays",
         [{**COPY, "x": 9, "in": "12:31"}, {**COPY, "x": 5, "in": "12:32"}, {**COPY, "x": 7, "in": "12:33"}], AT,
         sum("x").over(HOUR), 9, **ARRIVALS),
    Case("of unequal copies the one that arrived first is the latest value",
         [{**COPY, "x": 5, "in": "12:32"}, {**COPY, "x": 3, "in": "12:31"}], AT, latest("x"), 3, **ARRIVALS),
    Case("of unequal copies without an arrival the least stays", [{**COPY, "x": 9}, {**COPY, "x": 5}], AT,
         sum("x").over(HOUR), 5,
         **IDS),
    Case("copies in another order count once too", [{**COPY, "id": "e0"}, COPY, {**COPY, "id": "e2"}, COPY], AT,
         count().over(HOUR),
         3, **IDS),
]

WHERE = [
    Case("where keeps what is true", [("12:10", 5), ("12:20", -5), ("12:30", 7)], AT,
         sum("x").over(HOUR).where(col("x") > 0), 12),
    Case("where drops what is null", [{"at": "12:10", "x": 5, "y": None}, {"at": "12:20", "x": 7, "y": 1}], AT,
         sum("x").over(HOUR).where(col("y") > 0), 7, more={"y": Int64}),
    Case("where that keeps nothing leaves an empty window of a known entity", [("12:10", 5)], AT,
         sum("x").over(HOUR).where(col("x") > 9), None, NULL),
    Case("where counts rows", [("12:10", 5), ("12:20", None)], AT, count().over(HOUR).where(col("x").is_null()), 1),
    Case("conditions add up", [("12:10", 5), ("12:20", 50), ("12:30", 500)], AT,
         sum("x").over(HOUR).where(col("x") > 9).where(col("x") < 99), 50),
    Case("where decides what is last", [("12:10", 5), ("12:20", -5)], AT, last("x").over(HOUR).where(col("x") > 0),
         5),
    Case("where decides what a variance is of", [("12:10", 1), ("12:15", 3), ("12:20", 10**9)], AT,
         var_pop("x").over(HOUR).where(col("x") < 100), Fraction(1)),
    Case("a filtered and an unfiltered sum live in one view", [("12:10", 5), ("12:20", -5)], AT, sum("x").over(HOUR),
         0,
         beside=[sum("x").over(HOUR).where(col("x") > 0).named("gains")]),
    Case("a source that is filtered does not have the other events", [("12:10", 5), ("12:20", -5)], AT, latest("x"),
         5,
         reshape=lambda s: s.where(col("x") > 0)),
    Case("an entity whose events are all filtered away is not found", [("12:10", -5)], AT, count().over(HOUR), 0,
         NOT_FOUND,
         reshape=lambda s: s.where(col("x") > 0)),
    Case("a widened source is filtered by its new columns", [("12:10", 5), ("12:20", 50)], AT, sum("y").over(HOUR),
         100,
         reshape=lambda s: s.with_columns(y=col("x") * 2).where(col("y") > 10)),
    Case("a key may be a computed column", [("12:10", 5), ("12:20", 6)], AT, sum("x").over(HOUR), 6,
         keys={"k": String}, key=("6",),
         reshape=lambda s: s.with_columns(k=col("x").cast(String))),
    Case("division by zero in an input is null", [{"at": "12:10", "x": 5, "y": 0}, {"at": "12:20", "x": 6, "y": 2}],
         AT,
         sum(col("x") / col("y")).over(HOUR).named("ratio"), 3.0, more={"y": Int64}),
]

NUMBERS = [
    Case("NaN is null", [("12:10", NAN), ("12:20", 2.0)], AT, mean("x").over(HOUR), 2.0, x=Float64),
    Case("NaN is not counted", [("12:10", NAN), ("12:20", 2.0)], AT, count("x").over(HOUR), 1, x=Float64),
    Case("infinities are null", [("12:10", INF), ("12:20", -INF), ("12:30", 2.0)], AT, sum("x").over(HOUR), 2.0,
         x=Float64),
    Case("an infinity is no maximum", [("12:10", INF), ("12:20", 2.0)], AT, high("x").over(HOUR), 2.0, x=Float64),
    Case("a NaN does not poison a later window", [("11:10", NAN), ("12:20", 2.0)], AT, stddev_pop("x").over(HOUR),
         Fraction(0), x=Float64),
    Case("the latest NaN is null", [("12:10", 1.0), ("12:20", NAN)], AT, latest("x"), None, NULL, x=Float64),
    Case("minus zero is zero", [("12:10", -0.0)], AT, latest("x"), 0.0, x=Float64),
    Case("minus zero is zero as a minimum", [("12:10", -0.0), ("12:20", 0.0)], AT, low("x").over(HOUR), 0.0,
         x=Float64),
    Case("minus zero is zero as last", [("12:10", -0.0)], AT, last("x").over(HOUR), 0.0, x=Float64),
    Case("minus zeros sum to zero", [("12:10", -0.0), ("12:20", -0.0)], AT, sum("x").over(HOUR), 0.0, x=Float64,
         scale=1),
    Case("a product that is minus zero is zero", [("12:10", 0.0)], AT, latest(col("x") * -1.0).named("y"), 0.0,
         x=Float64),
    Case("an expression that is not finite is null", [("12:10", 1e200), ("12:20", 1.0)], AT,
         sum(col("x") * col("x")).over(HOUR).named("squares"), 1.0, x=Float64),
    Case("sums past 2^53 are exact", [("12:10", 2**53), ("12:20", 1), ("12:30", 1)], AT, sum("x").over(HOUR),
         2**53 + 2),
    Case("a sum of 2^63 - 1 fits", [("12:10", BIG), ("12:20", BIG - 1)], AT, sum("x").over(HOUR), 2**63 - 1),
    Case("a sum of 2^63 does not fit", [("12:10", BIG), ("12:20", BIG)], AT, sum("x").over(HOUR), None, OVERFLOW),
    Case("a sum of -2^63 fits", [("12:10", -BIG), ("12:20", -BIG)], AT, sum("x").over(HOUR), -(2**63)),
    Case("a sum below -2^63 does not fit", [("12:10", -BIG), ("12:20", -BIG), ("12:30", -1)], AT,
         sum("x").over(HOUR), None, OVERFLOW),
    Case("a sum that passes 2^63 and comes back fits", [("12:10", BIG), ("12:20", BIG), ("12:30", -BIG)], AT,
         sum("x").over(HOUR), BIG),
    Case("a sum of 2^64 is not mistaken for zero", [("12:10", BIG)] * 4, AT, sum("x").over(HOUR), None, OVERFLOW),
    Case("a mean is right where the sum does not fit",
         [("12:10", 2**63 - 1), ("12:20", 2**63 - 1), ("12:30", 2**63 - 1)], AT,
         mean("x").over(HOUR), float(2**63)),
    Case("a mean of whole numbers is one division", [("12:10", 1), ("12:20", 1), ("12:30", 2)], AT,
         mean("x").over(HOUR), 4 / 3),
    Case("a mean past 2^53 is rounded once", [("12:10", 2**53 + 1), ("12:20", 2**53 + 1)], AT, mean("x").over(HOUR),
         float(2**53)),
    Case("the least and greatest whole numbers are values like others", [("12:10", -(2**63)), ("12:20", 2**63 - 1)],
         AT,
         low("x").over(HOUR), -(2**63)),
    Case("the greatest whole number is a maximum", [("12:10", -(2**63)), ("12:20", 2**63 - 1)], AT,
         high("x").over(HOUR), 2**63 - 1),
    Case("small floats survive large ones that cancel", [("12:10", 1e16), ("12:20", 1.0), ("12:30", -1e16)], AT,
         sum("x").over(HOUR),
         1.0, x=Float64, scale=2e16),
    Case("a thousand tenths are close to a hundred", [(f"12:{i // 60:02}:{i % 60:02}", 0.1) for i in range(1000)], AT,
         sum("x").over(HOUR), 100.0, x=Float64),
    Case("a float sum past the largest double does not fit", [("12:10", 1e308), ("12:20", 1e308)], AT,
         sum("x").over(HOUR), None,
         OVERFLOW, x=Float64),
    Case("a variance past the largest double does not fit", [("12:10", 1e200), ("12:20", -1e200)], AT,
         var_pop("x").over(HOUR), None,
         OVERFLOW, x=Float64),
    Case("a variance of a thousandth at a billion", [("12:10", 1e9 - 1e-3), ("12:20", 1e9), ("12:30", 1e9 + 1e-3)],
         AT,
         var_pop("x").over(HOUR), statistics.pvariance([Fraction(v) for v in (1e9 - 1e-3, 1e9, 1e9 + 1e-3)]),
         x=Float64),
    Case("a variance of a thousandth at a billion within one tile",
         [("12:30:10", 1e9 - 1e-3), ("12:30:20", 1e9), ("12:30:30", 1e9 + 1e-3)], AT,
         var_samp("x").over(days(1)), statistics.variance([Fraction(v) for v in (1e9 - 1e-3, 1e9, 1e9 + 1e-3)]),
         x=Float64),
    Case("equal values vary by nothing", [("12:10", 0.1), ("12:20", 0.1), ("12:30", 0.1)], AT,
         var_pop("x").over(HOUR), Fraction(0), x=Float64),
    Case("an outlier that left the window is forgotten by the sum",
         [("11:30", 1e15), ("12:10", 0.1), ("12:20", 0.2)], AT,
         sum("x").over(HOUR), Fraction(0.1) + Fraction(0.2), x=Float64),
    Case("an outlier that left the window is forgotten by the variance",
         [("11:30", 1e15), ("12:10", 0.1), ("12:20", 0.2)], AT,
         var_pop("x").over(HOUR), statistics.pvariance([Fraction(0.1), Fraction(0.2)]), x=Float64),
    Case("an outlier just inside the window counts", [("12:00", 1e15), ("12:10", 0.1), ("12:20", 0.2)], AT,
         sum("x").over(HOUR), Fraction(1e15) + Fraction(0.1) + Fraction(0.2), x=Float64),
    Case("an outlier among the variance's filtered rows does not disturb it",
         [("12:30:01", 1e15), ("12:30:02", 0.1), ("12:30:03", 0.2)], AT,
         var_pop("x").over(HOUR).where(col("x") < 1.0), statistics.pvariance([Fraction(0.1), Fraction(0.2)]),
         x=Float64),
    Case("an outlier below among filtered rows does not disturb the variance",
         [("12:30:01", -1e15), ("12:30:02", 0.1), ("12:30:03", 0.2)],
         AT, var_pop("x").over(HOUR).where(col("x") > 0.0), statistics.pvariance([Fraction(0.1), Fraction(0.2)]),
         x=Float64),
]

D = Decimal
MONEY = DecimalType(12, 2)
PRICES = [("12:10", D("0.10")), ("12:20", D("0.20")), ("12:30", None), ("12:40", D("-1.05"))]

TYPES = [
    Case("decimals sum exactly", PRICES, AT, sum("x").over(HOUR), D("-0.75"), x=MONEY),
    Case("decimals have a mean in doubles by one division",
         [("12:10", D("0.10")), ("12:20", D("0.20")), ("12:30", D("0.20"))], AT,
         mean("x").over(HOUR), 50 / 300, x=MONEY),
    Case("decimals have a minimum", PRICES, AT, low("x").over(HOUR), D("-1.05"), x=MONEY),
    Case("decimals have a maximum", PRICES, AT, high("x").over(HOUR), D("0.20"), x=MONEY),
    Case("decimals have a variance", PRICES, AT, var_pop("x").over(HOUR),
         statistics.pvariance([Fraction(v) for v in (0.1, 0.2, -1.05)]), x=MONEY),
    Case("a decimal is the latest value", PRICES, AT, latest("x"), D("-1.05"), x=MONEY),
    Case("a decimal is first", PRICES, AT, first("x").over(HOUR), D("0.10"), x=MONEY),
    Case("a decimal sum of 18 digits fits", [("12:10", D("9999999999999999.98")), ("12:20", D("0.01"))], AT,
         sum("x").over(HOUR),
         D("9999999999999999.99"), x=DecimalType(18, 2)),
    Case("a decimal sum of 19 digits does not fit", [("12:10", D("9999999999999999.99")), ("12:20", D("0.01"))], AT,
         sum("x").over(HOUR), None, OVERFLOW, x=DecimalType(18, 2)),
    Case("a decimal mean is right where the sum does not fit", [("12:10", D("9999999999999999.99"))] * 3, AT,
         mean("x").over(HOUR),
         1e16, x=DecimalType(18, 2)),
    Case("whole decimals sum", [("12:10", D(7)), ("12:20", D(8))], AT, sum("x").over(HOUR), D(15),
         x=DecimalType(9, 0)),
    Case("32-bit numbers sum into 64 bits", [("12:10", 2**31 - 1), ("12:20", 1)], AT, sum("x").over(HOUR), 2**31,
         x=Int32),
    Case("32-bit numbers have a maximum", [("12:10", -(2**31)), ("12:20", 2**31 - 1)], AT, high("x").over(HOUR),
         2**31 - 1, x=Int32),
    Case("a 32-bit number is the latest value", [("12:10", -(2**31))], AT, latest("x"), -(2**31), x=Int32),
    Case("single floats are summed as doubles", [("12:10", 1.0), ("12:20", 2.0**-30)], AT, sum("x").over(HOUR),
         1 + 2.0**-30, x=Float32,
         scale=1e-3),
    Case("a single float is the latest value", [("12:10", 0.5)], AT, latest("x"), 0.5, x=Float32),
    Case("single floats have a maximum of their own type", [("12:10", 0.5), ("12:20", -0.25)], AT,
         high("x").over(HOUR), 0.5, x=Float32),
    Case("an infinite single float is null", [("12:10", INF), ("12:20", 1.5)], AT, mean("x").over(HOUR), 1.5,
         x=Float32),
    Case("booleans have a minimum", [("12:10", True), ("12:20", False)], AT, low("x").over(HOUR), False, x=Bool),
    Case("booleans have a maximum", [("12:10", None), ("12:20", False)], AT, high("x").over(HOUR), False, x=Bool),
    Case("a boolean is last", [("12:10", True), ("12:20", None)], AT, last("x").over(HOUR), True, x=Bool),
    Case("a false latest value is a value", [("12:10", False)], AT, latest("x"), False, x=Bool),
    Case("timestamps have a maximum", [("12:10", "2024-01-01"), ("12:20", "1969-12-31T23:59:59.999999")], AT,
         high("x").over(HOUR),
         moment("2024-01-01"), x=Timestamp),
    Case("a timestamp before 1970 is a minimum", [("12:10", "2024-01-01"), ("12:20", "1969-12-31T23:59:59.999999")],
         AT,
         low("x").over(HOUR), moment("1969-12-31T23:59:59.999999"), x=Timestamp),
    Case("a timestamp is the latest value", [("12:10", "2024-01-01T00:00:00.000001")], AT, latest("x"),
         moment("2024-01-01T00:00:00.000001"), x=Timestamp),
    Case("a timestamp is last", [("12:10", "2024-01-01"), ("12:20", None)], AT, last("x").over(HOUR),
         moment("2024-01-01"), x=Timestamp),
    Case("the event time itself is a latest value", [("12:10", 1)], AT, latest("at"), moment("12:10")),
    Case("the event time itself has a minimum", [("12:10", 1), ("12:20", 1)], AT, low("at").over(HOUR),
         moment("12:10")),
    Case("dates have a minimum", [("12:10", date(2024, 1, 1)), ("12:20", date(1969, 1, 1))], AT, low("x").over(HOUR),
         date(1969, 1, 1),
         x=Date),
    Case("a date is first", [("12:10", date(1969, 1, 1)), ("12:20", date(2024, 1, 1))], AT, first("x").over(HOUR),
         date(1969, 1, 1), x=Date),
    Case("a date is the latest value", [("12:10", date(1969, 1, 1))], AT, latest("x"), date(1969, 1, 1), x=Date),
    Case("texts are first", [("12:10", ""), ("12:20", "b")], AT, first("x").over(HOUR), "", x=String),
    Case("an empty text is a value where null is none", [("12:10", ""), ("12:20", None)], AT, count("x").over(HOUR),
         1, x=String),
    Case("the latest empty text is not null", [("12:10", "a"), ("12:20", "")], AT, latest("x"), "", x=String),
    Case("the latest null text is not empty", [("12:10", "a"), ("12:20", None)], AT, latest("x"), None, NULL,
         x=String),
    Case("a text holds any character", [("12:10", "a\u0001'\"\\\n\U0001f600")], AT, last("x").over(HOUR),
         "a\u0001'\"\\\n\U0001f600",
         x=String),
    Case("a long text is kept whole", [("12:10", "ab" * 40_000)], AT, latest("x"), "ab" * 40_000, x=String),
]

US = pa.timestamp("us")
SOURCES = [
    Case("a naive time in a file is UTC", [("12:00", 5)], AT, sum("x").over(HOUR), 5, stored={"at": US},
         zone="America/New_York"),
    Case("a time in a zone is its instant", [("12:00", 5), ("11:59:59", 7)], AT, sum("x").over(HOUR), 5,
         stored={"at": pa.timestamp("us", "Asia/Kolkata")}),
    Case("milliseconds are times", [("12:59:59.999", 5), ("13:00", 7)], AT, sum("x").over(HOUR), 5,
         stored={"at": pa.timestamp("ms")}),
    Case("nanoseconds are times", [("12:59:59.999999", 5), ("13:00", 7)], AT, sum("x").over(HOUR), 5,
         stored={"at": pa.timestamp("ns")}),
    Case("a date is its first instant", [("2024-03-01", 5)], AT, sum("x").over(days(1)), 5,
         stored={"at": pa.date32()}),
    Case("narrow whole numbers are read as wide ones", [("12:10", 5)], AT, sum("x").over(HOUR), 5,
         stored={"x": pa.int16()},
         x=Int32),
    Case("whole numbers are read as decimals", [("12:10", 5)], AT, sum("x").over(HOUR), D("5.00"),
         stored={"x": pa.int32()}, x=MONEY),
    Case("texts from a dictionary are texts", [("12:10", "a")], AT, latest("x"), "a", x=String,
         stored={"x": pa.dictionary(pa.int32(), pa.string())}),
    Case("a column that nobody reads changes nothing",
         [{"at": SAME, "x": 9, "z": 1.0}, {"at": SAME, "x": 5, "z": 2.0}], AT, latest("x"), 9,
         unread={"z": Float64}),
]

TIMES = [
    Case("a tile across midnight", [("2024-02-29T23:59:59.999999", 1), ("2024-03-01T00:00", 2)], "2024-03-01T00:30",
         sum("x").over(HOUR), 3),
    Case("a day's hop ends at midnight UTC, whatever zone the reader is in",
         [("2024-02-19T23:59", 1), ("2024-02-20", 2)],
         "2024-03-01T23:59", sum("x").over(days(10)), 2, zone="America/New_York"),
    Case("a day on which the reader's clocks go forward is as long as others",
         [("2024-03-09T07:59", 1), ("2024-03-09T08:00", 2), ("2024-03-10T06:59:59", 4)], "2024-03-10T08:30",
         sum("x").over(days(1)), 6,
         zone="America/New_York"),
    Case("a day on which the reader's clocks go back is as long as others",
         [("2024-10-26T00:59", 1), ("2024-10-26T01:00", 2), ("2024-10-27T00:30", 4)], "2024-10-27T01:30",
         sum("x").over(days(1)), 6,
         zone="Europe/Berlin"),
    Case("the hour that clocks repeat is two hours", [("2024-10-27T00:30", 1), ("2024-10-27T01:30", 2)],
         "2024-10-27T02:00",
         sum("x").over(HOUR), 2, zone="Europe/Berlin"),
    Case("the reader's zone does not move a latest value",
         [("2024-03-31T00:59:59.999999", 1), ("2024-03-31T01:00", 2)],
         "2024-03-31T01:00", latest("x"), 1, zone="Europe/Berlin"),
    Case("a leap day is a day", [("2024-02-28T13:00", 1), ("2024-02-29T13:00", 2)], "13:00", sum("x").over(days(1)),
         2),
    Case("before 1970 the tail is on the hop grid", [("1969-12-31T22:59:59.999999", 1), ("1969-12-31T23:00", 2)],
         "1970-01-01T00:04:59", sum("x").over(HOUR), 2),
    Case("before 1970 a hop edge is a true floor", [("1969-06-01T11:04:59.999999", 1), ("1969-06-01T11:05", 2)],
         "1969-06-01T12:05:00.5",
         sum("x").over(HOUR), 2),
    Case("a window across 1970", [("1969-12-31T23:30", 1), ("1970-01-01T00:10", 2)], "1970-01-01T00:20",
         sum("x").over(HOUR), 3),
    Case("the latest value before 1970", [("1969-12-31T23:59:59.999998", 1), ("1969-12-31T23:59:59.999999", 2)],
         "1969-12-31T23:59:59.999999", latest("x"), 1),
    Case("a ttl before 1970", [("1969-06-01T11:00", 1)], "1969-06-01T12:00", latest("x"), 1, ttl=HOUR),
    Case("an event at the very second of 1970", [("1970-01-01", 5)], "1970-01-01T00:00:00.000001",
         last("x").over(HOUR), 5),
    Case("the year 1 is a year like others", [("0001-01-02", 1)], "0001-01-02T00:30", sum("x").over(HOUR), 1),
    Case("the year 9999 is a year like others", [("9999-12-31T12:00", 1)], "9999-12-31T12:30", sum("x").over(HOUR),
         1),
    Case("a lifetime spans a century", [("1924-01-01", 1), ("12:00", 2)], AT, sum("x").over(lifetime), 3),
    Case("a lifetime of months and an hour", [("2023-01-01", 1), ("2024-02-29", 2), ("12:59", 4)], AT,
         last("x").over(lifetime), 4),
    Case("first in a lifetime is the very first", [("1999-01-01", None), ("1999-01-02", 2), ("12:59", 4)], AT,
         first("x").over(lifetime), 2),
    Case("a lifetime has a variance", [("1999-01-01", 1.0), ("2011-01-02", 2.0), ("12:59", 4.5)], AT,
         var_samp("x").over(lifetime),
         statistics.variance([Fraction(1), Fraction(2), Fraction(9, 2)]), x=Float64),
    Case("a lifetime beside windows of the same hop", [("1999-01-01", 1), ("2024-02-28", 2), ("12:59", 4)], AT,
         sum("x").over(lifetime), 7,
         beside=[sum("x").over(days(10))]),
]

BC = {"k1": String, "k2": String}
KEYS = [
    Case("composite keys whose parts could run together are different",
         [{"k1": "a", "k2": "bc", "at": "12:10", "x": 1},
         {"k1": "ab", "k2": "c", "at": "12:20", "x": 2}], AT, sum("x").over(HOUR), 1, keys=BC, key=("a", "bc")),
    Case("composite keys whose parts could run together are different the other way",
         [{"k1": "a", "k2": "bc", "at": "12:10", "x": 1},
         {"k1": "ab", "k2": "c", "at": "12:20", "x": 2}], AT, sum("x").over(HOUR), 2, keys=BC, key=("ab", "c")),
    Case("the parts of a key have their order",
         [{"k1": "a", "k2": "b", "at": "12:10", "x": 1}, {"k1": "b", "k2": "a", "at": "12:20", "x": 2}],
         AT, sum("x").over(HOUR), 2, keys=BC, key=("b", "a")),
    Case("a key of a number and a text",
         [{"k1": -1, "k2": "b", "at": "12:10", "x": 1}, {"k1": 1, "k2": "b", "at": "12:20", "x": 2}], AT,
         latest("x"), 1, keys={"k1": Int64, "k2": String}, key=(-1, "b")),
    Case("an event with a null in its key belongs to nobody", [{"k1": "a", "k2": None, "at": "12:10", "x": 1}], AT,
         count().over(HOUR), 0,
         NOT_FOUND, keys=BC, key=("a", None)),
    Case("an event with a null in its key is not that of an empty text", [{"k": None, "at": "12:10", "x": 1}], AT,
         count().over(HOUR), 0,
         NOT_FOUND, key=("",)),
    Case("a null key finds nobody", [{"k": "", "at": "12:10", "x": 1}], AT, latest("x"), None, NOT_FOUND,
         key=(None,)),
    Case("an empty text is a key", [{"k": "", "at": "12:10", "x": 1}], AT, latest("x"), 1, key=("",)),
    Case("composite keys with empty parts are different", [{"k1": "", "k2": "a", "at": "12:10", "x": 1},
         {"k1": "a", "k2": "", "at": "12:10", "x": 2}], AT, latest("x"), 2, keys=BC, key=("a", "")),
    Case("a key in any script", [{"k": "Zürich 東京 \U0001f600", "at": "12:10", "x": 1}], AT, latest("x"), 1,
         key=("Zürich 東京 \U0001f600",)),
    Case("a composed and a decomposed accent are different keys",
         [{"k": "é", "at": "12:10", "x": 1}, {"k": "e\u0301", "at": "12:20", "x": 2}],
         AT, latest("x"), 1, key=("é",)),
    Case("case is part of a key", [{"k": "A", "at": "12:10", "x": 1}], AT, latest("x"), None, NOT_FOUND),
    Case("a trailing space is part of a key", [{"k": "a ", "at": "12:10", "x": 1}], AT, latest("x"), None, NOT_FOUND),
    Case("a key may be longer than a store's keys", [{"k": "y" * 2000, "at": "12:10", "x": 1}], AT, latest("x"), 1,
         key=("y" * 2000,)),
    Case("a number as a key", [{"k": 7, "at": "12:10", "x": 1}, {"k": -7, "at": "12:20", "x": 2}], AT, latest("x"),
         2, keys={"k": Int64},
         key=(-7,)),
    Case("the least number as a key", [{"k": -(2**63), "at": "12:10", "x": 1}], AT, latest("x"), 1,
         keys={"k": Int64}, key=(-(2**63),)),
    Case("a 32-bit number as a key", [{"k": 7, "at": "12:10", "x": 1}], AT, latest("x"), 1, keys={"k": Int32},
         key=(7,)),
    Case("a null number finds nobody, not zero", [{"k": 0, "at": "12:10", "x": 1}], AT, latest("x"), None, NOT_FOUND,
         keys={"k": Int64},
         key=(None,)),
    Case("the key itself is a value", [("12:10", 1)], AT, last("k").over(HOUR), "a"),
]

LATER = [
    Case("a value decays without anything being written", [("12:00", 1), ("12:30", 10), ("12:55", 100)], "13:30",
         sum("x").over(HOUR), 110,
         materialized="13:00"),
    Case("a window empties without anything being written", [("12:00", 1)], "2024-03-02", sum("x").over(HOUR), None,
         NULL,
         materialized="13:00"),
    Case("a read within the open tile", [("12:58", 1), ("12:59", 10)], "13:04", sum("x").over(HOUR), 11,
         materialized="13:02"),
    Case("a lifetime read later", [("2001-01-01", 1), ("12:59", 10)], "2024-06-01", sum("x").over(lifetime), 11,
         materialized="13:02"),
    Case("a coarse window read within its day", [("2024-02-20", 1), ("2024-02-21", 10), ("12:00", 100)],
         "2024-03-02T23:00",
         sum("x").over(days(10)), 110, materialized="13:02", beside=[sum("x").over(minutes(10))]),
    Case("latest values read much later", [("2001-01-01", 1), ("12:59", 10)], "2034-06-01", latest("x"), 10,
         materialized="13:02"),
    Case("first read later, when the first has left", [("12:10", 1), ("12:40", 10)], "13:35", first("x").over(HOUR),
         10, materialized="13:02"),
    Case("a variance read later", [("12:10", 100), ("12:40", 10), ("12:50", 12)], "13:35", var_pop("x").over(HOUR),
         Fraction(1),
         materialized="13:02"),
]

# fmt: on

# Every aggregate over every kind of window, against Python's own exact arithmetic.

SERIES = [
    ("2023-01-01", 9),
    ("2024-02-20", -2),
    ("10:10", 4),
    ("12:05", None),
    ("12:20", 1),
    ("12:50", 7),
    ("12:55", 3),
    ("13:00", 100),
]
INSIDE: dict[Duration | Lifetime, list[int]] = {
    minutes(10): [7, 3],
    days(1): [4, 1, 7, 3],
    days(30): [-2, 4, 1, 7, 3],
    lifetime: [9, -2, 4, 1, 7, 3],
}


def root_of(value: Fraction) -> Fraction:
    return Fraction(Decimal(value.numerator / value.denominator).sqrt())


EVERY: dict[str, tuple[Callable[[Any], d.Aggregation], Callable[[list[int]], Any]]] = {
    "count of values": (count, len),
    "sum": (sum, lambda v: int(Fraction(statistics.mean(map(Fraction, v))) * len(v))),
    "mean": (mean, lambda v: float(statistics.mean(map(Fraction, v)))),
    "minimum": (low, min),
    "maximum": (high, max),
    "population variance": (var_pop, lambda v: statistics.pvariance(map(Fraction, v))),
    "sample variance": (var_samp, lambda v: statistics.variance(map(Fraction, v))),
    "population deviation": (stddev_pop, lambda v: root_of(statistics.pvariance(map(Fraction, v)))),
    "sample deviation": (stddev_samp, lambda v: root_of(statistics.variance(map(Fraction, v)))),
    "first": (first, lambda v: v[0]),
    "last": (last, lambda v: v[-1]),
}

WINDOWS = [
    Case(f"the {name} over {window}", SERIES, AT, make("x").over(window), want(values))
    for name, (make, want) in EVERY.items()
    for window, values in INSIDE.items()
] + [
    Case(
        f"the number of rows over {window}",
        SERIES,
        AT,
        count().over(window),
        len(values) + (window != minutes(10)),
    )
    for window, values in INSIDE.items()
]

CASES: list[Case] = [
    *VISIBILITY,
    *TAILS,
    *EMPTY,
    *DEFAULTS,
    *STATIC,
    *TTL,
    *LATEST,
    *ORDER,
    *DUPLICATES,
    *WHERE,
    *NUMBERS,
    *TYPES,
    *SOURCES,
    *TIMES,
    *KEYS,
    *LATER,
    *WINDOWS,
]
