"""Statistics: merged in any way they are one pass; the bounds they state; what could not be judged is said."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal as Number
from fractions import Fraction
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import NotFound, StatisticsError
from featurestore.statistics import MOMENTS, Keep, Statistics, Summary
from featurestore.statistics.numbers import Kernel, Numbers, merge
from featurestore.statistics.partitions import UNDATED
from featurestore.statistics.pushed_down import of_relation
from featurestore.statistics.sketches import Distinct, Frequent
from featurestore.time import DAY, HOUR, days, hours, minutes
from featurestore.types import Bool, Date, Decimal, DType, Float64, Int64, List, Map, String, Timestamp

NOON = 1_709_553_600_000_000 // DAY * DAY + 12 * HOUR
CON = duckdb.connect(config={"threads": 1})
COLUMNS: dict[str, DType] = {
    "x": Float64, "whole": Int64, "price": Decimal(9, 2), "flag": Bool, "text": String, "at": Timestamp,
    "day": Date, "items": List(Int64), "map": Map(String, Int64),
}  # fmt: skip
ARROW = {
    "x": pa.float64(), "whole": pa.int64(), "price": pa.decimal128(9, 2), "flag": pa.bool_(), "text": pa.string(),
    "at": pa.timestamp("us", tz="UTC"), "day": pa.date32(), "items": pa.list_(pa.int64()),
    "map": pa.map_(pa.string(), pa.int64()),
}  # fmt: skip


def rows(n: int, seed: int = 0) -> pa.Table:
    r = random.Random(seed)
    start = datetime(2024, 3, 4, tzinfo=UTC)
    made: dict[str, list[Any]] = {
        "x": [r.choice([r.gauss(3, 2), r.gauss(3, 2), 0.0, -0.0, float("nan"), float("inf"), float("-inf")]) for _ in range(n)],
        "whole": [r.randrange(-50, 50) for _ in range(n)],
        "price": [Number(r.randrange(10**6)).scaleb(-2) for _ in range(n)],
        "flag": [r.random() < 0.3 for _ in range(n)],
        "text": ["".join(r.choices("abçd😀", k=r.randrange(4))) for _ in range(n)],
        "at": [start + timedelta(minutes=r.randrange(6000)) for _ in range(n)],
        "day": [date(1969, 12, 1) + timedelta(r.randrange(99)) for _ in range(n)],
        "items": [[1] * r.randrange(4) for _ in range(n)],
        "map": [{str(i): i for i in range(r.randrange(3))} for _ in range(n)],
    }  # fmt: skip
    return pa.table(
        {k: pa.array([v if r.random() > 0.1 else None for v in made[k]], t) for k, t in ARROW.items()}
    )


def summary_of(table: pa.Table, keep: Keep | None = None) -> Summary:
    found = Summary(COLUMNS, keep)
    found.update(table)
    return found


def assert_alike(a: Summary, b: Summary) -> None:
    """Equal, floats to rounding, ranks within both sketches' bounds."""
    for one, two in zip(a, b, strict=True):
        for field in (
            "rows",
            "count",
            "nulls",
            "nans",
            "positive",
            "negative",
            "unread",
            "minimum",
            "maximum",
            "distinct",
        ):
            assert getattr(one, field) == getattr(two, field), (one.name, field)
        scale = one.stddev or 1.0
        if one.average is not None:
            assert two.average == pytest.approx(one.average, rel=1e-13, abs=1e-13 * scale), one.name
        for field, bound in (("variance", 1e-11), ("skewness", 1e-9), ("kurtosis", 1e-9)):
            want = getattr(one, field)
            got = getattr(two, field)
            assert (want is None) == (got is None), (one.name, field)
            if want is not None:
                assert got == pytest.approx(want, rel=bound, abs=bound), (one.name, field)
        if one.frequent_sketch is not None and one.frequent_sketch.exact:
            assert two.most_frequent(10) == one.most_frequent(10)


# --------------------------------------------------------------------------------------------------------------- merging


