"""Range reduction: both kinds against the plain reading, row by row and in exact fractions."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featurestore.evaluate.ranges import BLOCK, GatheredRanges, Moments, OverlappingRanges, Ranges

KINDS = [OverlappingRanges, GatheredRanges]
INT64, UINT64 = np.iinfo(np.int64), np.iinfo(np.uint64)
UNIT = 2.0**-53


@dataclass(frozen=True)
class Case:
    """Ranges and a seed for the rows: shrinking the bounds matters more than shrinking the values."""

    n: int
    bounds: tuple[tuple[int, int], ...]
    seed: int

    @property
    def random(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def kinds(self) -> list[Ranges]:
        lo = np.array([lo for lo, _ in self.bounds], np.int64)
        hi = np.array([hi for _, hi in self.bounds], np.int64)
        return [kind(lo, hi, self.n) for kind in KINDS]

    def plain(self, ufunc: np.ufunc, values: NDArray[Any], identity: object) -> list[object]:
        return [ufunc.reduce(values[lo:hi]) if lo < hi else identity for lo, hi in self.bounds]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes = st.one_of(
        st.integers(0, 3 * BLOCK), st.sampled_from([n * BLOCK for n in (1, 2, 3, 4, 8, 16, 37, 64)])
    )
    n = draw(sizes) + draw(st.sampled_from([0, 0, 1, BLOCK - 1]))
    row = st.integers(0, n)
    edge = st.integers(0, n // BLOCK).map(lambda block: block * BLOCK)
    near = st.tuples(row, st.integers(0, BLOCK)).map(lambda pair: (pair[0], min(n, sum(pair))))
    far = st.tuples(row | edge, row | edge).map(lambda pair: (min(pair), max(pair)))
    return Case(n, tuple(draw(st.lists(near | far | st.just((0, n)), max_size=40))), draw(st.integers(0, 99)))


EXACT = {
    "add int64, wrapping": (np.add, np.int64, 0),
    "add int32": (np.add, np.int32, 0),
    "add uint64, wrapping": (np.add, np.uint64, 0),
    "add bool": (np.add, bool, 0),
    "minimum float64": (np.minimum, np.float64, np.inf),
    "minimum float32": (np.minimum, np.float32, np.inf),
    "maximum int64": (np.maximum, np.int64, INT64.min),
    "maximum uint64": (np.maximum, np.uint64, 0),
    "minimum bool": (np.minimum, bool, True),
    "bitwise_or uint64": (np.bitwise_or, np.uint64, 0),
    "bitwise_or int64": (np.bitwise_or, np.int64, 0),
    "logical_or": (np.logical_or, bool, False),
}


def rows_of(dtype: type, n: int, random: np.random.Generator) -> NDArray[Any]:
    if dtype is bool:
        return random.random(n) < 0.1
    if np.issubdtype(dtype, np.floating):
        return (random.normal(size=n) * 10.0 ** random.integers(-9, 9, n)).astype(dtype)
    info = np.iinfo(dtype)
    values = random.integers(info.min, info.max, n, dtype=dtype, endpoint=True)
    extreme = random.random(n) < 0.2
    values[extreme] = random.choice(np.array([info.min, info.max], dtype), int(extreme.sum()))
    return values


@pytest.mark.parametrize("name", EXACT)
@given(case=cases())
def test_whole_numbers_and_extremes_are_exact(name: str, case: Case) -> None:
    ufunc, dtype, identity = EXACT[name]
    values = rows_of(dtype, case.n, case.random)
    for ranges in case.kinds():
        got = ranges.reduce(ufunc, values, identity)
        assert got.tolist() == [
            np.asarray(want, got.dtype).item() for want in case.plain(ufunc, values, identity)
        ]


@pytest.mark.parametrize(
    ("dtype", "want"),
    [(bool, np.int64), (np.int8, np.int64), (np.uint8, np.uint64), (np.float32, np.float64)],
    ids=str,
)
def test_sums_are_widened(dtype: type, want: type) -> None:
    for ranges in Case(3, ((0, 3), (1, 1)), 0).kinds():
        got = ranges.reduce(np.add, np.array([1, 1, 1], dtype), 0)
        assert got.dtype == want
        assert got.tolist() == [3, 0]


@given(case=cases())
def test_float_sums_keep_their_bound(case: Case) -> None:
    values = rows_of(np.float64, case.n, case.random)
    rest = values * UNIT * case.random.random(case.n)
    for ranges in case.kinds():
        got = ranges.reduce(np.add, values, 0.0)
        pair = ranges.sum_compensated(values, rest)
        for i, (lo, hi) in enumerate(case.bounds):
            scale = UNIT * float(np.abs(values[lo:hi]).sum())
            depth = (hi - lo) / BLOCK + 36 if isinstance(ranges, OverlappingRanges) else hi - lo
            exact = sum(map(Fraction, values[lo:hi].tolist()), Fraction())
            assert abs(Fraction(got[i]) - exact) <= depth * scale
            exact += sum(map(Fraction, rest[lo:hi].tolist()), Fraction())
            assert abs(Fraction(pair[0][i]) + Fraction(pair[1][i]) - exact) <= 1.01 * depth * scale


@given(case=cases(), share=st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_the_nearest_true_row(case: Case, share: float) -> None:
    mask = case.random.random(case.n) < share
    for ranges in case.kinds():
        for asked, holds in ((mask, mask), (None, np.ones(case.n, bool))):
            found = [np.flatnonzero(holds[lo:hi]) + lo for lo, hi in case.bounds]
            assert ranges.last_true(asked).tolist() == [rows[-1] if len(rows) else -1 for rows in found]
            assert ranges.first_true(asked).tolist() == [rows[0] if len(rows) else -1 for rows in found]
        assert ranges.lengths.tolist() == [hi - lo for lo, hi in case.bounds]


def exact_moments(values: list[float]) -> tuple[Fraction, list[Fraction]]:
    xs = [Fraction(x) for x in values]
    mean = sum(xs, Fraction()) / max(len(xs), 1)
    return mean, [sum(((x - mean) ** k for x in xs), Fraction()) for k in (2, 3, 4)]


def assert_moments(got: Moments, i: int, values: list[float], tolerance: float) -> None:
    """Every moment within `tolerance` on its own scale: the mean on the standard deviation's."""
    count, mean, low, *central = (column[i] for column in got)
    want_mean, want = exact_moments(values)
    assert count == len(values)
    if not values:
        assert (mean, low, *central) == (0.0,) * (2 + len(central))
        return
    sd = (float(want[0]) / len(values)) ** 0.5
    assert abs(float(Fraction(mean) + Fraction(low) - want_mean)) <= tolerance * sd
    for k, (value, exact) in enumerate(zip(central, want, strict=False), start=2):
        scale = len(values) * sd**3 if k == 3 else float(exact)
        assert abs(float(Fraction(value) - exact)) <= tolerance * scale


