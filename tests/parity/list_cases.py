"""Latest values that are lists and vectors, one behaviour a row."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

from featurestore.declare import latest, sum
from featurestore.time import hours
from featurestore.types import Bool, Date, Float32, Float64, Int64, List, String, Timestamp, Vector
from featurestore.types import Decimal as DecimalType
from tests.parity.cases import EXPIRED, INF, NAN, NOT_FOUND, NULL, Case

AT = "13:00"
TWO = Vector(2)

LIST_CASES = [
    Case("the latest vector counts", [("12:00", [1.0, 2.0]), ("12:30", [3.0, 0.1])], AT, latest("x"),
         [3.0, 0.10000000149011612], x=TWO),
    Case("a vector at the moment of asking is not yet visible", [("12:30", [1.0, 2.0]), ("13:00", [3.0, 4.0])], AT,
         latest("x"), [1.0, 2.0], x=TWO),
    Case("a vector that is null is null", [("12:00", [1.0, 2.0]), ("12:30", None)], AT, latest("x"), None, NULL, x=TWO),
    Case("a vector with a number that is none is null", [("12:30", [1.0, NAN])], AT, latest("x"), None, NULL, x=TWO),
    Case("a vector with an infinity is null", [("12:30", [-INF, 1.0])], AT, latest("x"), None, NULL, x=TWO),
    Case("minus zero in a vector is zero", [("12:30", [-0.0, 1.0])], AT, latest("x"), [0.0, 1.0], x=TWO),
    Case("a key without events has no vector", [], AT, latest("x"), None, NOT_FOUND, x=TWO),
    Case("a vector grows old", [("09:00", [1.0, 2.0])], AT, latest("x"), None, EXPIRED, x=TWO, ttl=hours(1)),
    Case("of two vectors at one moment the greater counts", [("12:30", [1.0, 9.0]), ("12:30", [2.0, 0.0])], AT,
         latest("x"), [2.0, 0.0], x=TWO),
    Case("a vector lies beside numbers and texts", [{"at": "12:30", "x": [1.0, 2.0], "n": 7, "s": "é"}], AT, latest("x"),
         [1.0, 2.0], x=TWO, more={"n": Int64, "s": String}, beside=[latest("n"), latest("s"), sum("n").over(hours(1))]),
    Case("a static vector", [{"x": [1.0, 2.0]}], AT, latest("x"), [1.0, 2.0], x=TWO, static=True),
    Case("the latest list of texts counts", [("12:00", ["a"]), ("12:30", ["b", "", "é"])], AT, latest("x"),
         ["b", "", "é"], x=List(String)),
    Case("an empty list is no null", [("12:30", [])], AT, latest("x"), [], x=List(Int64)),
    Case("a list with a null in it is null", [("12:30", [1, None])], AT, latest("x"), None, NULL, x=List(Int64)),
    Case("a list of texts with a null in it is null", [("12:30", ["a", None])], AT, latest("x"), None, NULL,
         x=List(String)),
    Case("a list with an infinity in it is null", [("12:30", [1.0, INF])], AT, latest("x"), None, NULL, x=List(Float64)),
    Case("minus zero in a list is zero", [("12:30", [-0.0])], AT, latest("x"), [0.0], x=List(Float32)),
    Case("a list of truths", [("12:30", [True, False])], AT, latest("x"), [True, False], x=List(Bool)),
    Case("a list of instants", [{"at": "12:30", "x": [datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)]}], AT, latest("x"),
         [datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)], x=List(Timestamp)),
    Case("a list of days", [("12:30", [date(1969, 12, 31)])], AT, latest("x"), [date(1969, 12, 31)], x=List(Date)),
    Case("a list of decimals", [("12:30", [Decimal("-1.25")])], AT, latest("x"), [Decimal("-1.25")],
         x=List(DecimalType(6, 2))),
]  # fmt: skip
"""Latest values of types that hold others."""
