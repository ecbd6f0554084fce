"""What had arrived: asked of the engines that can say. `arrived` is when each event arrived; a lag is in microseconds."""

from __future__ import annotations

from typing import Any

from featurestore import declare as d
from featurestore.declare import count, first, first_k, last, latest, mean, sum, var_pop
from featurestore.status import Status
from featurestore.time import DAY, HOUR, MINUTE, hours, lifetime, minutes
from featurestore.types import DType, Int64, String, Timestamp
from tests.parity.cases import AT, Case

NULL, NOT_FOUND, EXPIRED, DEFAULT = Status.NULL, Status.NOT_FOUND, Status.EXPIRED, Status.DEFAULT
ONE = hours(1)


def case(
    name: str,
    events: list[tuple[Any, ...]],
    feature: d.Aggregation,
    want: Any,
    status: Status | None = None,
    *,
    at: str = AT,
    lag: int = 0,
    x: DType = Int64,
    **options: Any,
) -> Case:
    """Events are `(time, arrival, x[, id])`; with an id that is the source's event id."""
    rows = [dict(zip(("at", "arrived", "x", "id"), e, strict=False)) for e in events]
    more: dict[str, DType] = {"arrived": Timestamp}
    if any("id" in row for row in rows):
        more["id"], options["event_id"] = String, "id"
    options = {"arrival_time": "arrived", **options}
    return Case(name, rows, at, feature, want, status, x, more=more, lag=lag, **options)


# fmt: off

