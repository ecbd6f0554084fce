"""What a user expects of rows: the words for `expectations=[…]` of sources, views and services, and for `store.validate`.

Each takes `where=` (an expression: of which rows), `on_failure=` ("warn", "quarantine" or "block"), `severity=` ("info",
"warning" or "critical") and `name=`. Those that judge rows take `mostly=`, the share that has to hold. NULL is not judged,
except by `not_null`. Nothing is checked here; `lower` reports what is wrong, with the line.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, TypedDict, Unpack

import numpy as np

from featurestore.declare import _here
from featurestore.expectations import (
    Action,
    Between,
    Check,
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
    Severity,
    Share,
    Unique,
    Value,
)
from featurestore.expr import Expression
from featurestore.time import Duration
from featurestore.types import DType

Given = bool | int | float | str | Decimal | dt.date | dt.datetime
"""A constant as it may be written; a datetime without a zone is UTC."""


class Told(TypedDict, total=False):
    """What every expectation may be told."""

    where: Expression
    on_failure: Action
    severity: Severity
    name: str


def _expectation(check: Check, told: Told, mostly: float = 1.0) -> Expectation:
    where = told.get("where")
    return Expectation(
        check,
        mostly,
        where.node if isinstance(where, Expression) else where,
        told.get("on_failure", "warn"),
        told.get("severity", "critical"),
        told.get("name", ""),
        _here(),
    )


def _value(given: Any) -> Value:
    match given:
        case np.generic():
            return _value(given.item())
        case dt.datetime() | dt.date():
            return given.isoformat()
        case Decimal():
            return int(given) if given == int(given) else float(given)
        case _:
            return given  # type: ignore[no-any-return]  # lower says what is no constant


def _bound(given: Given | None) -> Value | None:
    return None if given is None else _value(given)


# ------------------------------------------------------------------------------------------------------------ row by row


def not_null(x: str, *, mostly: float = 1.0, **told: Unpack[Told]) -> Expectation:
    """`x` is not NULL. `mostly=0.95` allows a NULL rate of 5 %."""
    return _expectation(NotNull(x), told, mostly)


def between(
    x: str, lo: Given | None = None, hi: Given | None = None, *, mostly: float = 1.0, **told: Unpack[Told]
) -> Expectation:
    """`lo <= x <= hi`; one of the two may be left out."""
    return _expectation(Between(x, _bound(lo), _bound(hi)), told, mostly)


def in_set(x: str, values: Iterable[Given], *, mostly: float = 1.0, **told: Unpack[Told]) -> Expectation:
    """`x` is one of `values`."""
    return _expectation(InSet(x, tuple(map(_value, values))), told, mostly)


def matches(x: str, pattern: str, *, mostly: float = 1.0, **told: Unpack[Told]) -> Expectation:
    """The regular expression is found in the text `x`: `^…$` for the whole. No look-around, no back references."""
    return _expectation(Matches(x, pattern), told, mostly)


def greater(
    a: str, b: str, *, or_equal: bool = False, mostly: float = 1.0, **told: Unpack[Told]
) -> Expectation:
    """`a > b` in the same row."""
    return _expectation(Greater(a, b, or_equal), told, mostly)


def sql(condition: str, *, mostly: float = 1.0, **told: Unpack[Told]) -> Expectation:
    """A condition in DuckDB's SQL over the columns of a row; where it is NULL it says nothing."""
    return _expectation(Condition(condition), told, mostly)


def unique(*columns: str, mostly: float = 1.0, **told: Unpack[Told]) -> Expectation:
    """No two rows agree in all of `columns`; rows with a NULL among them are left out."""
    return _expectation(Unique(columns), told, mostly)


# ------------------------------------------------------------------------------------------------------------- by column


def of_type(x: str, dtype: DType, **told: Unpack[Told]) -> Expectation:
    """`x` has this type where it lies."""
    return _expectation(OfType(x, dtype), told)


def min_between(
    x: str, lo: Given | None = None, hi: Given | None = None, **told: Unpack[Told]
) -> Expectation:
    """The least value lies here."""
    return _expectation(Measure("min", x, _bound(lo), _bound(hi)), told)


def max_between(
    x: str, lo: Given | None = None, hi: Given | None = None, **told: Unpack[Told]
) -> Expectation:
    """The greatest value lies here."""
    return _expectation(Measure("max", x, _bound(lo), _bound(hi)), told)


def mean_between(
    x: str, lo: float | None = None, hi: float | None = None, **told: Unpack[Told]
) -> Expectation:
    """The mean lies here."""
    return _expectation(Measure("mean", x, _bound(lo), _bound(hi)), told)


def median_between(
    x: str, lo: float | None = None, hi: float | None = None, **told: Unpack[Told]
) -> Expectation:
    """The median lies here; of an even number of values, the middle of the two."""
    return _expectation(Measure("median", x, _bound(lo), _bound(hi)), told)


def std_between(
    x: str, lo: float | None = None, hi: float | None = None, **told: Unpack[Told]
) -> Expectation:
    """The standard deviation, of a sample (n - 1), lies here."""
    return _expectation(Measure("std", x, _bound(lo), _bound(hi)), told)


def quantile_between(
    x: str, p: float, lo: float | None = None, hi: float | None = None, **told: Unpack[Told]
) -> Expectation:
    """The quantile of rank `p`, linear between the two nearest values, lies here."""
    return _expectation(Measure("quantile", x, _bound(lo), _bound(hi), p), told)


def distinct_between(
    x: str, lo: int | None = None, hi: int | None = None, **told: Unpack[Told]
) -> Expectation:
    """There are so many distinct values; NULL is none."""
    return _expectation(Measure("distinct", x, _bound(lo), _bound(hi)), told)


def null_share_between(
    x: str, lo: float | None = None, hi: float | None = None, **told: Unpack[Told]
) -> Expectation:
    """The share of NULLs lies here: too few may be as telling as too many."""
    return _expectation(Measure("null_share", x, _bound(lo), _bound(hi)), told)


def share_between(
    x: str, value: Given, lo: float | None = None, hi: float | None = None, **told: Unpack[Told]
) -> Expectation:
    """The share of one category among the values that are not NULL lies here."""
    return _expectation(Share(x, _value(value), _bound(lo), _bound(hi)), told)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------------- by table


def row_count(lo: int | None = None, hi: int | None = None, **told: Unpack[Told]) -> Expectation:
    """There are so many rows."""
    return _expectation(RowCount(lo, hi), told)


def fresh(within: Duration, x: str | None = None, **told: Unpack[Told]) -> Expectation:
    """The newest `x` (by default the source's event time) is no older than this when it is judged."""
    return _expectation(Fresh(within.microseconds, x), told)


def schema(
    columns: Mapping[str, DType] | None = None,
    *,
    ordered: bool = False,
    closed: bool = True,
    **told: Unpack[Told],
) -> Expectation:
    """The columns and their types are these (by default those the source was applied with), and there are no others.

    `ordered` also asks for their order, `closed=False` allows more columns.
    """
    given = None if columns is None else tuple(columns.items())
    return _expectation(Schema(given, ordered, closed), told)


__all__ = [
    "between",
    "distinct_between",
    "fresh",
    "greater",
    "in_set",
    "matches",
    "max_between",
    "mean_between",
    "median_between",
    "min_between",
    "not_null",
    "null_share_between",
    "of_type",
    "quantile_between",
    "row_count",
    "schema",
    "share_between",
    "sql",
    "std_between",
    "unique",
]
