"""Many half-open ranges over the same rows, one aggregate for each.

The rows are sorted by (key, time), so a window of one key is a range `[lo, hi)` of rows. `OverlappingRanges`
is for training: millions of ranges that share most of their rows. `GatheredRanges` is for an online read: few
rows, each looked at a few times. They answer alike: equal for whole numbers, booleans, min and max; within
the bounds stated below for sums of floats and for moments.

Nothing outside a range can touch its answer. Whole numbers are subtracted as running sums, where wrapping
makes that exact; floats are always merged from pieces that lie inside the range, so an outlier that left a
window is forgotten.

Objects here are immutable once built, and the work is done by NumPy calls that release the GIL: threads may
share one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Moments = tuple[Array, ...]
"""`(count, mean, mean_low, m2[, m3[, m4]])`, float64 each: the mean is the unevaluated sum `mean +
mean_low`, and `mk` the sum of `(x - mean) ** k`. All are 0 where the count is 0."""

_UFUNCS = (np.add, np.minimum, np.maximum, np.bitwise_or, np.logical_or)
_SHIFT = 5
BLOCK = 1 << _SHIFT  # rows whose running aggregates are kept from both ends
_CHUNK = (
    1 << 16
)  # ranges worked on at a time: small enough for the cache, large enough for threads to overlap


class Ranges(Protocol):
    """Aggregates of the rows in each of many ranges; every result has one entry per range, in their order.

    `values`, `mask`, `count`, … have one entry per row. Floats must not be NaN: give a NULL the neutral value
    of what is computed, or name it in a mask. Where a sum or a power exceeds float64 on the way, the answer
    is inf or NaN, without a warning.
    """

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Rows in each range."""
        ...

    @property
    def bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first row of each range, and the one after its last."""
        ...

    def reduce(self, ufunc: np.ufunc, values: Array, identity: object) -> Array:
        """`ufunc` over the rows of each range; `identity` for an empty one.

        `ufunc` is `np.add`, `np.minimum`, `np.maximum`, `np.bitwise_or` or `np.logical_or`. The result has
        the dtype of `values`, except that whole numbers and booleans are added as int64 (uint64 if unsigned),
        modulo 2^64 (wider sums are the caller's to split in limbs), floats as float64, and `logical_or` gives
        booleans.

        The error of a float sum is at most `(n / 32 + 36) * 2^-53 * sum(abs(x))` for a range of n rows from
        `OverlappingRanges`, `n * 2^-53 * sum(abs(x))` from `GatheredRanges`; typically the square root of
        that factor.
        """
        ...

    def sum_compensated(self, total: Array, rest: Array) -> tuple[Array, Array]:
        """The sum of `total + rest` over each range, as such a pair again.

        Each part is summed with the error that `reduce` states; joining the two loses nothing. Empty: (0, 0).
        """
        ...

    def last_true(self, mask: Array | None) -> NDArray[np.int64]:
        """The greatest row of each range where `mask` holds (None: everywhere), else -1."""
        ...

    def first_true(self, mask: Array | None) -> NDArray[np.int64]:
        """The least row of each range where `mask` holds (None: everywhere), else -1."""
        ...

    def moments(self, count: Array, mean: Array, mean_low: Array, *central: Array) -> Moments:
        """Partial moments merged over each range: `central` is `m2`, or `m2, m3`, or `m2, m3, m4`.

        A row with count 0 counts for nothing, whatever else it says. Merged as Chan, Golub and LeVeque (1983)
        do, relative to a mean inside the range: m2 and m4 are within a few `n * 2^-53` of themselves for `n`
        values, m3 within that of `n * sd^3`; typically they are right to a few units in the last place.
        """
        ...

    def moments_of_values(self, values: Array, valid: Array | None, order: int = 2) -> Moments:
        """Moments up to `order` (2, 3 or 4) of the `valid` values in each range (None: all are).

        Accurate as `moments`; m2 is exactly 0 when the values are equal.
        """
        ...


class _Ranges(ABC):
    """What both kinds do alike: bounds, checks, and the nearest row of a kind."""

    def __init__(self, lo: Array, hi: Array, n: int) -> None:
        """Ranges `[lo, hi)` over `n` rows, in any order, overlapping or empty.

        ValueError if the two differ in shape or a range does not satisfy `0 <= lo <= hi <= n`.
        """
        self._lo, self._hi, self._n = lo.astype(np.int64, copy=False), hi.astype(np.int64, copy=False), n
        if lo.ndim != 1 or lo.shape != hi.shape:
            raise ValueError(f"one lower and one upper bound per range, not {lo.shape} and {hi.shape}")
        if len(lo) and (self._lo.min() < 0 or self._hi.max() > n or bool((self._lo > self._hi).any())):
            raise ValueError(f"every range must satisfy 0 <= lo <= hi <= {n}")

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self._hi - self._lo

    @property
    def bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self._lo, self._hi

    @abstractmethod
    def reduce(self, ufunc: np.ufunc, values: Array, identity: object) -> Array: ...

    def sum_compensated(self, total: Array, rest: Array) -> tuple[Array, Array]:
        with np.errstate(over="ignore", invalid="ignore"):
            return two_sum(self.reduce(np.add, total, 0.0), self.reduce(np.add, rest, 0.0))

    def last_true(self, mask: Array | None) -> NDArray[np.int64]:
        if mask is None:
            return np.where(self._hi > self._lo, self._hi - 1, -1)
        self._check(mask)
        return self._inside(_last_at_or_before(mask), self._hi, -1)

    def first_true(self, mask: Array | None) -> NDArray[np.int64]:
        if mask is None:
            return np.where(self._hi > self._lo, self._lo, -1)
        self._check(mask)
        return self._inside(_first_at_or_after(mask), self._lo, 0)

    def moments(self, count: Array, mean: Array, mean_low: Array, *central: Array) -> Moments:
        for rows in (count, mean, mean_low, *central):
            self._check(rows)
        mean, mean_low, *kept = (np.where(count > 0, rows, 0.0) for rows in (mean, mean_low, *central))
        return self._finished(_Rows(1 + len(central), count, mean, mean_low, tuple(kept)))

    def moments_of_values(self, values: Array, valid: Array | None, order: int = 2) -> Moments:
        self._check(values)
        values = np.ascontiguousarray(values, np.float64)
        if valid is None:
            return self._finished(_Rows(order, None, values))
        self._check(valid)
        return self._finished(_Rows(order, valid, np.where(valid, values, 0.0)))

    def _finished(self, rows: _Rows) -> Moments:
        if not 2 <= rows.order <= 4:
            raise ValueError(f"moments are kept up to order 2, 3 or 4, not {rows.order}")
        out = tuple(np.zeros(len(self._lo)) for _ in range(rows.order + 2))
        with np.errstate(over="ignore", invalid="ignore"):
            self._fold_moments(rows, out)
        for column in out[1:3]:  # an empty range still has the shift it was summed about
            column[out[0] == 0] = 0.0
        return out

    def _check(self, rows: Array) -> None:
        if rows.shape != (self._n,):
            raise ValueError(f"one value per row: {self._n}, not {rows.shape}")

    def _inside(self, nearest: Array, bound: Array, offset: int) -> NDArray[np.int64]:
        """`nearest` at row `bound + offset` where that lies in the range, else -1."""
        out = np.full(len(self._lo), -1, np.int64)
        for part in _chunks(0, len(out) if self._n else 0):
            found = nearest.take(bound[part] + offset, mode="clip")
            np.copyto(out[part], found, where=(found >= self._lo[part]) & (found < self._hi[part]))
        return out

    def _check_reduced(self, ufunc: np.ufunc, values: Array) -> None:
        self._check(values)
        if ufunc not in _UFUNCS:
            known = ", ".join(one.__name__ for one in _UFUNCS)
            raise ValueError(f"cannot reduce by {ufunc.__name__}; what works: {known}")

    @abstractmethod
    def _fold_moments(self, rows: _Rows, out: Moments) -> None:
        """Write the moments of each non-empty range to `out`, which is all zeros."""


class GatheredRanges(_Ranges):
    """Every range's rows by one `reduceat`: costs grow with their total length.

    Ranges that follow one another without overlap are reduced where they lie, and so are those of several windows of each
    entity in turn; the rows of others are laid end to end first.
    """

    def __init__(self, lo: Array, hi: Array, n: int) -> None:
        super().__init__(lo, hi, n)
        sizes = self.lengths
        self._some: Array | slice = slice(None) if bool(sizes.all()) else np.flatnonzero(sizes)
        self._sizes = sizes[self._some]
        first, last = self._lo[self._some], self._hi[self._some]
        gaps = first[1:] - last[:-1]
        self._in_place = bool((gaps >= 0).all())
        self._step, self._padded = 1, False
        if self._in_place and not gaps.any():
            self._starts, self._stop = first, int(last[-1]) if len(last) else 0
        elif self._in_place:  # what lies between two ranges is reduced as well, and passed over
            self._starts = np.stack([first, last], axis=1).reshape(-1)[:-1]
            self._stop, self._step = int(last[-1]), 2
        elif int(np.maximum(gaps, 0).sum()) <= int(self._sizes.sum()):
            # The same; from an end back to an earlier start `reduceat` takes one row, for which a last end needs one more.
            self._starts = np.stack([first, last], axis=1).reshape(-1)
            self._stop, self._step, self._padded = n, 2, True
        else:
            ends = np.cumsum(self._sizes)
            self._starts, self._stop = ends - self._sizes, int(ends[-1])

    @cached_property
    def _rows(self) -> Array:
        """The rows of all ranges, end to end."""
        starts = np.cumsum(self._sizes) - self._sizes
        rows = np.repeat(self._lo[self._some] - starts, self._sizes)
        rows += np.arange(len(rows))
        return rows

    def reduce(self, ufunc: np.ufunc, values: Array, identity: object) -> Array:
        self._check_reduced(ufunc, values)
        if ufunc is np.logical_or:
            values = values.astype(bool, copy=False)
        elif ufunc is np.add:
            dtype = {"u": np.uint64, "f": np.float64}.get(values.dtype.kind, np.int64)
            values = values.astype(dtype, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            return self._whole(self._reduced(ufunc, values), identity)

    def moments(self, count: Array, mean: Array, mean_low: Array, *central: Array) -> Moments:
        if len(central) != 1 or not len(self._starts) or not (count > 0).all():
            return super().moments(count, mean, mean_low, *central)
        for rows in (count, mean, mean_low, *central):
            self._check(rows)
        shift = mean.take(self._lo[self._some])
        if self._in_place and self._step == 1:
            place: slice | Array = slice(int(self._starts[0]), self._stop)
            starts = self._starts - self._starts[0]
        else:
            place = self._rows
            starts = np.cumsum(self._sizes) - self._sizes
        weight = count[place]
        with np.errstate(over="ignore", invalid="ignore"):
            d = mean[place] - np.repeat(shift, self._sizes)
            d += mean_low[place]
            power = d * weight
            n = np.add.reduceat(weight, starts).astype(np.float64)
            s1 = np.add.reduceat(power, starts)
            power *= d
            power += central[0][place]
            state = moments_of_sums(n, shift, [s1, np.add.reduceat(power, starts)])
        return tuple(self._whole(part, 0.0) for part in state)

    def _fold_moments(self, rows: _Rows, out: Moments) -> None:
        if not len(self._sizes):
            return
        lo, hi = self._lo[self._some], self._hi[self._some]
        shift = rows.anchor(lo)
        sums = rows.about(np.repeat(shift, self._sizes), self._rows)
        starts = np.cumsum(self._sizes) - self._sizes
        state = moments_of_sums(
            rows.seen(hi) - rows.seen(lo), shift, [np.add.reduceat(column, starts) for column in sums]
        )
        for column, part in zip(out, state, strict=True):
            column[self._some] = part

    def _laid(self, values: Array) -> Array:
        if self._padded:
            out = np.empty(len(values) + 1, values.dtype)
            out[:-1], out[-1] = values, values[-1]
            return out
        return values[: self._stop] if self._in_place else values.take(self._rows)

    def _reduced(self, ufunc: np.ufunc, values: Array) -> Array:
        if not len(self._starts):
            return np.empty(0, values.dtype)
        out: Array = ufunc.reduceat(self._laid(values), self._starts)
        return out[:: self._step]

    def _whole(self, some: Array, identity: object) -> Array:
        if isinstance(self._some, slice):
            return some
        out = np.full(len(self._lo), identity, some.dtype)
        out[self._some] = some
        return out


class OverlappingRanges(_Ranges):
    """Ranges answered from shared pieces, whatever their length: at most four per range.

    The rows are cut into blocks of `BLOCK`. A range that leaves its block is the end of one block, the start
    of another, and the whole blocks between; the ends come from running aggregates kept in both directions.
    The blocks between are a disjoint sparse table: with `k` the highest bit in which the first and the last
    of them differ, both sides of the multiple of 2^k between them have been accumulated outwards. A range
    inside one block is walked row by row.

    Building costs O(ranges) once; a column O(rows + blocks * levels + ranges) time, and 2 arrays of the rows'
    length in memory (4 for moments of order 2). Ranges are kept by level, so one level of the table exists at
    a time.
    """

    def __init__(self, lo: Array, hi: Array, n: int) -> None:
        super().__init__(lo, hi, n)
        kind = np.empty(len(lo), np.uint8)
        for part in _chunks(0, len(lo)):
            kind[part] = _kinds(self._lo[part], self._hi[part])
        bounds = np.concatenate([[0], np.cumsum(np.bincount(kind, minlength=_MIDDLE + 64))]).tolist()
        narrow: np.dtype[Any] = np.dtype(np.int32 if max(n, len(lo)) < 1 << 31 else np.int64)
        self._order: Array = np.argsort(kind, kind="stable").astype(narrow)
        self._first: Array = self._lo.take(self._order).astype(narrow)
        self._last: Array = self._hi.take(self._order).astype(narrow) - 1
        self._short = (bounds[1], bounds[_NEXT])  # empty ones come first and are never looked at
        spans = ((k - _MIDDLE, bounds[k], bounds[k + 1]) for k in range(_NEXT, _MIDDLE + 64))
        self._levels = [span for span in spans if span[1] < span[2]]

    def reduce(self, ufunc: np.ufunc, values: Array, identity: object) -> Array:
        self._check_reduced(ufunc, values)
        if ufunc is np.logical_or:
            out = self._running(values.astype(bool, copy=False), np.dtype(np.int64)).astype(bool)
        elif ufunc is np.add and values.dtype.kind in "biu":
            out = self._running(values, np.dtype(np.uint64 if values.dtype.kind == "u" else np.int64))
        else:
            values = values.astype(np.float64, copy=False) if ufunc is np.add else values
            out = np.empty(len(self._lo), values.dtype)
            with np.errstate(over="ignore", invalid="ignore"):
                self._walk(_UfuncFold(ufunc, np.ascontiguousarray(values)), (out,))
        out[self._hi == self._lo] = identity
        return out

    def _fold_moments(self, rows: _Rows, out: Moments) -> None:
        self._walk(_MomentFold(rows), out)

    def _running(self, values: Array, dtype: np.dtype[Any]) -> Array:
        """Sums as differences of running sums: right modulo 2^64, because wrapping undoes itself."""
        running = np.zeros(self._n + 1, dtype)
        np.cumsum(values, dtype=dtype, out=running[1:])
        out = np.empty(len(self._lo), dtype)
        for part in _chunks(0, len(out)):
            np.subtract(running.take(self._hi[part]), running.take(self._lo[part]), out=out[part])
        return out

    def _walk(self, fold: _Fold, out: tuple[Array, ...]) -> None:
        for first, last, put in self._parts(*self._short, out):
            put(fold.short(first, last))
        if self._levels:
            fold.scan_blocks()
        for level, start, stop in self._levels:
            fold.enter(level)
            for first, last, put in self._parts(start, stop, out):
                state = fold.merge(fold.tail_of_block(first), fold.head_of_block(last))
                for piece in fold.between((first >> _SHIFT) + 1, (last >> _SHIFT) - 1):
                    state = fold.merge(state, piece)
                put(state)

    def _parts(
        self, start: int, stop: int, out: tuple[Array, ...]
    ) -> Iterator[tuple[Array, Array, Callable[[tuple[Array, ...]], None]]]:
        """First rows, last rows, and where to put the answers, for some ranges at a time."""
        for part in _chunks(start, stop):
            where = self._order[part].astype(np.intp)

            def put(state: tuple[Array, ...], where: Array = where) -> None:
                for column, answer in zip(out, state, strict=True):
                    column[where] = answer

            yield self._first[part].astype(np.intp), self._last[part].astype(np.intp), put


_NEXT = BLOCK + 1  # kinds of range: 0 empty, 1 … BLOCK its length inside one block, then neighbouring blocks,
_MIDDLE = BLOCK + 2  # then blocks between: one, or level 1, 2, …


def _kinds(lo: Array, hi: Array) -> Array:
    first, last = lo >> _SHIFT, (hi - 1) >> _SHIFT
    differ = (first + 1) ^ np.maximum(last - 1, 0)
    kind = np.where(last - first > 1, _MIDDLE + np.frexp(differ.astype(np.float64))[1], _NEXT)
    return np.where(last > first, kind, hi - lo)


class _Fold(Protocol):
    """How pieces of ranges are made and joined. Bounds are rows (blocks for `between`), both included."""

    def short(self, first: Array, last: Array) -> tuple[Array, ...]:
        """Ranges inside one block, shortest first."""
        ...

    def scan_blocks(self) -> None: ...
    def enter(self, level: int) -> None: ...
    def tail_of_block(self, first: Array) -> tuple[Array, ...]: ...
    def head_of_block(self, last: Array) -> tuple[Array, ...]: ...
    def between(self, first: Array, last: Array) -> Iterator[tuple[Array, ...]]: ...
    def merge(self, a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]: ...


class _UfuncFold:
    """Pieces under one associative ufunc."""

    def __init__(self, ufunc: np.ufunc, values: Array) -> None:
        self._ufunc, self._values = ufunc, values

    def short(self, first: Array, last: Array) -> tuple[Array, ...]:
        out = self._values.take(first)
        for step, longer in _steps(first, last):
            rest = out[longer:]
            self._ufunc(rest, self._values.take(first[longer:] + step), out=rest)
        return (out,)

    def scan_blocks(self) -> None:
        n = len(self._values)
        self._heads, self._tails = np.empty_like(self._values), np.empty_like(self._values)
        self._accumulate(self._values, self._heads, _block_sheets(n, backwards=False))
        self._accumulate(self._values, self._tails, _block_sheets(n, backwards=True))
        self._totals = self._heads[BLOCK - 1 :: BLOCK].copy()

    def enter(self, level: int) -> None:
        self._level, self._table = level, self._totals
        if level > 0:
            self._table = np.empty_like(self._totals)
            self._accumulate(self._totals, self._table, _level_sheets(len(self._totals), level - 1))

    def tail_of_block(self, first: Array) -> tuple[Array, ...]:
        return (self._tails.take(first),)

    def head_of_block(self, last: Array) -> tuple[Array, ...]:
        return (self._heads.take(last),)

    def between(self, first: Array, last: Array) -> Iterator[tuple[Array, ...]]:
        if self._level >= 0:
            yield (self._table.take(first),)
        if self._level > 0:
            yield (self._table.take(last),)

    def merge(self, a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        return (self._ufunc(a[0], b[0], out=a[0]),)

    def _accumulate(self, values: Array, out: Array, sheets: Iterator[_Sheet]) -> None:
        for sheet in sheets:
            self._ufunc.accumulate(sheet.of(values), axis=1, out=sheet.of(out))


class _MomentFold:
    """Pieces as moments, each summed about a mean inside itself: what cancels is of the answer's size."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    def short(self, first: Array, last: Array) -> tuple[Array, ...]:
        rows = self._rows
        shift = rows.anchor(first)
        sums = list(rows.about(shift, first))
        for step, longer in _steps(first, last):
            for column, more in zip(sums, rows.about(shift[longer:], first[longer:] + step), strict=True):
                column[longer:] += more
        return moments_of_sums(rows.seen(last + 1) - rows.seen(first), shift, sums)

    def scan_blocks(self) -> None:
        rows = self._rows
        blocks = np.arange(0, rows.n, BLOCK)
        self._head_shift = rows.anchor(blocks)
        self._tail_shift = rows.anchor_before(np.minimum(blocks + BLOCK, rows.n) - 1)
        self._heads = rows.accumulate(self._head_shift, lambda: _block_sheets(rows.n, backwards=False))
        self._tails = rows.accumulate(self._tail_shift, lambda: _block_sheets(rows.n, backwards=True))
        ends = np.arange(BLOCK - 1, rows.n, BLOCK)
        count, mean, low, *central = moments_of_sums(
            rows.seen(ends + 1) - rows.seen(ends - (BLOCK - 1)),
            self._head_shift[: len(ends)],
            [column.take(ends) for column in self._heads],
        )
        self._blocks = _Rows(rows.order, count, mean, low, tuple(central))

    def enter(self, level: int) -> None:
        self._level, blocks = level, self._blocks
        if level > 0:
            width = 1 << (level - 1)
            starts = np.arange(0, blocks.n, width)
            ends = np.minimum(starts + width, blocks.n) - 1
            after = (starts >> (level - 1)) & 1 == 1  # the middle of its pair; all its pieces share its start
            self._shift = np.where(after, blocks.anchor(starts), blocks.anchor_before(ends))
            self._table = blocks.accumulate(self._shift, lambda: _level_sheets(blocks.n, level - 1))

    def tail_of_block(self, first: Array) -> tuple[Array, ...]:
        rows, block = self._rows, first >> _SHIFT
        n = rows.seen((block + 1) << _SHIFT) - rows.seen(first)
        return moments_of_sums(
            n, self._tail_shift.take(block), [column.take(first) for column in self._tails]
        )

    def head_of_block(self, last: Array) -> tuple[Array, ...]:
        rows, block = self._rows, last >> _SHIFT
        n = rows.seen(last + 1) - rows.seen(block << _SHIFT)
        return moments_of_sums(n, self._head_shift.take(block), [column.take(last) for column in self._heads])

    def between(self, first: Array, last: Array) -> Iterator[tuple[Array, ...]]:
        if self._level == 0:
            yield self._blocks.take(first)
        if self._level > 0:
            half = self._level - 1
            middle = (last >> half) << half
            seen = self._rows.seen
            at_middle = seen(middle << _SHIFT)
            before, after = at_middle - seen(first << _SHIFT), seen((last + 1) << _SHIFT) - at_middle
            for block, n in ((first, before), (last, after)):
                sums = [column.take(block) for column in self._table]
                yield moments_of_sums(n, self._shift.take(block >> half), sums)

    def merge(self, a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        return merge_moments(a, b, maybe_empty=self._rows.count is not None)


class _Rows:
    """Partial moments by row: `count` None means one value in each; `low` and `central` None mean zeros.

    Rows that count nothing hold zeros.
    """

    def __init__(
        self,
        order: int,
        count: Array | None,
        mean: Array,
        low: Array | None = None,
        central: tuple[Array, ...] | None = None,
    ) -> None:
        self.order, self.count, self.mean, self.low, self.central = order, count, mean, low, central
        self.n = len(mean)
        if count is not None:
            small = count.dtype == bool and self.n < 1 << 31
            self._running = np.zeros(self.n + 1, np.int32 if small else np.float64)  # exact below 2^31, 2^53
            np.cumsum(count, dtype=self._running.dtype, out=self._running[1:])
            self._next = _first_at_or_after(count > 0)

    def seen(self, bound: Array) -> Array:
        """Values in the rows before `bound`."""
        seen = bound if self.count is None else self._running.take(bound)
        return seen.astype(np.float64, copy=False)

    def anchor(self, row: Array) -> Array:
        """The mean of the nearest row from `row` on that counts something, if there is one."""
        return self.mean.take(row if self.count is None else self._next.take(row), mode="clip")

    def anchor_before(self, row: Array) -> Array:
        """The mean of the nearest row up to `row` that counts something, if there is one."""
        if self.count is not None:
            row = _last_at_or_before(self.count > 0).take(row)
        return self.mean.take(row, mode="clip")

    def take(self, rows: Array) -> Moments:
        columns = (self.count, self.mean, self.low, *(self.central or ()))
        return tuple(column.take(rows) for column in columns if column is not None)

    def about(self, shift: Array, rows: Array) -> Iterator[Array]:
        """Each row's power sums about `shift`, order 1 first. Change none before the last has been taken."""
        return self._about(shift, lambda column: column.take(rows))

    def accumulate(self, shift: Array, sheets: Callable[[], Iterator[_Sheet]]) -> list[Array]:
        """Running power sums along each line of the sheets, about one shift for each line."""
        out = [np.empty(self.n) for _ in range(self.order)]
        for sheet in sheets():
            about = self._about(shift[sheet.lines][:, None], sheet.of)
            for column, power in zip(out, about, strict=True):
                np.add.accumulate(power, axis=1, out=sheet.of(column))
        return out

    def _about(self, shift: Array, of: Callable[[Array], Array]) -> Iterator[Array]:
        d = of(self.mean) - shift
        if self.low is not None:
            d += of(self.low)
        power = d if self.count is None else d * of(self.count)
        yield power
        m = [of(column) for column in self.central] if self.central else []
        for k in range(2, self.order + 1):
            power = power * d
            if not m:
                yield power
            elif k == 2:
                yield power + m[0]
            elif k == 3:
                yield power + (m[1] + 3 * d * m[0])
            else:
                yield power + (m[2] + d * (4 * m[1] + 6 * d * m[0]))


def moments_of_sums(n: Array, shift: Array, sums: list[Array]) -> Moments:
    """Moments from the power sums about `shift`, order 1 first; m2 and m4 are never negative."""
    s1, s2, *more = sums
    offset = s1 / np.maximum(n, 1.0)
    mean, low = two_sum(shift, offset)
    central = [np.maximum(s2 - offset * s1, 0.0)]
    if more:
        central.append(more[0] - offset * (3 * s2 - 2 * offset * s1))
    if len(more) > 1:
        m4 = more[1] - offset * (4 * more[0] - offset * (6 * s2 - 3 * offset * s1))
        central.append(np.maximum(m4, 0.0))
    return n, mean, low, *central


def merge_moments(a: Moments, b: Moments, *, maybe_empty: bool) -> Moments:
    """The moments of both together: Chan, Golub and LeVeque (1983); orders 3 and 4 from Pébay (2008).

    An empty side was summed about a value outside it, so its mean is overwritten, in place: it might round or overflow.
    """
    (na, ha, la, *ma), (nb, hb, lb, *mb) = a, b
    n = na + nb
    if maybe_empty:
        np.copyto(ha, hb, where=na == 0)
        np.copyto(hb, ha, where=nb == 0)
    n_or_1 = np.maximum(n, 1.0) if maybe_empty else n
    rb = nb / n_or_1
    delta = (hb - ha) + (lb - la)
    step = delta * rb
    mean, low = two_sum(ha, la + step)
    apart = na * step * delta
    central = [ma[0] + mb[0] + apart]
    if len(ma) > 1:
        ra = na / n_or_1
        central.append(ma[1] + mb[1] + apart * delta * (ra - rb) + 3 * delta * (ra * mb[0] - rb * ma[0]))
        if len(ma) > 2:
            spread = apart * delta * delta * (ra * ra - ra * rb + rb * rb)
            second = 6 * delta * delta * (ra * ra * mb[0] + rb * rb * ma[0])
            central.append(ma[2] + mb[2] + spread + second + 4 * delta * (ra * mb[1] - rb * ma[1]))
    return n, mean, low, *central


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """`a + b` rounded, and exactly what rounding dropped. Knuth."""
    total = a + b
    b_part = total - a
    rest = (a - (total - b_part)) + (b - b_part)
    return total, rest


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Entries `[start, stop)` of a column as lines of equal width, in the direction of accumulation."""

    start: int
    stop: int
    stride: int  # from one line to the next
    width: slice  # the part of a stride that is the line
    lines: slice  # which of the lines of the whole column these are
    backwards: bool

    def of(self, column: Array) -> Array:
        lines = column[self.start : self.stop].reshape(-1, self.stride)[:, self.width]
        return lines[:, ::-1] if self.backwards else lines


def _block_sheets(n: int, *, backwards: bool) -> Iterator[_Sheet]:
    """Every block a line; the last may be shorter."""
    whole = n >> _SHIFT
    for part in _chunks(0, whole, _CHUNK >> _SHIFT):
        yield _Sheet(part.start << _SHIFT, part.stop << _SHIFT, BLOCK, slice(None), part, backwards)
    if rest := n - (whole << _SHIFT):
        yield _Sheet(n - rest, n, rest, slice(None), slice(whole, whole + 1), backwards)


def _level_sheets(n: int, half: int) -> Iterator[_Sheet]:
    """Lines of 2^half entries in pairs: the first of a pair backwards from its middle, the second forwards.

    A last pair without a second half is left out: no range needs it at this level.
    """
    width = 1 << half
    pairs = n // (2 * width)
    end = pairs * 2 * width
    if pairs:
        yield _Sheet(0, end, 2 * width, slice(0, width), slice(0, 2 * pairs, 2), backwards=True)
        yield _Sheet(0, end, 2 * width, slice(width, None), slice(1, 2 * pairs, 2), backwards=False)
    if n - end > width:
        middle = end + width
        yield _Sheet(end, middle, width, slice(None), slice(2 * pairs, 2 * pairs + 1), backwards=True)
        yield _Sheet(middle, n, n - middle, slice(None), slice(2 * pairs + 1, 2 * pairs + 2), backwards=False)


def _steps(first: Array, last: Array) -> Iterator[tuple[int, int]]:
    """Walk ranges row by row, shortest first: `(step, i)` where the ranges from `i` on have a row `step`."""
    sizes = last - first
    for step in range(1, int(sizes[-1]) + 1):
        yield step, int(np.searchsorted(sizes, step))


def _chunks(start: int, stop: int, size: int = _CHUNK) -> Iterator[slice]:
    for at in range(start, stop, size):
        yield slice(at, min(at + size, stop))


def _index(n: int) -> Array:
    return np.arange(n, dtype=np.int32 if n < 1 << 31 else np.int64)


def _last_at_or_before(mask: Array) -> Array:
    """For each row the greatest row up to it where `mask` holds, else -1."""
    out = np.where(mask, _index(len(mask)), np.int32(-1))
    return np.maximum.accumulate(out, out=out)


def _first_at_or_after(mask: Array) -> Array:
    """For each row the least row from it on where `mask` holds, else one past the end."""
    out = np.where(mask, _index(len(mask)), np.int32(len(mask)) if len(mask) < 1 << 31 else len(mask))
    np.minimum.accumulate(out[::-1], out=out[::-1])
    return out
