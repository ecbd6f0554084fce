"""Expectations as DuckDB SQL: filter-aggregates, all of which one pass over the rows can take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

import duckdb

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.globs import glob_of
from featurestore.compile.sql import expr_sql, ident, literal
from featurestore.expectations import (
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
    RowCheck,
    RowCount,
    Schema,
    Share,
    Unique,
    Value,
)
from featurestore.fitting import constant
from featurestore.types import Date, DType, String, Timestamp, is_integer

Types = Mapping[str, DType]

TRUE = "TRUE"
"""What is expected of all rows."""


def where_sql(expectation: Expectation, schema: Types) -> str:
    """Which rows an expectation is about; never NULL."""
    if expectation.where is None:
        return TRUE
    return f"({expr_sql(expectation.where, schema, DUCKDB)}) IS TRUE"


def said_sql(check: RowCheck, schema: Types) -> str:
    """Whether a row says anything: its values are not NULL. Never NULL itself."""
    match check:
        case NotNull():
            return "TRUE"
        case Condition(sql):
            return f"({condition_sql(sql)}) IS NOT NULL"
        case Greater(column, other):
            return f"({_id(column)} IS NOT NULL AND {_id(other)} IS NOT NULL)"
        case Matches() | InSet() | Between():
            return f"{_id(check.column)} IS NOT NULL"
        case _:
            assert_never(check)


def fails_sql(check: RowCheck, schema: Types) -> str:
    """Whether a row fails; never NULL."""
    match check:
        case NotNull(column):
            return f"{_id(column)} IS NULL"
        case Condition() | Greater():
            return f"({holds_sql(check)}) IS FALSE"
        case Matches(column, pattern):
            glob = glob_of(pattern)
            if glob is not None:
                return f"({_id(column)} GLOB {literal(glob, String, DUCKDB)}) IS FALSE"
            return f"regexp_matches({_id(column)}, {literal(pattern, String, DUCKDB)}) IS FALSE"
        case InSet(column, values):
            listed = ", ".join(_constant(v, schema[column]) for v in values)
            return f"({_id(column)} IN ({listed})) IS FALSE"
        case Between(column, lo, hi):
            low = [] if lo is None else [f"{_id(column)} >= {_constant(lo, schema[column])}"]
            high = [] if hi is None else [f"{_id(column)} <= {_constant(hi, schema[column])}"]
            return f"({' AND '.join([*low, *high])}) IS FALSE"
        case _:
            assert_never(check)


def holds_sql(check: Condition | Greater) -> str:
    """Whether a condition holds, NULL where a row says nothing."""
    match check:
        case Condition(sql):
            return condition_sql(sql)
        case Greater(column, other, or_equal):
            return f"{_id(column)} {'>=' if or_equal else '>'} {_id(other)}"
        case _:
            assert_never(check)


@dataclass(frozen=True, slots=True)
class Whole:
    """What takes all values of a column at once: the quantile of a rank, or, with None, how many are distinct.

    `value` is the column as it is read, `where` which rows; both are SQL, and so is `aggregate`, the same of DuckDB alone.
    `whole` is whether they are whole numbers, as `dtype` they are held.
    """

    value: str
    where: str
    rank: float | None
    aggregate: str
    whole: bool = False
    dtype: str = "float64"


def whole_column(expectation: Expectation, schema: Types) -> Whole | None:
    """What of a column an expectation takes all values of; None where aggregates by the way will do."""
    check, where = expectation.check, where_sql(expectation, schema)
    match check:
        case Measure(of="median" | "quantile", column=column):
            rank = 0.5 if check.of == "median" else float(check.rank or 0.0)
            value = f"CAST({_number(column, schema[column])} AS DOUBLE)"
            return Whole(value, where, rank, f"quantile_cont({value}, {rank!r})")
        case Unique((column,)) | Measure(of="distinct", column=column):
            if is_integer(schema[column]):
                value = f"CAST({_id(column)} AS BIGINT)"
                return Whole(value, where, None, f"count(DISTINCT {value})", whole=True, dtype="int64")
            return None
        case _:
            return None


def aggregates(expectation: Expectation, schema: Types) -> dict[str, str]:
    """What has to be known of the rows to judge it: names and aggregates. Empty where the columns' types alone tell.

    Of what `whole_column` tells, the rows alone. Nothing is filtered that need not be, and no aggregate is asked for twice: a
    filter costs as much as what it is of.
    """
    check, where = expectation.check, where_sql(expectation, schema)
    only = "" if where == TRUE else f" FILTER ({where})"
    rows = f"count(*){only}"
    if whole_column(expectation, schema) is not None:
        return {"rows": rows}
    match check:
        case NotNull(column):
            known = f"count({_id(column)}){only}"
            return {"rows": rows, "considered": rows, "unexpected": f"({rows} - {known})"}
        case Matches(column) | InSet(column) | Between(column):
            return {
                "rows": rows,
                "considered": f"count({_id(column)}){only}",
                "unexpected": _count(where, fails_sql(check, schema)),
            }
        case Greater() | Condition():
            return {
                "rows": rows,
                "considered": f"count({holds_sql(check)}){only}",
                "unexpected": _count(where, fails_sql(check, schema)),
            }
        case Unique((column,)):
            distinct = f"count(DISTINCT {_id(column)}){only}"
            return {"rows": rows, "considered": f"count({_id(column)}){only}", "distinct": distinct}
        case Unique(columns):
            both = " AND ".join(f"{_id(c)} IS NOT NULL" for c in columns)
            return {
                "rows": rows,
                "considered": _count(where, both),
                "distinct": f"count(DISTINCT ({', '.join(map(_id, columns))})) FILTER ({where} AND {both})",
            }
        case Share(column, value):
            hit = f"({_id(column)} = {_constant(value, schema[column])}) IS TRUE"
            return {"rows": rows, "considered": f"count({_id(column)}){only}", "hits": _count(where, hit)}
        case Measure(column=column):
            counts = {"rows": rows, "considered": f"count({_id(column)}){only}"}
            if check.of == "null_share":
                return counts
            return counts | {"value": f"{_measure(check, schema[column])}{only}"}
        case RowCount():
            return {"rows": rows}
        case Fresh(column=column):
            assert column is not None
            return {"rows": rows, "newest": f"max(epoch_us({_id(column)})){only}"}
        case OfType() | Schema():
            return {}
        case _:
            assert_never(check)


def _count(where: str, holds: str) -> str:
    """How many rows that an expectation is about something holds of."""
    return f"count(*) FILTER ({holds if where == TRUE else f'{where} AND {holds}'})"


def _number(column: str, dtype: DType) -> str:
    """The column as a number that can be measured."""
    if dtype == Timestamp:
        return f"epoch_us({_id(column)})"
    if dtype == Date:
        return f"({_id(column)} - DATE '1970-01-01')::INTEGER"
    return _id(column) if is_integer(dtype) else f"CAST({_id(column)} AS DOUBLE)"


def _measure(check: Measure, dtype: DType) -> str:
    value = _number(check.column, dtype)
    match check.of:
        case "min" | "max":
            return f"{check.of}({value})"
        case "mean":
            return f"avg({value})"
        case "std":
            return f"stddev_samp({value})"
        case "distinct":
            return f"count(DISTINCT {_id(check.column)})"
        case _:
            raise AssertionError(
                check.of
            )  # the others are no aggregate of numbers; `fitting.malformed` refuses any more


def copies_sql(relation: str, expectation: Expectation, schema: Types) -> str:
    """A SELECT of how many rows have a copy, as `unexpected`."""
    check = expectation.check
    assert isinstance(check, Unique)
    columns = ", ".join(map(_id, check.columns))
    known = " AND ".join(f"{_id(c)} IS NOT NULL" for c in check.columns)
    where = where_sql(expectation, schema)
    return (
        f"SELECT coalesce(sum(n), 0)::BIGINT AS unexpected FROM (SELECT count(*) AS n FROM {relation} "
        f"WHERE {where} AND {known} GROUP BY {columns} HAVING count(*) > 1)"
    )


def examples_sql(relation: str, expectation: Expectation, schema: Types, limit: int) -> str | None:
    """A SELECT of a few texts that show what fails, the most frequent first; None where there are none to show."""
    check, where = expectation.check, where_sql(expectation, schema)
    match check:
        case NotNull():
            return None
        case Unique(columns):
            shown, fails = _shown(columns), " AND ".join(f"{_id(c)} IS NOT NULL" for c in columns)
            having = " HAVING count(*) > 1"
        case Greater(column, other):
            shown, fails, having = _shown((column, other)), fails_sql(check, schema), ""
        case Matches() | InSet() | Between():
            shown, fails, having = _shown((check.column,)), fails_sql(check, schema), ""
        case Condition():
            shown, fails, having = _shown(tuple(schema)[:8]), fails_sql(check, schema), ""
        case OfType() | Schema() | Measure() | Share() | RowCount() | Fresh():
            return None
        case _:
            assert_never(check)
    return (
        f"SELECT x FROM (SELECT {shown} AS x FROM {relation} WHERE {where} AND {fails}) "
        f"GROUP BY x{having} ORDER BY count(*) DESC, x LIMIT {int(limit)}"
    )


def _shown(columns: tuple[str, ...]) -> str:
    """The values of columns as one text."""
    if len(columns) == 1:
        return f"CAST({_id(columns[0])} AS VARCHAR)"
    parts = [
        f"{literal(c + '=', String, DUCKDB)} || coalesce(CAST({_id(c)} AS VARCHAR), 'NULL')" for c in columns
    ]
    return f"concat_ws(', ', {', '.join(parts)})"


def condition_sql(sql: str) -> str:
    """A user's condition, as one expression and nothing besides. Raises ValueError, which says why, for anything else."""
    try:
        duckdb.SQLExpression(sql)
    except duckdb.Error as error:
        raise ValueError(f"it is no condition: {str(error).splitlines()[0]}") from error
    return f"\n{sql}\n"  # a comment at its end must not swallow what follows


def passes_sql(check: Check, schema: Types) -> str:
    """Whether a row does not fail a check that judges rows."""
    assert isinstance(check, RowCheck)
    return f"NOT ({fails_sql(check, schema)})"


def _constant(value: Value, dtype: DType) -> str:
    found = constant(value, dtype)
    assert found.dtype is not None
    return literal(found.value, found.dtype, DUCKDB)


def _id(name: str) -> str:
    return ident(name, DUCKDB)


__all__ = [
    "Whole",
    "aggregates",
    "condition_sql",
    "copies_sql",
    "examples_sql",
    "fails_sql",
    "passes_sql",
    "said_sql",
    "where_sql",
    "whole_column",
]
