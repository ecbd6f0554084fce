"""What the range kernel costs, against a floor measured in the same run.

    python benchmarks/ranges.py [ROWS [SPINE_ROWS]]

Rows are events of Zipf-distributed keys over 90 days, sorted by (key, time); each spine row asks for five
windows. The floor is what any answer through running sums needs at least: one running sum over the rows, one
gather for the ranges. One thread unless it says two; each figure is the better of two runs.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from featurestore.evaluate.ranges import GatheredRanges, OverlappingRanges

KEYS, SECONDS = 100_000, 90 * 86_400
WINDOWS = {"1h": (3600, 300), "1d": (86_400, 3600), "7d": (7 * 86_400, 3600), "30d": (30 * 86_400, 86_400)}

Longs = NDArray[np.int64]


def zipf_codes(random: np.random.Generator, n: int) -> Longs:
    """Sorted (key, second) pairs as one number each."""
    share = 1.0 / np.arange(1, KEYS + 1)
    keys = np.searchsorted(np.cumsum(share / share.sum()), random.random(n)).clip(max=KEYS - 1)
    codes: Longs = keys * (2 * SECONDS) + SECONDS + random.integers(0, SECONDS, n)
    codes.sort()
    return codes


def windows(events: Longs, spine: Longs) -> tuple[Longs, Longs]:
    """The ranges of the four windows and of all time before, one after the other."""
    at = spine % (2 * SECONDS)
    key = spine - at
    hi = np.searchsorted(events, spine)
    tails = [key + np.maximum(at - at % hop - size, 0) for size, hop in WINDOWS.values()] + [key]
    lo = np.concatenate([np.searchsorted(events, tail) for tail in tails])
    return lo, np.tile(hi, len(tails))


def measured(name: str, floor: float, work: Callable[[], object]) -> float:
    seconds = min(_timed(work) for _ in range(2))
    print(f"{name:<46}{seconds:9.3f} s" + (f"{seconds / floor:8.1f} x floor" if floor else ""), flush=True)
    return seconds


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def training(n: int, spine_rows: int) -> None:
    random = np.random.default_rng(7)
    lo, hi = windows(zipf_codes(random, n), zipf_codes(random, spine_rows))
    sizes = hi - lo
    print(f"training: {n:,} rows, {len(lo):,} ranges, {(sizes == 0).mean():.0%} empty, ", end="")
    print(f"{(sizes > 32).mean():.0%} longer than 32, longest {sizes.max():,}, total {sizes.sum():,}")
    x, valid = random.normal(size=n), random.random(n) < 0.95
    whole = random.integers(-1000, 1000, n)
    floor = measured("floor: a running sum, a gather", 0.0, lambda: np.cumsum(x).take(lo, mode="clip"))
    before = peak_mb()
    measured("build", floor, lambda: OverlappingRanges(lo, hi, n))
    ranges = OverlappingRanges(lo, hi, n)
    print(f"{'':<46}{peak_mb() - before:9,} MB more at the peak")
    measured("add, int64", floor, lambda: ranges.reduce(np.add, whole, 0))
    measured("add, bool", floor, lambda: ranges.reduce(np.add, valid, 0))
    measured("add, float64", floor, lambda: ranges.reduce(np.add, x, 0.0))
    measured("minimum, float64", floor, lambda: ranges.reduce(np.minimum, x, np.inf))
    measured("maximum, int64", floor, lambda: ranges.reduce(np.maximum, whole, -1001))
    measured("last_true", floor, lambda: ranges.last_true(valid))
    measured("first_true", floor, lambda: ranges.first_true(valid))
    print(f"{'':<46}{peak_mb() - before:9,} MB more at the peak")
    measured("moments_of_values", floor, lambda: ranges.moments_of_values(x, None))
    measured("moments_of_values, 5 % not valid", floor, lambda: ranges.moments_of_values(x, valid))
    print(f"{'':<46}{peak_mb() - before:9,} MB more at the peak")
    works = [(np.add, 0.0), (np.minimum, np.inf)]
    with ThreadPoolExecutor(2) as pool:
        measured(
            "add and minimum, float64, two threads at once",
            floor,
            lambda: list(pool.map(lambda work: ranges.reduce(work[0], x, work[1]), works)),
        )
    measured(
        "moments_of_values to order 4, 5 % not valid", floor, lambda: ranges.moments_of_values(x, valid, 4)
    )


def online(entities: int, tiles: int) -> None:
    """Each entity's tiles lie together; five windows over them."""
    n = entities * tiles
    ends = np.arange(1, entities + 1) * tiles
    back = [2, tiles // 10, tiles // 4, tiles // 2, tiles]
    lo, hi = np.concatenate([ends - size for size in back]), np.tile(ends, len(back))
    random = np.random.default_rng(7)
    x, zeros, count = random.normal(size=n), np.zeros(n), random.integers(0, 9, n)
    print(f"online: {entities} entities x {tiles} tiles, {len(lo)} ranges")
    ranges = GatheredRanges(lo, hi, n)
    works: dict[str, Callable[[], object]] = {
        "build": lambda: GatheredRanges(lo, hi, n),
        "add, int64": lambda: ranges.reduce(np.add, count, 0),
        "add, float64": lambda: ranges.reduce(np.add, x, 0.0),
        "minimum, float64": lambda: ranges.reduce(np.minimum, x, np.inf),
        "last_true": lambda: ranges.last_true(count > 0),
        "moments": lambda: ranges.moments(count, x, zeros, zeros),
    }
    for name, work in works.items():
        seconds = min(_timed(work) for _ in range(50))
        print(f"{name:<46}{seconds * 1e6:9.0f} us")


def main() -> None:
    n, spine_rows = [int(text) for text in sys.argv[1:3]] + [10_000_000, 1_000_000][len(sys.argv) - 1 :]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ", end="")
    print(f"NumPy {np.__version__}, one thread unless it says two")
    training(n, spine_rows)
    online(100, 60)


if __name__ == "__main__":
    main()
