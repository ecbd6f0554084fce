"""Drift: what is called so, what is not, and what cannot be judged and why."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from featurestore import FeatureStore
from featurestore.cli.app import main
from featurestore.drift import (
    DriftReport,
    Limits,
    choose,
    compare,
    compare_rows,
    compare_slices,
    parse_baseline,
)
from featurestore.drift import effects as e
from featurestore.drift.rows import TOGETHER
from featurestore.drift.verdicts import benjamini_hochberg
from featurestore.errors import RequestError, SourceError, StatisticsError
from featurestore.statistics import Keep, Statistics, Summary
from featurestore.time import DAY, HOUR, hours
from featurestore.types import Bool, DType, Float64, Int64, String, Timestamp

N = 2_000


def of(dtype: DType, *values: Any, keep: Keep | None = None) -> Summary:
    found = Summary({"x": dtype}, keep)
    found.update({"x": pa.array(list(values[0]) if len(values) == 1 else list(values))})
    return found


def normal(seed: int, n: int = N, mean: float = 0.0, sd: float = 1.0) -> list[float]:
    return np.random.default_rng(seed).normal(mean, sd, n).tolist()


def words(seed: int, n: int = N, **shares: float) -> list[str]:
    return np.random.default_rng(seed).choice(list(shares), n, p=list(shares.values())).tolist()


# ------------------------------------------------------------------------------------------------- cases, one a sentence


@dataclass(frozen=True)
class Case:
    name: str
    dtype: DType
    base: list[Any]
    now: list[Any]
    verdict: str
    said: str = ""


CASES = [
    Case("the same distribution is stable", Float64, normal(1), normal(2), "stable"),
    Case("a mean that moved by a fifth of its spread", Float64, normal(1), normal(2, mean=0.2), "drifted", "mean"),
    Case("a spread that doubled about the same mean", Float64, normal(1), normal(2, sd=2.0), "drifted", "apart"),
    Case("a shift too small to matter", Float64, normal(1, 50_000), normal(2, 50_000, mean=0.04), "stable"),
    Case("a shift that 100 rows cannot show", Float64, normal(1), normal(2, 100, mean=0.1), "stable"),
    Case("NULLs where there were none", Float64, normal(1), [*normal(2, 1900), *[None] * 100], "drifted", "NULL 0.0% → 5.0%"),
    Case("all NULL now", Float64, normal(1), [None] * N, "drifted", "NULL 0.0% → 100.0%"),
    Case("all NULL on both sides is as it was", Float64, [None] * N, [None] * N, "stable", "all NULL"),
    Case("NaN where there was none", Float64, normal(1), [*normal(2, 1900), *[math.nan] * 100], "drifted", "NaN or infinite"),
    Case("infinities are NaN's kin", Float64, normal(1), [*normal(2, 1900), *[math.inf] * 100], "drifted", "infinite"),
    Case("a constant that stays", Float64, [3.0] * N, [3.0] * N, "stable", "constant"),
    Case("negative zero is zero", Float64, [0.0] * N, [-0.0] * N, "stable", "constant"),
    Case("negative zeros among numbers", Float64, [0.0, 1.0] * N, [-0.0, 1.0] * N, "stable"),
    Case("a constant that became another", Float64, [3.0] * N, [4.0] * N, "drifted", "apart"),
    Case("a constant that began to vary", Float64, [0.0] * N, normal(2), "drifted", "apart"),
    Case("one row", Float64, normal(1), [1.0], "not judged", "1 rows in the window: 100 are needed"),
    Case("no rows", Float64, normal(1), [], "not judged", "the window is empty"),
    Case("no baseline", Float64, [], normal(1), "not judged", "the baseline is empty"),
    Case("few values among many NULLs", Float64, normal(1), [*normal(2, 50), *[None] * 950], "drifted", "NULL"),
    Case("texts where numbers were", Float64, normal(1), ["12"] * N, "not judged", "could be read"),
    Case("one outlier of 1e15", Float64, normal(1), [*normal(2), 1e15], "stable"),
    Case("a mean past what a double holds", Float64, normal(1), [*normal(2), 1e308, 1e308], "stable"),
    Case("shares of categories that stay", String, words(1, N, a=0.5, b=0.5), words(2, N, a=0.5, b=0.5), "stable"),
    Case("shares of categories that moved", String, words(1, N, a=0.5, b=0.5), words(2, N, a=0.7, b=0.3), "drifted", "'a' 50"),
    Case("a new category", String, words(1, N, a=0.5, b=0.5), words(2, N, a=0.48, b=0.48, c=0.04), "drifted", "1 new: 'c'"),
    Case("a category that is gone", String, words(1, N, a=0.48, b=0.48, c=0.04), words(2, N, a=0.5, b=0.5), "drifted", "1 gone"),
    Case("one row of a new category", String, words(1, N, a=0.5, b=0.5), [*words(2, N, a=0.5, b=0.5), "c"], "stable"),
    Case("a share of true that moved", Bool, [True, False] * 1000, [True, True, True, False] * 500, "drifted", "true 50"),
    Case("a share of true that stays", Bool, [True, False] * 1000, [False, True] * 1000, "stable"),
    Case("whole numbers", Int64, [1, 2, 3, 4] * 500, [2, 3, 4, 5] * 500, "drifted", "mean 2.5 → 3.5"),
    Case("instants move with time", Timestamp, [*range(N)], [*range(10**9, 10**9 + N)], "stable", "instants"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("road", ["kept", "rows"])
def test_a_window_beside_its_baseline(case: Case, road: str) -> None:
    kind = pa.timestamp("us") if case.dtype == Timestamp else None
    before, after = (pa.table({"x": pa.array(v, kind)}) for v in (case.base, case.now))
    if road == "rows":
        report = compare_rows(before, after, {"x": case.dtype})
    else:
        base, now = Summary({"x": case.dtype}), Summary({"x": case.dtype})
        base.update(before)
        now.update(after)
        report = compare(base, now)
    found = report["x"]
    assert (found.verdict, case.said in found.said) == (case.verdict, True), found.said
    json.dumps(report.to_json(), allow_nan=False)


def test_a_high_cardinality_text_is_judged_by_what_is_surely_known_of_it() -> None:
    rng = np.random.default_rng(3)
    ids = [f"id{n:06d}" for n in rng.integers(0, 900_000, 6_000)]
    report = compare(of(String, ids[:3000]), of(String, ids[3000:]))
    assert report["x"].verdict == "stable"
    longer = [f"customer-{i}" for i in ids[3000:]]
    assert "lengths: distributions 1.000" in compare(of(String, ids[:3000]), of(String, longer))["x"].said


def test_columns_that_came_went_or_changed_their_type_are_a_change_of_schema() -> None:
    before = Summary({"a": Float64, "b": Float64, "c": Float64})
    after = Summary({"a": Float64, "b": String, "d": Float64})
    report = compare(before, after)
    assert [(c.column, c.change) for c in report.schema] == [("c", "removed"), ("b", "type"), ("d", "added")]
    assert report.verdict == "drifted"
    assert [f.feature for f in report.features] == ["a"]


def test_slices_are_judged_beside_their_own_baseline_and_together() -> None:
    base = {
        "ewr": of(Float64, normal(1)),
        "jfk": of(Float64, normal(2, mean=5)),
        "gone": of(Float64, normal(3)),
    }
    now = {
        "ewr": of(Float64, normal(4)),
        "jfk": of(Float64, normal(5, mean=5.5)),
        "new": of(Float64, normal(6)),
    }
    report = compare_slices(base, now)
    assert [(f.slice, f.verdict) for f in report.features] == [("ewr", "stable"), ("jfk", "drifted")]
    assert [n for n in report.notes if "not judged" in n] == [
        "slice 'gone' is in the baseline and not in the window: not judged",
        "slice 'new' is in the window and not in the baseline: not judged",
    ]


def test_features_that_no_longer_go_together_are_seen_by_all_numbers_together_alone() -> None:
    rng = np.random.default_rng(5)
    a, noise = rng.normal(size=4000), rng.normal(size=4000) * 0.3
    before, after = pa.table({"a": a, "b": a + noise}), pa.table({"a": a, "b": rng.permutation(a + noise)})
    report = compare_rows(before, after, {"a": Float64, "b": Float64})
    assert [f.feature for f in report.drifted] == [TOGETHER]
    assert compare_rows(before, after, {"a": Float64, "b": Float64}, together=False).verdict == "stable"


def test_what_the_baseline_does_among_its_own_windows_is_no_drift() -> None:
    rng = np.random.default_rng(6)
    days = [of(Float64, rng.normal(rng.normal(0, 0.5), 1, 500).tolist()) for _ in range(30)]
    whole, window = Summary.merged(days[0].columns, days[0].keep, days), of(Float64, normal(7, 500, mean=0.5))
    assert compare(whole, window)["x"].verdict == "drifted"
    usual = compare(whole, window, windows=days)["x"]
    assert usual.verdict == "stable"
    assert max(t.usual or 0.0 for t in usual.tests) > 0.5
    assert compare(whole, of(Float64, normal(8, 500, mean=4.0)), windows=days)["x"].verdict == "drifted"


def test_too_few_and_too_many_rows_are_seen_where_it_is_known_what_is_usual() -> None:
    days = [of(Float64, normal(i, 480 + 5 * i)) for i in range(8)]
    whole = Summary.merged(days[0].columns, days[0].keep, days)
    for rows, odd in ((500, False), (350, True), (700, True), (0, True)):
        volume = compare(whole, of(Float64, normal(9, rows)), windows=days).volume
        assert volume is not None
        assert volume.odd is odd, volume.said
    assert compare(whole, of(Float64, normal(9, 5))).volume is None


def test_limits_of_one_feature_and_other_tests_decide() -> None:
    base, now = of(Float64, normal(1, 20_000)), of(Float64, normal(2, 20_000, mean=0.03))
    assert compare(base, now)["x"].verdict == "stable"
    assert compare(base, now, Limits(effects={"x": 0.03}))["x"].verdict == "drifted"
    skewed = of(Float64, np.random.default_rng(3).exponential(1, N).tolist())
    decided = compare(of(Float64, normal(1)), skewed, Limits(tests=("psi",)))["x"]
    assert [t.name for t in decided.tests if t.fails] == ["psi"]
    with pytest.raises(RequestError, match="did you mean 'psi'"):
        Limits(tests=("pis",))
    with pytest.raises(RequestError, match="0 < alpha < 1"):
        Limits(alpha=1.0)


@pytest.mark.parametrize("test", ["ks", "psi", "js", "wasserstein"])
def test_what_two_sketches_may_be_wrong_by_is_no_effect(test: str) -> None:
    base, now = of(Float64, normal(21, 50_000)), of(Float64, normal(22, 50_000))
    assert base["x"].rank_error
    found = {t.name: t for t in compare(base, now)["x"].tests}[test]
    assert found.value  # the sketches differ
    assert abs(found.effect) < 0.01  # PSI counts half a row more in each bin


@pytest.mark.parametrize("test", ["ks", "psi", "js", "wasserstein"])
def test_an_effect_on_sketches_is_no_greater_than_that_of_the_rows(test: str) -> None:
    before, after = (pa.table({"x": normal(seed, 50_000, mean=m)}) for seed, m in ((23, 0.0), (24, 0.12)))
    kept = [Summary({"x": Float64}) for _ in range(2)]
    for summary, rows in zip(kept, (before, after), strict=True):
        summary.update(rows)
    limits = Limits(tests=(test,))
    on_sketches = compare(kept[0], kept[1], limits)["x"]
    on_rows = compare_rows(before, after, {"x": Float64}, limits)["x"]
    sure, whole = ({t.name: t for t in f.tests}[test] for f in (on_sketches, on_rows))
    assert 0 <= sure.effect < whole.effect
    assert (on_sketches.verdict, on_rows.verdict) == ("stable", "drifted")  # about half of 0.12 sd is sure


def test_sketches_that_keep_every_value_take_nothing_off() -> None:
    before, after = normal(25, 190), normal(26, 190, mean=0.4)
    found = {t.name: t for t in compare(of(Float64, before), of(Float64, after))["x"].tests}
    want = e.of_distance(stats.ks_2samp(before, after).statistic)
    assert math.isclose(found["ks"].effect, want, rel_tol=1e-9)


# ------------------------------------------------------------------------------------------------------------- figures


def drawn(seed: int, n: int, shift: float = 0.0, features: int = 50) -> Summary:
    matrix = np.random.default_rng(seed).normal(size=(n, features))
    matrix[:, 7] += shift
    found = Summary({f"f{i}": Float64 for i in range(features)}, Keep(distinct=None, frequent=None))
    found.add(matrix)
    return found


def test_fifty_features_without_drift_raise_next_to_no_alarm() -> None:
    base = drawn(9_000, 20_000)
    windows = [compare(base, drawn(9_100 + w, 1_000)) for w in range(12)]
    assert sum(bool(w.drifted) for w in windows) <= 1


def test_a_shift_of_one_feature_among_fifty_is_seen() -> None:
    base = drawn(8_000, 100_000)
    assert [f.feature for f in compare(base, drawn(8_001, 10_000, 0.15)).drifted] == ["f7"]
    low = Limits(effect=0.05)
    assert any(compare(base, drawn(8_010 + w, 10_000, 0.06), low).drifted for w in range(3))


# ---------------------------------------------------------------------------------------------------------------- laws


@given(st.lists(st.floats(0, 1), max_size=30))
def test_the_adjustment_is_that_of_scipy(values: list[float]) -> None:
    want = stats.false_discovery_control(values) if values else []
    assert np.allclose(benjamini_hochberg(values), want)


numbers = st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=60)


@given(numbers, numbers)
def test_distances_of_samples_are_those_of_scipy(a: list[float], b: list[float]) -> None:
    x, y = e.Steps.of(np.array(a)), e.Steps.of(np.array(b))
    assert math.isclose(
        e.kolmogorov_smirnov(x, y), stats.ks_2samp(a, b, method="asymp").statistic, abs_tol=1e-9
    )
    assert math.isclose(e.wasserstein(x, y), stats.wasserstein_distance(a, b), rel_tol=1e-9, abs_tol=1e-6)
    shares = e.binned(x, y)
    assert all(s.min() >= 0 and math.isclose(s.sum(), 1) for s in shares)
    assert 0 <= e.jensen_shannon(*shares) <= math.log(2) + 1e-12
    assert e.psi(*shares, len(a), len(b)) >= 0


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.none(), max_size=300), st.integers(0, 300)
)
def test_nothing_is_too_odd_for_a_verdict(values: list[float | None], cut: int) -> None:
    base, now = Summary({"x": Float64}), Summary({"x": Float64})
    for side, part in ((base, values[:cut]), (now, values[cut:])):
        side.update({"x": pa.array(part, pa.float64(), from_pandas=False)})
    report = compare(base, now, Limits(min_rows=2))
    json.dumps(report.to_json(), allow_nan=False)
    assert report["x"].verdict in ("drifted", "stable", "not judged")
    assert report["x"].verdict != "not judged" or report["x"].why


@given(numbers)
def test_a_distribution_is_not_apart_from_itself(values: list[float]) -> None:
    x = e.Steps.of(np.array(values))
    assert e.kolmogorov_smirnov(x, x) == 0
    assert e.wasserstein(x, x) == 0
    assert e.of_distance(0) == e.of_psi(0) == e.of_shares(0.3, 0.3) == 0


@pytest.mark.parametrize("shift", [0.05, 0.15, 0.5])
def test_one_scale_measures_a_shift_alike_by_whatever_it_is_told(shift: float) -> None:
    points = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    base, now = e.Steps.of(points), e.Steps.of(points + shift)
    shares = e.binned(base, now)
    assert math.isclose(e.of_distance(e.kolmogorov_smirnov(base, now)), shift, rel_tol=0.01)
    assert math.isclose(e.wasserstein(base, now), shift, rel_tol=0.01)
    for bins in (e.of_psi(e.psi(*shares, 1e9, 1e9)), e.of_jensen_shannon(e.jensen_shannon(*shares))):
        assert math.isclose(bins, shift, rel_tol=0.06)  # ten bins lose a little


# -------------------------------------------------------------------------------------------------------------- windows


def daily(days: int, every: int = DAY, n: int = 10) -> Statistics:
    found = Statistics({"x": Float64}, every=hours(every // HOUR))
    for k in range(days):
        found.update({"x": [float(k)] * n}, k * every)
    return found


WINDOWS: list[tuple[str, str, str | None, float, float, int]] = [
    ("all before the last day", "before", None, 9.0, 4.0, 9),
    ("the days before a window of two", "before", "2d", 8.5, 3.5, 4),
    ("as long before", "previous", "2d", 8.5, 6.5, 1),
    ("four days before the last", "previous 4d", None, 9.0, 6.5, 4),
    ("a range of days", "1970-01-02..1970-01-04", None, 9.0, 1.5, 2),
    ("a window that is a range", "1970-01-01..1970-01-02", "1970-01-03..1970-01-05", 2.5, 0.0, 0),
    ("the same time of two periods before", "season 2x3d", None, 9.0, 4.5, 2),
]


@pytest.mark.parametrize("case", WINDOWS, ids=lambda case: case[0])
def test_a_window_and_its_baseline_are_chosen_by_words(
    case: tuple[str, str, str | None, float, float, int],
) -> None:
    _, baseline, window, now, base, pieces = case
    chosen = choose(daily(10), parse_baseline(baseline), window)
    found = (chosen.window["x"].average, chosen.baseline["x"].average, len(chosen.windows))
    assert found == (now, base, pieces)


def test_the_same_hour_of_the_week_takes_a_wave_for_what_it_is() -> None:
    rows = Statistics({"x": Float64}, every=hours(1))
    hours_of_rush = [
        k for k in range(168 * 9) if k % 168 in range(8, 32)
    ]  # a day and a half of each week are enough
    for k in hours_of_rush:
        rows.update({"x": normal(k, 200, 100.0 * (k % 168 == 31))}, k * HOUR)
    at = (168 * 8 + 32) * HOUR
    found = {b: choose(rows, parse_baseline(b), "1h", at=at) for b in ("previous 24h", "season 8")}
    report = {b: compare(c.baseline, c.window, windows=c.windows)["x"].verdict for b, c in found.items()}
    assert report == {"previous 24h": "drifted", "season 8": "stable"}


def test_what_is_no_window_and_no_baseline_is_refused_with_what_would_work() -> None:
    for text in ("", "yesterday", "season 0", "previous 7", "2013-02-01..2013-01-01", "training 7d"):
        with pytest.raises(RequestError):
            parse_baseline(text)
    with pytest.raises(StatisticsError, match="whole partitions"):
        choose(daily(3), parse_baseline("before"), "6h")
    with pytest.raises(StatisticsError, match="fs stats NAME --spine"):
        choose(daily(3), parse_baseline("training"))
    with pytest.raises(StatisticsError, match="hold no rows"):
        choose(Statistics({"x": Float64}), parse_baseline("before"))
    empty = choose(daily(3, n=90), parse_baseline("before"), "1d", at=90 * DAY)
    assert compare(empty.baseline, empty.window)["x"].said == "the window is empty"


# ------------------------------------------------------------------------------------------------- the verb and `fs drift`


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "fs.toml").write_text('[project]\nname = "cards"\n')
    (tmp_path / "cards.py").write_text(
        "import featurestore as fs\n"
        "card = fs.Entity('card', key='card_id')\n"
        "purchases = fs.BatchSource('purchases', fs.Parquet('purchases.parquet'), 'at', "
        "columns={'card_id': fs.Int64, 'amount': fs.Float64, 'shop': fs.String, 'at': fs.Timestamp})\n"
        "shops = fs.BatchSource('shops', fs.Parquet('purchases.parquet'))\n"
        "spend = fs.FeatureView('spend', card, purchases, [fs.sum('amount').over(fs.days(1))])\n"
        "spending = fs.FeatureService('spending', [spend])\n"
    )
    rng = np.random.default_rng(11)
    at = np.repeat(np.arange(20), 400)
    amount = rng.normal(20, 5, len(at)) + 5 * (at == 19)
    shop = rng.choice(["north", "south"], len(at))
    amount = np.where((at == 19) & (shop == "south"), amount - 5, amount)
    rows = {
        "card_id": pa.array(rng.integers(0, 50, len(at))),
        "amount": pa.array(amount),
        "shop": pa.array(shop),
        "at": pa.array(at * DAY + 1, pa.timestamp("us")),
    }
    pq.write_table(pa.table(rows), tmp_path / "purchases.parquet")
    return tmp_path


def drift(project: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    status = main(["drift", *arguments, "-C", str(project), "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_a_source_is_read_and_its_last_day_judged(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = drift(project, "purchases", capsys=capsys)
    assert (status, found["drifted"]) == (1, ["amount"])
    assert found["window"] == "1970-01-20T00:00:00Z to 1970-01-21T00:00:00Z"
    status, found = drift(project, "spend", "--at", "1970-01-19", capsys=capsys)
    assert (status, found["verdict"]) == (0, "stable")
    status, found = drift(project, "purchases", "--by", "shop", capsys=capsys)
    assert [(f["feature"], f["slice"]) for f in found["features"] if f["verdict"] == "drifted"] == [
        ("amount", "north")
    ]
    assert main(["drift", "purchases", "-C", str(project)]) == 1
    shown = capsys.readouterr().out
    assert "mean 20" in shown
    assert "drifted: 1 of 3 judged drifted" in shown


def test_numbers_of_a_source_that_are_none_are_told_from_nulls(project: Path) -> None:
    table = pq.read_table(project / "purchases.parquet")
    amount = table["amount"].to_numpy().copy()
    last = np.flatnonzero(table["at"].cast(pa.int64()).to_numpy() // DAY == 19)
    amount[last] -= 5
    amount[last[:40]] = [math.nan, math.inf, -math.inf, math.nan] * 10
    index = table.schema.get_field_index("amount")
    pq.write_table(table.set_column(index, "amount", pa.array(amount)), project / "purchases.parquet")
    found = FeatureStore(project).drift("purchases")["amount"]
    assert found.verdict == "drifted"
    assert "NaN or infinite 0.0% → 10.0%" in found.said
    assert not any(t.fails for t in found.tests if t.name == "missing")


def test_a_source_that_lost_a_column_is_judged_by_the_others(project: Path) -> None:
    table = pq.read_table(project / "purchases.parquet")
    changed = table.drop_columns(["shop"]).append_column("note", pa.array(["x"] * len(table)))
    index = changed.schema.get_field_index("amount")
    changed = changed.set_column(index, "amount", pa.array(["12"] * len(table)))
    pq.write_table(changed, project / "purchases.parquet")
    report: DriftReport = FeatureStore(project).drift("purchases")
    assert {c.column: c.change for c in report.schema} == {
        "shop": "removed",
        "amount": "type",
        "note": "added",
    }
    assert [f.feature for f in report.features] == ["card_id"]
    assert report.verdict == "drifted"


def test_what_a_service_gives_now_is_judged_beside_what_was_trained_on(project: Path) -> None:
    with FeatureStore(project) as store:

        def kept(seed: int, mean: float, day: int) -> Statistics:
            found = Statistics({"sum_amount_1d": Float64})
            found.update({"sum_amount_1d": normal(seed, 1000, mean)}, day * DAY)
            return found

        with pytest.raises(StatisticsError, match="no statistics"):
            store.drift("spending")
        store.keep_statistics("spending", kept(1, 10.0, 0), origin="training")
        store.keep_statistics("spending", kept(2, 10.5, 30), origin="served")
        found = store.drift("spending")
        assert (found.verdict, found.baseline) == ("drifted", "the training set")
        assert store.drift("spending", origin="training", at="1970-01-09").not_judged
        with pytest.raises(RequestError, match="slices are of rows"):
            store.drift("spending", by="shop")
        with pytest.raises(SourceError, match="no event time"):
            store.drift("shops")
        with pytest.raises(SourceError, match="did you mean 'shop'"):
            store.drift("purchases", by="shops")


def test_two_files_of_rows_are_compared_by_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, mean in (("a", 0.0), ("b", 1.0)):
        pq.write_table(pa.table({"x": normal(1, mean=mean), "y": normal(2)}), tmp_path / f"{name}.parquet")
    a, b = str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")
    assert main(["drift", b, "--baseline", a, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["drifted"] == ["x", TOGETHER]
    assert {t["test"] for t in found["features"][0]["tests"]} >= {
        "mean",
        "ks",
        "cvm",
        "psi",
        "js",
        "wasserstein",
    }
    assert main(["drift", a, "--baseline", a]) == 0
    assert main(["drift", a]) == 2
