"""`Statistics`: one summary for each partition of time, so that the statistics of any window are a merge.

Nothing is ever subtracted: what left a window is forgotten, an outlier with it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import pyarrow as pa

from featurestore.errors import StatisticsError
from featurestore.evaluate.arrow import to_physical
from featurestore.evaluate.ranges import Array
from featurestore.statistics import numbers as numeric
from featurestore.statistics.numbers import Numbers
from featurestore.statistics.summary import VERSION, Keep, Summary, as_table
from featurestore.time import DAY, Duration, days, floor
from featurestore.types import DType, Timestamp

WAITING_ROWS = 1 << 20
"""Rows of tables that may wait in all partitions together."""

UNDATED = -(1 << 63)
"""The partition of rows that have no time."""


@dataclass(frozen=True, slots=True)
class Decayed:
    """A feature with older partitions weighing less. None where there is nothing to judge.

    `weight` is the sum of the rows' weights, `effective` how many rows of equal weight would tell as much. Extremes do not
    decay, and are not here.
    """

    name: str
    weight: float
    effective: float
    null_share: float | None
    mean: float | None
    variance: float | None
    _ranked: tuple[Array, Array]

    @property
    def stddev(self) -> float | None:
        return None if self.variance is None else math.sqrt(self.variance)

    def quantile(self, rank: float) -> float | None:
        """The least number at or below which a share of `rank` of the weight lies."""
        values, weights = self._ranked
        if not len(values):
            return None
        running = np.cumsum(weights)
        place = np.searchsorted(running, rank * running[-1], "left")
        return float(values[min(int(place), len(values) - 1)])


class Statistics:
    """The statistics of `columns` by partitions of `every`: the hour or the day, in UTC, an event lies in.

    `update` takes rows in with their times. A partition is replaced by itself: `replace`. One thread at a time.
    """

    def __init__(
        self, columns: Mapping[str, DType], *, every: Duration | None = None, keep: Keep | None = None
    ) -> None:
        """`every` is a day by default, and divides a day or is a multiple of one."""
        self.columns, self.keep = dict(columns), Keep() if keep is None else keep
        self.every = days(1) if every is None else every
        step = self.every.microseconds
        if DAY % step and step % DAY:
            raise StatisticsError(
                f"partitions of {self.every} do not fit into days\n  give an hour, or a day"
            )
        self._partitions: dict[int, Summary] = {}
        self._open: int | None = None
        self._waiting = 0

    # ------------------------------------------------------------------------------------------------------ taking in

    def update(self, rows: Any, at: str | int | Array | None = None) -> None:
        """Rows of an Arrow table or batch, a mapping of columns, or a frame.

        `at` is when they were: a column of them, one moment for all in microseconds, or an array of moments; None for rows
        without a time, which no window holds. A NULL in the column is no time. Raises StatisticsError for a column of no times.
        """
        table = as_table(rows)
        self._waiting += table.num_rows
        if self._waiting > WAITING_ROWS:
            self.flush()
        if at is None or isinstance(at, int):
            self._of(UNDATED if at is None else floor(at, self.every.microseconds)).update(table)
            return
        starts = self._starts(table, at)
        if not len(starts):
            return
        if starts[0] == starts[-1] and bool((starts == starts[0]).all()):
            self._of(int(starts[0])).update(table)
            return
        order = np.argsort(starts, kind="stable")
        edges = np.flatnonzero(np.diff(starts[order])) + 1
        in_order = bool((np.diff(order) == 1).all())
        sorted_rows = table if in_order else table.take(pa.array(order))
        bounds = [0, *edges.tolist(), len(order)]
        for first, last in pairwise(bounds):
            self._of(int(starts[order[first]])).update(sorted_rows.slice(first, last - first))

    def flush(self) -> None:
        """Takes in what is buffered. Reading does so by itself."""
        for summary in self._partitions.values():
            summary.flush()
        self._waiting = 0

    def add(self, matrix: Array, at: int) -> None:
        """Rows of a (rows, columns) array of numbers, NaN for NULL, that all are of one moment: a served tensor."""
        self._of(floor(at, self.every.microseconds)).add(matrix)

    def _of(self, start: int) -> Summary:
        if start != self._open:
            if self._open is not None and self._open in self._partitions:
                self._partitions[self._open].release()  # one buffer at a time
            self._open = start
            if start not in self._partitions:
                self._partitions[start] = Summary(self.columns, self.keep)
        return self._partitions[start]

    def _starts(self, table: pa.Table | pa.RecordBatch, at: str | Array) -> Array:
        step = self.every.microseconds
        if not isinstance(at, str):
            given = np.asarray(at)
            if given.shape != (table.num_rows,) or given.dtype.kind != "i":
                raise StatisticsError(
                    f"one whole number of microseconds for each of {table.num_rows} rows says when they were"
                )
            return given // step * step  # a true floor, also before 1970
        if at not in table.schema.names:
            raise StatisticsError(f"the rows have no column '{at}' to say when they were")
        try:
            moments, valid = to_physical(table.column(at), Timestamp)
        except pa.ArrowException as error:
            raise StatisticsError(f"column '{at}' does not say when rows were: {error}") from error
        starts = moments // step * step
        return starts if valid is None else np.where(valid, starts, UNDATED)

    # -------------------------------------------------------------------------------------------------------- windows

    @property
    def starts(self) -> list[int]:
        """Where each partition begins, in microseconds, rising; without that of rows that have no time."""
        return sorted(start for start in self._partitions if start != UNDATED)

    def partition(self, start: int) -> Summary | None:
        """The summary of one partition; None when no row fell into it."""
        return self._partitions.get(start)

    def total(self) -> Summary:
        """All rows, those without a time as well."""
        return Summary.merged(
            self.columns, self.keep, (self._partitions[s] for s in sorted(self._partitions))
        )

    def window(self, start: int | None = None, end: int | None = None) -> Summary:
        """The partitions from `start` on that begin before `end`; None is no bound.

        Raises StatisticsError for a bound inside a partition: a window holds whole ones.
        """
        for bound in (start, end):
            if bound is not None and bound % self.every.microseconds:
                raise StatisticsError(
                    f"a window over partitions of {self.every} begins and ends where one does"
                )
        chosen = [s for s in self.starts if (start is None or s >= start) and (end is None or s < end)]
        return Summary.merged(self.columns, self.keep, (self._partitions[s] for s in chosen))

    def where(self, holds: Callable[[int], bool]) -> Summary:
        """The partitions whose start `holds`: the same hour of the week, say."""
        return Summary.merged(self.columns, self.keep, (self._partitions[s] for s in self.starts if holds(s)))

    def decayed(self, at: int, half_life: Duration) -> dict[str, Decayed]:
        """Every feature as of `at`, each partition before it weighing half as much for each `half_life` since its end.

        Mean and variance are those of the weighted rows; quantiles weigh what the partitions' sketches kept.
        """
        step = self.every.microseconds
        chosen = [s for s in self.starts if s < at]
        weights = [0.5 ** (max(at - (s + step), 0) / half_life.microseconds) for s in chosen]
        total = Numbers.of_nothing(len(self.columns), self.keep.order)
        squares, rows, nulls = (np.zeros(len(self.columns)) for _ in range(3))
        for start, weight in zip(chosen, weights, strict=True):
            one = self._partitions[start].numbers
            total = numeric.merge(total, _weighed(one, weight))
            squares += one.n * weight * weight
            rows += (one.rows - one.count("unread")) * weight
            nulls += one.count("nulls") * weight
        out = {}
        for j, name in enumerate(self.columns):
            n = float(total.n[j])
            out[name] = Decayed(
                name,
                n,
                n * n / float(squares[j]) if n else 0.0,
                float(nulls[j] / rows[j]) if rows[j] else None,
                float(total.moments[1][j]) if n else None,
                float(total.moments[3][j] / n) if n else None,
                self._ranked(name, chosen, weights),
            )
        return out

    def _ranked(self, name: str, chosen: list[int], weights: list[float]) -> tuple[Array, Array]:
        values, shares = [np.empty(0)], [np.empty(0)]
        for start, weight in zip(chosen, weights, strict=True):
            ranks = self._partitions[start][name].ranks
            if ranks is not None and ranks.n:
                own, counts = ranks.weighted()
                values.append(own)
                shares.append(counts * weight)
        every, share = np.concatenate(values), np.concatenate(shares)
        order = np.argsort(every, kind="stable")
        return every[order], share[order]

    # -------------------------------------------------------------------------------------------------------- upkeep

    def replace(self, start: int, summary: Summary | None) -> None:
        """Puts another summary in the place of a partition, after a repair or an erasure; None takes it away.

        `start` is where the partition begins. Raises StatisticsError for a summary of other columns.
        """
        if start != UNDATED and start % self.every.microseconds:
            raise StatisticsError(f"no partition of {self.every} begins at {start}")
        if summary is None:
            self._partitions.pop(start, None)
        else:
            self._partitions[start] = Summary.merged(self.columns, self.keep, [summary])
        self._open = None

    def merge(self, other: Statistics) -> Statistics:
        """New statistics of the rows of both. Raises StatisticsError when columns, partitions or what is kept differ."""
        if other.every != self.every:
            raise StatisticsError(f"partitions of {self.every} and of {other.every} do not merge")
        if other.columns != self.columns:
            raise StatisticsError(
                f"statistics of {', '.join(self.columns)} and of {', '.join(other.columns)} do not merge"
            )
        out = Statistics(self.columns, every=self.every, keep=self.keep.common(other.keep))
        both = (self, other)
        for start in sorted({*self.starts, *other.starts, UNDATED}):
            parts = [part for s in both if (part := s.partition(start)) is not None]
            if parts:
                out.replace(start, Summary.merged(self.columns, out.keep, parts))
        return out

    def __len__(self) -> int:
        return len(self._partitions)

    def __iter__(self) -> Iterator[tuple[int, Summary]]:
        """The partitions in order of time, each with its start."""
        return ((start, self._partitions[start]) for start in self.starts)

    def to_bytes(self) -> bytes:
        """A version byte, the length of a partition, then each start and summary."""
        parts = [bytes([VERSION]), struct.pack("<q", self.every.microseconds)]
        empty = Summary(self.columns, self.keep).to_bytes()  # says the columns where there is no partition
        parts.append(struct.pack("<I", len(empty)) + empty)
        for start in sorted(self._partitions):
            raw = self._partitions[start].to_bytes()
            parts.append(struct.pack("<qI", start, len(raw)) + raw)
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """What `to_bytes` wrote. Raises StatisticsError for bytes that are something else, or of a later version."""
        if raw[:1] != bytes([VERSION]):
            found = f"version {raw[0]}" if raw else "nothing"
            raise StatisticsError(f"stored statistics begin with version {VERSION}, and these with {found}")
        try:
            (step,) = struct.unpack_from("<q", raw, 1)
            (size,) = struct.unpack_from("<I", raw, 9)
            empty = Summary.from_bytes(raw[13 : 13 + size])
            out = cls(empty.columns, every=Duration(step), keep=empty.keep)
            at = 13 + size
            while at < len(raw):
                start, size = struct.unpack_from("<qI", raw, at)
                at += 12
                out._partitions[start] = Summary.from_bytes(raw[at : at + size])
                at += size
        except (struct.error, ValueError) as error:
            raise StatisticsError(f"stored statistics do not decode: {error}") from error
        return out


def _weighed(numbers: Numbers, weight: float) -> Numbers:
    """The same with every row weighing so much: sums are multiplied, means stay."""
    n, mean, low, *central = numbers.moments
    moments = (n * weight, mean, low, *(power * weight for power in central))
    return Numbers(numbers.counts, moments, numbers.least, numbers.greatest)


__all__ = ["UNDATED", "Decayed", "Statistics"]
