"""What takes all values of a column at once, quantiles and how many are distinct: DuckDB reads them, NumPy picks.

A quantile by partial sorting, distinct whole numbers by a mark for each: an eighth of what DuckDB's own aggregates take, with the
same numbers. A column of more than MOST values stays with these, which know how to spill.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.compile.expectations import Whole
from featurestore.evaluate.ranges import Array
from featurestore.validation.rows import Rows

MOST = 1 << 24
"""Values of one column that are held at a time: 128 MB."""

SPAN = 1 << 26
"""Whole numbers that lie so near each other are told apart by a byte for each of the span."""

BATCH_ROWS = 1 << 18


@dataclass
class Columns:
    """The columns of some rows, each read once for all that is asked of it in turn, and dropped when another is."""

    rows: Rows
    _last: tuple[tuple[str, str], Array] | None = field(default=None, repr=False)

    def answer(self, asked: Whole, rows: int) -> tuple[int, float | int | None]:
        """How many values there are in a column, and what is asked of them: None of none. Raises duckdb.Error."""
        if rows > MOST:
            return self._of_many(asked)
        values = self._values(asked)
        if not len(values):
            return 0, None if asked.rank is not None else 0
        if asked.rank is not None:
            return len(values), quantile(values, asked.rank)
        least, greatest = int(values.min()), int(values.max())
        if greatest - least < max(SPAN >> 3, len(values)):
            return len(values), _marked([values], least, greatest)
        return len(values), _distinct(values)

    def _of_many(self, asked: Whole) -> tuple[int, float | int | None]:
        """The same of more values than are held."""
        near = f"count({asked.value})"
        if asked.whole:
            n, least, greatest = self._told(f"{near}, min({asked.value}), max({asked.value})", asked)
            if n and greatest - least < SPAN:
                return n, _marked(self._parts(asked), least, greatest)
        n, found = self._told(f"{near}, {asked.aggregate}", asked)
        return n, found

    def _told(self, select: str, asked: Whole) -> tuple[Any, ...]:
        sql = f"SELECT {select} FROM {self.rows.relation} AS t WHERE {asked.where}"  # noqa: S608
        return tuple(self.rows.con.execute(sql).fetchall()[0])

    def _values(self, asked: Whole) -> Array:
        key = (asked.value, asked.where)
        if self._last is None or self._last[0] != key:
            self._last = None
            self._last = key, np.concatenate([np.empty(0, asked.dtype), *self._parts(asked)])
        return self._last[1]

    def _parts(self, asked: Whole) -> Iterable[Array]:
        sql = f"SELECT {asked.value} AS x FROM {self.rows.relation} AS t WHERE {asked.where}"  # noqa: S608
        for batch in self.rows.con.sql(sql).to_arrow_reader(BATCH_ROWS):
            column: pa.Array = batch.column(0)
            values = column.drop_null() if column.null_count else column
            yield values.to_numpy(zero_copy_only=False)


def quantile(values: Array, rank: float) -> float:
    """The quantile of at least one number, linear between its neighbours: as DuckDB's `quantile_cont`. Reorders them.

    >>> quantile(np.array([4.0, 1.0, 2.0, 3.0]), 0.5)
    2.5
    """
    place = (len(values) - 1) * rank
    low = math.floor(place)
    values.partition(low)
    lower = float(values[low])
    if low == place:
        return lower
    share = place - low
    return lower * (1.0 - share) + float(values[low + 1 :].min()) * share


def _marked(parts: Iterable[Array], least: int, greatest: int) -> int:
    """How many whole numbers of a span come."""
    seen = np.zeros(greatest - least + 1, np.bool_)
    for part in parts:
        seen[part - least] = True
    return int(np.count_nonzero(seen))


def _distinct(values: Array) -> int:
    values.sort()
    return 1 + int(np.count_nonzero(values[1:] != values[:-1]))


__all__ = ["MOST", "SPAN", "Columns", "quantile"]
