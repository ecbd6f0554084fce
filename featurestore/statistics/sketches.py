"""What is kept of the values themselves: ranks (KLL), how many distinct, and which come most often. Each merges.

KLL is Karnin, Lang and Liberty (2016), by the Apache DataSketches library. It draws random numbers: two sketches of the same
values differ within the error both state, so a sketch is stored and never made again to be compared. Up to `k` values
nothing is drawn, and all is exact. The other two are functions of their input alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from featurestore.aggregates import Distinct as DistinctReduction
from featurestore.evaluate.finish import distinct_estimate
from featurestore.evaluate.ragged import compact, hashes
from featurestore.evaluate.ranges import Array

Value = float | str


class Ranks:
    """Quantiles and ranks of finite numbers within `error` of rank, that of the library for `k`."""

    __slots__ = ("_sketch", "k")

    def __init__(self, k: int, sketch: Any = None) -> None:
        import datasketches

        self.k = k
        self._sketch = datasketches.kll_doubles_sketch(k) if sketch is None else sketch

    def add(self, values: Array) -> None:
        """Finite doubles."""
        if len(values):
            self._sketch.update(np.ascontiguousarray(values))

    def merge(self, other: Ranks) -> None:
        """Takes in what the other has seen; the other stays as it is."""
        if other.n:
            self._sketch.merge(other._sketch)

    @property
    def n(self) -> int:
        """How many values were seen."""
        return int(self._sketch.n)

    @property
    def error(self) -> float:
        """How far a rank may be off, as a share of all values, with 99 % confidence; 0 while every value is kept."""
        return (
            float(self._sketch.normalized_rank_error(as_pmf=False))
            if self._sketch.is_estimation_mode()
            else 0.0
        )

    def quantiles(self, ranks: Sequence[float]) -> list[float]:
        """The least value at or below which a share of at least `rank` lies, for each rank in 0 to 1."""
        return [float(v) + 0.0 for v in self._sketch.get_quantiles(list(ranks), inclusive=True)]

    def shares(self, edges: Sequence[float]) -> list[float]:
        """The share of values up to each edge, in rising order of edges, the edge included."""
        return [float(v) for v in self._sketch.get_cdf(list(edges), inclusive=True)][: len(edges)]

    def weighted(self) -> tuple[Array, Array]:
        """Values, rising, and how many each stands for."""
        items = np.array([*self._sketch], np.float64).reshape(-1, 2)
        order = np.argsort(items[:, 0], kind="stable")
        return items[order, 0], items[order, 1]

    def to_bytes(self) -> bytes:
        return bytes(self._sketch.serialize())

    @staticmethod
    def from_bytes(raw: bytes, k: int) -> Ranks:
        """ValueError when the bytes are none of such a sketch."""
        import datasketches

        try:
            return Ranks(k, datasketches.kll_doubles_sketch.deserialize(raw))
        except (IndexError, RuntimeError, ValueError) as error:
            raise ValueError(str(error)) from error

    def copy(self) -> Ranks:
        return Ranks.from_bytes(self.to_bytes(), self.k)


class Distinct:
    """How many distinct values, by the smallest of their hashes: exact up to `k`, then off by about `1 / sqrt(k)` of itself.

    The same estimate as the aggregate `count_distinct`; the same values give the same state in any order.
    """

    __slots__ = ("hashes", "k")

    def __init__(self, k: int, kept: Array | None = None) -> None:
        self.k = k
        self.hashes = np.empty(0, np.uint64) if kept is None else kept

    def add(self, values: Array) -> None:
        """Doubles (no −0), or texts as objects."""
        if len(values):
            new = hashes(values)
            if len(self.hashes) > self.k:
                new = new[new < self.hashes[-1]]
            self._take(new)

    def merge(self, other: Distinct) -> None:
        """Takes in what the other has seen."""
        self._take(other.hashes)

    def _take(self, new: Array) -> None:
        if len(new):
            both = np.concatenate([self.hashes, new])
            group = np.zeros(len(both), np.int64)
            self.hashes = compact(_reduction(self.k), group, {"v": both}, 1)["v"]

    @property
    def exact(self) -> bool:
        return len(self.hashes) <= self.k

    @property
    def estimate(self) -> int:
        counts, _ = distinct_estimate({"v": self.hashes, "ends": np.array([len(self.hashes)])}, self.k)
        return int(counts[0])

    def copy(self) -> Distinct:
        return Distinct(self.k, self.hashes)  # never changed in place


def _reduction(k: int) -> DistinctReduction:
    from featurestore.expr import Column

    return DistinctReduction(Column("x"), k)


class Frequent:
    """Counts of the values that come most often: exact while at most `bound` are distinct.

    Beyond it each count is too low by at most `error`, which is below `n / bound`: Misra and Gries (1982), merged as Agarwal
    et al. (2012) do.
    """

    __slots__ = ("bound", "counts", "error")

    def __init__(self, bound: int, counts: Mapping[Value, int] | None = None, error: int = 0) -> None:
        self.bound, self.error = bound, error
        self.counts: dict[Value, int] = dict(counts or {})

    def add(self, values: Array, counts: Array) -> None:
        """Distinct values, and how often each came."""
        if len(values) > self.bound:  # most of many values are dropped before a Python object is made of them
            kept = np.partition(counts, len(counts) - self.bound - 1)[len(counts) - self.bound - 1]
            some = counts > kept
            values, counts = values[some], counts[some] - kept
            self.error += int(kept)
        self._take(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def merge(self, other: Frequent) -> None:
        """Takes in what the other has seen."""
        self.error += other.error
        self._take(other.counts)

    def _take(self, more: Mapping[Value, int]) -> None:
        counts = self.counts
        for value, count in more.items():
            counts[value] = counts.get(value, 0) + count
        if len(counts) > self.bound:
            drop = sorted(counts.values(), reverse=True)[self.bound]
            self.counts = {v: c - drop for v, c in counts.items() if c > drop}
            self.error += drop

    @property
    def exact(self) -> bool:
        return self.error == 0

    def top(self, k: int) -> list[tuple[Value, int]]:
        """The `k` values that come most often, most first; of equally many the lesser value first."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return ordered[:k]

    def copy(self) -> Frequent:
        return Frequent(self.bound, self.counts, self.error)


__all__ = ["Distinct", "Frequent", "Ranks", "Value"]
