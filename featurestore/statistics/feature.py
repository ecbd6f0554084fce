"""What the statistics of one feature say, and what they cannot say and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from featurestore.statistics.columns import measures
from featurestore.statistics.sketches import Distinct, Frequent, Ranks, Value
from featurestore.types import Bool, DType


@dataclass(frozen=True, slots=True)
class FeatureStatistics:
    """One feature over some rows. Of `rows`, `n` are finite numbers (or lengths, see `measures`); the others are counted by kind.

    What could not be judged is None, and `verdicts` says why.
    """

    name: str
    dtype: DType
    nulls: int
    nans: int
    positive: int
    negative: int
    unread: int
    moments: tuple[float, ...]
    least: float
    greatest: float
    ranks: Ranks | None
    distinct_sketch: Distinct | None
    frequent_sketch: Frequent | None
    why: str | None = None

    @property
    def measures(self) -> str:
        """What the numbers are: `value`, `share` of true, `microseconds`, `days`, `characters` of a text, `items` of a list."""
        return measures(self.dtype)

    @property
    def n(self) -> float:
        """How many numbers the moments are of."""
        return self.moments[0]

    @property
    def count(self) -> int:
        return int(self.n)

    @property
    def rows(self) -> int:
        return self.nulls + self.nans + self.positive + self.negative + self.unread + self.count

    @property
    def null_share(self) -> float | None:
        """NULLs among the rows that could be read."""
        read = self.rows - self.unread
        return self.nulls / read if read else None

    @property
    def average(self) -> float | None:
        return _finite(self.moments[1]) if self.n else None

    @property
    def variance(self) -> float | None:
        """Of the numbers as a whole population: `m2 / n`."""
        return _finite(self.moments[3] / self.n) if self.n else None

    @property
    def stddev(self) -> float | None:
        return None if self.variance is None else math.sqrt(self.variance)

    @property
    def skewness(self) -> float | None:
        """Fisher's g1. None where all numbers are equal, or too near to tell."""
        if len(self.moments) < 6 or not self.variance:
            return None
        spread = self.variance * math.sqrt(self.variance)
        return _finite((self.moments[4] / self.n) / spread) if spread else None

    @property
    def kurtosis(self) -> float | None:
        """Fisher's g2, 0 for a normal distribution. None where all numbers are equal, or too near to tell."""
        if len(self.moments) < 6 or not self.variance:
            return None
        spread = self.variance * self.variance
        return _finite((self.moments[5] / self.n) / spread - 3.0) if spread else None

    @property
    def minimum(self) -> float | None:
        return self.least if self.n else None

    @property
    def maximum(self) -> float | None:
        return self.greatest if self.n else None

    @property
    def constant(self) -> bool:
        """Whether there are values, and all are equal. False where that is not known: of lists, and of texts never counted."""
        if self.measures in ("characters", "items"):
            return self.distinct == 1
        return bool(self.n) and self.least == self.greatest

    def quantile(self, rank: float) -> float | None:
        """The least number at or below which a share of `rank` lies, off by `rank_error` in rank. None of no numbers."""
        return None if self.ranks is None or not self.ranks.n else self.quantiles([rank])[0]

    def quantiles(self, ranks: Sequence[float]) -> list[float]:
        """Several at once; empty when there is none to be had."""
        return [] if self.ranks is None or not self.ranks.n else self.ranks.quantiles(ranks)

    @property
    def rank_error(self) -> float | None:
        return None if self.ranks is None else self.ranks.error

    def histogram(self, bins: int = 12) -> tuple[list[float], list[float]]:
        """Edges of bins of equal width from least to greatest, one more than bins, and the share of numbers in each.

        One bin where all numbers are equal, none where there is none or no ranks are kept.
        """
        if self.ranks is None or not self.ranks.n:
            return [], []
        if self.least == self.greatest:
            return [self.least, self.greatest], [1.0]
        step = self.greatest / bins - self.least / bins
        edges = [self.least + step * i for i in range(bins)] + [self.greatest]
        inner = self.ranks.shares(edges[1:-1])
        up_to = [0.0, *inner, 1.0]
        return edges, [b - a for a, b in pairwise(up_to)]

    @property
    def distinct(self) -> int | None:
        """How many distinct values; an estimate where `distinct_exact` is false."""
        return None if self.distinct_sketch is None else self.distinct_sketch.estimate

    @property
    def distinct_exact(self) -> bool:
        return self.distinct_sketch is not None and self.distinct_sketch.exact

    def most_frequent(self, k: int = 5) -> list[tuple[Value, int]]:
        """The values that come most often, and how often; each count is too low by at most `frequent_error`."""
        return [] if self.frequent_sketch is None else self.frequent_sketch.top(k)

    @property
    def frequent_error(self) -> int:
        return 0 if self.frequent_sketch is None else self.frequent_sketch.error

    @property
    def verdicts(self) -> tuple[str, ...]:
        """What is odd, and what could not be judged and why; empty when there is nothing to say."""
        said = []
        if self.unread:
            said.append(f"{self.unread:,} rows could not be read: {self.why}")
        strange = self.nans + self.positive + self.negative
        if strange:
            said.append(
                f"{self.nans:,} NaN and {self.positive + self.negative:,} infinite, left out of all else"
            )
        if not self.rows:
            said.append("no rows: nothing can be judged")
        elif not self.n and self.nulls == self.rows:
            said.append("all NULL: no value to judge")
        elif not self.n:
            said.append("no finite number: nothing to judge")
        elif self.n == 1:
            said.append("one value: its spread cannot be judged")
        elif self.constant and self.dtype != Bool:
            said.append("constant: it tells no rows apart")
        if self.n and None in (self.average, self.variance):
            said.append("its moments exceed a double: mean or spread cannot be judged")
        elif self.n and not all(map(math.isfinite, self.moments)):
            said.append("its third or fourth power exceeds a double: its shape cannot be judged")
        return tuple(said)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, None for what could not be judged."""
        edges, shares = self.histogram()
        ranks = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
        return {
            "feature": self.name,
            "type": str(self.dtype),
            "measures": self.measures,
            "rows": self.rows,
            "count": self.count,
            "nulls": self.nulls,
            "nan": self.nans,
            "infinite": self.positive + self.negative,
            "unread": self.unread,
            "mean": self.average,
            "stddev": self.stddev,
            "skewness": self.skewness,
            "kurtosis": self.kurtosis,
            "min": self.minimum,
            "max": self.maximum,
            "quantiles": dict(zip(map(str, ranks), self.quantiles(ranks), strict=False)),
            "rank_error": self.rank_error,
            "histogram": {"edges": edges, "shares": shares},
            "distinct": self.distinct,
            "distinct_exact": self.distinct_exact if self.distinct_sketch is not None else None,
            "most_frequent": [{"value": v, "count": c} for v, c in self.most_frequent()],
            "frequent_error": self.frequent_error,
            "verdicts": list(self.verdicts),
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


__all__ = ["FeatureStatistics"]
