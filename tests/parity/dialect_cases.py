"""The rows of the parity table that are about what SQL dialects make of one text: each names a trap that was measured.

In a comment stands what Flink 2.2 and DuckDB give of themselves. Constants are computed by Flink's planner and columns by its
generated code, which do not always agree: where both can be had, both are asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

from featurestore import declare as d
from featurestore.declare import count, count_distinct, latest, mean, stddev_samp, sum
from featurestore.expr import (
    Expression,
    coalesce,
    col,
    concat,
    greatest,
    least,
    lit,
    ln,
    seconds_between,
    sqrt,
    when,
)
from featurestore.status import Status
from featurestore.time import hours
from featurestore.types import Bool, Date, DType, Float32, Float64, Int32, Int64, String, Timestamp
from featurestore.types import Decimal as DecimalType
from tests.parity.cases import AT, HOUR, INF, NAN, NULL, Case

x, y = col("x"), col("y")
MAX, MIN = 2**63 - 1, -(2**63)
MONEY = DecimalType(10, 2)


def of(name: str, expression: Expression, want: Any, value: Any = 1, dtype: DType = Int64, *,
       beside: Mapping[str, tuple[DType, Any]] | None = None) -> Case:  # fmt: skip
    """The latest value of an expression of x, and of further columns."""
    others = {} if beside is None else dict(beside)
    event = {"at": "12:30", "x": value, **{n: v for n, (_, v) in others.items()}}
    status = NULL if want is None else None
    return Case(name, [event], AT, latest(expression).named("y0"), want, status, x=dtype,
                more={n: t for n, (t, _) in others.items()})  # fmt: skip


def over(
    name: str, values: list[Any], feature: d.Aggregation, want: Any, dtype: DType = Int64, **more: Any
) -> Case:
    """An aggregate of x over an hour."""
    return Case(name, [(f"12:{10 + i}", v) for i, v in enumerate(values)], AT, feature, want, x=dtype, **more)


# fmt: off

OVERFLOWS = [
    # SUM of INT is an INT that wraps in Flink: -2
    over("trap: a sum of 32-bit numbers that passes 2^31", [2**31 - 1, 2**31 - 1], sum("x").over(HOUR), 2**32 - 2,
         Int32),
    # AVG of INT is an INT made of that sum in Flink: -1
    over("trap: a mean of 32-bit numbers whose sum passes 2^31", [2**31 - 1, 2**31 - 1], mean("x").over(HOUR),
         2147483647.0, Int32),
    over("trap: a mean of whole numbers is no whole number", [1, 2], mean("x").over(HOUR), 1.5, Int32),
    over("trap: a sum of 64-bit numbers that passes 2^63 is no negative", [MAX, 1], sum("x").over(HOUR), None,
         status=Status.OVERFLOW),
    # + wraps in Flink, and fails the query in DuckDB
    of("trap: 32-bit numbers of a row add past 2^31", x + y, 2**32 - 2, 2**31 - 1, Int32,
       beside={"y": (Int32, 2**31 - 1)}),
    of("trap: 64-bit numbers of a row add past 2^63", x + y, None, MAX, beside={"y": (Int64, 1)}),
    of("trap: constants that add past 2^63 when the planner folds them", x + (lit(MAX) + 1), None),
    of("trap: a constant product past 2^63", coalesce(lit(2**62) * 4, x), 1),
    of("trap: 32-bit numbers of a row multiply past 2^31", x * x, (2**31 - 1) ** 2, 2**31 - 1, Int32),
    of("trap: the least 32-bit number has a positive", x.abs(), 2**31, -(2**31), Int32),
    of("trap: the least 64-bit number has no negative", -x, None, MIN),
]

DIVISIONS = [
    # 2 in Flink
    of("trap: 5/2 of whole numbers", x / 2, 2.5, 5),
    of("trap: 5/2 of constants", x * 0 + lit(5) / 2, 2.5, 0),
    # DECIMAL 2.500000 in Flink, a DOUBLE in DuckDB
    of("trap: 5/2.0 is a double", x / 2.0, 2.5, 5),
    of("trap: a third of a decimal is a double of all its digits", x / 3, 0.1 / 3, Decimal("0.10"), MONEY),
    # an error, when constants; from a column the planner of Flink failed; inf in DuckDB
    of("trap: a whole number of a column by zero", x / 0, None, 5),
    of("trap: a whole number by a column that is zero", lit(5) / x, None, 0),
    of("trap: 1/0 of constants is no failed job", coalesce(lit(1) / 0, -1.0), -1.0),
    of("trap: 1//0 of constants is no failed job", coalesce(lit(1) // 0, x), 7, 7),
    of("trap: the remainder of a division by zero", coalesce(x % 0, -1), -1, 7),
    # Infinity of a column and an error of constants in Flink
    of("trap: 1.0/0.0 of a column", x / 0.0, None, 1.0, Float64),
    of("trap: 1.0/0.0 of constants is no failed job", coalesce(lit(1.0) / 0.0, -1.0), -1.0),
    of("trap: 0.0/0.0 is NULL and no NaN", (x / 0.0).is_null(), True, 0.0, Float64),
    of("trap: -7//2 rounds down", x // 2, -4, -7),
    of("trap: -7%3 has the sign of the divisor", x % 3, 2, -7),
    # a decimal of six digits after its point in Flink
    over("trap: a mean of decimals is one division in doubles", [Decimal("0.10"), Decimal("0.20"), Decimal("0.20")],
         mean("x").over(HOUR), 50 / 300, MONEY),
]

CASTS = [
    # 2 in Flink, 3 in DuckDB
    of("trap: a cast of 2.7 to a whole number cuts", x.cast(Int64), 2, 2.7, Float64),
    of("trap: a cast of -2.7 to a whole number cuts towards zero", x.cast(Int64), -2, -2.7, Float64),
    of("trap: a cast of 2.7 in decimals cuts as that of doubles does", x.cast(Int64), 2, Decimal("2.70"), MONEY),
    # saturates in Flink, fails the query in DuckDB
    of("trap: a cast of 1e20 to 64 bits is no greatest number", x.cast(Int64), None, 1e20, Float64),
    of("trap: a cast of the constant 1e20 to 64 bits", coalesce(lit(1e20).cast(Int64), -1), -1),
    of("trap: a cast of 2^31 to 32 bits does not wrap", x.cast(Int32), None, 2**31),
    of("trap: a cast of 1e39 to a 32-bit float is no infinity", x.cast(Float32), None, 1e39, Float64),
    # the planner of Flink keeps a 32-bit float that it computed in seven digits
    of("trap: a constant 32-bit float keeps its last bits", lit(2**31 - 1).cast(Float32), 2.0**31),
    of("trap: a constant 32-bit float among others", coalesce(lit(None, Float32), lit(16777219.0).cast(Float32)),
       16777220.0),
    of("trap: a constant 32-bit float that is widened", x + lit(0.1).cast(Float32), 0.10000000149011612, 0),
    of("trap: a whole number too long for a decimal", x.cast(DecimalType(4, 2)), None, 100),
    # CAST fails the job on the row, TRY_CAST does not
    of("trap: a text that is no number is a poison row to a cast", x.cast(Int64), None, "abc", String),
    of("trap: a constant text that is no number", coalesce(lit("abc").cast(Int64), -1), -1),
    of("trap: a text with blanks, which Flink would trim", x.cast(Int64), None, " 42 ", String),
    of("trap: a text of a fraction, which Flink would cut", x.cast(Int64), None, "42.9", String),
    of("trap: a text that says Infinity is no number", x.cast(Float64), None, "Infinity", String),
    of("trap: a text that ends in f, as Java's floats may", x.cast(Float64), None, "1.5f", String),
    of("trap: a text of a date that is none", x.cast(Date), None, "2023-02-29", String),
    of("trap: a text of a date with one digit a month, which Flink reads", x.cast(Date), None, "2023-2-9", String),
    of("trap: a text of a time with seven digits after its point", x.cast(Timestamp), None,
       "2024-03-01 12:00:00.1234567", String),
    of("trap: a word that Flink takes for a truth", x.cast(Bool), None, "yes", String),
    Case("trap: of poison rows among good ones the good ones count",
         [("12:10", "5"), ("12:20", "five"), ("12:30", ""), ("12:40", None), ("12:50", "-2")], AT,
         sum(x.cast(Int64)).over(HOUR).named("y0"), 3, x=String),
]

FLOATS = [
    # NaN in Flink, 1.0 in DuckDB
    over("trap: the minimum of NaN and 1", [NAN, 1.0], d.min("x").over(HOUR), 1.0, Float64),
    # NaN in both
    over("trap: the maximum of NaN and 1", [NAN, 1.0], d.max("x").over(HOUR), 1.0, Float64),
    over("trap: the minimum of NaN alone", [NAN, NAN], d.min("x").over(HOUR), None, Float64, status=NULL),
    over("trap: the minimum of infinities", [-INF, 3.0, INF], d.min("x").over(HOUR), 3.0, Float64),
    over("trap: NaN has no place among the largest", [NAN, 1.0, INF, 2.0], d.largest_k("x", 3).over(HOUR), [2.0, 1.0],
         Float64),
    of("trap: NaN equals itself in DuckDB, and in what the planner of Flink simplifies", x == x, None, NAN, Float64),  # noqa: PLR0124 (the trap)
    of("trap: NaN is greater than all in DuckDB, and not in Flink", x > 1.0, None, NAN, Float64),
    of("trap: a filter by NaN keeps nothing", when(x > 1.0).then(1).when(x <= 1.0).then(2).otherwise(3), 3, NAN,
       Float64),
    of("trap: the greatest of NaN and a number", greatest(x, 1.0), 1.0, NAN, Float64),
    of("trap: a NaN that an expression would make is NULL before it is compared", (x * 1e308 - x * 1e308) < 1.0, None,
       1e10, Float64),
    of("trap: minus zero equals zero, and is in no text of it", (x == 0.0) & (lit(1.0) / (x + 1.0) == 1.0), True, -0.0,
       Float64),
    over("trap: minus zero is less than zero to Java", [0.0, -0.0], d.min("x").over(HOUR), 0.0, Float64),
    over("trap: zeros of both signs are one value to count", [0.0, -0.0], count_distinct("x").over(HOUR), 1, Float64),
    over("trap: one value has no sample deviation", [1.5], stddev_samp("x").over(HOUR), None, Float64, status=NULL),
    over("trap: a variance at a billion keeps its digits", [1e9 + 1, 1e9 + 2, 1e9 + 3], d.var_pop("x").over(HOUR),
         Fraction(2, 3), Float64),
    over("trap: a sum of nothing is NULL and not zero", [None], sum("x").over(HOUR), None, status=NULL),
    over("trap: a sum of no row is NULL and not zero", [5], sum("x").where(x > 5).over(HOUR), None, status=NULL),
]

CHOICES = [
    # NULL in Flink, 1 in DuckDB
    of("trap: the greatest of 1 and NULL", greatest(x, y), 1, 1, beside={"y": (Int64, None)}),
    of("trap: the least of NULL and 1", least(y, x), 1, 1, beside={"y": (Int64, None)}),
    of("trap: the greatest of a constant and NULL", greatest(lit(1), lit(None, Int64), lit(0)), 1),
    of("trap: the least of texts goes by their bytes", least(x, "\U00010000"), "\uffff", "\uffff", String),
    of("trap: the greatest of truths, which Flink cannot order", greatest(x, False), True, True, Bool),
    of("trap: the greatest of a whole number and a double is a double", greatest(x, 1.5), 2.0, 2),
]

TEXTS = [
    # NULL in Flink, 'a' in DuckDB
    of("trap: CONCAT with NULL", concat("a", x), None, None, String),
    of("trap: CONCAT with a NULL that is a constant", concat(x, lit(None, String)), None, "a", String),
    # 'hel' in Flink, 'he' in DuckDB, which counts a place before the first
    of("trap: SUBSTRING from 0", x.substring(0, 3), "hel", "hello", String),
    of("trap: SUBSTRING past the end", x.substring(4, 9), "o", "hello", String),
    of("trap: SUBSTRING of no letters", x.substring(2, 0), "", "hello", String),
    of("trap: SUBSTRING counts letters past the basic plane once", x.substring(1, 1), "b", "\U0001f600b", String),
    # 'S' in Flink, cut to one letter; a capital sharp s in DuckDB
    of("trap: UPPER of a sharp s", x.upper(), "ß", "ß", String),
    of("trap: UPPER of a constant sharp s", concat(x, lit("ß").upper()), "aß", "a", String),
    of("trap: LOWER of a dotted I, which grows", x.lower(), "İ", "İ", String),
    # false in both, true where CHAR is padded
    of("trap: a blank at the end is part of a text", x == "a", False, "a ", String),
    of("trap: constants of several lengths are no padded CHARs",
       concat(when(x == "a").then("one").otherwise("three"), "!"), "one!", "a", String),
    of("trap: order of texts past the basic plane", x < "\U00010000", True, "\uffff", String),
    of("trap: the length of a text past the basic plane", x.length(), 1, "\U0001f600", String),
    of("trap: an empty text is no NULL", x.is_null(), False, "", String),
    of("trap: a wildcard is a letter", x.contains("%"), False, "abc", String),
    # TRUE in Flink, true in DuckDB
    of("trap: the text of a truth", x.cast(String), "true", True, Bool),
    of("trap: the text of a constant truth", concat(x, lit(True).cast(String)), "atrue", "a", String),
    of("trap: the text of a decimal has its zeros", x.cast(String), "-0.50", Decimal("-0.50"), MONEY),
    of("trap: the text of a large whole number has no exponent", x.cast(String), "100000000000000000", 10**17),
    # Java rounds halves up, others to even
    of("trap: ROUND of 2.5", x.round(), 3.0, 2.5, Float64),
    of("trap: ROUND of -2.5", x.round(), -3.0, -2.5, Float64),
    # Java gives 0: here rounding is a sum, a floor and a quotient in doubles, everywhere
    of("trap: ROUND of the double below one half", x.round(), 1.0, 0.49999999999999994, Float64),
]

TIMES = [
    # 1 in Flink, 0 in DuckDB
    of("trap: the day of the week of a Sunday", x.day_of_week(), 7, date(2024, 3, 3), Date),
    of("trap: the day of the week of a Monday", x.day_of_week(), 1, date(2024, 3, 4), Date),
    of("trap: the day of the week before 1970", x.day_of_week(), 3, date(1969, 12, 31), Date),
    # 0 in Flink, 1 in DuckDB
    of("trap: two hours over midnight are no day", seconds_between(x, y) / 86400, 1 / 12, "2024-02-29T23:00", Timestamp,
       beside={"y": (Timestamp, "2024-03-01T01:00")}),
    of("trap: a difference of times keeps its microseconds", seconds_between(x, y), 0.000001, "1969-12-31T23:59:59.999999",
       Timestamp, beside={"y": (Timestamp, "1970-01-01")}),
    of("trap: the hour before 1970", x.hour(), 23, "1969-12-31T23:59:59.999999", Timestamp),
    of("trap: a time of six digits is not cut to three", x == y, False, "2024-03-01T00:00:00.123456", Timestamp,
       beside={"y": (Timestamp, "2024-03-01T00:00:00.123000")}),
    of("trap: a time past the year 9999", (x + hours(1)).is_null(), True, "9999-12-31T23:30", Timestamp),
    # ts - MOD(ts, hop) floors towards zero
    Case("trap: a tile before 1970 begins at a true floor",
         [("1969-12-31T22:59:59.999999", 1), ("1969-12-31T23:00", 2), ("1969-12-31T23:59:59.999999", 4)], "1970-01-01",
         sum("x").over(HOUR, hop=HOUR), 6),
]

ORDERS = [
    # LAST_VALUE goes by arrival
    Case("trap: the last value is the last by event time, in whatever order events come",
         [("12:30", 30), ("12:10", 10), ("12:20", 20)], AT, d.last("x").over(HOUR), 30),
    Case("trap: the first value is the first by event time, in whatever order events come",
         [("12:30", 30), ("12:10", 10), ("12:20", 20)], AT, d.first("x").over(HOUR), 10),
    # MAX(ROW(…)) is not to be had
    Case("trap: the value beside a maximum is that of the same event",
         [{"at": "12:10", "x": 1, "y": 5}, {"at": "12:20", "x": 2, "y": 9}, {"at": "12:30", "x": 3, "y": 7}], AT,
         d.max_by("x", "y").over(HOUR), 2, more={"y": Int64}),
    # COUNT(DISTINCT) beside an aggregate that gives an array does not plan in a batch
    Case("trap: distinct values beside lists in a stream", [("12:10", 3), ("12:20", 4), ("12:30", 3)], AT,
         count_distinct("x").over(HOUR), 2, beside=[d.last_k("x", 2).over(HOUR), count().over(HOUR)]),
    Case("trap: distinct values beside lists in a batch",
         [{"at": "12:10", "x": 3, "id": "1"}, {"at": "12:20", "x": 4, "id": "2"}, {"at": "12:30", "x": 3, "id": "3"}], AT,
         d.last_k("x", 2).over(HOUR), [4, 3], more={"id": String}, event_id="id",
         beside=[count_distinct("x").over(HOUR), d.min("x").over(HOUR)]),
]

# fmt: on

DIALECT_CASES: list[Case] = [
    *OVERFLOWS,
    *DIVISIONS,
    *CASTS,
    *FLOATS,
    *CHOICES,
    *TEXTS,
    *TIMES,
    *ORDERS,
]

REFUSED: Mapping[str, tuple[Expression, DType, str]] = {
    # 1.0E20 in Flink, 1e+20 in DuckDB
    "the text of a float": (x.cast(String), Float64, "no text that every engine writes alike"),
    "the text of a time": (x.cast(String), Timestamp, "no text that every engine writes alike"),
    # from the end in DuckDB and Flink, but for 0 and beyond the beginning
    "SUBSTRING from the end": (x.substring(-3, 2), String, "start must be from 0"),
    "SUBSTRING of fewer than no letters": (x.substring(0, -1), String, "n must be from 0"),
    "a number as a truth": (x.cast(Bool), Int64, "compare instead"),
    "a time as a number": (x.cast(Int64), Timestamp, "epoch_seconds"),
    # the last bits of libraries differ
    "a square root of a row": (sqrt(x), Float64, "on-demand"),
    "a logarithm of a row": (ln(x), Float64, "on-demand"),
}
"""What dialects do not say alike at all: an expression of x, the type of x, and words of the refusal."""