SHAPES: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "1e9 plus or minus 1e-3": lambda random, n: 1e9 + random.uniform(-1e-3, 1e-3, n),
    "around zero": lambda random, n: random.normal(size=n),
    "many sizes": lambda random, n: 10.0 ** random.uniform(-8, 8, n),
    "equal": lambda _, n: np.full(n, 0.1),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", [2, 3, 4])
@settings(max_examples=25)
@given(case=cases(), share=st.sampled_from([None, 0.03, 0.9]))
def test_moments_of_values(shape: str, order: int, case: Case, share: float | None) -> None:
    random = case.random
    values = SHAPES[shape](random, case.n)
    valid = None if share is None else random.random(case.n) < share
    kept = np.ones(case.n, bool) if valid is None else valid
    hidden = np.where(kept, values, np.nan)  # what is not valid may be anything
    for ranges in case.kinds():
        got = ranges.moments_of_values(hidden, valid, order)
        assert len(got) == order + 2
        for i, (lo, hi) in enumerate(case.bounds):
            assert_moments(got, i, values[lo:hi][kept[lo:hi]].tolist(), 1e-12)


@settings(max_examples=50)
@given(case=cases(), order=st.sampled_from([2, 3, 4]))
def test_moments_of_partials_are_those_of_their_values(case: Case, order: int) -> None:
    random = case.random
    sizes = random.choice([0, 0, 1, 2, 5], case.n)
    groups = [(1e9 + random.uniform(-1e-3, 1e-3, size)).tolist() for size in sizes]
    rows = np.zeros((order + 2, case.n))
    for i, group in enumerate(groups):
        mean, central = exact_moments(group)
        rows[:, i] = [len(group), float(mean), float(mean - Fraction(float(mean))), *map(float, central)][
            : order + 2
        ]
    for ranges in case.kinds():
        got = ranges.moments(*rows)
        for i, (lo, hi) in enumerate(case.bounds):
            assert_moments(got, i, [x for group in groups[lo:hi] for x in group], 1e-12)


def test_partials_that_count_nothing_may_say_anything() -> None:
    count = np.array([0.0, 2.0, 0.0])
    mean, low, m2 = (
        np.array([np.nan, 3.0, 1e300]),
        np.array([1.0, 1e-20, np.inf]),
        np.array([7.0, 0.5, np.nan]),
    )
    for ranges in Case(3, ((0, 3), (0, 1)), 0).kinds():
        got = ranges.moments(count, mean, low, m2)
        assert [column.tolist() for column in got] == [[2.0, 0.0], [3.0, 0.0], [1e-20, 0.0], [0.5, 0.0]]


