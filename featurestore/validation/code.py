"""An expectation as the code that makes it: what `fs validate --suggest` prints, to be pasted and edited."""

from __future__ import annotations

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
from featurestore.time import DAY, HOUR, MINUTE, SECOND
from featurestore.types import DType


def code(expectation: Expectation) -> str:
    """A call of `expect`. A `where` is left to whoever edits it: it has no text that reads back.

    >>> code(Expectation(Between("age", 0, None), mostly=0.99))
    "expect.between('age', 0, mostly=0.99)"
    """
    args = _arguments(expectation)
    if expectation.mostly < 1.0:
        args.append(f"mostly={expectation.mostly!r}")
    if expectation.on_failure != "warn":
        args.append(f"on_failure={expectation.on_failure!r}")
    if expectation.severity != "critical":
        args.append(f"severity={expectation.severity!r}")
    if expectation.label:
        args.append(f"name={expectation.label!r}")
    return f"expect.{expectation.kind}({', '.join(args)})"


def suite_code(expectations: Sequence[Expectation]) -> str:
    """All of them, as the argument of a source, a view or a service."""
    lines = "".join(f"    {code(e)},\n" for e in expectations)
    return f"expectations=[\n{lines}],"


def _arguments(expectation: Expectation) -> list[str]:
    check = expectation.check
    match check:
        case NotNull(column):
            return [repr(column)]
        case OfType(column, dtype):
            return [repr(column), _type(dtype)]
        case Matches(column, pattern):
            return [repr(column), repr(pattern)]
        case InSet(column, values):
            return [repr(column), repr(list(values))]
        case Between(column, lo, hi) | Measure(_, column, lo, hi, None):
            return [repr(column), *_bounds(lo, hi)]
        case Measure(_, column, lo, hi, rank):
            return [repr(column), repr(rank), *_bounds(lo, hi)]
        case Greater(column, other, or_equal):
            return [repr(column), repr(other), *(["or_equal=True"] if or_equal else [])]
        case Unique(columns):
            return [repr(c) for c in columns]
        case Condition(sql):
            return [repr(sql)]
        case Share(column, value, lo, hi):
            return [repr(column), repr(value), *_bounds(lo, hi)]
        case RowCount(lo, hi):
            return _bounds(lo, hi)
        case Fresh(within, column):
            return [_length(within), *([repr(column)] if column is not None else [])]
        case Schema(columns, ordered, closed):
            listed = "" if columns is None else ", ".join(f"{n!r}: {_type(t)}" for n, t in columns)
            said = [f"{{{listed}}}"] if columns is not None else []
            return [*said, *(["ordered=True"] if ordered else []), *([] if closed else ["closed=False"])]
        case _:
            assert_never(check)


def _bounds(lo: object, hi: object) -> list[str]:
    if hi is None:
        return [repr(lo)]
    return [repr(lo), repr(hi)] if lo is not None else [f"hi={hi!r}"]


def _type(dtype: DType) -> str:
    return f"fs.{dtype!r}".replace("(", "(fs.") if repr(dtype).startswith("List(") else f"fs.{dtype!r}"


def _length(microseconds: int) -> str:
    for size, word in ((DAY, "days"), (HOUR, "hours"), (MINUTE, "minutes")):
        if microseconds % size == 0:
            return f"fs.{word}({microseconds // size})"
    return f"fs.seconds({microseconds // SECOND})"


__all__ = ["code", "suite_code"]
