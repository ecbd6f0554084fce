"""Statistics of rows that DuckDB reads: counts, extremes and moments, made by its SQL, that merge with all others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from featurestore.compile.sources import Connection
from featurestore.compile.statistics import statistics_sql
from featurestore.evaluate.ranges import Array, moments_of_sums
from featurestore.statistics.numbers import Numbers
from featurestore.statistics.partitions import UNDATED, Statistics
from featurestore.statistics.summary import Keep, Summary
from featurestore.time import Duration
from featurestore.types import DType


def of_relation(
    con: Connection,
    relation: str,
    columns: Mapping[str, DType],
    at: str | None = None,
    *,
    every: Duration | None = None,
    order: int = 4,
) -> Statistics:
    """The statistics of `columns` of a relation (SQL of a table, or of a query in brackets), by partitions of the moments `at`.

    Sketches are not kept, and so are not by what these are merged into: for quantiles rows go through `Statistics.update`.
    """
    found = Statistics(columns, every=every, keep=Keep(order, quantiles=None, distinct=None, frequent=None))
    sql = statistics_sql(relation, columns, at, found.every.microseconds, UNDATED, order)
    table = con.sql(sql).to_arrow_table()
    got = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    for row, start in enumerate(got["p"].tolist()):
        found.replace(start, Summary.of_numbers(columns, found.keep, _numbers(got, row, len(columns), order)))
    return found


def _numbers(got: Mapping[str, Array], row: int, width: int, order: int) -> Numbers:
    def field(name: str, empty: float = 0.0) -> Array:
        values = np.array([got[f"c{i}_{name}"][row] for i in range(width)], np.float64)
        return np.where(np.isnan(values), empty, values)  # NULL, of no finite number

    known = field("known")
    kinds = [
        got["rows"][row] - known,
        *(field(name) for name in ("nans", "positive", "negative")),
        np.zeros(width),
    ]
    n = field("n")
    with np.errstate(over="ignore", invalid="ignore"):
        moments = moments_of_sums(n, field("shift"), [field(f"s{k}") for k in range(1, order + 1)])
    least, greatest = field("shift", np.inf), field("greatest", -np.inf)
    return Numbers(np.array(kinds).astype(np.int64), moments, least + 0.0, greatest + 0.0)


__all__ = ["of_relation"]
