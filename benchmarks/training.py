"""Training sets against their peers: DuckDB's plain as-of join, a naive range join, polars.

    python benchmarks/training.py [latest windows knowledge polars growth memory] [--quick] [--check] [--repeat N]

Data is generated once (see `_data.py`; `FS_BENCH_DATA` names the folder). Every contender reads Parquet and ends with
an Arrow table, in a process of its own. Before anything is timed, small training sets are compared with naive SQL row by
row; `--check` does that alone. `--quick` asks the naive range join for 10,000 rows instead of 100,000.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
import threading
from dataclasses import replace
from typing import Any

import pyarrow as pa
from _common import machine, measure, race, ratios, verdict
from _data import SIZES, dataset, folder

import featurestore.declare as fs
from featurestore.config import Config
from featurestore.lower import lower
from featurestore.time import DAY, HOUR, MINUTE, Duration, Lifetime, lifetime
from featurestore.training import TrainingSet
from featurestore.types import Float64, Int32, Int64, Timestamp

WINDOWS: list[tuple[str, int | None, int]] = [
    ("1h", HOUR, 5 * MINUTE),
    ("1d", DAY, HOUR),
    ("7d", 7 * DAY, HOUR),
    ("30d", 30 * DAY, DAY),
    ("lifetime", None, DAY),
]
AGGREGATES = {
    "count": fs.count(),
    "amount_sum": fs.sum("amount"),
    "qty_mean": fs.mean("qty"),
    "amount_min": fs.min("amount"),
    "amount_max": fs.max("amount"),
    "score_std": fs.stddev_samp("score"),
}
SOURCE: dict[str, Any] = {
    "event_time": "event_ts",
    "arrival_time": "created_ts",
    "tiebreak": ("created_ts", "event_id"),
}
ORDER = {"entity_id": Int64, "event_ts": Timestamp, "created_ts": Timestamp, "event_id": Int64}
ENTITY = fs.Entity("entity", key="entity_id")


def training_set(view: fs.FeatureView, spine: str, memory: str | None, lag: int | None = None) -> TrainingSet:
    """The training set of one view: windowed or latest. With a lag (microseconds), of what had arrived."""
    service = fs.FeatureService("bench", features=[view])
    plan = lower(fs.declarations_in([service]), lambda _: {})
    config = Config(folder(), "bench", memory_limit=memory)
    views = {v.name: v for v in plan.views}
    found = TrainingSet(config, plan.service("bench"), views, dataset("spine", spine), "ts")
    if lag is None:
        return found
    return replace(found, knowledge="arrived", lag={v.source.name: lag for v in plan.views})


def windowed(events: str, windows: int) -> fs.FeatureView:
    """Six aggregates over the first `windows` windows; one is the week."""
    columns = {**ORDER, "amount": Float64, "qty": Int32, "score": Float64}
    source = fs.BatchSource("events", fs.Parquet(str(dataset("events", events))), columns=columns, **SOURCE)
    features = []
    for name, size, hop in _windows(windows):
        over: Duration | Lifetime = lifetime if size is None else Duration(size)
        features += [
            a.over(over, hop=Duration(hop)).named(f"{label}_{name}") for label, a in AGGREGATES.items()
        ]
    return fs.FeatureView("activity", ENTITY, source, features)


def _windows(n: int) -> list[tuple[str, int | None, int]]:
    return [WINDOWS[2]] if n == 1 else WINDOWS[:n]


def latest_values(events: str) -> fs.FeatureView:
    columns = {**ORDER, "f1": Float64, "f2": Int64, "f3": Float64}
    source = fs.BatchSource(
        "corrected", fs.Parquet(str(dataset("corrected", events))), columns=columns, **SOURCE
    )
    return fs.FeatureView("values", ENTITY, source, [fs.latest(f) for f in ("f1", "f2", "f3")])


# -------------------------------------------------------------------------------------------------------------- the peers


def plain_asof_sql(spine: str, events: str) -> str:
    """The same ties broken by the same columns, in the shortest way that DuckDB has."""
    return f"""SELECT s.*, x.f1, x.f2, x.f3 FROM '{dataset("spine", spine)}' s
        ASOF LEFT JOIN '{dataset("corrected", events)}' x ON s.entity_id = x.entity_id
        AND ROW(s.ts, TIMESTAMP '0001-01-01', -1) > ROW(x.event_ts, x.created_ts, x.event_id)"""


def naive_latest_sql(spine: str, events: str, lag: int | None = None) -> str:
    known = (
        ""
        if lag is None
        else f"AND greatest(x.created_ts + to_microseconds({lag}), x.event_ts + to_microseconds(1)) <= s.ts"
    )
    newest = "ORDER BY x.event_ts DESC, x.created_ts DESC, x.event_id DESC"
    return f"""SELECT s.*, x.f1, x.f2, x.f3 FROM '{dataset("spine", spine)}' s
        LEFT JOIN '{dataset("corrected", events)}' x ON s.entity_id = x.entity_id AND x.event_ts < s.ts {known}
        QUALIFY row_number() OVER (PARTITION BY s.row {newest}) = 1"""


def naive_windows_sql(
    spine: str, events: str, windows: int, rows: int | None = None, lag: int | None = None
) -> str:
    """What one would write first: join every row with all its events, one FILTER for each window."""
    known = "" if lag is None else f"AND greatest(c + {lag}, x.t + 1) <= s.t"
    select = ["s.row"]
    for name, size, hop in _windows(windows):
        tail = f"x.t >= s.t - s.t % {hop} - {size}" if size is not None else "x.t IS NOT NULL"
        calls = ["count(x.t)", "sum(amount)", "avg(qty)", "min(amount)", "max(amount)", "stddev_samp(score)"]
        select += [
            f"{c} FILTER ({tail}) AS {label}_{name}" for c, label in zip(calls, AGGREGATES, strict=True)
        ]
    few = f"WHERE row < {rows}" if rows is not None else ""
    return f"""SELECT {", ".join(select)}
        FROM (SELECT row, entity_id AS k, epoch_us(ts) AS t FROM '{dataset("spine", spine)}' {few}) s
        LEFT JOIN (SELECT entity_id AS k, epoch_us(event_ts) AS t, epoch_us(created_ts) AS c, amount, qty, score
            FROM '{dataset("events", events)}') x
        ON s.k = x.k AND x.t < s.t {known} GROUP BY s.row"""


def duckdb_rows(sql: str) -> Any:
    import duckdb

    con = duckdb.connect(config={"preserve_insertion_order": False})
    return con.sql(sql).to_arrow_table()


def polars_rolling(spine: str, events: str) -> Any:
    """Plain sliding windows, without a lifetime: close to ours, but not the same answer."""
    import polars as pl

    values = {"a": pl.Float64, "q": pl.Int32, "s": pl.Float64}
    e = pl.scan_parquet(dataset("events", events)).select(
        k="entity_id", t="event_ts", a="amount", q="qty", s="score", i=pl.lit(None, dtype=pl.Int64)
    )
    nothing = {name: pl.lit(None, dtype=dtype) for name, dtype in values.items()}
    s = pl.scan_parquet(dataset("spine", spine)).select(k="entity_id", t="ts", **nothing, i="row")
    rows = pl.concat([e, s]).sort("k", "t").collect()
    out = []
    for name, _, _ in WINDOWS[:4]:
        rolled = rows.rolling(index_column="t", period=name, closed="left", group_by="k").agg(
            pl.len().alias(f"count_{name}"),
            pl.col("a").sum().alias(f"amount_sum_{name}"),
            pl.col("q").mean().alias(f"qty_mean_{name}"),
            pl.col("a").min().alias(f"amount_min_{name}"),
            pl.col("a").max().alias(f"amount_max_{name}"),
            pl.col("s").std().alias(f"score_std_{name}"),
        )
        kept = rolled.with_columns(rows["i"]).filter(pl.col("i").is_not_null())
        out.append(kept if not out else kept.drop("k", "t", "i"))
    return pl.concat(out, how="horizontal").to_arrow()


def contend(
    name: str, spine: str, events: str, windows: int, memory: str | None, lag: int | None
) -> tuple[int, str]:
    match name:
        case "latest":
            table = training_set(latest_values(events), spine, memory, lag).to_arrow()
        case "windowed":
            table = training_set(windowed(events, windows), spine, memory, lag).to_arrow()
        case "spilling":
            return spilling(training_set(windowed(events, windows), spine, memory))
        case "asof":
            table = duckdb_rows(plain_asof_sql(spine, events))
        case "naive":
            table = duckdb_rows(naive_windows_sql(spine, events, windows))
        case "naive-quick":
            table = duckdb_rows(naive_windows_sql(spine, events, windows, SIZES[spine] // 10))
        case "polars":
            table = polars_rolling(spine, events)
        case _:
            raise SystemExit(f"no contender {name}")
    return table.num_rows, ""


def spilling(found: TrainingSet) -> tuple[int, str]:
    """Rows, and a note: the most that lay on disk at a time, and a digest of all values."""
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            with contextlib.suppress(FileNotFoundError):  # a file may go while it is looked at
                most = max(most, sum(f.stat().st_size for f in found.config.offline.glob("spill/*")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    table = found.to_arrow()
    done.set()
    watcher.join()
    digest = hashlib.blake2b(digest_size=8)
    for column in table.columns:
        for buffer in (b for chunk in column.chunks for b in chunk.buffers() if b is not None):
            digest.update(buffer)
    return table.num_rows, f"spilled {most / 1e6:,.0f} MB, digest {digest.hexdigest()}"


# ---------------------------------------------------------------------------------------------------------- right before fast


def check() -> None:
    """Row by row against naive SQL: values and NULLs, floats within 1e-9. Totals of columns would prove nothing."""
    pairs = [
        ("windows", training_set(windowed("50k", 5), "3k", None), naive_windows_sql("3k", "50k", 5)),
        ("latest", training_set(latest_values("50k"), "3k", None), naive_latest_sql("3k", "50k")),
    ]
    for lag, name in ((0, "arrived"), (HOUR, "arrived, an hour's lag")):
        windowed_set = training_set(windowed("50k", 5), "3k", None, lag)
        latest_set = training_set(latest_values("50k"), "3k", None, lag)
        pairs += [
            (f"windows, {name}", windowed_set, naive_windows_sql("3k", "50k", 5, lag=lag)),
            (f"latest, {name}", latest_set, naive_latest_sql("3k", "50k", lag)),
        ]
    for name, ours, sql in pairs:
        got = ours.to_arrow()
        want = duckdb_rows(sql).sort_by("row")
        columns = [c for c in got.column_names if c in want.column_names]
        wrong = sum(
            _differ(a, b)
            for c in columns
            for a, b in zip(got.column(c).to_pylist(), want.column(c).to_pylist(), strict=True)
        )
        cells = got.num_rows * len(columns)
        print(
            f"check {name}: {cells:,} cells of {got.num_rows:,} rows, {wrong} differ from naive SQL",
            flush=True,
        )
        if wrong:
            raise SystemExit(1)


def _differ(a: Any, b: Any) -> bool:
    if isinstance(a, float) and b is not None:
        return not math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    return bool(a != b)


# ------------------------------------------------------------------------------------------------------------ the figures


def latest(repeat: int, *, quick: bool) -> None:
    print("latest values, 1M rows x 5M events, a fifth of them corrections")
    done = race(
        __file__,
        {"DuckDB ASOF JOIN, rows in any order": ("asof", "1m", "5m"), "training set": ("latest", "1m", "5m")},
        repeat,
    )
    wall, cpu = ratios(done["training set"], done["DuckDB ASOF JOIN, rows in any order"])
    verdict("time over plain as-of join", wall, 1.3, 1.1, cpu=cpu)


def windows(repeat: int, *, quick: bool) -> None:
    print("5 windows x 6 aggregates, 100k rows x 1M events")
    ours = race(__file__, {"training set": ("windowed", "100k", "1m")}, repeat)["training set"]
    scale, name = (10, "naive-quick") if quick else (1, "naive")
    label = "naive range join" + (", a tenth of the rows, x 10" if quick else "")
    naive = race(__file__, {label: (name, "100k", "1m")}, 1)[label]
    wall, cpu = (scale * r for r in ratios(naive, ours))
    verdict("times faster than naive", wall, 40, 80, cpu=cpu, more_is_better=True)


def knowledge(repeat: int, *, quick: bool) -> None:
    print(
        "what had arrived over what is known today: delays of ten minutes on average, of a day for one event in a hundred"
    )
    sizes = [("windowed", "100k", "1m"), ("latest", "1m", "5m")]
    for kind, spine, events in sizes if quick else [*sizes, ("windowed", "1m", "10m")]:
        words = "latest values" if kind == "latest" else "5 windows x 6 aggregates"
        print(f" {words}, {spine} rows x {events} events")
        runs = {
            "corrected": (kind, spine, events),
            "arrived": (kind, spine, events, "--lag", "0"),
            "arrived, an hour's lag": (kind, spine, events, "--lag", str(HOUR)),
        }
        done = race(__file__, runs, repeat)
        for name in list(runs)[1:]:
            wall, cpu = ratios(done[name], done["corrected"])
            verdict(f"time of {name}", wall, 3, 1.5, cpu=cpu)


def polars(repeat: int, *, quick: bool) -> None:
    print("6 aggregates, 1M rows x 10M events: ours over 5 windows, polars over 4 plain sliding ones")
    done = race(
        __file__,
        {"polars rolling": ("polars", "1m", "10m"), "training set": ("windowed", "1m", "10m")},
        repeat,
    )
    wall, cpu = ratios(done["training set"], done["polars rolling"])
    verdict("time over polars", wall, 2, 0.8, cpu=cpu)


def growth(repeat: int, *, quick: bool) -> None:
    print("growth at 1M rows: events 1M to 30M with 5 windows; windows 1 to 5 with 10M events")
    sizes = {f"{size} events, 5 windows": ("windowed", "1m", size) for size in ("1m", "10m", "30m")}
    one = {"10m events, 1 window": ("windowed", "1m", "10m", "--windows", "1")}
    few, ten, thirty, single = race(__file__, {**sizes, **one}, repeat).values()
    for start, end, times in (("1M", few, 30), ("10M", ten, 3)):
        wall, cpu = (math.log(r) / math.log(times) for r in ratios(thirty, end))
        verdict(f"exponent, {start} to 30M", wall, 1.15, 1.0, unit="", cpu=cpu)
    wall, cpu = ratios(ten, single)
    verdict("time of 5 windows over 1", wall, 2.5, 1.5, cpu=cpu)


def memory(repeat: int, *, quick: bool) -> None:
    print(
        "peak memory at 1M rows x 10M events, 5 windows; where less is allowed, the same bits by way of the disk"
    )
    limits = ("2GB", "200MB")
    runs = {f"memory_limit={m}": ("spilling", "1m", "10m", "--memory", m) for m in limits}
    done = race(__file__, {"no limit": ("spilling", "1m", "10m"), **runs}, 1)
    digests = {f.note.split()[-1] for f in done.values()}
    print("  all results are the same bits" if len(digests) == 1 else "  RESULTS DIFFER", flush=True)
    verdict("peak under 2GB", done["memory_limit=2GB"].rss_mb / 1000, 3, 2.2, unit="GB")


FIGURES = {f.__name__: f for f in (latest, windows, knowledge, polars, growth, memory)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "figures", nargs="*", metavar="FIGURE", help=f"{', '.join(FIGURES)}; all of them by default"
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--windows", type=int, default=5, help=argparse.SUPPRESS)
    parser.add_argument("--lag", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        name, spine, events = given.figures
        pa.array([0]).to_numpy()  # imports pandas where that is installed; imports are not what is timed
        measure(lambda: contend(name, spine, events, given.windows, given.memory, given.lag))
        return
    print(machine("duckdb", "polars", "numpy", "pyarrow"))
    check()
    for name in [] if given.check else given.figures or FIGURES:
        FIGURES[name](given.repeat, quick=given.quick)


if __name__ == "__main__":
    main()
