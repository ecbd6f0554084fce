"""Expectations as DuckDB SQL: filter-aggregates, all of which one pass over the rows can take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import duckdb

from featurestore.compile.duckdb import DUCKDB
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


def where_sql(expectation: Expectation, schema: Types) -> str:
    """Which rows an expectation is about; never NULL."""
    if expectation.where is None:
        return "TRUE"
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
        case Condition(sql):
            return f"({condition_sql(sql)}) IS FALSE"
        case Greater(column, other, or_equal):
            return f"({_id(column)} {'>=' if or_equal else '>'} {_id(other)}) IS FALSE"
        case Matches(column, pattern):
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


BITS = 1 << 26
"""Up to so wide a span distinct whole numbers are counted in a bitmap: an eighth of the time of a hash table, and 8 MB."""

Spans = Mapping[str, tuple[int, int]]
"""The least and the greatest number of columns, where they are known."""


def spanned(expectation: Expectation, schema: Types) -> str | None:
    """The column whose span would make judging cheaper: that of whole numbers of which distinct ones are counted."""
    match expectation.check:
        case Unique((column,)) | Measure("distinct", column):
            return column if is_integer(schema[column]) else None
        case _:
            return None


def _distinct(column: str, schema: Types, spans: Spans) -> str:
    """The aggregate that counts distinct values, up to its FILTER, and what to wrap it in."""
    lo, hi = spans.get(column, (0, BITS))
    if not is_integer(schema[column]) or hi - lo >= BITS:
        return f"count(DISTINCT {_id(column)})"
    ends = f"{literal(lo, schema[column], DUCKDB)}, {literal(hi, schema[column], DUCKDB)}"
    return f"bitstring_agg({_id(column)}, {ends})"


def _counted(aggregate: str, where: str) -> str:
    filtered = f"{aggregate} FILTER ({where})"
    return f"coalesce(bit_count({filtered}), 0)" if aggregate.startswith("bitstring_agg") else filtered


def aggregates(expectation: Expectation, schema: Types, spans: Spans | None = None) -> dict[str, str]:
    """What has to be known of the rows to judge it: names and aggregates. Empty where the columns' types alone tell."""
    spans = {} if spans is None else spans
    check, where = expectation.check, where_sql(expectation, schema)
    rows = f"count(*) FILTER ({where})"
    match check:
        case NotNull() | Matches() | InSet() | Between() | Greater() | Condition():
            said, fails = said_sql(check, schema), fails_sql(check, schema)
            return {
                "rows": rows,
                "considered": f"count(*) FILTER ({where} AND {said})",
                "unexpected": f"count(*) FILTER ({where} AND {fails})",
            }
        case Unique(columns):
            known = " AND ".join(f"{_id(c)} IS NOT NULL" for c in columns)
            one = f"count(DISTINCT ({', '.join(map(_id, columns))}))"
            if len(columns) == 1:
                one = _distinct(columns[0], schema, spans)
            return {
                "rows": rows,
                "considered": f"count(*) FILTER ({where} AND {known})",
                "distinct": _counted(one, f"{where} AND {known}"),
            }
        case Share(column, value):
            hit = f"({_id(column)} = {_constant(value, schema[column])}) IS TRUE"
            return {
                "rows": rows,
                "considered": f"count(*) FILTER ({where} AND {_id(column)} IS NOT NULL)",
                "hits": f"count(*) FILTER ({where} AND {hit})",
            }
        case Measure(column=column):
            said = f"count({_id(column)}) FILTER ({where})"
            if check.of == "null_share":
                return {"rows": rows, "considered": said}
            measure = (
                _distinct(column, schema, spans)
                if check.of == "distinct"
                else _measure(check, schema[column])
            )
            return {"rows": rows, "considered": said, "value": _counted(measure, where)}
        case RowCount():
            return {"rows": rows}
        case Fresh(column=column):
            assert column is not None
            return {"rows": rows, "newest": f"max(epoch_us({_id(column)})) FILTER ({where})"}
        case OfType() | Schema():
            return {}
        case _:
            assert_never(check)


def _measure(check: Measure, dtype: DType) -> str:
    column = _id(check.column)
    if dtype == Timestamp:
        value = f"epoch_us({column})"
    elif dtype == Date:
        value = f"({column} - DATE '1970-01-01')::INTEGER"
    else:
        value = column if is_integer(dtype) else f"CAST({column} AS DOUBLE)"
    match check.of:
        case "min" | "max":
            return f"{check.of}({value})"
        case "mean":
            return f"avg({value})"
        case "median":
            return f"quantile_cont(CAST({value} AS DOUBLE), 0.5)"
        case "std":
            return f"stddev_samp({value})"
        case "quantile":
            return f"quantile_cont(CAST({value} AS DOUBLE), {float(check.rank or 0.0)!r})"
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
    "aggregates",
    "condition_sql",
    "copies_sql",
    "examples_sql",
    "fails_sql",
    "passes_sql",
    "said_sql",
    "spanned",
    "where_sql",
]
