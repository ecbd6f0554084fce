"""What statistics cost beside scikit-learn's `partial_fit`, and how right they are.

    python benchmarks/feature_statistics.py

Twenty columns of doubles, fed in batches of 1 to 10,000 rows, one thread. The peer is `StandardScaler.partial_fit` (mean and
variance) in the faster of its two memory layouts. `moments` are counts by kind, least, greatest, mean and variance;
`4 moments` the third and fourth besides; `quantiles` adds ranks (KLL, k = 200); `all` distinct and frequent values. Each figure
is the least processor time of several runs in turns, for a whole feed: what is buffered is counted in at its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from _common import machine, verdict
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from featurestore.statistics import MOMENTS, Keep, Statistics, Summary
from featurestore.time import HOUR, hours
from featurestore.types import DType, Float64

COLUMNS: dict[str, DType] = {f"c{i}": Float64 for i in range(20)}
KEEPS = {
    "moments": MOMENTS,
    "4 moments": Keep(quantiles=None, distinct=None, frequent=None),
    "quantiles": Keep(distinct=None, frequent=None),
    "all": Keep(),
}
MUST = {
    "moments": {1: (100, 300), 10: (100, 200), 100: (40, 70), 1000: (8, 12), 10_000: (3.5, 6)},
    "4 moments": {1: (100, 300), 10: (100, 200), 100: (40, 70), 1000: (8, 12), 10_000: (3.5, 6)},
    "quantiles": {1: (50, 100), 10: (10, 20), 100: (2, 4)},
}
BATCHES = {1: 3_000, 10: 3_000, 100: 1_500, 1000: 300, 10_000: 50}
RUNS = 5

Matrix = np.ndarray


def batches(size: int, order: str) -> list[Matrix]:
    rows = np.random.default_rng(0).normal(3, 2, (size * BATCHES[size], len(COLUMNS)))
    return [np.array(rows[i : i + size], order=order) for i in range(0, len(rows), size)]  # type: ignore[call-overload]


def peer(feed: Sequence[Matrix]) -> StandardScaler:
    scaler = StandardScaler()
    for batch in feed:
        scaler.partial_fit(batch)
    return scaler


def ours(feed: Sequence[Matrix], keep: Keep) -> Summary:
    summary = Summary(COLUMNS, keep)
    for batch in feed:
        summary.add(batch)
    summary.flush()
    return summary


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def speed() -> None:
    print(f"{'µs a batch of rows:':<34}" + "".join(f"{size:>11,}" for size in BATCHES), flush=True)
    found: dict[str, dict[int, float]] = {}
    for size, count in BATCHES.items():
        feeds = {order: batches(size, order) for order in "CF"}
        works: dict[str, Callable[[], object]] = {
            f"partial_fit, {order} order": lambda f=feed: peer(f) for order, feed in feeds.items()
        }
        works |= {name: lambda k=keep, f=feeds["F"]: ours(f, k) for name, keep in KEEPS.items()}
        check(feeds["F"])
        for _ in range(RUNS):
            for name, work in works.items():
                took = seconds(work) / count * 1e6
                found.setdefault(name, {})[size] = min(took, found.get(name, {}).get(size, took))
    for name, row in found.items():
        print(f"{name:<34}" + "".join(f"{t:11,.2f}" for t in row.values()))
    for name in KEEPS:
        row = [
            min(found[f"partial_fit, {o} order"][size] for o in "CF") / found[name][size] for size in BATCHES
        ]
        print(f"{'  times as fast, ' + name:<34}" + "".join(f"{ratio:11.1f}" for ratio in row))
        for (size, goals), ratio in zip(MUST.get(name, {}).items(), row, strict=False):
            verdict(f"{name}, batch of {size:,}", ratio, *goals, more_is_better=True)


def check(feed: Sequence[Matrix]) -> None:
    """What was timed is right."""
    rows = np.concatenate(feed)
    for keep in KEEPS.values():
        summary = ours(feed, keep)
        for i, feature in enumerate(summary):
            assert feature.count == len(rows)
            assert feature.variance is not None
            assert abs(feature.variance / rows[:, i].var() - 1) < 1e-11


def off(values: Matrix, variance: float | None) -> float:
    """The relative error of a variance, against exact fractions."""
    exact = [Fraction(v) for v in values.tolist()]
    mean = sum(exact, Fraction()) / len(exact)
    want = sum(((v - mean) ** 2 for v in exact), Fraction()) / len(exact)
    assert variance is not None
    return float(abs(Fraction(variance) / want - 1))


def accuracy() -> None:
    random = np.random.default_rng(17)
    close = random.normal(1e9, 1e-3, 20_000)
    summary = Summary({"x": Float64}, MOMENTS)
    for start in range(0, len(close), 100):
        summary.add(close[start : start + 100, None])
    verdict("variance at 1e9 ± 1e-3, off by", off(close, summary["x"].variance) * 1e9, 1, 1e-3, unit="e-9")
    by_hour = Statistics({"x": Float64}, every=hours(1), keep=MOMENTS)
    by_hour.add(np.array([[1e15]]), 0)
    for hour in range(4):
        by_hour.add(close[5000 * hour : 5000 * (hour + 1), None], hour * HOUR)
    left = by_hour.window(HOUR, 4 * HOUR)["x"]
    verdict("after an outlier of 1e15 left", off(close[5000:], left.variance) * 1e9, 1, 1e-3, unit="e-9")
    orders: dict[str, Callable[[Matrix], Matrix]] = {
        "random": lambda v: v, "sorted": np.sort, "two phases": lambda v: np.where(np.arange(len(v)) < len(v) // 2, v, v + 50),
    }  # fmt: skip
    for k, bound in ((200, 0.0133), (800, 0.004)):
        worst = merged = 0.0
        for seed in range(6):
            values = np.random.default_rng(100 + seed).lognormal(0, 1, 500_000)
            for arrange in orders.values():
                fed = arrange(values)
                keep = Keep(order=2, quantiles=k, distinct=None, frequent=None)
                parts = []
                for part in np.array_split(fed, 20):
                    parts.append(Summary({"x": Float64}, keep))
                    parts[-1].add(part[:, None])
                whole = Summary({"x": Float64}, keep)
                whole.add(fed[:, None])
                worst = max(worst, rank_error(fed, whole))
                merged = max(merged, rank_error(fed, Summary.merged({"x": Float64}, keep, parts)))
        said = f"rank error at k = {k}, worst of 18"
        verdict(f"{said}, in 1e-4", worst * 1e4, bound * 1e4, bound * 1e4, unit="e-4")
        verdict(f"{said}, merged of 20", merged * 1e4, bound * 1e4, bound * 1e4, unit="e-4")


def rank_error(values: Matrix, summary: Summary) -> float:
    ordered = np.sort(values)
    ranks = np.linspace(0.001, 0.999, 199)
    found = summary["x"].quantiles(ranks.tolist())
    low, high = (np.searchsorted(ordered, found, side) / len(ordered) for side in ("left", "right"))
    return float(np.maximum(0, np.maximum(low - ranks, ranks - high)).max())


def main() -> None:
    print(machine("numpy", "scikit-learn", "datasketches"))
    with threadpool_limits(1):
        speed()
    accuracy()


if __name__ == "__main__":
    main()