@pytest.mark.parametrize(
    "at", [0, 1, BLOCK - 1, BLOCK, 5 * BLOCK, 32 * BLOCK - 1, 32 * BLOCK, 40 * BLOCK + 7]
)
@pytest.mark.parametrize("outlier", [1e15, -1e300])
def test_an_outlier_that_left_the_range_is_forgotten(at: int, outlier: float) -> None:
    n = 64 * BLOCK
    random = np.random.default_rng(at)
    values = 1e9 + random.uniform(-1e-3, 1e-3, n)
    with_outlier = values.copy()
    with_outlier[at] = outlier
    spans = [(at + 1, at + 1 + size) for size in (1, 2, BLOCK, 3 * BLOCK)] + [(at + 1, n)]
    spans += [(max(at - size, 0), at) for size in (1, 2, BLOCK, 3 * BLOCK, n)]
    for valid in (None, random.random(n) < 0.05):
        for clean, dirty in zip(*(Case(n, tuple(spans), 0).kinds() for _ in range(2)), strict=True):
            assert np.array_equal(clean.reduce(np.add, values, 0.0), dirty.reduce(np.add, with_outlier, 0.0))
            got = dirty.moments_of_values(with_outlier, valid, 4)
            for i, (lo, hi) in enumerate(spans):
                kept = slice(None) if valid is None else valid[lo:hi]
                assert_moments(got, i, values[lo:hi][kept].tolist(), 1e-12)
            assert np.array_equal(
                clean.reduce(np.minimum, values, np.inf), dirty.reduce(np.minimum, with_outlier, np.inf)
            )


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_values_outside_a_range_are_no_part_of_it(sign: float) -> None:
    values, valid = np.zeros(2 * BLOCK), np.zeros(2 * BLOCK, bool)
    ends = [
        BLOCK - 1,
        BLOCK + 5,
    ]  # the only values; each range below holds one, and rows of the other's block
    values[ends], valid[ends] = [sign * -1.7e308, sign * 1.7e308], True
    for ranges in Case(
        2 * BLOCK, ((BLOCK - 2, BLOCK + 3), (BLOCK, BLOCK + 9), (BLOCK - 1, BLOCK)), 0
    ).kinds():
        count, mean, *zeros = ranges.moments_of_values(values, valid, 4)
        assert count.tolist() == [1, 1, 1]
        assert mean.tolist() == [sign * -1.7e308, sign * 1.7e308, sign * -1.7e308]
        assert all(column.tolist() == [0, 0, 0] for column in zeros)


def test_many_rows_and_long_ranges() -> None:
    n = 50_000
    random = np.random.default_rng(3)
    values = 1e9 + random.uniform(-1e-3, 1e-3, n)
    ends = np.sort(random.integers(0, n + 1, (60, 2)), axis=1)
    case = Case(n, (*((int(lo), int(hi)) for lo, hi in ends), (0, n)), 0)
    exact = np.array([float(exact_moments(values[lo:hi].tolist())[1][0]) for lo, hi in case.bounds[-4:]])
    for ranges in case.kinds():
        np.testing.assert_allclose(ranges.moments_of_values(values, None)[3][-4:], exact, rtol=1e-12)
        np.testing.assert_array_equal(
            ranges.reduce(np.maximum, values, 0.0), case.plain(np.maximum, values, 0.0)
        )


def test_sums_beyond_float64_do_not_warn_or_spread() -> None:
    values = np.full(4 * BLOCK, 1e308)
    values[:BLOCK] = 1.0
    for ranges in Case(len(values), ((0, BLOCK), (0, len(values)), (1, 1)), 0).kinds():
        assert ranges.reduce(np.add, values, 0.0).tolist() == [BLOCK, np.inf, 0.0]
        count, mean, low, m2 = ranges.moments_of_values(values, None)
        assert (count[0], mean[0], low[0], m2[0]) == (BLOCK, 1.0, 0.0, 0.0)
        assert not np.isfinite(m2[1])


def test_threads_may_share_one() -> None:
    n = 50_000
    random = np.random.default_rng(5)
    ends = np.sort(random.integers(0, n + 1, (20_000, 2)), axis=1)
    ranges = OverlappingRanges(ends[:, 0], ends[:, 1], n)
    columns = [random.normal(size=n) for _ in range(4)]
    alone = [(ranges.reduce(np.add, x, 0.0), *ranges.moments_of_values(x, None)) for x in columns]
    with ThreadPoolExecutor(4) as pool:
        together = list(
            pool.map(lambda x: (ranges.reduce(np.add, x, 0.0), *ranges.moments_of_values(x, None)), columns)
        )
    for a, b in zip(alone, together, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_must_lie_in_the_rows(kind: type[OverlappingRanges | GatheredRanges]) -> None:
    for lo, hi in (([-1], [1]), ([0], [4]), ([2], [1])):
        with pytest.raises(ValueError, match="0 <= lo <= hi <= 3"):
            kind(np.array(lo), np.array(hi), 3)
    with pytest.raises(ValueError, match="one lower and one upper bound"):
        kind(np.array([1, 2]), np.array([2]), 3)
    ranges = kind(np.array([0]), np.array([3]), 3)
    with pytest.raises(ValueError, match="one value per row: 3"):
        ranges.reduce(np.add, np.zeros(4), 0.0)
    with pytest.raises(ValueError, match="cannot reduce by multiply"):
        ranges.reduce(np.multiply, np.zeros(3), 1.0)
    with pytest.raises(ValueError, match="order 2, 3 or 4, not 5"):
        ranges.moments_of_values(np.zeros(3), None, 5)