@pytest.mark.parametrize("seed", range(4))
def test_merged_by_any_partition_and_order_it_is_one_pass(seed: int) -> None:
    table = rows(3000, seed)
    r = random.Random(seed)
    cuts = sorted(r.sample(range(3000), 20))
    pieces = [table.slice(a, b - a) for a, b in zip([0, *cuts], [*cuts, 3000], strict=True)]
    parts = [summary_of(p) for p in pieces]
    r.shuffle(parts)
    while len(parts) > 1:  # in any tree
        i = r.randrange(len(parts) - 1)
        parts[i : i + 2] = [parts[i].merge(parts[i + 1])]
    whole = summary_of(table)
    assert_alike(whole, parts[0])
    assert_alike(
        whole, Summary.merged(COLUMNS, Keep(), [summary_of(table.take(r.sample(range(3000), 3000)))])
    )
    for name in ("x", "price", "at"):
        values = np.sort([v for v in _numbers(table, name) if np.isfinite(v)])
        for found in (whole, parts[0]):
            assert _rank_error(values, found[name].quantiles) <= 0.0133


def _numbers(table: pa.Table, name: str) -> list[float]:
    column = table[name].drop_null()
    column = column.cast(pa.int64()) if name == "at" else column
    return [float(v) for v in column.to_pylist()]


def _rank_error(values: np.ndarray, quantiles: Any) -> float:
    ranks = np.linspace(0.001, 0.999, 199)
    found = np.array(quantiles(ranks.tolist()))
    low, high = (np.searchsorted(values, found, side) / len(values) for side in ("left", "right"))
    return float(np.maximum(0, np.maximum(low - ranks, ranks - high)).max())


def test_the_neutral_element_and_both_arguments_stay() -> None:
    table = rows(300)
    one = summary_of(table)
    before = one.to_bytes()
    both = one.merge(Summary(COLUMNS)).merge(summary_of(table.slice(0, 0)))
    assert both.to_bytes() == before == one.to_bytes()


@pytest.mark.parametrize(("k", "bound"), [(200, 0.0133), (800, 0.004)])
@pytest.mark.parametrize("order", ["random", "sorted", "two phases"])
def test_ranks_are_within_the_stated_error(k: int, bound: float, order: str) -> None:
    values = np.random.default_rng(k).lognormal(0, 1, 200_000)
    if order == "sorted":
        values = np.sort(values)
    if order == "two phases":
        values[100_000:] += 50
    found = Summary({"x": Float64}, Keep(order=2, quantiles=k, distinct=None, frequent=None))
    found.add(values[:, None])
    assert _rank_error(np.sort(values), found["x"].quantiles) <= bound
    assert found["x"].rank_error is not None
    assert found["x"].rank_error <= bound


def exact_moments(values: list[float]) -> tuple[Fraction, Fraction]:
    numbers = [Fraction(v) for v in values]
    mean = sum(numbers, Fraction()) / len(numbers)
    return mean, sum(((v - mean) ** 2 for v in numbers), Fraction()) / len(numbers)


def off(variance: float | None, want: Fraction) -> float:
    assert variance is not None
    return float(abs(Fraction(variance) / want - 1))


def test_a_variance_of_small_spread_at_large_numbers() -> None:
    values = np.random.default_rng(1).normal(1e9, 1e-3, 20_000)
    _, want = exact_moments(values.tolist())
    for size in (1, 7, 1000, 20_000):
        found = Summary({"x": Float64}, MOMENTS)
        for start in range(0, len(values), size):
            found.add(values[start : start + size, None])
        assert off(found["x"].variance, want) <= 1e-12


def test_an_outlier_that_left_the_window_is_forgotten() -> None:
    values = np.random.default_rng(2).normal(1e9, 1e-3, 4000)
    found = Statistics({"x": Float64}, every=hours(1), keep=MOMENTS)
    found.add(np.array([[1e15]]), 0)
    found.add(values[:1000, None], 1)
    for hour in (1, 2, 3):
        found.add(values[1000 * hour : 1000 * (hour + 1), None], hour * HOUR)
    window = found.window(HOUR, 4 * HOUR)["x"]
    _, want = exact_moments(values[1000:].tolist())
    assert window.count == 3000
    assert off(window.variance, want) <= 1e-9
    assert found.total()["x"].maximum == 1e15


