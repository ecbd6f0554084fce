"""Statistics as DuckDB SQL: counts, extremes and sums of powers of each column, for each partition of time, in one query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.sql import ident
from featurestore.types import (
    Date,
    DecimalType,
    DType,
    ListType,
    MapType,
    Scalar,
    String,
    Timestamp,
    VectorType,
)

FIELDS = ("known", "nans", "positive", "negative", "n", "shift", "greatest")
"""What the query gives for each column besides the sums `s1…`, as `c0_known` and so on; `shift` is the least number."""


def statistics_sql(
    relation: str, columns: Mapping[str, DType], at: str | None, every: int, undated: int, order: int
) -> str:
    """A SELECT over `relation` (SQL of a table or a query in brackets): a row for each partition, its start as `p`.

    `at` is the column of moments, `every` the length of a partition in microseconds; rows without a moment, all of them if `at`
    is None, are of partition `undated`. Sums of powers are about the least number of the partition, so that a small spread of
    large numbers keeps its digits.
    """
    numbers = [
        f"{_number(ident(name, DUCKDB), dtype)} AS c{i}" for i, (name, dtype) in enumerate(columns.items())
    ]
    t = "NULL" if at is None else f"epoch_us({ident(at, DUCKDB)})"
    partition = (
        f"coalesce({t} - (({t} % {every}) + {every}) % {every}, {undated})"  # a true floor, also before 1970
    )
    places = range(len(columns))
    least = ", ".join(f"min(c{i}) FILTER (isfinite(c{i})) AS c{i}_0" for i in places)
    fields = [field for i in places for field in _fields(f"c{i}", order)]
    return (
        f"WITH rows AS MATERIALIZED (SELECT {', '.join([f'{partition} AS p', *numbers])} FROM {relation}), "
        f"least AS (SELECT p, {least} FROM rows GROUP BY p) "
        f"SELECT p, count(*) AS rows, {', '.join(fields)} FROM rows JOIN least USING (p) GROUP BY p ORDER BY p"
    )


def _fields(c: str, order: int) -> list[str]:
    finite, d = f"FILTER (isfinite({c}))", f"({c} - {c}_0)"
    powers = [f"fsum({' * '.join([d] * k)}) {finite} AS {c}_s{k}" for k in range(1, order + 1)]
    return [
        f"count({c}) AS {c}_known",
        f"count(*) FILTER (isnan({c})) AS {c}_nans",
        f"count(*) FILTER ({c} = CAST('inf' AS DOUBLE)) AS {c}_positive",
        f"count(*) FILTER ({c} = CAST('-inf' AS DOUBLE)) AS {c}_negative",
        f"count(*) {finite} AS {c}_n",
        f"any_value({c}_0) AS {c}_shift",
        f"max({c}) {finite} AS {c}_greatest",
        *powers,
    ]


def _number(column: str, dtype: DType) -> str:
    """The double that statistics of a column are about: see `statistics.columns.measures`."""
    match dtype:
        case DecimalType():
            unit = 10**dtype.scale
            return f"(CAST(CAST({column} * {unit} AS HUGEINT) AS DOUBLE) / {unit})"
        case ListType() | VectorType():
            return f"CAST(len({column}) AS DOUBLE)"
        case MapType():
            return f"CAST(cardinality({column}) AS DOUBLE)"
        case Scalar():
            if dtype == String:
                return f"CAST(length({column}) AS DOUBLE)"
            if dtype == Timestamp:
                return f"CAST(epoch_us({column}) AS DOUBLE)"
            if dtype == Date:
                return f"CAST({column} - DATE '1970-01-01' AS DOUBLE)"
            return f"CAST({column} AS DOUBLE)"
        case _:
            assert_never(dtype)


__all__ = ["FIELDS", "statistics_sql"]