KNOWLEDGE_CASES = [
    case("an event that arrived at the very moment of asking is known", [("12:30", "13:00", 5)], sum("x").over(ONE), 5),
    case("an event that arrived just after the moment of asking is not", [("12:30", "13:00:00.000001", 5)],
         sum("x").over(ONE), None, NOT_FOUND),
    case("the latest value is the latest of what had arrived", [("12:10", "12:11", 1), ("12:20", "13:01", 2)],
         latest("x"), 1),
    case("a latest value that arrived at the very moment is known", [("12:10", "12:11", 1), ("12:20", "13:00", 2)],
         latest("x"), 2),
    case("what arrived late changes the past only from then on", [("12:10", "14:00", 1), ("12:20", "12:21", 2)],
         first("x").over(hours(2)), 1, at="14:00"),
    case("an earlier event that arrives later does not become the latest", [("12:10", "12:50", 1), ("12:20", "12:21", 2)],
         latest("x"), 2),
    case("an event just before the moment that has arrived is known", [("12:59:59.999999", "12:59:59.999999", 5)],
         sum("x").over(ONE), 5),
    case("an event that arrived before it happened is not known before it has", [("13:00", "12:00", 5)],
         count().over(ONE), 0, NOT_FOUND),
    case("an event that arrived before it happened is known once it has", [("12:59:59.999999", "12:00", 5)],
         count().over(ONE), 1),
    case("without an arrival of its own an event arrives when it happens", [("12:59", None, 5)], count().over(ONE), 1),
    case("a lag counts from when it happened for an event without arrival", [("12:59", None, 5), ("12:30", None, 1)],
         sum("x").over(ONE), 1, lag=10 * MINUTE),
    case("a lag counts from the arrival", [("12:10", "12:30", 1), ("12:10", "12:30:00.000001", 10)],
         sum("x").over(ONE), 1, lag=30 * MINUTE),
    case("a source without arrivals is known a lag after events happen", [("12:49:59.999999", None, 1),
         ("12:50", None, 10), ("12:50:00.000001", None, 100)], sum("x").over(ONE), 11, lag=10 * MINUTE,
         arrival_time=None),
    case("a source without arrivals and without a lag is known at once", [("12:59:59.999999", None, 1), ("13:00", None, 9)],
         sum("x").over(ONE), 1, arrival_time=None),
    case("an early arrival and a lag make the later of the two moments", [("12:59", "12:00", 5)], count().over(ONE), 1,
         lag=HOUR),
    case("a lag longer than the window leaves nothing of it", [("12:30", "12:31", 5)], sum("x").over(ONE), None,
         NOT_FOUND, lag=2 * HOUR),
    case("an event out of the window was known all the same", [("11:00", "11:01", 5), ("12:30", "13:30", 7)],
         sum("x").over(ONE), None, NULL),
    case("a straggler of a closed tile is missing until it arrives",
         [("12:01", "12:01", 1), ("12:02", "13:30", 10), ("12:03", "12:03", 100), ("12:40", "12:40", 1000)],
         sum("x").over(ONE), 1101, at="13:02"),
    case("a straggler of a closed tile is there once it has arrived",
         [("12:01", "12:01", 1), ("12:02", "13:02", 10), ("12:03", "12:03", 100), ("12:40", "12:40", 1000)],
         sum("x").over(ONE), 1111, at="13:02"),
    case("stragglers at both ends of a window", [("12:00", "14:00", 1), ("12:20", "12:20", 10), ("12:59", "14:00", 100)],
         sum("x").over(ONE), 10),
    case("stragglers one after another", [("12:01", "14:00", 1), ("12:02", "14:00", 2), ("12:03", "12:03", 4),
         ("12:04", "14:00", 8), ("12:05", "14:00", 16), ("12:06", "12:06", 32)], sum("x").over(ONE), 36),
    case("everything arrived too late", [("12:01", "14:00", 1), ("12:02", "14:00", 2)], count().over(ONE), 0, NOT_FOUND),
    case("everything arrived at once, long after", [("12:01", "14:00", 1), ("12:02", "14:00", 2)],
         count().over(lifetime), 2, at="14:00"),
    case("the first events that had arrived", [("12:01", "14:00", 1), ("12:02", "12:02", 2), ("12:03", "14:00", 3),
         ("12:04", "12:04", 4)], first_k("x", 2).over(ONE), [2, 4]),
    case("the last event that had arrived and is not NULL", [("12:01", "12:01", 1), ("12:02", "14:00", 2),
         ("12:03", "12:03", None)], last("x").over(ONE), 1),
    case("the mean of what had arrived", [("12:01", "12:01", 1), ("12:02", "14:00", 50), ("12:03", "12:03", 4)],
         mean("x").over(ONE), 2.5),
    case("an outlier that had not arrived leaves no trace", [("12:01", "12:01", 1), ("12:02", "14:00", 10**15),
         ("12:03", "12:03", 3)], var_pop("x").over(ONE), 1.0),
    case("the status of an older value that has expired", [("11:00", "11:00", 1), ("12:30", "13:01", 2)], latest("x"),
         None, EXPIRED, ttl=ONE),
    case("of a moment's events the greatest that had arrived is the latest",
         [("12:30", "12:30", 5), ("12:30", "13:01", 9), ("12:30", "12:40", 7)], latest("x"), 7),
    case("of a moment's events the last that had arrived is last",
         [("12:30", "12:30", 5), ("12:30", "13:01", 9), ("12:30", "12:40", 7)], last("x").over(ONE), 7),
    case("a copy that arrives later changes nothing", [("12:30", "12:40", 5, "e"), ("12:30", "12:50", 9, "e")],
         sum("x").over(ONE), 5),
    case("of copies the first to arrive is known from its own arrival on",
         [("12:30", "13:05", 9, "e"), ("12:30", "13:00", 5, "e")], sum("x").over(ONE), 5),
    case("a copy is not known before the first to arrive is", [("12:30", "13:01", 5, "e"), ("12:30", "13:02", 9, "e")],
         count().over(ONE), 0, NOT_FOUND),
    case("a copy without arrival came first, and is known when it says",
         [("12:30", None, 5, "e"), ("12:30", "12:00", 9, "e")], sum("x").over(ONE), None, NOT_FOUND, lag=HOUR),
    case("before 1970 arrivals count alike", [("1969-12-31T23:10", "1969-12-31T23:59:59", 1),
         ("1969-12-31T23:20", "1970-01-01T00:00:00.000001", 10), ("1969-12-31T23:30", "1970-01-01T00:00", 100)],
         sum("x").over(ONE), 101, at="1970-01-01T00:00"),
    case("hop edges before 1970, and a straggler", [("1969-12-31T22:55", "1969-12-31T22:55", 1),
         ("1969-12-31T23:00", "1970-01-01T09:00", 10), ("1969-12-31T23:30", "1969-12-31T23:30", 100)],
         sum("x").over(ONE, hop=minutes(5)), 101, at="1969-12-31T23:57"),
    case("an arrival in the year 9999 and a long lag", [("12:30", "9999-12-31T00:00", 1), ("12:40", "12:40", 2)],
         sum("x").over(ONE), None, NOT_FOUND, lag=10_000 * DAY),
    case("a default stands in for what had not arrived", [("12:30", "14:00", 1)], sum("x").over(ONE).default(0), 0, DEFAULT),
]

# fmt: on
