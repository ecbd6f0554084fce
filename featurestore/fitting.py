"""Whether an expectation can be judged on columns of these types, and its constants as these columns hold them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import assert_never

from featurestore.errors import RequestError
from featurestore.expectations import (
    ACTIONS,
    MEASURES,
    SEVERITIES,
    Between,
    Condition,
    Expectation,
    Fresh,
    Greater,
    InSet,
    Matches,
    Measure,
    NotNull,
    OfType,
    RowCount,
    Schema,
    Share,
    Unique,
    Value,
    is_number,
    reads,
)
from featurestore.expr import ExprError, Literal, infer
from featurestore.time import moment
from featurestore.types import Bool, Date, DType, Float64, Int64, Scalar, String, Timestamp, is_numeric

EPOCH = date(1970, 1, 1)


class Unfit(ValueError):
    """A constant or a check that makes no sense for a column of this type; the text says why."""


def constant(value: Value, dtype: DType) -> Literal:
    """A constant to compare with a column of `dtype`. Numbers keep their own type. Raises Unfit."""
    if is_numeric(dtype):
        if not is_number(value):
            raise Unfit(f"{value!r} is no number, and the column is {dtype!r}")
        return Literal(value, Float64 if isinstance(value, float) else Int64)
    if dtype == Bool and isinstance(value, bool):
        return Literal(value, Bool)
    if dtype == String and isinstance(value, str):
        return Literal(value, String)
    if dtype == Timestamp and isinstance(value, str):
        try:
            return Literal(moment(value), Timestamp)
        except RequestError as error:
            raise Unfit(f"{value!r} is no moment, and the column is Timestamp") from error
    if dtype == Date and isinstance(value, str):
        try:
            return Literal((date.fromisoformat(value[:10]) - EPOCH).days, Date)
        except ValueError as error:
            raise Unfit(f"{value!r} is no day, and the column is Date") from error
    raise Unfit(f"{value!r} does not compare with {dtype!r}")


def is_ordered(dtype: DType) -> bool:
    """Whether values of this type lie between others: numbers, moments and days, and texts by their bytes."""
    return is_numeric(dtype) or dtype in (Timestamp, Date, String)


def misfit(expectation: Expectation, schema: Mapping[str, DType]) -> str | None:
    """Why it cannot be judged on these columns; None when it can."""
    for name in sorted(reads(expectation)):
        if name not in schema and not isinstance(expectation.check, OfType):
            return f"there is no column '{name}'"
    if expectation.where is not None:
        try:
            if infer(expectation.where, schema) != Bool:
                return "its `where` is no condition"
        except ExprError as error:
            return f"its `where`: {str(error).splitlines()[0]}"
    try:
        _fit(expectation, schema)
    except Unfit as error:
        return str(error)
    return None


def _fit(expectation: Expectation, schema: Mapping[str, DType]) -> None:
    check = expectation.check
    match check:
        case NotNull() | Condition() | RowCount() | OfType() | Schema():
            pass
        case Matches(column, _):
            if schema[column] != String:
                raise Unfit(f"'{column}' is {schema[column]!r}, and a pattern is looked for in String")
        case InSet(column, values):
            for value in values:
                constant(value, schema[column])
        case Between(column, lo, hi):
            _bounds(column, lo, hi, schema[column])
        case Greater(column, other, _):
            a, b = schema[column], schema[other]
            if not is_ordered(a) or not (a == b or (is_numeric(a) and is_numeric(b))):
                raise Unfit(f"'{column}' is {a!r} and '{other}' is {b!r}: they do not compare")
        case Unique(columns):
            for column in columns:
                if not isinstance(schema[column], Scalar) and not is_numeric(schema[column]):
                    raise Unfit(f"'{column}' is {schema[column]!r}, whose values are not told apart")
        case Measure(of, column, lo, hi, _):
            dtype = schema[column]
            if of == "null_share":
                return
            if of == "distinct":
                if not isinstance(dtype, Scalar) and not is_numeric(dtype):
                    raise Unfit(f"'{column}' is {dtype!r}, whose values are not told apart")
                return
            if of in ("min", "max") and dtype in (Timestamp, Date):
                _bounds(column, lo, hi, dtype)
                return
            if not is_numeric(dtype):
                raise Unfit(f"'{column}' is {dtype!r}, and the {of} is taken of numbers")
        case Share(column, value, _, _):
            constant(value, schema[column])
        case Fresh(column=column):
            if column is None:
                raise Unfit("there is no event time; name the column of moments")
            if schema[column] != Timestamp:
                raise Unfit(f"'{column}' is {schema[column]!r}, and age is of a Timestamp")
        case _:
            assert_never(check)


def _bounds(column: str, lo: Value | None, hi: Value | None, dtype: DType) -> None:
    if not is_ordered(dtype):
        raise Unfit(f"'{column}' is {dtype!r}, which has no order")
    for value in (lo, hi):
        if value is not None:
            constant(value, dtype)


_LOOKING = re.compile(r"\(\?<?[=!]|\\[1-9]|\(\?P=")


def malformed(expectation: Expectation) -> str | None:
    """What is wrong with an expectation by itself, whatever the columns; None when nothing is."""
    check = expectation.check
    if expectation.on_failure not in ACTIONS:
        return f"on_failure={expectation.on_failure!r}: there is {', '.join(ACTIONS)}"
    if expectation.severity not in SEVERITIES:
        return f"severity={expectation.severity!r}: there is {', '.join(SEVERITIES)}"
    if not is_number(expectation.mostly) or not 0.0 < expectation.mostly <= 1.0:
        return f"mostly={expectation.mostly!r}: a share above 0, up to 1"
    if expectation.on_failure == "quarantine" and not expectation.by_row:
        return f"on_failure='quarantine': {expectation.kind} judges no single row that could be put aside"
    match check:
        case Matches(_, pattern):
            try:
                re.compile(pattern)
            except re.error as error:
                return f"the pattern {pattern!r} is none: {error}"
            if _LOOKING.search(pattern):
                return f"the pattern {pattern!r} looks around or back, which not every engine can"
        case InSet(_, values):
            if not values:
                return "no values to be one of"
        case Unique(columns):
            if not columns:
                return "no columns to be unique"
        case Between(_, lo, hi):
            return _wrong_bounds(lo, hi)
        case Measure(of, _, lo, hi, rank):
            if of not in MEASURES:
                return f"{of!r} is no measure; there is {', '.join(MEASURES)}"
            if (of == "quantile") != (rank is not None) or (rank is not None and not 0.0 <= rank <= 1.0):
                return f"quantile {rank!r}: a rank is a number from 0 to 1"
            return _wrong_bounds(lo, hi)
        case Share(_, _, lo, hi) | RowCount(lo, hi):
            return _wrong_bounds(lo, hi)
        case Fresh(within):
            if within <= 0:
                return "a length of time above zero says how old it may be"
        case Condition(sql):
            if not sql.strip():
                return "no condition"
        case NotNull() | OfType() | Greater() | Schema():
            pass
        case _:
            assert_never(check)
    return None


def _wrong_bounds(lo: object, hi: object) -> str | None:
    if lo is None and hi is None:
        return "neither bound is given"
    for value in (lo, hi):
        if value is not None and not is_number(value) and not isinstance(value, str):
            return f"{value!r} is no bound: give a finite number, a text or a moment"
    if lo is not None and hi is not None:
        if isinstance(lo, str) != isinstance(hi, str):
            return f"the bounds {lo!r} and {hi!r} do not compare"
        if lo > hi:  # type: ignore[operator]
            return f"nothing lies between {lo!r} and {hi!r}"
    return None


__all__ = ["EPOCH", "Unfit", "constant", "is_ordered", "malformed", "misfit"]