@settings(max_examples=60)
@given(
    values=st.lists(
        st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -0.0, 7.0]),
        min_size=1,
        max_size=60,
    ),
    cut=st.integers(0, 60),
)
def test_the_kernel_against_plain_fractions(values: list[float], cut: int) -> None:
    cut = min(cut, len(values))
    kernel = Kernel(1, 4)
    parts = [np.array([p]) for p in (values[:cut], values[cut:]) if p]
    found = Numbers.of_nothing(1, 4)
    for part in parts:
        kernel.take(part, np.zeros(1, np.int64))
        taken = kernel.total()
        assert taken is not None
        found = merge(found, taken)
    assert kernel.total() is None
    finite = [v for v in values if np.isfinite(v)]
    assert found.n[0] == len(finite)
    assert found.count("nans")[0] == sum(v != v for v in values)  # noqa: PLR0124
    assert found.count("positive")[0] == values.count(float("inf"))
    assert found.count("negative")[0] == values.count(float("-inf"))
    assert found.rows[0] == len(values)
    if not finite:
        return
    assert (found.least[0], found.greatest[0]) == (min(finite), max(finite))
    assert not np.signbit(found.least[0]) or found.least[0] != 0
    mean, variance = exact_moments(finite)
    size = max(map(abs, finite))
    if 1e-100 < size < 1e70:
        assert abs(Fraction(found.moments[1][0]) - mean) <= Fraction(size) * Fraction(1e-14)
        got = Fraction(found.moments[3][0]) / len(finite)
        assert abs(got - variance) <= variance * Fraction(1e-12) + Fraction(size) ** 2 * Fraction(1e-30)
    if len(set(finite)) == 1:
        assert found.moments[3][0] == 0


@given(st.lists(st.integers(0, 400), max_size=900), st.integers(2, 40))
def test_frequent_values_are_too_low_by_at_most_their_error(values: list[int], bound: int) -> None:
    parts = [values[i : i + 200] for i in range(0, len(values), 200)]
    merged = Frequent(bound)
    for part in parts:
        one = Frequent(bound)
        unique, counts = np.unique(np.array(part, np.float64), return_counts=True)
        one.add(unique, counts)
        merged.merge(one)
    want = Counter(map(float, values))
    assert merged.error <= len(values) / (bound + 1)
    for value, count in want.items():
        assert count - merged.error <= merged.counts.get(value, 0) <= count
    assert merged.exact == (merged.error == 0)


def test_distinct_values_are_exact_up_to_k_and_near_beyond() -> None:
    small, large = Distinct(1024), Distinct(1024)
    small.add(np.repeat(np.arange(1000.0), 3))
    large.add(np.arange(50_000.0))
    assert (small.estimate, small.exact, large.exact) == (1000, True, False)
    assert large.estimate == pytest.approx(50_000, rel=0.1)


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize(("size", "count", "odd"), [(50, 50, 3), (40_000, 5, 3), (5_000, 150, 70)])
def test_blocks_of_many_kinds_taken_in_turns_are_one_pass(
    order: int, size: int, count: int, odd: int
) -> None:
    """Sums are held back and added; blocks that are far from zero, constant, or not finite come between them."""
    r = np.random.default_rng(size + order)
    blocks = [r.normal([[3.0], [0.0]], [[2.0], [1.0]], (2, size)) for _ in range(count)]
    for k in range(odd - 2, count, odd):
        blocks[k][0, :5] = [np.nan, np.inf, -np.inf, 1e3, np.nan]
        blocks[k - 1][1] = 7.0
    if odd == 3:  # beside a column that is always far
        blocks = [np.concatenate([b, r.normal(1e9, 1e-3, (1, size))]) for b in blocks]
    found = Summary({f"c{i}": Float64 for i in range(len(blocks[0]))}, Keep(order, None, None, None))
    for k, block in enumerate(blocks):
        found.add(block.T)
        if k % 40 == 7:
            found.flush()  # what is read in between changes nothing
    for column, one in zip(np.concatenate(blocks, axis=1), found, strict=True):
        finite = column[np.isfinite(column)]
        exact = np.array(finite, np.longdouble) - finite[0]
        mean = exact.mean()
        assert (one.rows, one.count, one.nulls) == (len(column), len(finite), int(np.isnan(column).sum()))
        assert (one.positive, one.negative) == (int((column == np.inf).sum()), int((column == -np.inf).sum()))
        assert (one.minimum, one.maximum) == (finite.min(), finite.max())
        powers = [float(((exact - mean) ** p).mean()) for p in (2, 3, 4)]
        assert one.average == pytest.approx(float(mean + finite[0]), rel=1e-14)
        assert one.variance == pytest.approx(powers[0], rel=1e-11)
        if order == 4:
            assert one.skewness == pytest.approx(powers[1] / powers[0] ** 1.5, rel=1e-8, abs=1e-8)
            assert one.kurtosis == pytest.approx(powers[2] / powers[0] ** 2 - 3, rel=1e-8, abs=1e-8)


