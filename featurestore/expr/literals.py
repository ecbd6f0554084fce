"""Constants: from what a user writes to the physical form, and to canonical text."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import struct
from typing import assert_never

import numpy as np

from featurestore.expr.nodes import Literal, Value
from featurestore.time import DAY
from featurestore.types import (
    Bool,
    Date,
    DecimalType,
    DType,
    Float32,
    Float64,
    Int32,
    Int64,
    ListType,
    MapType,
    Scalar,
    String,
    Timestamp,
    VectorType,
)

EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001  # naive is UTC throughout
MIN_DATE = (dt.date.min - EPOCH.date()).days
MAX_DATE = (dt.date.max - EPOCH.date()).days
MIN_TIMESTAMP = MIN_DATE * DAY
MAX_TIMESTAMP = (MAX_DATE + 1) * DAY - 1
"""Timestamps and dates lie in the years 1 to 9999: what Python, Flink and the SQL standard can all write."""

INT_BOUNDS = {Int64: (-(2**63), 2**63 - 1), Int32: (-(2**31), 2**31 - 1)}
MAX_DIGITS = 18
"""Digits of a Decimal in an expression: its unscaled value fits 64 bits."""


def literal_of(value: object, dtype: DType | None = None) -> Literal:
    """The constant a plain Python or NumPy value means; `dtype` says a type other than the natural one.

    bool, int, float, str, `decimal.Decimal`, `datetime.datetime` (naive is UTC), `datetime.date` and None are
    known; None needs `dtype` except as a branch of `when`. −0.0 becomes 0.0.

    Raises TypeError for other values, and for one that `dtype` does not hold exactly; ValueError for a number
    or time out of range, for NaN and infinities, and for text with NUL characters.
    """
    plain: object = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.datetime64):
        plain = value.astype("datetime64[us]").item()
    if plain is None:
        return Literal(None, dtype)
    natural = _natural(plain)
    if dtype is None or dtype == natural.dtype:
        return natural
    return _retyped(natural, dtype)


def _natural(value: object) -> Literal:
    match value:
        case bool():
            return Literal(value, Bool)
        case int():
            return Literal(_within(value, *INT_BOUNDS[Int64], "a 64-bit integer"), Int64)
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{value} is not a value: write None with a type for NULL")
            return Literal(value + 0.0, Float64)
        case str():
            return Literal(_text(value), String)
        case decimal.Decimal():
            return _decimal(value)
        case dt.datetime():
            utc = value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
            return Literal((utc - EPOCH) // dt.timedelta(microseconds=1), Timestamp)
        case dt.date():
            return Literal((value - EPOCH.date()).days, Date)
        case _:
            raise TypeError(
                f"{value!r} is no literal of an expression: there is bool, int, float, str, decimal.Decimal, "
                "datetime.datetime, datetime.date and None"
            )


def _within(value: int, low: int, high: int, what: str) -> int:
    if not low <= value <= high:
        raise ValueError(f"{value} does not fit {what}")
    return value


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError(f"{value!r} holds a NUL character, which no SQL text can carry")
    value.encode()  # a lone surrogate has no UTF-8 bytes: UnicodeEncodeError is a ValueError
    return value


def _decimal(value: decimal.Decimal) -> Literal:
    sign, digits, exponent = value.as_tuple()
    if exponent in ("n", "N", "F"):  # NaN, signalling NaN, infinity
        raise ValueError(f"{value} is not a value: write None with a type for NULL")
    assert isinstance(exponent, int)
    unscaled = int("".join(map(str, digits))) * 10 ** max(exponent, 0)
    scale = max(-exponent, 0)
    precision = max(len(str(unscaled)), scale, 1)
    if precision > MAX_DIGITS:
        raise ValueError(
            f"{value} has {precision} digits: a Decimal in an expression has at most {MAX_DIGITS}"
        )
    return Literal(-unscaled if sign else unscaled, DecimalType(precision, scale))


def _retyped(literal: Literal, dtype: DType) -> Literal:
    value, natural = literal.value, literal.dtype
    if natural == Int64 and isinstance(value, int):
        if dtype == Int32:
            return Literal(_within(value, *INT_BOUNDS[Int32], "a 32-bit integer"), Int32)
        if dtype in (Float64, Float32) and to_float32(float(value), dtype) == value:
            return Literal(float(value), dtype)
        if isinstance(dtype, DecimalType) and abs(value) * 10**dtype.scale < 10**dtype.precision:
            return Literal(value * 10**dtype.scale, dtype)
    if natural == Float64 and dtype == Float32 and isinstance(value, float):
        return Literal(to_float32(value, dtype), Float32)
    if isinstance(natural, DecimalType) and isinstance(dtype, DecimalType) and isinstance(value, int):
        shift = dtype.scale - natural.scale
        if shift >= 0 and abs(value) * 10**shift < 10**dtype.precision:
            return Literal(value * 10**shift, dtype)
    raise TypeError(
        f"{literal_text(literal.value, literal.dtype)} is {natural!r} and not exactly a {dtype!r}"
    )


def to_float32(value: float, dtype: DType = Float32) -> float | None:
    """The nearest float32 (−0 becomes 0), or None out of range; as a Float64 `dtype` the value itself."""
    if dtype == Float64:
        return value
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return None
    return rounded + 0.0


def literal_text(value: Value | None, dtype: DType | None) -> str:
    """Plain canonical text, without quotes: `1.50`, `2013-01-01 05:15:00.000000`, `NULL`.

    Exact: reading it back as `dtype` gives the same value.
    """
    if value is None or dtype is None:
        return "NULL"
    match dtype:
        case DecimalType(_, scale):
            return decimal_text(int(value), scale)
        case Scalar():
            if dtype == Timestamp:
                return timestamp_text(int(value))
            if dtype == Date:
                return date_text(int(value))
            if dtype == Bool:
                return "true" if value else "false"
            return value if isinstance(value, str) else repr(value)
        case ListType() | VectorType() | MapType():
            raise TypeError(f"a {dtype!r} has no literal")
        case _:
            assert_never(dtype)


def decimal_text(unscaled: int, scale: int) -> str:
    """`unscaled / 10^scale` with exactly `scale` digits after the point.

    >>> decimal_text(-5, 2), decimal_text(5, 0)
    ('-0.05', '5')
    """
    digits = str(abs(unscaled)).rjust(scale + 1, "0")
    sign = "-" if unscaled < 0 else ""
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}" if scale else sign + digits


def timestamp_text(microseconds: int) -> str:
    """UTC, always with six digits of a second, years padded to four.

    >>> timestamp_text(-1)
    '1969-12-31 23:59:59.999999'
    """
    return (EPOCH + dt.timedelta(microseconds=microseconds)).isoformat(" ", "microseconds")


def date_text(days: int) -> str:
    """ISO 8601, years padded to four."""
    return (EPOCH.date() + dt.timedelta(days=days)).isoformat()
