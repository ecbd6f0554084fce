"""What each aggregate costs in a windowed training set, against `count` in the same run; and how right a variance is.

    python benchmarks/aggregates.py [cost variance] [--spine 100k] [--events 1m] [--only NAME …] [--repeat N]

`cost`: one aggregate over five windows (an hour to a lifetime) of generated events (see `_data.py`), each training set in a
process of its own. `variance`: values of 1e9 ± 1e-3 through tiles of any size, compared with exact fractions.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from typing import Any

import numpy as np
from _common import machine, measure, race, ratios, verdict
from _data import SIZES, dataset, folder

import featurestore.declare as fs
from featurestore.aggregates import AGGREGATES, Moments
from featurestore.aggregates.reductions import X
from featurestore.config import Config
from featurestore.evaluate.partials import merge_tiles, reduce_events
from featurestore.evaluate.ranges import GatheredRanges, OverlappingRanges
from featurestore.layout import Slot
from featurestore.lower import lower
from featurestore.time import DAY, HOUR, MINUTE, Duration, lifetime
from featurestore.training import TrainingSet
from featurestore.types import Float64, Int32, Int64, Timestamp

WINDOWS = [(HOUR, 5 * MINUTE), (DAY, HOUR), (7 * DAY, HOUR), (30 * DAY, DAY)]
PARAMS: dict[str, tuple[tuple[str, int | float], ...]] = {
    "first_k": (("k", 10),),
    "last_k": (("k", 10),),
    "largest_k": (("k", 10),),
    "smallest_k": (("k", 10),),
    "count_distinct": (("k", 1024),),
    "quantile": (("p", 0.95),),
    "most_frequent": (("k", 3), ("bound", 1000)),
    "histogram": (("bound", 1000),),
}
WHOLE = ("count_distinct", "most_frequent", "histogram")
"""Taken of whole numbers: of floats every value would be its own."""


def training_set(aggregate: str, spine: str, events: str) -> TrainingSet:
    """One aggregate over all windows."""
    columns = {
        "entity_id": Int64,
        "event_ts": Timestamp,
        "event_id": Int64,
        "amount": Float64,
        "qty": Int32,
        "score": Float64,
    }
    source = fs.BatchSource(
        "events",
        fs.Parquet(str(dataset("events", events))),
        columns=columns,
        event_time="event_ts",
        tiebreak=("event_id",),
    )
    x = "qty" if aggregate in WHOLE else "amount"
    inputs = (x, "score")[: AGGREGATES[aggregate].inputs]
    spec = fs.Aggregation(aggregate, inputs, params=PARAMS.get(aggregate, ()))
    features = [spec.over(Duration(size), hop=Duration(hop)).named(f"w{size}") for size, hop in WINDOWS]
    features.append(spec.over(lifetime, hop=Duration(DAY)).named("w"))
    view = fs.FeatureView("activity", fs.Entity("entity", key="entity_id"), source, features)
    plan = lower(fs.declarations_in([fs.FeatureService("bench", features=[view])]), lambda _: {})
    views = {v.name: v for v in plan.views}
    return TrainingSet(Config(folder(), "bench"), plan.service("bench"), views, dataset("spine", spine), "ts")


def cost(names: list[str], spine: str, events: str, repeat: int) -> None:
    """Each aggregate's training set, and how many times as long as that of `count` it took."""
    print(f"spine {SIZES[spine]:,} rows, events {SIZES[events]:,} rows, 100,000 entities, 5 windows")
    dataset("spine", spine)
    dataset("events", events)
    runs = race(__file__, {name: (name, spine, events) for name in names}, repeat)
    for name in names:
        wall, cpu = ratios(runs[name], runs["count"])
        print(f"  -> {name:<20}{wall:6.2f} x count, {cpu:6.2f} x in processor time")


def contend(name: str, spine: str, events: str) -> tuple[int, str]:
    table = training_set(name, spine, events).to_arrow()
    return table.num_rows, ""


def variance() -> None:
    """The worst relative error of a variance near 1e-6 of values near 1e9, whatever the tiles."""
    random = np.random.default_rng(5)
    slot = Slot("p0", Moments(X), None, Float64)
    worst = Fraction(0)
    for size in (1, 2, 3, 7, 31, 64, 365, 1000, 9973):
        x = 1e9 + random.uniform(-1e-3, 1e-3, 10_000)
        exact = [Fraction(v) for v in x.tolist()]
        mean = sum(exact) / len(exact)
        want = sum(((v - mean) ** 2 for v in exact), Fraction(0)) / len(exact)
        cuts = np.arange(0, len(x), size)
        ranges = OverlappingRanges(cuts, np.minimum(cuts + size, len(x)), len(x))
        tiles = reduce_events(slot, x, None, np.arange(len(x)), ranges)
        whole = merge_tiles(slot, tiles, GatheredRanges(np.array([0]), np.array([len(cuts)]), len(cuts)))
        got = Fraction(float(whole["m2"][0] / whole["n"][0]))
        worst = max(worst, abs(got - want) / want)
    verdict(
        "variance at 1e9 ± 1e-3 in tiles of 1 to 9973 events, relative error x 1e12",
        float(worst * 10**12),
        1000,
        1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["cost", "variance"])
    parser.add_argument("--spine", default="100k")
    parser.add_argument("--events", default="1m")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--alone", nargs=3, metavar=("NAME", "SPINE", "EVENTS"))
    given: Any = parser.parse_args()
    if given.alone:
        measure(lambda: contend(*given.alone))
        return
    print(machine("duckdb", "numpy", "pyarrow"))
    if "cost" in given.parts:
        cost(
            ["count", *(n for n in given.only or AGGREGATES if n != "count")],
            given.spine,
            given.events,
            given.repeat,
        )
    if "variance" in given.parts:
        variance()


if __name__ == "__main__":
    main()