# -------------------------------------------------------------------------------------------------------- ways of taking in


def test_rows_one_by_one_as_a_matrix_or_a_table_are_the_same() -> None:
    matrix = np.random.default_rng(5).normal(3, 2, (10_000, 3))
    matrix[::7, 1] = np.nan
    columns: dict[str, DType] = {"a": Float64, "b": Float64, "c": Float64}
    whole = Summary(columns)
    whole.add(matrix)
    for size in (1, 10, 999, 3000):
        found = Summary(columns)
        for start in range(0, len(matrix), size):
            found.add(
                matrix[start : start + size]
                if size != 10
                else np.asfortranarray(matrix[start : start + size])
            )
        assert_alike_numbers(whole, found)
    table = Summary(columns)
    nan_is_null = {n: pa.array(matrix[:, i], from_pandas=True) for i, n in enumerate(columns)}
    table.update(pa.table(nan_is_null))
    assert_alike_numbers(whole, table)
    by_batch = Summary(columns)
    for batch in pa.table(nan_is_null).to_batches(max_chunksize=17):
        by_batch.update(batch)
    assert_alike_numbers(whole, by_batch)


def assert_alike_numbers(a: Summary, b: Summary) -> None:
    for one, two in zip(a, b, strict=True):
        assert (one.count, one.nulls, one.nans, one.minimum, one.maximum) == (
            two.count, two.nulls, two.nans, two.minimum, two.maximum,
        )  # fmt: skip
        assert one.variance == pytest.approx(two.variance, rel=1e-12)


def test_a_matrix_of_another_shape_is_refused() -> None:
    found = Summary({"a": Float64, "b": Float64})
    for wrong in (np.zeros((3, 3)), np.zeros(2), np.zeros((2, 2, 2))):
        with pytest.raises(StatisticsError, match="2 columns"):
            found.add(wrong)
    with pytest.raises(StatisticsError, match="holds no numbers"):
        Summary({"a": String}).add(np.zeros((1, 1)))
    with pytest.raises(StatisticsError, match="a frame"):
        found.update(3)
    with pytest.raises(NotFound, match="did you mean"):
        Summary({"amount": Float64})["amonut"]


def test_sql_and_python_give_the_same_and_merge() -> None:
    table = rows(2000, 9)
    CON.register("some_rows", table)
    CON.execute("SET TimeZone = 'UTC'")
    pushed = of_relation(CON, "some_rows", COLUMNS, "at", every=hours(6))
    read = Statistics(COLUMNS, every=hours(6), keep=Keep(4, None, None, None))
    read.update(table, "at")
    assert pushed.starts == read.starts
    for (_, one), (_, two) in zip(pushed, read, strict=True):
        assert_alike(one, two)
    assert_alike(pushed.total(), read.total())
    assert pushed.partition(UNDATED) is not None
    full = Statistics(COLUMNS, every=hours(6))
    full.update(table, "at")
    both = full.merge(pushed)
    assert both.total()["x"].rows == 4000
    assert both.total()["x"].quantile(0.5) is None
    values = np.random.default_rng(4).normal(1e9, 1e-3, 5000)
    CON.register("close", pa.table({"x": values}))
    found = of_relation(CON, "close", {"x": Float64}).total()["x"]
    _, want = exact_moments(values.tolist())
    assert off(found.variance, want) <= 1e-9


# ------------------------------------------------------------------------------------------------------- partitions of time


