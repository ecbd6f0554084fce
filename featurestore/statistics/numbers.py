"""Counts, extremes and moments of many columns side by side: one kernel over blocks of doubles, one merge.

A block is (columns, rows), C-contiguous. What is no finite number in it is counted by kind and takes no part in the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.evaluate.ranges import Array, Moments, merge_moments, moments_of_sums

STRETCH = 1 << 14
"""Rows measured at a time, at most."""

_CACHED = 1 << 19
"""Doubles whose squares are held at a time, 4 MB: in shorter stretches their merges cost more than a cache saves."""

_FAR = 16.0
"""Sums of powers about zero are exact enough while the square of the mean is at most so many variances."""

_HELD = 64
"""Stretches whose sums are added before they are made into moments."""

_ONES = np.ones(STRETCH)
KINDS = ("nulls", "nans", "positive", "negative", "unread")


@dataclass(frozen=True)
class Numbers:
    """One entry per column. `counts` has a row for each of KINDS, which are disjoint, and apart from the `n` numbers.

    `moments` are those of `evaluate.ranges`: count, mean and its low part, and sums of powers 2 to 4 of differences from it (2
    alone, if no more are kept). `least` and `greatest` are +inf and -inf where there is no number.
    """

    counts: NDArray[np.int64]
    moments: Moments
    least: NDArray[np.float64]
    greatest: NDArray[np.float64]

    @staticmethod
    def of_nothing(columns: int, order: int) -> Numbers:
        """The neutral element of `merge`."""
        moments = tuple(np.zeros(columns) for _ in range(order + 2))
        counts = np.zeros((len(KINDS), columns), np.int64)
        return Numbers(counts, moments, np.full(columns, np.inf), np.full(columns, -np.inf))

    @property
    def n(self) -> NDArray[np.float64]:
        """How many finite numbers there are, or what they weigh."""
        return self.moments[0]

    @property
    def rows(self) -> NDArray[np.int64]:
        """How many rows each column was seen in."""
        rows: NDArray[np.int64] = self.counts.sum(axis=0) + self.n.astype(np.int64)
        return rows

    def count(self, kind: str) -> NDArray[np.int64]:
        """How many are of one of KINDS."""
        one: NDArray[np.int64] = self.counts[KINDS.index(kind)]
        return one


def merge(a: Numbers, b: Numbers) -> Numbers:
    """Both together. Neither argument changes."""
    with np.errstate(over="ignore", invalid="ignore"):
        (na, ha, *rest_a), (nb, hb, *rest_b) = a.moments, b.moments
        # The merge overwrites the means of nothing.
        moments = merge_moments((na, ha.copy(), *rest_a), (nb, hb.copy(), *rest_b), maybe_empty=True)
    return Numbers(
        a.counts + b.counts, moments, np.minimum(a.least, b.least), np.maximum(a.greatest, b.greatest)
    )


class Kernel:
    """Makes `Numbers` of blocks of so many columns. It keeps its working space, so it is for one thread at a time.

    `take` counts blocks in, `total` gives what they are together. Sums of powers about zero add, so blocks for which these are
    exact enough are made into moments only then; each of the others by itself, and merged.
    """

    def __init__(self, columns: int, order: int) -> None:
        self._columns, self._order = columns, order
        self.stretch = STRETCH if order == 2 else min(STRETCH, max(256, _CACHED // max(columns, 1)))
        self._squares: Array | None = None
        self._none = np.zeros((len(KINDS), columns), np.int64)
        self._now = np.empty((2 + order, columns))
        self._forget()

    def _forget(self) -> None:
        """Begins anew: nothing was taken."""
        self._rows = self._held = 0
        self._least, self._greatest = np.full(self._columns, np.inf), np.full(self._columns, -np.inf)
        self._sums = np.zeros((self._order, self._columns))
        self._merged = Numbers.of_nothing(self._columns, self._order)
        self._taken = False

    def take(self, block: Array, nulls: Array | None = None) -> NDArray[np.bool_]:
        """Counts in a block of at least one row. A NaN of it is a NULL, or, with `nulls`, so many of each column's are.

        Says of each column whether all of the block is finite.
        """
        odd: Numbers | None = None
        self._taken = True
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, block.shape[1], self.stretch):
                x = block[:, start : start + self.stretch]
                self._pass_over(x)
                if not self._add(x.shape[1]):
                    found = self._measured(x)
                    odd = found if odd is None else merge(odd, found)
        if odd is None:
            return np.ones(self._columns, np.bool_)
        if nulls is not None and odd.counts is not self._none:
            odd.counts[1] = odd.counts[0] - nulls
            odd.counts[0] = nulls
        self._merged = merge(self._merged, odd)
        return np.logical_not(odd.counts.any(axis=0))

    def total(self) -> Numbers | None:
        """All that was taken since this was asked last; None when nothing was."""
        if not self._taken:
            return None
        self._settle()
        out = self._merged
        self._forget()
        return out

    def release(self) -> None:
        """Lets go of the working space; what was taken stays."""
        self._squares = None

    def _pass_over(self, x: Array) -> None:
        """Writes extremes and sums of powers of one stretch to `_now`: least, greatest, then the sums, order 1 first."""
        np.matmul(x, _ONES[: x.shape[1]], out=self._now[2])  # first: it reads several columns at once
        np.minimum.reduce(x, axis=1, out=self._now[0])
        np.maximum.reduce(x, axis=1, out=self._now[1])
        self._powers(x, self._now[3:])

    def _add(self, rows: int) -> bool:
        """Adds `_now` to what is held, if it is of finite numbers all of which are near zero; says whether."""
        first, second = self._now[2], self._now[3]
        square = first * first
        square *= (1 + _FAR) / (_FAR * rows)  # of _FAR variances, as it is below
        square -= second
        if not (square <= 0.0).all():  # false as well where a sum is no number
            return False
        np.minimum(self._least, self._now[0], out=self._least)
        np.maximum(self._greatest, self._now[1], out=self._greatest)
        self._sums += self._now[2:]
        self._rows += rows
        self._held += 1
        if self._held == _HELD:
            self._settle()
        return True

    def _settle(self) -> None:
        """Makes moments of the sums that are held."""
        if not self._held:
            return
        n, shift = np.full(self._columns, float(self._rows)), np.zeros(self._columns)
        with np.errstate(over="ignore", invalid="ignore"):
            moments = moments_of_sums(n, shift, list(self._sums))
        held = Numbers(self._none, moments, self._least + 0.0, self._greatest + 0.0)
        self._merged = merge(self._merged, held)
        self._rows = self._held = 0
        self._least[:], self._greatest[:], self._sums[:] = np.inf, -np.inf, 0.0

    def _measured(self, x: Array) -> Numbers:
        """One stretch that was passed over, by itself. All that is no number is counted as NULL or as infinite."""
        rows = x.shape[1]
        n, shift, counts = np.full(self._columns, float(rows)), np.zeros(self._columns), self._none
        least, greatest, *sums = self._now
        finite: Array | None = None
        if not np.isfinite(sums[0]).all():
            strange = np.flatnonzero(~np.isfinite(sums[0]))
            finite = np.ones(x.shape, np.bool_)
            mine = finite[strange] = np.isfinite(x[strange])
            some = x[strange]
            counts = counts.copy()
            counts[0, strange] = np.count_nonzero(np.isnan(some), axis=1)
            counts[2, strange] = np.count_nonzero(some == np.inf, axis=1)
            counts[3, strange] = np.count_nonzero(some == -np.inf, axis=1)
            n[strange] = np.count_nonzero(mine, axis=1)
            least[strange] = np.minimum.reduce(some, axis=1, where=mine, initial=np.inf)
            greatest[strange] = np.maximum.reduce(some, axis=1, where=mine, initial=-np.inf)
            self._again(sums, strange, np.where(mine, some, 0.0))  # zeros add nothing to a sum of powers
        square = sums[0] * sums[0] / np.maximum(n, 1.0)
        near = square <= _FAR * (sums[1] - square)  # false as well where a sum is no number
        if not near.all():  # powers about zero would cancel: about a value of the column instead
            far = np.flatnonzero(~near)
            first = 0 if finite is None else finite[far].argmax(axis=1)
            some = x[far]
            shift[far] = some[:, 0] if finite is None else some[np.arange(len(far)), first]
            apart = some - shift[far, None]
            if finite is not None:
                shift[far] = np.where(n[far] > 0, shift[far], 0.0)
                apart = np.where(finite[far], apart, 0.0)
            self._again(sums, far, apart)
        moments = moments_of_sums(n, shift, sums)
        return Numbers(counts, moments, least + 0.0, greatest + 0.0)

    def _powers(self, x: Array, out: Array) -> None:
        """Writes the sums of the powers of each row of `x`, from order 2 on."""
        if self._order == 2:
            np.vecdot(x, x, out=out[0])
            return
        rows, count = x.shape
        if self._squares is None:
            self._squares = np.empty(self._columns * self.stretch)
        # Side by side: rows a power of two apart would fall on the same lines of a cache.
        square = np.square(x, out=self._squares[: rows * count].reshape(rows, count))
        np.matmul(square, _ONES[:count], out=out[0])  # a product with ones is the quickest sum
        np.vecdot(square, x, out=out[1])
        np.vecdot(square, square, out=out[2])

    def _again(self, sums: list[Array], columns: Array, values: Array) -> None:
        """Writes the sums of other values for some of the columns."""
        new = np.empty((self._order, len(columns)))
        np.matmul(values, _ONES[: values.shape[1]], out=new[0])
        self._powers(values, new[1:])
        for column, own in zip(sums, new, strict=True):
            column[columns] = own


def stored(numbers: Numbers) -> bytes:
    """Counts, moments and extremes one after another, little-endian, 8 bytes an entry; `restored` reads them."""
    doubles = [*numbers.moments, numbers.least, numbers.greatest]
    return numbers.counts.astype("<i8").tobytes() + b"".join(v.astype("<f8").tobytes() for v in doubles)


def restored(raw: bytes, columns: int, order: int) -> Numbers:
    """What `stored` wrote. ValueError when the length is another."""
    words: Any = np.frombuffer(raw, "<u8").astype(np.uint64).reshape(len(KINDS) + order + 4, columns)
    counts, doubles = words[: len(KINDS)].view(np.int64), words[len(KINDS) :].view(np.float64)
    return Numbers(counts, tuple(doubles[: order + 2]), doubles[-2], doubles[-1])


__all__ = ["KINDS", "Kernel", "Numbers", "merge", "restored", "stored"]
