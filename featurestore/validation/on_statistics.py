"""Expectations judged on statistics that are kept, without a scan: where they suffice, else `not_evaluated` with the reason.

A verdict is never a guess: what a sketch leaves open within its stated error is not judged. As everywhere, NaN and infinities
count as NULL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import assert_never

from featurestore.expectations import (
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
)
from featurestore.fitting import constant, malformed, misfit
from featurestore.statistics import FeatureStatistics, Statistics, Summary
from featurestore.time import moment_text
from featurestore.types import Bool, Date, DecimalType, String, Timestamp, is_integer
from featurestore.validation.judging import judged, measured, numbers, physical, shown, unjudged
from featurestore.verdicts import Verdict

EXACT = 2.0**53
"""Whole numbers up to here are doubles without rounding."""


class _Open(Exception):
    """Why statistics do not tell."""


def judge(
    statistics: Statistics,
    expectations: Sequence[Expectation],
    now: int,
    start: int | None = None,
    end: int | None = None,
) -> tuple[Verdict, ...]:
    """A verdict for each expectation, in order, over the partitions from `start` on that begin before `end`."""
    whole = start is None and end is None
    summary = statistics.total() if whole else statistics.window(start, end)
    newest = max(statistics.starts, default=None)
    span = None if newest is None else (newest, newest + statistics.every.microseconds)
    return tuple(_verdict(summary, one, now, span) for one in expectations)


def _verdict(summary: Summary, one: Expectation, now: int, newest: tuple[int, int] | None) -> Verdict:
    wrong = malformed(one)
    if wrong is None and not isinstance(one.check, Fresh):
        wrong = misfit(one, summary.columns)
    if wrong is not None:
        return unjudged(one, wrong)
    if one.where is not None:
        return unjudged(one, "statistics are of all rows, and this is about some: a scan can tell")
    try:
        return _judged(summary, one, now, newest)
    except _Open as error:
        return unjudged(one, str(error))


def _judged(summary: Summary, one: Expectation, now: int, newest: tuple[int, int] | None) -> Verdict:
    check = one.check
    match check:
        case OfType() | Schema():
            return judged(one, {}, summary.columns, now)
        case RowCount():
            return judged(one, {"rows": summary.rows}, summary.columns, now)
        case Fresh(within):
            return _fresh(one, within, now, newest)
        case Condition():
            raise _Open("statistics are of columns, not of rows: a scan can tell")
        case Greater(column, other):
            return _greater(one, check, _of(summary, column), _of(summary, other))
        case Unique(columns):
            if len(columns) > 1:
                raise _Open("statistics are of single columns: a scan can tell")
            f = _of(summary, columns[0])
            _told(f)
            if f.distinct is None or not f.distinct_exact:
                raise _Open("how many distinct values there are is an estimate")
            facts = {"rows": f.rows, "considered": f.count, "distinct": f.distinct, "unexpected": None}
            if not f.count or f.distinct == f.count:
                return judged(one, facts, summary.columns, now)
            if one.mostly < 1.0:
                raise _Open("there are copies, and how many rows have one is not known")
            return Verdict(
                one, "failed", considered=f.count, why=f"{f.distinct:,} values in {f.count:,} rows"
            )
        case NotNull(column):
            f = _of(summary, column)
            nulls = f.rows - f.count
            return judged(
                one, {"rows": f.rows, "considered": f.rows, "unexpected": nulls}, summary.columns, now
            )
        case Between() | InSet() | Matches():
            return _by_value(summary, one, check, now)
        case Share(column, value):
            f = _of(summary, column)
            if not f.count:
                return judged(one, {"rows": f.rows, "considered": 0, "hits": 0}, summary.columns, now)
            found = physical(value, f.dtype)
            hits = sum(n for v, n in _values(f) if v == found)
            return judged(one, {"rows": f.rows, "considered": f.count, "hits": hits}, summary.columns, now)
        case Measure():
            return _measure(one, check, _of(summary, check.column), summary, now)
        case _:
            assert_never(check)


def _of(summary: Summary, column: str) -> FeatureStatistics:
    found = summary[column]
    if found.unread:
        raise _Open(f"{found.unread:,} rows of '{column}' could not be read: {found.why}")
    return found


def _told(f: FeatureStatistics) -> None:
    if f.count and f.distinct_sketch is None:
        raise _Open("which values there are is not kept")


def _values(f: FeatureStatistics) -> list[tuple[float | str, int]]:
    """Every value and how often it comes. Raises _Open where not all are known."""
    if f.dtype == Bool:
        true = round((f.average or 0.0) * f.count)
        return [(1.0, true), (0.0, f.count - true)]
    if f.frequent_sketch is None or f.frequent_error or not f.distinct_exact:
        raise _Open("only the most frequent values are kept")
    values = f.most_frequent(f.distinct or 0)
    if sum(n for _, n in values) != f.count:
        raise _Open("only the most frequent values are kept")
    return values


def _by_value(summary: Summary, one: Expectation, check: Between | InSet | Matches, now: int) -> Verdict:
    f = _of(summary, check.column)
    facts = {"rows": f.rows, "considered": f.count}
    if not f.count:
        return judged(one, facts | {"unexpected": 0}, summary.columns, now)
    if isinstance(check, Between) and f.dtype != String:
        lo, hi = (None if v is None else physical(v, f.dtype) for v in (check.lo, check.hi))
        _must_be_exact(f)
        if (lo is None or f.least >= lo) and (hi is None or f.greatest <= hi):
            return judged(one, facts | {"unexpected": 0}, summary.columns, now)
        if one.mostly == 1.0:
            said = ", ".join(_shown(f, v) for v in (f.least, f.greatest))
            return Verdict(one, "failed", considered=f.count, why=f"values lie between {said}")
    unexpected = sum(n for v, n in _values(f) if not _holds(check, v, f))
    return judged(one, facts | {"unexpected": unexpected}, summary.columns, now)


def _holds(check: Between | InSet | Matches, value: float | str, f: FeatureStatistics) -> bool:
    match check:
        case Matches(_, pattern):
            return re.search(pattern, str(value)) is not None
        case InSet(_, values):
            return value in [constant(v, f.dtype).value for v in values]
        case Between(_, lo, hi):
            low, high = (None if v is None else physical(v, f.dtype) for v in (lo, hi))
            return (low is None or value >= low) and (high is None or value <= high)
        case _:
            assert_never(check)


def _must_be_exact(f: FeatureStatistics) -> None:
    """Numbers are kept as doubles."""
    rounded = is_integer(f.dtype) or isinstance(f.dtype, DecimalType) or f.dtype == Timestamp
    if rounded and max(abs(f.least), abs(f.greatest)) >= EXACT:
        raise _Open("its numbers are past 2^53, and statistics are kept as doubles")


def _shown(f: FeatureStatistics, value: float) -> str:
    return shown(int(value), f.dtype) if f.dtype in (Timestamp, Date) else f"{value:.6g}"


def _greater(one: Expectation, check: Greater, a: FeatureStatistics, b: FeatureStatistics) -> Verdict:
    if a.dtype == String or not a.count or not b.count or a.rows != a.count or b.rows != b.count:
        raise _Open("which value stands beside which is not kept: a scan can tell")
    _must_be_exact(a)
    _must_be_exact(b)
    above = a.least >= b.greatest if check.or_equal else a.least > b.greatest
    below = a.greatest < b.least if check.or_equal else a.greatest <= b.least
    if above:
        return Verdict(one, "passed", 1.0, a.count, 0)
    if below:
        return Verdict(one, "failed", 0.0, a.count, a.count, why="every row fails")
    raise _Open("the two columns overlap, and which value stands beside which is not kept: a scan can tell")


def _fresh(one: Expectation, within: int, now: int, newest: tuple[int, int] | None) -> Verdict:
    if newest is None:
        return unjudged(one, "no row has a time")
    first, after = newest
    if first >= now - within:
        return Verdict(one, "passed", moment_text(first))
    if after <= now - within:
        return Verdict(one, "failed", moment_text(after), why=f"nothing since {moment_text(after)}")
    raise _Open(f"when in its partition, from {moment_text(first)} on, the newest row lies is not kept")


def _measure(one: Expectation, check: Measure, f: FeatureStatistics, summary: Summary, now: int) -> Verdict:
    facts = {"rows": f.rows, "considered": f.count}
    if check.of == "null_share" or not f.count:
        return judged(one, facts, summary.columns, now)
    match check.of:
        case "min" | "max":
            _must_be_exact(f)
            value = f.least if check.of == "min" else f.greatest
            whole = f.dtype in (Timestamp, Date)
            return judged(one, facts | {"value": int(value) if whole else value}, summary.columns, now)
        case "mean":
            return _finite(one, check, f.average, f.count)
        case "std":
            spread = None if f.count < 2 else math.sqrt(max(f.moments[3], 0.0) / (f.count - 1))
            if f.count >= 2 and f.variance is None:
                raise _Open("its spread exceeds a double")
            return measured(one, spread, *numbers(check), f.count)
        case "distinct":
            _told(f)
            if not f.distinct_exact:
                raise _Open("how many distinct values there are is an estimate")
            return judged(one, facts | {"value": f.distinct}, summary.columns, now)
        case _:
            return _ranked(one, check, f)


def _finite(one: Expectation, check: Measure, value: float | None, count: int) -> Verdict:
    if value is None:
        raise _Open("its mean exceeds a double")
    return measured(one, value, *numbers(check), count)


def _ranked(one: Expectation, check: Measure, f: FeatureStatistics) -> Verdict:
    """A quantile by its sketch: the two values around it whose ranks are certain enough must be on one side of each bound.

    A quantile lies between two neighbouring values, so the sketch is asked one value further on either side.
    """
    if f.ranks is None:
        raise _Open("no quantiles are kept")
    rank = 0.5 if check.rank is None else check.rank
    slack = (f.rank_error or 0.0) + 1.0 / f.count
    low, high = f.quantiles([max(rank - slack, 0.0), min(rank + slack, 1.0)])
    low = f.least if rank - slack <= 0.0 else low
    high = f.greatest if rank + slack >= 1.0 else high
    lo, hi = numbers(check)
    middle = f.quantile(rank)
    if (lo is None or low >= lo) and (hi is None or high <= hi):
        return Verdict(one, "passed", middle, f.count)
    if (lo is not None and high < lo) or (hi is not None and low > hi):
        return Verdict(one, "failed", middle, f.count, why=f"it is between {low:.6g} and {high:.6g}")
    raise _Open(f"it lies between {low:.6g} and {high:.6g}, and the sketch tells no more")


__all__ = ["judge"]