def test_any_window_is_a_merge_of_partitions() -> None:
    table = rows(2000, 3)
    found = Statistics(COLUMNS, every=hours(1))
    for batch in table.to_batches(max_chunksize=333):
        found.update(batch, "at")
    moments = table["at"].cast(pa.int64()).to_numpy(zero_copy_only=False)
    start, end = found.starts[5], found.starts[40]
    inside = table.filter(pa.array((moments >= start) & (moments < end)))
    assert_alike(summary_of(inside), found.window(start, end))
    monday = found.where(lambda s: s // DAY % 7 == found.starts[0] // DAY % 7)
    assert monday.rows == sum(m // DAY % 7 == found.starts[0] // DAY % 7 for m in moments[~np.isnan(moments)])
    assert found.partition(UNDATED).rows == table["at"].null_count  # type: ignore[union-attr]
    assert found.total().rows == 2000
    with pytest.raises(StatisticsError, match="begins and ends where one does"):
        found.window(start + 1)


def test_many_partitions_wait_together_and_are_taken_in_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    from featurestore.statistics import partitions

    monkeypatch.setattr(partitions, "WAITING_ROWS", 500)
    found = Statistics({"x": Float64, "flag": Bool}, every=hours(1))
    moments = np.random.default_rng(1).integers(0, 40, 3000) * HOUR
    for start in range(0, 3000, 100):
        part = slice(start, start + 100)
        found.update({"x": moments[part].astype(float), "flag": [True] * 100}, moments[part])
        found.add(np.array([[1.0, 0.0]]), int(moments[start]))
    assert found.total().rows == 3030
    assert {s: p["flag"].count for s, p in found} == dict(
        Counter(moments.tolist()) + Counter(moments[::100].tolist())
    )


def test_moments_before_1970_fall_into_the_partition_before() -> None:
    found = Statistics({"x": Float64}, every=days(1))
    found.update({"x": [1.0, 2.0]}, np.array([-1, 0]))
    found.update({"x": [3.0]}, -1)
    assert {s: p.rows for s, p in found} == {-DAY: 2, 0: 1}


def test_a_partition_is_rebuilt_by_itself() -> None:
    columns: dict[str, DType] = {"x": Float64}
    wrong, right = Statistics(columns), Statistics(columns)
    for day in range(4):
        for found in (wrong, right):
            found.update({"x": [float(day), 2.0 * day]}, day * DAY)
    wrong.update({"x": [1e12]}, 2 * DAY)
    anew = Summary(columns)
    anew.update({"x": [2.0, 4.0]})
    wrong.replace(2 * DAY, anew)
    assert said(wrong) == said(right)
    wrong.replace(2 * DAY, None)
    assert wrong.starts == [0, DAY, 3 * DAY]
    with pytest.raises(StatisticsError, match="no partition"):
        wrong.replace(1, anew)


def said(found: Statistics) -> Any:
    return [(start, [f.to_json() for f in part]) for start, part in found]


def test_decayed_rows_weigh_half_for_each_half_life() -> None:
    found = Statistics({"x": Float64})
    for day, value in ((0, 0.0), (1, 10.0), (2, 20.0)):
        found.update({"x": [value, value, None]}, day * DAY)
    decayed = found.decayed(3 * DAY, days(1))["x"]
    weights, values = np.array([0.5, 0.5, 1, 1, 2, 2]) / 2, np.array([0, 0, 10, 10, 20, 20])
    assert decayed.weight == pytest.approx(weights.sum())
    mean = np.average(values, weights=weights)
    assert decayed.mean == pytest.approx(mean)
    assert decayed.variance == pytest.approx(np.average((values - mean) ** 2, weights=weights))
    assert decayed.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert decayed.null_share == pytest.approx(1 / 3)
    assert (decayed.quantile(0.1), decayed.quantile(0.5), decayed.quantile(1.0)) == (0.0, 20.0, 20.0)
    nothing = found.decayed(0, days(1))["x"]
    assert (nothing.weight, nothing.mean, nothing.quantile(0.5)) == (0.0, None, None)


def test_partitions_have_a_length_that_fits_a_day() -> None:
    with pytest.raises(StatisticsError, match="do not fit"):
        Statistics({"x": Float64}, every=minutes(7))
    a, b = Statistics({"x": Float64}), Statistics({"x": Float64}, every=hours(1))
    with pytest.raises(StatisticsError, match="do not merge"):
        a.merge(b)
    with pytest.raises(StatisticsError, match="do not merge"):
        a.merge(Statistics({"y": Float64})).total()
    with pytest.raises(StatisticsError, match="no column 'when'"):
        a.update({"x": [1.0]}, "when")
    for wrong in (np.array([1, 2]), np.array([1.5])):
        with pytest.raises(StatisticsError, match="for each of 1 rows"):
            a.update({"x": [1.0]}, wrong)
    with pytest.raises(StatisticsError, match="does not say when"):
        a.update({"x": [1.0]}, "x")


# -------------------------------------------------------------------------------------------------------------------- bytes


def test_bytes_give_the_same_back() -> None:
    found = Statistics(COLUMNS, every=hours(6))
    found.update(rows(1500, 8), "at")
    raw = found.to_bytes()
    again = Statistics.from_bytes(raw)
    assert again.to_bytes() == raw
    assert said(again) == said(found)
    assert len(raw) < 400_000
    more = rows(100, 12)
    again.update(more, "at")
    found.update(more, "at")
    assert_alike(again.total(), found.total())
    empty = Statistics({"x": Float64})
    assert Statistics.from_bytes(empty.to_bytes()).columns == {"x": Float64}


@pytest.mark.parametrize("cut", [0, 1, 9, 20, 100, 700])
def test_other_bytes_are_refused(cut: int) -> None:
    found = Statistics({"x": Float64})
    found.update({"x": [1.0, 2.0]}, 0)
    raw = found.to_bytes()
    summary = found.total().to_bytes()
    for wrong in (raw[:cut] if cut < len(raw) else b"\x02" + raw[1:], bytes([9]) + raw[1:]):
        with pytest.raises(StatisticsError):
            Statistics.from_bytes(wrong)
    for wrong in (summary[:cut] if cut < len(summary) else b"", summary[:-3] + b"abc"):
        with pytest.raises(StatisticsError):
            Summary.from_bytes(wrong)


# --------------------------------------------------------------------------------------------------------------- bad input


def verdicts(values: Any, dtype: DType = Float64) -> tuple[str, ...]:
    found = Summary({"x": dtype})
    found.update({"x": values})
    return found["x"].verdicts


def test_what_cannot_be_judged_is_said() -> None:
    assert verdicts(pa.array([], pa.float64())) == ("no rows: nothing can be judged",)
    assert verdicts(pa.array([None, None], pa.float64())) == ("all NULL: no value to judge",)
    assert verdicts(pa.array([None, None])) == ("all NULL: no value to judge",)
    assert verdicts([3.0]) == ("one value: its spread cannot be judged",)
    assert verdicts([3.0, 3.0]) == ("constant: it tells no rows apart",)
    assert verdicts([0.0, -0.0]) == ("constant: it tells no rows apart",)
    assert verdicts(["ab", "cd"], String) == ()
    assert verdicts(["ab", "ab"], String) == ("constant: it tells no rows apart",)
    assert verdicts([[1], [2]], List(Int64)) == ()
    assert verdicts([float("nan"), float("inf"), 1.0, 2.0]) == ("1 NaN and 1 infinite, left out of all else",)
    assert "no finite number" in verdicts([float("nan")])[1]
    assert "mean or spread cannot be judged" in verdicts([1.7e308, -1.7e308])[0]
    assert "its shape cannot be judged" in verdicts([1e100, -1e100, 3e99])[0]
    assert verdicts([True, True], Bool) == ()


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (Float64, ["1", "2"]), (Int64, ["x", None]), (String, [1, 2]), (Bool, ["true", "no"]), (List(Int64), [1, 2]),
        (Timestamp, [True, False]), (Decimal(9, 2), ["1.5", "2"]),
    ],
)  # fmt: skip
def test_a_type_that_changes_in_mid_stream_is_counted_apart(dtype: DType, values: list[Any]) -> None:
    right: dict[Any, list[Any]] = {
        Float64: [1.0, 3.0], Int64: [1, 3], String: ["a", "b"], Bool: [True, False], List(Int64): [[1], [1, 2, 3]],
        Timestamp: [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)],
        Decimal(9, 2): [Number("1.5"), Number(3)],
    }  # fmt: skip
    found = Summary({"x": dtype, "other": Int64})
    for column in (right[dtype], values, right[dtype]):
        found.update({"x": column, "other": [1, 2]})
    found.update({"other": [5]})
    one = found["x"]
    assert (one.rows, one.unread, one.count, one.nulls) == (7, 3, 4, 0)
    assert "3 rows could not be read: the column is missing" in one.verdicts
    assert found["other"].count == 7


def test_numbers_of_another_width_are_read() -> None:
    found = Summary({"x": Int64, "y": Float64, "z": Decimal(9, 2)})
    found.update({"x": pa.array([1.0, None]), "y": pa.array([1, 2], pa.int16()), "z": pa.array([1.5, 2.5])})
    assert [f.unread for f in found] == [0, 0, 0]
    assert found["z"].average == 2.0


def test_the_histogram_covers_everything() -> None:
    found = Summary({"x": Float64})
    found.add(np.array([[1.7e308], [-1.7e308], [0.0], [1.0]]))
    edges, shares = found["x"].histogram(4)
    assert (edges[0], edges[-1]) == (-1.7e308, 1.7e308)
    assert sum(shares) == pytest.approx(1.0)
    found = Summary({"x": Float64})
    found.update({"x": [5.0, 5.0]})
    assert found["x"].histogram() == ([5.0, 5.0], [1.0])
