"""The row-expression language: one meaning in plain Python and in DuckDB, and every mistake reported."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal as D  # noqa: N817
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from featurestore.compile import rowwise
from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.sql import clean_sql, expr_sql, ident, literal
from featurestore.errors import Unsupported
from featurestore.evaluate.expressions import LEAVES, Columns, compile_expression
from featurestore.expr import (
    FUNCTIONS,
    Call,
    Case,
    Cast,
    Column,
    Expr,
    ExprError,
    Expression,
    Literal,
    as_expr,
    as_of,
    coalesce,
    col,
    column_or_expression,
    columns_of,
    concat,
    cos,
    describe,
    exp,
    from_json,
    greatest,
    hash_bucket,
    infer,
    least,
    lit,
    ln,
    log10,
    pow,
    seconds_between,
    sin,
    sqrt,
    substitute,
    tanh,
    to_json,
    when,
)
from featurestore.expr.functions import row_functions
from featurestore.expr.literals import EPOCH
from featurestore.time import DAY, days, hours, seconds
from featurestore.types import (
    Bool,
    Date,
    Decimal,
    DecimalType,
    DType,
    Float32,
    Float64,
    Int32,
    Int64,
    List,
    String,
    Timestamp,
    numpy_dtype,
)

Physical = int | float | bool | str | None

# ── the three engines ─────────────────────────────────────────────────────────────────────────────────────────

ARROW = {
    String: pa.string(),
    Int64: pa.int64(),
    Int32: pa.int32(),
    Float64: pa.float64(),
    Float32: pa.float32(),
    Bool: pa.bool_(),
    Timestamp: pa.timestamp("us"),
    Date: pa.date32(),
}


def to_arrow(values: Sequence[Physical], dtype: DType) -> pa.Array:
    if isinstance(dtype, DecimalType):
        scaled = [None if v is None else D(v).scaleb(-dtype.scale) for v in values]
        return pa.array(scaled, pa.decimal128(dtype.precision, dtype.scale))
    return pa.array(values, ARROW[dtype])  # type: ignore[index]


def from_arrow(values: pa.ChunkedArray, dtype: DType) -> list[Any]:
    """Physical values; the Arrow type must be exactly the one of `dtype`."""
    if isinstance(dtype, DecimalType):
        assert values.type == pa.decimal128(dtype.precision, dtype.scale)
        return [None if v is None else int(v.scaleb(dtype.scale)) for v in values.to_pylist()]
    assert values.type == ARROW[dtype]  # type: ignore[index]
    if dtype == Timestamp:
        values = values.cast(pa.int64())
    if dtype == Date:
        values = values.cast(pa.int32())
    return values.to_pylist()


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})


def in_duckdb(
    connection: duckdb.DuckDBPyConnection,
    node: Expr,
    schema: Mapping[str, DType],
    rows: Sequence[Mapping[str, Physical]],
) -> list[Any]:
    """The value of `node` in each raw row, cleaned on the way in."""
    arrays = {name: to_arrow([row[name] for row in rows], dtype) for name, dtype in schema.items()}
    raw = pa.table({"row number": pa.array(range(len(rows))), **arrays})
    columns = [
        f"{clean_sql(ident(name, DUCKDB), dtype, DUCKDB)} AS {ident(name, DUCKDB)}"
        for name, dtype in schema.items()
    ]
    cleaned = ", ".join(['"row number"', *columns])
    value = expr_sql(node, schema, DUCKDB)
    query = f'SELECT {value} AS value FROM (SELECT {cleaned} FROM raw) ORDER BY "row number"'
    connection.register("raw", raw)
    try:
        return from_arrow(connection.sql(query).to_arrow_table()["value"], infer(node, schema))
    finally:
        connection.unregister("raw")


def in_python(node: Expr, schema: Mapping[str, DType], rows: Sequence[Mapping[str, Physical]]) -> list[Any]:
    value = rowwise.evaluator(node, schema)
    return [value({name: rowwise.clean(row[name], dtype) for name, dtype in schema.items()}) for row in rows]


def physical(rows: Sequence[Mapping[str, Physical]], schema: Mapping[str, DType]) -> Columns:
    """The rows as the arrays that travel between floors, cleaned on the way in."""
    columns = {}
    for name, dtype in schema.items():
        cleaned = [rowwise.clean(row[name], dtype) for row in rows]
        valid = np.array([value is not None for value in cleaned], np.bool_)
        values = np.zeros(len(rows), numpy_dtype(dtype))
        values[valid] = [value for value in cleaned if value is not None]
        if values.dtype == object:
            values[~valid] = None
        columns[name] = values, (None if valid.all() else valid)
    return columns


def garbled(columns: Columns) -> Columns:
    """The same rows with something else under each NULL, which no result may show."""
    under: dict[str, Any] = {"i": -(2**31), "f": math.nan, "b": True, "O": "?"}
    return {
        name: (
            values
            if valid is None
            else np.where(valid, values, under[values.dtype.kind]).astype(values.dtype),
            valid,
        )
        for name, (values, valid) in columns.items()
    }


def in_numpy(node: Expr, schema: Mapping[str, DType], rows: Sequence[Mapping[str, Physical]]) -> list[Any]:
    """The value of `node` in each row, which must be the same when each row comes alone."""
    program = compile_expression(node, schema, on_demand=False)
    values, valid = program.evaluate(physical(rows, schema), len(rows))
    assert values.dtype == numpy_dtype(program.dtype)
    assert len(values) == len(valid) == len(rows)
    assert all(value is None if values.dtype == object else value == 0 for value in values[~valid])
    found = [value if there else None for value, there in zip(values.tolist(), valid.tolist(), strict=True)]
    again, there = program.evaluate(garbled(physical(rows, schema)), len(rows))
    assert again.tolist() == values.tolist()
    assert there.tolist() == valid.tolist()
    for row, value in zip(rows, found, strict=True):
        (alone,), (there,) = program.evaluate(physical([row], schema), 1)
        assert bits([alone if values.dtype == object else alone.item()] if there else [None]) == bits([value])
    return found


def bits(values: Sequence[Any]) -> list[str]:
    """Values told apart by type and bit: 1, 1.0 and True differ, and so do 0.0 and −0.0."""
    return [f"{type(v).__name__} {v.hex() if isinstance(v, float) else v!r}" for v in values]


# ── one behaviour, one row, every engine ────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Sentence:
    name: str
    expression: Expression
    want: Any
    columns: tuple[tuple[str, DType, Physical], ...] = ()


def case(name: str, expression: Expression, want: Any, **columns: tuple[DType, Physical]) -> Sentence:
    return Sentence(name, expression, want, tuple((n, t, v) for n, (t, v) in columns.items()))


MAX, MIN = 2**63 - 1, -(2**63)
a, b, x, s, t, d, m = (col(name) for name in "abxstdm")


def i64(value: int | None) -> tuple[DType, Physical]:
    return Int64, value


def f64(value: float | None) -> tuple[DType, Physical]:
    return Float64, value


def text(value: str | None) -> tuple[DType, Physical]:
    return String, value


def truth(value: bool | None) -> tuple[DType, Physical]:
    return Bool, value


def money(unscaled: int | None) -> tuple[DType, Physical]:
    return Decimal(12, 2), unscaled


def at(moment: str) -> tuple[DType, Physical]:
    return Timestamp, (dt.datetime.fromisoformat(moment) - EPOCH) // dt.timedelta(microseconds=1)


def on(day: str) -> tuple[DType, Physical]:
    return Date, (dt.date.fromisoformat(day) - dt.date(1970, 1, 1)).days


CASES = [
    case("a sum beyond 64 bits is NULL", a + 1, None, a=i64(MAX)),
    case("a sum at the edge of 64 bits is not", a + 1, MAX, a=i64(MAX - 1)),
    case("a difference beyond 64 bits is NULL", a - 1, None, a=i64(MIN)),
    case("a product beyond 64 bits is NULL", a * 2, None, a=i64(2**62)),
    case("the negative of the least integer is NULL", -a, None, a=i64(MIN)),
    case("so is its absolute value", a.abs(), None, a=i64(MIN)),
    case("32-bit integers add in 64 bits", a + a, 2**32 - 2, a=(Int32, 2**31 - 1)),
    case("a NULL operand makes NULL", a + 1, None, a=i64(None)),
    case("integers divide to a double", a / 2, 2.5, a=i64(5)),
    case("division by zero is NULL", a / 0, None, a=i64(5)),
    case("zero by zero is NULL", x / 0.0, None, x=f64(0.0)),
    case("integer division rounds down below zero", a // 2, -3, a=i64(-5)),
    case("integer division rounds down by a negative", a // b, -3, a=i64(5), b=i64(-2)),
    case("of two negatives it is positive", a // b, 2, a=i64(-5), b=i64(-2)),
    case("integer division by zero is NULL", a // b, None, a=i64(5), b=i64(0)),
    case("the least integer over minus one is NULL", a // b, None, a=i64(MIN), b=i64(-1)),
    case("the least integer over the least is one", a // b, 1, a=i64(MIN), b=i64(MIN)),
    case("the greatest integer over the least rounds down to minus one", a // b, -1, a=i64(MAX), b=i64(MIN)),
    case("the remainder has the sign of the divisor", a % 3, 1, a=i64(-5)),
    case("the remainder by a negative is negative", a % -3, -1, a=i64(5)),
    case("the remainder by zero is NULL", a % b, None, a=i64(5), b=i64(0)),
    case("the least integer leaves nothing over minus one", a % b, 0, a=i64(MIN), b=i64(-1)),
    case("a double beyond range is NULL", x * 10.0, None, x=f64(1e308)),
    case("and stays NULL in what follows", lit(1.0) / (x * 10.0), None, x=f64(1e308)),
    case("NaN in a column is NULL", x.is_null(), True, x=f64(math.nan)),
    case("infinity in a column is NULL", x.is_null(), True, x=f64(-math.inf)),
    case("minus zero in a column is zero", x, 0.0, x=f64(-0.0)),
    case("minus zero from a product is zero", x * -1.0, 0.0, x=f64(0.0)),
    case("minus zero from a negation is zero", -x, 0.0, x=f64(0.0)),
    case("minus zero from an underflow is zero", x * 1e-300, 0.0, x=f64(-1e-300)),
    case("a 32-bit float computes in 64 bits", x + 0.1, 0.1 + 0.10000000149011612,
         x=(Float32, 0.10000000149011612)),
    case("decimals add exactly", m + D("0.005"), 15, m=(Decimal(4, 2), 1)),
    case("a decimal and an integer add exactly", m + 1, 110, m=money(10)),
    case("a decimal sum beyond 18 digits is NULL", m + m, None, m=(Decimal(18, 0), 10**18 - 1)),
    case("a decimal times an integer is exact", m * 3, 30, m=money(10)),
    case("decimals multiply exactly", m * m, 2_2500, m=money(150)),
    case("a product of decimals beyond 18 digits is NULL", m * m, None, m=(Decimal(18, 2), 10**18 - 1)),
    case("decimals divide in doubles", m / 3, 0.1 / 3, m=money(10)),
    case("a decimal and a double make a double", m * 0.5, 0.05, m=money(10)),
    case("a decimal of 18 digits becomes a double by one division", m.cast(Float64),
         123456789012345678 / 10**7,
         m=(Decimal(18, 7), 123456789012345678)),
    case("a decimal equals an integer exactly", m == 2**53 + 1, False, m=(Decimal(18, 1), (2**53 + 2) * 10)),
    case("a large decimal and a large integer compare exactly", m < a, True,
         m=(Decimal(18, 18), 10**18 - 1), a=i64(MAX)),
    case("an integer and a double compare as doubles", a == x, True, a=i64(2**53 + 1), x=f64(2.0**53)),
    case("text compares by its UTF-8 bytes", s < "\U0001f600", True, s=text("\uffee")),
    case("capitals come before small letters", s < "a", True, s=text("B")),
    case("false is less than true", col("p") < lit(value=True), True, p=truth(False)),
    case("comparing with NULL gives NULL", a == 1, None, a=i64(None)),
    case("false and NULL is false", col("p") & col("q"), False, p=truth(False), q=truth(None)),
    case("true and NULL is NULL", col("p") & col("q"), None, p=truth(True), q=truth(None)),
    case("true or NULL is true", col("p") | col("q"), True, p=truth(True), q=truth(None)),
    case("false or NULL is NULL", col("p") | col("q"), None, p=truth(False), q=truth(None)),
    case("not NULL is NULL", ~col("p"), None, p=truth(None)),
    case("is_null is never NULL", a.is_null(), True, a=i64(None)),
    case("an empty text is not NULL", s.is_null(), False, s=text("")),
    case("fill_null puts a value for NULL", a.fill_null(7), 7, a=i64(None)),
    case("fill_null leaves what is there", a.fill_null(7), 1, a=i64(1)),
    case("fill_null keeps a decimal a decimal", m.fill_null(0), 10, m=money(10)),
    case("is_in finds", a.is_in([1, 2]), True, a=i64(2)),
    case("is_in of NULL is NULL", a.is_in([1, 2]), None, a=i64(None)),
    case("is_in nothing is false", a.is_in([]), False, a=i64(2)),
    case("is_in mixes numbers as doubles", a.is_in([1.5, 2]), True, a=i64(2)),
    case("between includes its ends", a.between(1, 2), True, a=i64(2)),
    case("when takes the first that is true", when(a > 1).then("x").when(a > 0).then("y").otherwise("z"), "x",
         a=i64(5)),
    case("a NULL condition is not true", when(a > 1).then("x").otherwise("z"), "z", a=i64(None)),
    case("otherwise NULL takes the type of the rest", when(a > 1).then(2.5).otherwise(None), None, a=i64(0)),
    case("branches meet in one type", when(a > 1).then(2.5).otherwise(a), 0.0, a=i64(0)),
    case("coalesce takes the first that is there", coalesce(a, b, 3), 2, a=i64(None), b=i64(2)),
    case("least skips NULL", least(a, b), 2, a=i64(None), b=i64(2)),
    case("greatest of nothing is NULL", greatest(a, b), None, a=i64(None), b=i64(None)),
    case("greatest mixes numbers as doubles", greatest(a, 1.5), 2.0, a=i64(2)),
    case("half rounds away from zero", x.round(), 3.0, x=f64(2.5)),
    case("below zero too", x.round(), -3.0, x=f64(-2.5)),
    case("a small negative rounds to zero, not minus zero", x.round(), 0.0, x=f64(-0.4)),
    case("rounding is a product, a floor and a quotient in doubles", x.round(2), 1.0, x=f64(1.005)),
    case("rounding that leaves the range on the way is NULL", x.round(2), None, x=f64(1e307)),
    case("a decimal rounds exactly", m.round(1), 2, m=money(15)),
    case("a negative decimal rounds away from zero", m.round(1), -2, m=money(-15)),
    case("a decimal of fewer digits stays", m.round(3), 15, m=money(15)),
    case("an integer rounds to itself", a.round(2), MAX, a=i64(MAX)),
    case("floor goes down", x.floor(), -2.0, x=f64(-1.5)),
    case("ceil of minus a half is zero", x.ceil(), 0.0, x=f64(-0.5)),
    case("floor of a decimal is a decimal", m.floor(), -2, m=money(-150)),
    case("ceil of a decimal may need a digit more", m.ceil(), 10, m=(Decimal(2, 1), 95)),
    case("lower knows A to Z alone", s.lower(), "abÉ", s=text("ABÉ")),
    case("upper knows a to z alone", s.upper(), "ABß", s=text("aBß")),
    case("length counts code points", s.length(), 3, s=text("e\u0301\U0001f600")),
    case("substring counts from zero", s.substring(1, 2), "bc", s=text("abcd")),
    case("substring counts code points", s.substring(1, 1), "\u0301", s=text("e\u0301\U0001f600")),
    case("substring ends where the text ends", s.substring(2, 9), "cd", s=text("abcd")),
    case("substring beyond the end is empty", s.substring(9, 2), "", s=text("abcd")),
    case("everything starts with nothing", s.starts_with(""), True, s=text("")),
    case("ends_with compares letters", s.ends_with("d%"), False, s=text("abcd")),
    case("contains knows no pattern", s.contains("b_"), False, s=text("abcd")),
    case("contains looks within", s.contains("bc"), True, s=text("abcd")),
    case("concat joins", concat(s, "-", s), "ab-ab", s=text("ab")),
    case("concat with NULL is NULL", s.concat("x"), None, s=text(None)),
    case("a quote in a constant is a quote", s == "it's", True, s=text("it's")),
    case("hash_bucket is MD5 of UTF-8", hash_bucket(s, 1000), int("66ddcd97cfdeabb", 16) % 1000, s=text("é")),
    case("hash_bucket of a number is that of its text", hash_bucket(a, 97), int("6bb61e3b7bce093", 16) % 97,
         a=i64(-1)),
    case("year is in UTC", t.year(), 1969, t=at("1969-12-31 23:59:59.999999")),
    case("hour before 1970 is right", t.hour(), 23, t=at("1969-12-31 23:59:59.999999")),
    case("minute before 1970 is right", t.minute(), 59, t=at("1969-12-31 23:59:59.999999")),
    case("day before 1970 is right", t.day(), 31, t=at("1969-12-31 23:59:59.999999")),
    case("month of a date", d.month(), 2, d=on("1900-02-28")),
    case("Monday is 1", d.day_of_week(), 1, d=on("2013-01-07")),
    case("Sunday is 7", t.day_of_week(), 7, t=at("2013-01-06 23:00:00")),
    case("epoch seconds have a fraction", t.epoch_seconds(), -0.5, t=at("1969-12-31 23:59:59.500000")),
    case("seconds between counts forwards", seconds_between(t, dt.datetime.fromisoformat("2013-01-01")), 0.25,
         t=at("2012-12-31 23:59:59.750000")),
    case("a time zone in a constant is honoured",
         t == dt.datetime.fromisoformat("2013-01-01T01:00:00+01:00"), True,
         t=at("2013-01-01 00:00:00")),
    case("a duration is added", t + hours(1), 0, t=at("1969-12-31 23:00:00")),
    case("a duration is taken away", t - days(1), -DAY, t=at("1970-01-01 00:00:00")),
    case("time beyond the year 9999 is NULL", t + seconds(1), None, t=at("9999-12-31 23:59:59.000001")),
    case("a column's time beyond the year 9999 is NULL", t.is_null(), True,
         t=(Timestamp, 253402300800000000)),
    case("a time becomes its day, before 1970 too", t.cast(Date), -1, t=at("1969-12-31 23:59:59")),
    case("a day becomes its midnight", d.cast(Timestamp), -DAY, d=on("1969-12-31")),
    case("a cast to integer cuts towards zero", x.cast(Int64), -1, x=f64(-1.9)),
    case("a double beyond 64 bits is no integer", x.cast(Int64), None, x=f64(2.0**63)),
    case("the least integer has a double", x.cast(Int64), MIN, x=f64(-(2.0**63))),
    case("a 64-bit integer may not fit 32", a.cast(Int32), None, a=i64(2**31)),
    case("a decimal cuts towards zero", m.cast(Int64), -1, m=money(-199)),
    case("an integer may not fit a decimal", a.cast(Decimal(4, 2)), None, a=i64(100)),
    case("a double becomes a decimal half away from zero", x.cast(Decimal(4, 1)), -23, x=f64(-2.25)),
    case("a double that does not fit a decimal is NULL", x.cast(Decimal(18, 2)), None, x=f64(1e300)),
    case("a decimal loses digits half away from zero", m.cast(Decimal(12, 1)), -2, m=money(-15)),
    case("a double beyond 32 bits is NULL", x.cast(Float32), None, x=f64(1e39)),
    case("the greatest double that rounds into 32 bits does", x.cast(Float32), 3.4028234663852886e38,
         x=f64(3.4028235e38)),
    case("a 32-bit underflow is zero", x.cast(Float32), 0.0, x=f64(-1e-60)),
    case("an integer becomes a 32-bit float by way of a double", a.cast(Float32), 2.0**53,
         a=i64(2**53 + 2**29 + 1)),
    case("text that is a number is one", s.cast(Int64), -42, s=text("-0042")),
    case("a plus sign is read", s.cast(Int64), 5, s=text("+5")),
    case("text with a blank is no number", s.cast(Int64), None, s=text(" 42")),
    case("text with a line end is no number", s.cast(Int64), None, s=text("42\n")),
    case("text with a point is no integer", s.cast(Int64), None, s=text("4.0")),
    case("text with an exponent is no integer", s.cast(Int64), None, s=text("1e3")),
    case("hexadecimal text is no integer", s.cast(Int64), None, s=text("0x10")),
    case("text beyond 64 bits is no integer", s.cast(Int64), None, s=text("9223372036854775808")),
    case("an empty text is no number", s.cast(Float64), None, s=text("")),
    case("text becomes the nearest double", s.cast(Float64), 0.1, s=text("+0.1")),
    case("text with an exponent is a double", s.cast(Float64), -1500.0, s=text("-1.5E+3")),
    case("text that says inf is no double", s.cast(Float64), None, s=text("inf")),
    case("text beyond the doubles is NULL", s.cast(Float64), None, s=text("1e999")),
    case("text below the doubles is zero", s.cast(Float64), 0.0, s=text("-1e-999")),
    case("text becomes a decimal", s.cast(Decimal(6, 2)), -50, s=text("-0.5")),
    case("text with digits a decimal has no room for is NULL", s.cast(Decimal(6, 2)), None, s=text("0.125")),
    case("text becomes a truth", s.cast(Bool), True, s=text("true")),
    case("other text does not", s.cast(Bool), None, s=text("TRUE")),
    case("text becomes a time", s.cast(Timestamp), 500_000, s=text("1970-01-01T00:00:00.5Z")),
    case("30 February is no time", s.cast(Timestamp), None, s=text("1970-02-30 00:00:00")),
    case("hour 24 is no time", s.cast(Timestamp), None, s=text("1970-01-01 24:00:00")),
    case("the year 0 is no time", s.cast(Timestamp), None, s=text("0000-01-01 00:00:00")),
    case("text becomes a date", s.cast(Date), -1, s=text("1969-12-31")),
    case("a date with a time is no date", s.cast(Date), None, s=text("1969-12-31 00:00:00")),
    case("an integer becomes text", a.cast(String), str(MIN), a=i64(MIN)),
    case("a decimal becomes text with all its digits", m.cast(String), "-0.05", m=money(-5)),
    case("a decimal without whole digits has a zero before its point", m.cast(String), "0.5",
         m=(Decimal(1, 1), 5)),
    case("a truth becomes text", col("p").cast(String), "false", p=truth(False)),
    case("a truth becomes a number", col("p").cast(Int64) + 1, 2, p=truth(True)),
    case("a column's name may hold quotes", col('a "b"') + 1, 2, **{'a "b"': i64(1)}),
    case("a column may be called as the inside of a leaf is",
         (col("v") * 2.0 + col("v") * 3.0) * col("v").abs() / 7.0,
         (2.0 * 2.0 + 2.0 * 3.0) * 2.0 / 7.0, v=f64(2.0)),
    case("constants alone are enough", lit(2) * 3, 6),
    case("a NULL with a type is a value", lit(None, Decimal(4, 2)).is_null(), True),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("engine", ["python", "duckdb", "numpy"])
def test_every_engine_gives(case: Sentence, engine: str, connection: duckdb.DuckDBPyConnection) -> None:
    schema = {name: dtype for name, dtype, _ in case.columns}
    row = {name: value for name, _, value in case.columns}
    node = case.expression.node
    if engine == "duckdb":
        got = in_duckdb(connection, node, schema, [row])
    else:
        got = (in_python if engine == "python" else in_numpy)(node, schema, [row])
    assert bits(got) == bits([case.want])


# ── random expressions over random rows ─────────────────────────────────────────────────────────────────────

SCHEMA: dict[str, DType] = {
    "i": Int64, "j": Int64, "k": Int32,
    "x": Float64, "y": Float64, "f": Float32,
    "m": Decimal(12, 2), "w": Decimal(18, 6), "u": Decimal(18, 18), "g": Decimal(17, 0),
    "s": String, "v": String,
    "p": Bool, "q": Bool,
    "t": Timestamp, "o": Timestamp,
    "d": Date, "e": Date,
}  # fmt: skip

MIN_T, MAX_T = -62135596800000000, 253402300799999999
INTS = [
    0,
    1,
    -1,
    2,
    -2,
    3,
    7,
    -7,
    10,
    2**31 - 1,
    -(2**31),
    2**53,
    2**53 + 1,
    MAX,
    MIN,
    MAX - 1,
    MIN + 1,
    10**18,
]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.1, 1.005, 1e15, 2.0**53, 2.0**63, -(2.0**63),
          1e18, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf, 0.49999999999999994,
          4503599627370497.5]  # fmt: skip
TEXTS = ["", "a", "B", "abc", "ABC", "é", "É", "e\u0301", "\U0001f600", "\uffee", "it's", "1", "-1", "+1",
         "1.5", "1e3", " 1", "0x1", "true", "1970-01-01",
         "1969-12-31 23:59:59.5", "2013-02-29T00:00:00", "9" * 19, "%_", "NaN",
         "inf", "1_000", "9007199254740993"]  # fmt: skip
TIMES = [0, -1, 1, -DAY, DAY - 1, MIN_T, MAX_T, MAX_T + 1, MIN_T - 1, 1357017300000000, -2208988800000001]
DATES = [0, -1, 1, 59, -719162, 2932896, 2932897, 15706, -25509]


def values_of(dtype: DType) -> st.SearchStrategy[Physical]:
    if isinstance(dtype, DecimalType):
        most = 10**dtype.precision - 1
        edges = [0, 1, -1, 5, -5, 15, 50, -50, most, -most, most // 2, 10**dtype.scale]
        return st.none() | st.sampled_from([e for e in edges if abs(e) <= most]) | st.integers(-most, most)
    strategies: dict[DType, st.SearchStrategy[Physical]] = {
        Int64: st.sampled_from(INTS) | st.integers(MIN, MAX),
        Int32: st.sampled_from([n for n in INTS if -(2**31) <= n < 2**31]),
        Float64: st.sampled_from(FLOATS) | st.floats(),
        Float32: st.floats(width=32),
        String: st.sampled_from(TEXTS)
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6),
        Bool: st.booleans(),
        Timestamp: st.sampled_from(TIMES) | st.integers(MIN_T, MAX_T),
        Date: st.sampled_from(DATES),
    }
    return st.none() | strategies[dtype]


ROWS = st.lists(st.fixed_dictionaries({n: values_of(t) for n, t in SCHEMA.items()}), min_size=1, max_size=5)
NUMBER_KINDS = ["int", "float", "decimal"]
KINDS = [*NUMBER_KINDS, "text", "bool", "time", "date"]
LEAF_COLUMNS = {
    "int": "ijk",
    "float": "xyf",
    "decimal": "mwug",
    "text": "sv",
    "bool": "pq",
    "time": "to",
    "date": "de",
}


@st.composite
def constants(draw: st.DrawFn, kind: str) -> Expression:
    match kind:
        case "int":
            return lit(draw(st.sampled_from(INTS)))
        case "float":
            return lit(
                draw(
                    st.sampled_from([f for f in FLOATS if math.isfinite(f)])
                    | st.floats(allow_nan=False, allow_infinity=False)
                )
            )
        case "decimal":
            return lit(
                draw(st.sampled_from([D(0), D("0.5"), D("-1.25"), D(100), D("0.001"), D("99999.99999")]))
            )
        case "text":
            return lit(draw(st.sampled_from(TEXTS)))
        case "bool":
            return lit(draw(st.booleans()))
        case "time":
            return lit(draw(st.datetimes()))
        case _:
            return lit(draw(st.dates()))


@dataclass(frozen=True)
class Grow:
    """Draws the parts of an expression."""

    draw: st.DrawFn
    depth: int

    def of(self, *kinds: str) -> Expression:
        return self.draw(expressions(self.any(*kinds), self.depth - 1))

    def any(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def call(self, function: str, *kinds: str) -> Expression:
        return Expression(Call(function, tuple(self.of(kind).node for kind in kinds)))

    def compared(self) -> Expression:
        one = self.any(*KINDS)
        other = self.any(*NUMBER_KINDS) if one in NUMBER_KINDS else one
        return self.call(self.any("eq", "ne", "lt", "le", "gt", "ge"), one, other)

    def found(self) -> Expression:
        one = self.any(*KINDS)
        return self.of(one).is_in([self.draw(constants(one)) for _ in range(self.any(0, 1, 2, 3))])

    def between(self) -> Expression:
        one = self.any(*KINDS)
        return self.of(one).between(self.of(one), self.of(one))


DURATIONS = (seconds(1), hours(1), days(36500))
DECIMALS = (Decimal(18, 2), Decimal(18, 18), Decimal(5, 1), Decimal(9, 0))

GROWTHS: dict[str, list[Callable[[Grow], Expression]]] = {
    "int": [
        lambda g: g.call(g.any("add", "sub", "mul"), "int", "int"),
        lambda g: g.call(g.any("floordiv", "mod"), "int", "int"),
        lambda g: g.of("int") // g.any(1, 7, -7, MAX, MIN),
        lambda g: g.of("int") % g.any(1, 7, -7, MAX, MIN),
        lambda g: g.call(g.any("neg", "abs", "floor", "ceil"), "int").round(2),
        lambda g: g.of("int", "float", "decimal", "text", "bool").cast(g.any(Int64, Int32)),
        lambda g: g.call(g.any("year", "month", "day", "hour", "minute", "day_of_week"), "time"),
        lambda g: g.call(g.any("year", "month", "day", "day_of_week"), "date"),
        lambda g: g.of("text").length(),
        lambda g: hash_bucket(g.of("text", "int"), g.any(1, 2, 97, 2**31 - 1)),
    ],
    "float": [
        lambda g: g.call(g.any("add", "sub", "mul"), "float", g.any(*NUMBER_KINDS)),
        lambda g: g.call(g.any("sub", "mul"), g.any(*NUMBER_KINDS), "float"),
        lambda g: g.of(*NUMBER_KINDS) / g.of(*NUMBER_KINDS),
        lambda g: g.call(g.any("neg", "abs", "floor", "ceil"), "float"),
        lambda g: g.of("float").round(g.any(*range(10))),
        lambda g: g.of("int", "float", "decimal", "text", "bool").cast(g.any(Float64, Float32)),
        lambda g: seconds_between(g.of("time"), g.of("time")),
        lambda g: g.of("time").epoch_seconds(),
    ],
    "decimal": [
        lambda g: g.call(g.any("add", "sub", "mul"), "decimal", g.any("decimal", "int")),
        lambda g: g.call(g.any("add", "sub", "mul"), "int", "decimal"),
        lambda g: g.call(g.any("neg", "abs", "floor", "ceil"), "decimal"),
        lambda g: g.of("decimal").round(g.any(*range(10))),
        lambda g: g.of("int", "float", "decimal", "text").cast(g.any(*DECIMALS)),
    ],
    "text": [
        lambda g: g.call(g.any("lower", "upper"), "text"),
        lambda g: g.of("text").substring(g.any(0, 1, 2, 9), g.any(0, 1, 2, 9)),
        lambda g: concat(g.of("text"), g.of("text")),
        lambda g: g.of("int", "decimal", "bool").cast(String),
    ],
    "bool": [
        Grow.compared,
        Grow.found,
        Grow.between,
        lambda g: g.call(g.any("and", "or"), "bool", "bool"),
        lambda g: ~g.of("bool"),
        lambda g: g.call(g.any("is_null", "is_not_null"), g.any(*KINDS)),
        lambda g: g.call(g.any("starts_with", "ends_with", "contains"), "text", "text"),
        lambda g: g.of("text").cast(Bool),
    ],
    "time": [
        lambda g: g.of("time") + g.any(*DURATIONS),
        lambda g: g.of("time") - g.any(*DURATIONS),
        lambda g: g.of("date", "text").cast(Timestamp),
    ],
    "date": [lambda g: g.of("time", "text").cast(Date)],
}


@st.composite
def expressions(draw: st.DrawFn, kind: str, depth: int) -> Expression:
    """An expression of that kind of type; only a decimal may be ill typed, by needing too many digits."""
    grow = Grow(draw, depth)
    if depth == 0 or grow.any(0, 1, 2, 3, 4, 5) == 0:
        return draw(constants(kind)) if grow.any(0, 1, 2, 3) == 0 else col(grow.any(*LEAF_COLUMNS[kind]))
    match grow.any("own", "own", "own", "own", "case", "coalesce", "least", "greatest"):
        case "own":
            build: Callable[[Grow], Expression] = grow.any(*GROWTHS[kind])
            return build(grow)
        case "case":
            first = when(grow.of("bool")).then(grow.of(kind))
            return first.when(grow.of("bool")).then(None).otherwise(grow.of(kind))
        case chooser:
            return grow.call(chooser, kind, kind)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(expression=st.sampled_from(KINDS).flatmap(lambda kind: expressions(kind, 3)), rows=ROWS)
def test_random_expressions_agree_to_the_bit(
    connection: duckdb.DuckDBPyConnection, expression: Expression, rows: list[dict[str, Physical]]
) -> None:
    node = expression.node
    try:
        infer(node, SCHEMA)
    except ExprError:
        assume(False)
    want = bits(in_python(node, SCHEMA, rows))
    assert bits(in_duckdb(connection, node, SCHEMA, rows)) == want
    assert bits(in_numpy(node, SCHEMA, rows)) == want
    assert from_json(json.loads(json.dumps(to_json(node)))) == node


def test_text_grows_with_the_expression_and_not_faster(connection: duckdb.DuckDBPyConnection) -> None:
    """Copies of operands would double the text at every level."""
    schema: dict[str, DType] = {"x": Float64, "a": Int64, "b": Int64}
    product, quotient = x, a
    for _ in range(40):
        product, quotient = product * x + 1.5, quotient // b - 1
    rows: list[dict[str, Physical]] = [{"x": 0.75, "a": MAX, "b": 1}, {"x": -3.5, "a": 17, "b": -1}]
    for node in (product.node, quotient.node):
        assert len(expr_sql(node, schema, DUCKDB)) < 40 * 500
        want = bits(in_python(node, schema, rows))
        assert bits(in_duckdb(connection, node, schema, rows)) == bits(in_numpy(node, schema, rows)) == want


# ── on-demand functions, which NumPy alone evaluates ─────────────────────────────────────────────────────────

ONE = {"x": Float64}
PAIR = {"x": Float64, "y": Float64}
ON_DEMAND: dict[str, Expression] = {
    "exp": exp(x),
    "ln": ln(x),
    "log10": log10(x),
    "sqrt": sqrt(x),
    "sin": sin(x),
    "cos": cos(x),
    "tanh": tanh(x),
    "pow": pow(x, col("y")),
}


def evaluated(expression: Expression, **columns: Any) -> tuple[Any, Any]:
    """Values and mask over columns of doubles without NULLs."""
    arrays = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    program = compile_expression(expression.node, dict.fromkeys(arrays, Float64))
    return program.evaluate({name: (values, None) for name, values in arrays.items()}, len(arrays["x"]))


@pytest.mark.parametrize(
    ("expression", "value", "want"),
    [
        (exp(x), 710.0, None),
        (exp(x), -800.0, 0.0),
        (exp(x), 0.0, 1.0),
        (ln(x), 0.0, None),
        (ln(x), -1.0, None),
        (ln(x), 1.0, 0.0),
        (log10(x), 0.0, None),
        (log10(x), 1e-5, -5.0),
        (log10(x), 1e22, 22.0),
        (sqrt(x), -1.0, None),
        (sqrt(x), 2.0, math.sqrt(2.0)),
        (pow(x, -1), 0.0, None),
        (pow(x, 0), 0.0, 1.0),
        (pow(x, 0.5), -4.0, None),
        (pow(x, 3), -2.0, -8.0),
        (pow(x, 3), 0.0, 0.0),
        (pow(x, 400), 10.0, None),
        (pow(x, -400), 10.0, 0.0),
        (pow(x, 10), 2.0, 1024.0),
        (pow(x, 1e300), 1.0, 1.0),
        (sin(x), 0.0, 0.0),
        (sin(x), 1e22, -0.8522008497671888),
        (cos(x), 6381956970095103 * 2.0**797, -4.687165924254628e-19),
        (tanh(x), 1e300, 1.0),
        (tanh(x), -1e300, -1.0),
        (exp(ln(x)), -1.0, None),
        (sqrt(-x) + 0.0, 0.0, 0.0),
    ],
    ids=repr,
)
@pytest.mark.parametrize("rows", [1, 50])
def test_beyond_its_domain_a_function_is_null(
    expression: Expression, value: float, want: float | None, rows: int
) -> None:
    values, valid = evaluated(expression, x=[value] * rows)
    got = [v if there else None for v, there in zip(values.tolist(), valid.tolist(), strict=True)]
    assert bits(got) == bits([want] * rows)


@pytest.mark.parametrize(
    ("name", "truth", "ulps", "low", "high"),
    [
        ("exp", D.exp, 1, -708, 709),
        ("exp", D.exp, 1, -2, 2),
        ("ln", D.ln, 1, 1e-3, 2),
        ("ln", D.ln, 1, 1e-300, 1e300),
        ("log10", D.log10, 1, 1e-3, 2),
        ("log10", D.log10, 1, 1e-300, 1e300),
        ("sqrt", D.sqrt, 0.5, 0, 1e300),
        ("tanh", lambda v: ((2 * v).exp() - 1) / ((2 * v).exp() + 1), 1.5, -3, 3),
    ],
)
def test_the_error_is_below_one_unit_in_the_last_place(
    name: str, truth: Callable[[D], D], ulps: float, low: float, high: float
) -> None:
    given = np.random.default_rng(5).uniform(low, high, 500)
    values, valid = evaluated(ON_DEMAND[name], x=given)
    assert valid.all()
    with decimal.localcontext() as context:
        context.prec = 40
        for v, got in zip(given.tolist(), values.tolist(), strict=True):
            want = truth(D(v))
            assert abs(D(got) - want) <= D(ulps) * D(math.ulp(float(want))), v


def test_powers_are_right_to_one_unit_in_the_last_place() -> None:
    random = np.random.default_rng(5)
    given, powers = np.exp(random.uniform(-50, 50, 500)), random.uniform(-12, 12, 500)
    values, _ = evaluated(ON_DEMAND["pow"], x=given, y=powers)
    with decimal.localcontext() as context:
        context.prec = 40
        for v, p, got in zip(given.tolist(), powers.tolist(), values.tolist(), strict=True):
            want = D(v) ** D(p)
            assert abs(D(got) - want) <= D(math.ulp(float(want))), (v, p)


@pytest.mark.parametrize(("name", "truth"), [("sin", math.sin), ("cos", math.cos)])
@pytest.mark.parametrize("reach", [1.0, 100.0, 1e6, 1e15])
def test_waves_are_pythons_to_one_unit_in_the_last_place(
    name: str, truth: Callable[[float], float], reach: float
) -> None:
    given = np.random.default_rng(5).uniform(-reach, reach, 2000)
    values, _ = evaluated(ON_DEMAND[name], x=given)
    for v, got in zip(given.tolist(), values.tolist(), strict=True):
        assert abs(got - truth(v)) <= math.ulp(truth(v)), v


EDGES = [
    0.0,
    1.0,
    -1.0,
    0.5,
    0.625,
    22.0,
    1e-300,
    5e-324,
    1e6,
    -1e6,
    1e22,
    1e308,
    -1e308,
    709.78,
    -745.0,
    math.pi,
]


@pytest.mark.parametrize("name", ON_DEMAND)
def test_a_value_does_not_depend_on_the_rows_around_it(name: str) -> None:
    random = np.random.default_rng(5)
    given = np.concatenate([random.normal(0, 8, 32), EDGES, np.exp(random.normal(0, 9, 32))])
    columns = {"x": given, "y": random.permutation(given)}
    program = compile_expression(ON_DEMAND[name].node, PAIR)

    def bytes_of(rows: int, **parts: Any) -> tuple[bytes, bytes]:
        values, valid = program.evaluate({n: (part, None) for n, part in parts.items()}, rows)
        return values.tobytes(), valid.tobytes()

    all_values, all_valid = program.evaluate({n: (c, None) for n, c in columns.items()}, len(given))
    for offset in range(17):
        for rows in range(1, 41):
            part = slice(offset, offset + rows)
            want = all_values[part].tobytes(), all_valid[part].tobytes()
            assert bytes_of(rows, **{n: c[part] for n, c in columns.items()}) == want
    backwards = {n: c[::-1] for n, c in columns.items()}
    assert bytes_of(len(given), **backwards) == (all_values[::-1].tobytes(), all_valid[::-1].tobytes())
    spread = {n: np.repeat(c, 3)[::3] for n, c in columns.items()}
    assert bytes_of(len(given), **spread) == (all_values.tobytes(), all_valid.tobytes())
    many = {n: np.tile(c, 200) for n, c in columns.items()}
    assert bytes_of(200 * len(given), **many) == (all_values.tobytes() * 200, all_valid.tobytes() * 200)


def test_a_constant_argument_gives_the_bits_of_a_column() -> None:
    """NumPy squares where it sees the power 2; a general power may round otherwise."""
    given = np.random.default_rng(5).uniform(0, 50, 100)
    for power in (2.0, 0.5, -1.0, 3.0):
        alone, _ = evaluated(pow(x, power), x=given)
        column, _ = evaluated(pow(x, col("y")), x=given, y=[power] * 100)
        assert alone.tobytes() == column.tobytes()


def test_what_has_a_whole_answer_is_exact() -> None:
    tens = np.arange(-300, 309)
    assert evaluated(log10(x), x=[float(f"1e{n}") for n in tens])[0].tolist() == tens.tolist()
    pairs = [(base, n) for base in range(40) for n in range(12) if base**n < 2**53]
    powers, _ = evaluated(pow(x, col("y")), x=[base for base, _ in pairs], y=[n for _, n in pairs])
    assert powers.tolist() == [base**n for base, n in pairs]


def test_the_bits_are_those_of_every_machine() -> None:
    """Written down once: another processor, NumPy or C library must give them again."""
    given = np.arange(1, 4001) / 64.0
    digest = hashlib.sha256()
    for name in sorted(ON_DEMAND):
        values, valid = evaluated(ON_DEMAND[name], x=given, y=given[::-1] / 32.0 - 0.7)
        digest.update(values.astype("<f8").tobytes() + valid.tobytes())
    assert digest.hexdigest()[:16] == "dbf52a17cfdffdb1"


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(inner=expressions("float", 2), name=st.sampled_from(sorted(ON_DEMAND)), rows=ROWS)
def test_random_on_demand_expressions_do_not_depend_on_the_rows_around(
    inner: Expression, name: str, rows: list[dict[str, Physical]]
) -> None:
    node = substitute(ON_DEMAND[name].node, {"x": inner.node})
    try:
        program = compile_expression(node, SCHEMA)
    except ExprError:
        assume(False)
    many = rows * 10
    values, valid = program.evaluate(garbled(physical(many, SCHEMA)), len(many))
    assert np.isfinite(values).all()
    for i, row in enumerate(rows):
        alone, there = program.evaluate(physical([row], SCHEMA), 1)
        assert set(bits(values[i :: len(rows)].tolist())) == set(bits(alone.tolist()))
        assert (valid[i :: len(rows)] == there).all()


DOUBLES = st.floats(allow_nan=False, allow_infinity=False).map(lambda v: v + 0.0) | st.floats(-50, 50).map(
    lambda v: v + 0.0
)


@pytest.mark.parametrize("name", sorted(ON_DEMAND))
@given(values=st.lists(st.tuples(DOUBLES, DOUBLES), min_size=1, max_size=20))
def test_plain_python_gives_the_same_on_demand_to_a_few_last_bits(
    name: str, values: list[tuple[float, float]]
) -> None:
    node = ON_DEMAND[name].node
    found, valid = evaluated(ON_DEMAND[name], x=[a for a, _ in values], y=[b for _, b in values])
    reference = rowwise.evaluator(node, PAIR, on_demand=True)
    for got, there, (a, b) in zip(found.tolist(), valid.tolist(), values, strict=True):
        want = reference({"x": a, "y": b})
        assert (want is not None) == there, (a, b)
        if want is not None:
            assert abs(got - float(want)) <= 3 * math.ulp(float(want)), (a, b)


def test_plain_python_is_told_the_moment_asked_for() -> None:
    value = rowwise.evaluator(seconds_between(t, as_of()).node, {"t": Timestamp}, on_demand=True)
    assert value({"t": 1_000_000, rowwise.AS_OF: 2_500_000}) == 1.5
    assert value({"t": None, rowwise.AS_OF: 2_500_000}) is None


def test_as_of_is_one_time_or_one_for_each_row() -> None:
    program = compile_expression(seconds_between(t, as_of()).node, {"t": Timestamp})
    assert program.needs_as_of
    columns: Columns = {"t": (np.array([0, 1_000_000, 7]), np.array([True, True, False]))}
    values, valid = program.evaluate(columns, 3, 2_500_000)
    assert (values.tolist(), valid.tolist()) == ([2.5, 1.5, 0.0], [True, True, False])
    values, _ = program.evaluate(columns, 3, np.array([0, 1_000_000, 2_000_000]))
    assert values.tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="as_of"):
        program.evaluate(columns, 3)
    hour = compile_expression(as_of().hour().node, {})
    assert hour.evaluate({}, 2, DAY - 1)[0].tolist() == [23, 23]


def test_a_program_says_what_it_reads_and_takes_columns_as_they_come() -> None:
    program = compile_expression((a / b + 1.0).node, {"a": Int64, "b": Int64, "s": String})
    assert program.columns == {"a", "b"}
    assert program.dtype == Float64
    assert not program.needs_as_of
    whole = np.array([1, 2, 3])
    assert program.evaluate({"a": (whole, None), "b": (np.array([2]), None)}, 3)[0].tolist() == [
        1.5,
        2.0,
        2.5,
    ]
    nothing = np.zeros(0, np.int64)
    values, valid = program.evaluate({"a": (nothing, None), "b": (nothing, nothing.astype(np.bool_))}, 0)
    assert values.dtype == np.float64
    assert len(values) == len(valid) == 0
    with pytest.raises(ValueError, match="column 'b' has 2 values for 3 rows"):
        program.evaluate({"a": (whole, None), "b": (whole[:2], None)}, 3)
    with pytest.raises(KeyError):
        program.evaluate({"a": (whole, None)}, 3)
    for constant, want in ((lit(2) * 3, 6), (lit("a").upper(), "A"), (lit(2) / 0, 0.0)):
        assert compile_expression(constant.node, {}).evaluate({}, 2)[0].tolist() == [want, want]


def test_common_parts_are_computed_once() -> None:
    ratio = x / col("y")
    program = compile_expression(when(ratio > 1.0).then(ratio).otherwise(-ratio).node, PAIR)
    assert len(program._steps) == 4


def test_lists_are_chosen_among_and_nothing_else() -> None:
    schema: dict[str, DType] = {"a": List(Int64), "b": List(Int64)}
    lists = np.empty(2, object)
    lists[:] = [[1, 2], None]
    other = np.empty(2, object)
    other[:] = [[3], [4, 5]]
    columns: Columns = {"a": (lists, np.array([True, False])), "b": (other, None)}
    assert compile_expression(coalesce(a, b).node, schema).evaluate(columns, 2)[0].tolist() == [
        [1, 2],
        [4, 5],
    ]
    assert compile_expression(a.is_null().node, schema).evaluate(columns, 2)[0].tolist() == [False, True]
    for refused in (a + 1, exp(a), a == b, a.length(), least(a, b), a.cast(String)):
        with pytest.raises(ExprError):
            compile_expression(refused.node, schema)
    with pytest.raises(ExprError, match="on-demand expressions only"):
        compile_expression(exp(x).node, ONE, on_demand=False)


# ── what is written, and what is refused ────────────────────────────────────────────────────────────────────

WORDS: dict[str, DType] = {
    "amount": Decimal(12, 2), "fee": Float64, "count": Int64, "name": String, "at": Timestamp, "day": Date,
    "open": Bool, "wide": Decimal(30, 10), "list": List(Int64),
}  # fmt: skip


def problems(expression: Expression, schema: Mapping[str, DType] = WORDS) -> str:
    with pytest.raises(ExprError) as caught:
        infer(expression.node, schema)
    return str(caught.value)


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        (col("amonut") + 1, ["unknown column 'amonut'", "did you mean 'amount'?"]),
        (
            Expression(Call("coalesc", (Column("fee"),))),
            ["unknown function 'coalesc'", "did you mean 'coalesce'?"],
        ),
        (col("name") + 1, ["name + 1: + needs numbers, not String", ".concat("]),
        (col("at") - col("at"), ["needs numbers, not Timestamp", "seconds_between(a, b)"]),
        (col("day") > "2013-01-01", ["cannot compare Date and String", "datetime.date(2013, 1, 31)"]),
        (col("day") > col("at"), ["cannot compare Date and Timestamp", ".cast(Date)"]),
        (col("fee") // 2, ["// needs integers, not Float64", ".cast(Int64)"]),
        (col("fee") & col("open"), ["& needs Bool, not Float64 and Bool", "x != 0"]),
        (when(col("count")).then(1).otherwise(2), ["a condition is Bool, not Int64", "x > 0"]),
        (when(col("open")).then(1).otherwise("x"), ["cannot give Int64 and String as one type", ".cast("]),
        (when(col("open")).then(None).otherwise(None), ["NULL in every case", "lit(None, Float64)"]),
        (coalesce(col("fee"), None), ["a NULL here has no type", "lit(None, Float64)"]),
        (
            coalesce(col("amount"), col("count")),
            ["as one Decimal of 18 digits", "cast them to one Decimal(p, s)"],
        ),
        (col("fee").cast(String), ["Float64 has no text", "Decimal"]),
        (col("fee").cast(Bool), ["Float64 is no truth", "x != 0"]),
        (col("at").cast(Int64), ["Timestamp cannot become Int64", ".epoch_seconds()"]),
        (col("fee").cast(Decimal(20, 2)), ["at most 18 digits"]),
        (col("wide") + 1, ["expressions keep 18 digits", "declare the column as Decimal(18, 10)"]),
        (
            col("amount").cast(Decimal(18, 12)) * col("amount").cast(Decimal(18, 12)),
            ["24 digits after the point"],
        ),
        (sqrt(col("fee")), ["sqrt is for on-demand expressions only", "OnDemand"]),
        (seconds_between(col("at"), as_of()), ["as_of is for on-demand expressions only"]),
        (col("name").substring(-1, 2), ["start must be from 0", "not -1"]),
        (col("fee").round(10), ["digits must be from 0 to 9, not 10"]),
        (hash_bucket(col("name"), 0), ["n must be from 1"]),
        (hash_bucket(col("fee"), 5), ["hashes String and integers, not Float64"]),
        (col("count").lower(), ["needs String, not Int64", ".cast(String)"]),
        (col("day").hour(), ["needs a Timestamp, not Date"]),
        (col("fee").year(), ["needs a Timestamp or a Date, not Float64"]),
        (col("day") + hours(1), ["adds a duration to a Timestamp, not to Date", ".cast(Timestamp)"]),
        (col("count").is_in([1, None]), ["a NULL here has no type"]),
        (greatest(col("list"), col("list")), ["needs values with an order"]),
        (Expression(Call("add", (Column("fee"),))), ["a + b takes 2 arguments, not 1"]),
        (Expression(Case((), Column("fee"))), ["needs at least one condition"]),
    ],
    ids=lambda value: repr(value) if isinstance(value, Expression) else "",
)
def test_a_mistake_says_what_would_work(expression: Expression, wanted: list[str]) -> None:
    message = problems(expression)
    for part in wanted:
        assert part in message


def test_all_mistakes_are_reported_at_once() -> None:
    message = problems(
        when(col("opne")).then(col("nmae") + 1).otherwise(sqrt(col("fee")) + col("fee").cast(Bool))
    )
    for part in ("'opne'", "'open'", "'nmae'", "'name'", "sqrt", "no truth"):
        assert part in message


def test_one_mistake_made_twice_is_reported_once() -> None:
    assert problems(col("feee") + col("feee")).count("unknown column") == 1


def test_on_demand_expressions_may_use_every_function() -> None:
    assert infer(seconds_between(col("at"), as_of()).node, WORDS, on_demand=True) == Float64
    assert infer(sqrt(col("count")).node, WORDS, on_demand=True) == Float64


@pytest.mark.parametrize(
    ("expression", "dtype"),
    [
        (col("amount"), Decimal(12, 2)),
        (col("amount") + col("amount"), Decimal(13, 2)),
        (col("amount") + 1, Decimal(18, 2)),
        (col("amount") * col("amount"), Decimal(18, 4)),
        (col("amount") / 2, Float64),
        (col("amount").round(1), Decimal(12, 1)),
        (col("amount").floor(), Decimal(11, 0)),
        (col("amount").fill_null(0), Decimal(12, 2)),
        (coalesce(col("count"), 1.5), Float64),
        (col("list").is_null(), Bool),
        (coalesce(col("list"), col("list")), List(Int64)),
        (col("at") - days(7), Timestamp),
    ],
    ids=repr,
)
def test_types(expression: Expression, dtype: DType) -> None:
    assert infer(expression.node, WORDS) == dtype


def test_nodes_are_compared_and_hashed_by_structure() -> None:
    assert (col("x") + 1).node == (col("x") + 1).node
    assert len({(col("x") + 1).node, (col("x") + 1).node, (col("x") + 1.0).node}) == 2
    assert lit(1).node != lit(value=True).node


def test_an_expression_has_no_truth() -> None:
    with pytest.raises(TypeError, match=r"use & \| ~"):
        bool(col("x") > 1)
    with pytest.raises(TypeError, match="between"):
        _ = 1 < col("x") < 2
    with pytest.raises(TypeError, match="is_in"):
        _ = 1 in col("x")
    with pytest.raises(TypeError):
        hash(col("x"))


def test_plain_values_are_constants_in_operators_and_columns_in_aggregates() -> None:
    assert as_expr("x").node == Literal("x", String)
    assert column_or_expression("x").node == Column("x")
    assert (col("y") == "x").node == Call("eq", (Column("y"), Literal("x", String)))
    assert (1 - col("y")).node == Call("sub", (Literal(1, Int64), Column("y")))
    with pytest.raises(TypeError, match=re.escape("write col('x')")):
        hash_bucket("x", 5)
    with pytest.raises(TypeError, match="otherwise"):
        as_expr(when(col("x") > 1).then(2))


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (D("1.50"), Literal(150, Decimal(3, 2))),
        (D("-0.05"), Literal(-5, Decimal(2, 2))),
        (D("1e3"), Literal(1000, Decimal(4, 0))),
        (D(0), Literal(0, Decimal(1, 0))),
        (dt.datetime.fromisoformat("1969-12-31 23:59:59"), Literal(-1_000_000, Timestamp)),
        (dt.datetime(1970, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))), Literal(0, Timestamp)),
        (dt.date(1969, 12, 31), Literal(-1, Date)),
        (-0.0, Literal(0.0, Float64)),
    ],
    ids=repr,
)
def test_constants_are_physical(value: object, want: Literal) -> None:
    node = lit(value).node
    assert node == want
    assert repr(node) == repr(want)


@pytest.mark.parametrize(
    "value", [2**63, math.nan, math.inf, "a\0b", "\ud800", D("NaN"), D("1e18"), [1], object()]
)
def test_what_is_no_constant_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        lit(value)


def test_a_constant_takes_another_type_only_exactly() -> None:
    assert lit(3, Decimal(5, 2)).node == Literal(300, Decimal(5, 2))
    assert lit(3, Float64).node == Literal(3.0, Float64)
    for value, dtype in (
        (1000, Decimal(5, 2)),
        (2**53 + 1, Float64),
        (2**31, Int32),
        ("x", Int64),
        (D("0.5"), Int64),
    ):
        with pytest.raises((TypeError, ValueError)):
            lit(value, dtype)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_json_reads_back(case: Sentence) -> None:
    node = case.expression.node
    assert from_json(json.loads(json.dumps(to_json(node)))) == node


@pytest.mark.parametrize(
    "obj",
    [{}, 5, {"column": 1}, {"call": "add"}, {"column": "x", "more": 1}, {"literal": 1, "type": "Int65"}],
)
def test_json_that_is_no_expression_is_refused(obj: object) -> None:
    with pytest.raises(ValueError, match=r"not an? "):
        from_json(obj)


@pytest.mark.parametrize(
    ("expression", "want"),
    [
        (col("amount") * D("1.2") > col("fee"), "(amount * 1.2) > fee"),
        (~(col("a").is_null() | (col("b") == "x")), "~(a.is_null() | (b == 'x'))"),
        (col("at") - days(7), "at - 7d"),
        (when(col("a") > 0).then(1).otherwise(None), "when(a > 0).then(1).otherwise(NULL)"),
        (col("a").cast(Decimal(5, 2)).round(1), "a.cast(Decimal(5, 2)).round(1)"),
        (col("d").is_in([dt.date(2013, 1, 2)]), "d.is_in(['2013-01-02'])"),
        (coalesce(-col("a"), 0), "coalesce(-a, 0)"),
    ],
    ids=repr,
)
def test_descriptions_read_like_the_definition(expression: Expression, want: str) -> None:
    assert describe(expression.node) == want


def test_columns_and_substitution() -> None:
    node = when(col("a") > 0).then(col("b").cast(Int64)).otherwise(col("a")).node
    assert columns_of(node) == {"a", "b"}
    swapped = substitute(node, {"a": Column("b"), "b": (col("a") + 1).node})
    assert swapped == when(col("b") > 0).then((col("a") + 1).cast(Int64)).otherwise(col("b")).node


# ── nothing is forgotten ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dialect", [DUCKDB], ids=lambda dialect: dialect.name)
def test_every_row_function_has_a_leaf_in_every_dialect(dialect: Any) -> None:
    assert set(dialect.functions) == set(row_functions()) == rowwise.LEAVES


def test_every_function_has_a_leaf_in_the_evaluator() -> None:
    assert LEAVES.keys() | {"as_of"} == FUNCTIONS.keys()


def test_a_missing_leaf_is_refused_by_name() -> None:
    bare = dataclasses.replace(DUCKDB, functions={"add": DUCKDB.functions["add"]})
    with pytest.raises(Unsupported, match=r"duckdb SQL cannot say x\.abs\(\): no abs"):
        expr_sql(x.abs().node, {"x": Float64}, bare)


def test_every_cast_that_is_allowed_has_a_leaf(connection: duckdb.DuckDBPyConnection) -> None:
    types: list[DType] = [*ARROW, Decimal(18, 0), Decimal(18, 18), Decimal(9, 2)]
    for source in types:
        for target in types:
            node = Cast(Column("x"), target)
            try:
                infer(node, {"x": source})
            except ExprError:
                continue
            rows: list[dict[str, Physical]] = [{"x": None}]
            assert (
                in_duckdb(connection, node, {"x": source}, rows)
                == in_python(node, {"x": source}, rows)
                == in_numpy(node, {"x": source}, rows)
                == [None]
            )


def test_text_enters_sql_quoted() -> None:
    assert ident('a"b', DUCKDB) == '"a""b"'
    assert literal("it's", String, DUCKDB) == "'it''s'"
    for refused in ("", "a\0"):
        with pytest.raises(Unsupported):
            ident(refused, DUCKDB)
    with pytest.raises(Unsupported):
        literal("a\0", String, DUCKDB)


def test_every_function_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "expressions.md").read_text()
    for function in FUNCTIONS.values():
        row = f"| `{function.form}` |".replace("a | b", "a \\| b")
        assert row in page, f"docs/expressions.md has no row {row}"
