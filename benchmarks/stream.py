"""The embedded stream: events of a local log to readable heads in LMDB, as fast as they can, and at a given rate.

    python benchmarks/stream.py [throughput] [freshness] [--events N] [--keys N] [--rate N] [--seconds N] [--url URL]

`throughput` reads a log of N events of uniform keys, eight aggregates over two hops, until all of them are in the online
store; `sql only` runs the same tile SQL over the same micro-batches and keeps nothing, the floor of this road. `freshness`
pushes events at a rate from another process, one push of 10 ms at a time, and takes the time from a push until the count
that it makes can be read.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from _common import machine, verdict

import featurestore as fs
from featurestore import declare, ir
from featurestore.config import Config
from featurestore.lower import lower
from featurestore.online.store import open_store
from featurestore.serving import Reader
from featurestore.stream.feeds import open_log
from featurestore.stream.view import ROWS, ViewStream
from featurestore.types import Float64, Int64, Timestamp

NOW = 1_700_000_000_000_000
COLUMNS = {"id": Int64, "ts": Timestamp, "x": Float64, "n": Int64}
MINUTE = 60_000_000


def the_plan() -> ir.Plan:
    source = fs.StreamSource(
        "events",
        batch=fs.Parquet("events.parquet"),
        stream=fs.Kafka("events", bootstrap="here"),
        event_time="ts",
        columns=COLUMNS,
        lateness=fs.hours(2),
    )
    windows = fs.minutes(10), fs.hours(10)  # hops of a minute and of an hour
    features = [
        fs.count(),
        fs.sum("x"),
        fs.mean("x"),
        fs.min("x"),
        fs.max("x"),
        fs.stddev_pop("x"),
        fs.sum("n"),
        fs.max("n"),
    ]
    view = fs.FeatureView("v", fs.Entity("one", key="id"), source, [f.over(*windows) for f in features])
    return lower(declare.declarations_in([fs.FeatureService("read", features=[view])]), lambda _: {})


def events(rng: np.random.Generator, count: int, keys: int, now: int, span: int) -> pa.Table:
    at = np.sort(now - rng.integers(1, span, count))
    return pa.table(
        {
            "id": rng.integers(0, keys, count),
            "ts": pa.array(at, pa.timestamp("us", tz="UTC")),
            "x": rng.normal(size=count),
            "n": rng.integers(0, 1000, count),
        }
    )


def throughput(folder: Path, url: str, count: int, keys: int) -> None:
    plan = the_plan()
    view = plan.views[0]
    config = Config(folder, "bench")
    rng = np.random.default_rng(7)
    log = open_log(config, view.source)
    table = events(rng, count, keys, NOW, 60 * MINUTE)
    with open_store(url, folder) as store:
        stream = ViewStream(config, view, store, clock=lambda: NOW)
        stream.advance()  # it has caught up with nothing: from here on every micro-batch is published
        for start in range(0, count, 10_000):
            log.append(table.slice(start, 10_000), at=NOW)
        floor = stream.sql_only(table.slice(start, ROWS) for start in range(0, count, ROWS))
        began, cpu = time.perf_counter(), time.process_time()
        done = 0
        while came := stream.advance():
            done += came
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        stream.settle()
        assert done == count
        check(store, plan, table)
        stream.close()
    rate = count / took
    print(
        f"{count:,} events of {keys:,} keys: {rate:,.0f} events/s, {cpu / count * 1e6:.1f} us of processor an event"
    )
    print(f"  sql only {count / floor:,.0f} events/s; the stream takes {took / floor:.1f}x of that")
    verdict(
        "events into the online store a second", rate, 30_000, 80_000, unit="events/s", more_is_better=True
    )


def check(store: object, plan: ir.Plan, table: pa.Table) -> None:
    """What is read is what NumPy counts."""
    ids, n = (table.column(c).to_numpy() for c in ("id", "n"))
    some = np.unique(ids)[:200]
    reader = Reader(store, plan.services[0], {"v": plan.views[0]})  # type: ignore[arg-type]
    read = reader.read({"id": some}, at=NOW).to_dict()
    assert read["count_10h"] == [int((ids == k).sum()) for k in some]
    assert read["n_sum_10h"] == [int(n[ids == k].sum()) for k in some]


PUSHER = """
import sys, time
from pathlib import Path
sys.path[:0] = [{here!r}]
import numpy as np
from stream import events, the_plan
from featurestore.config import Config
from featurestore.stream.feeds import open_log
log = open_log(Config(Path({folder!r}), "bench"), the_plan().views[0].source)
rng = np.random.default_rng(1)
due = time.time()
for _ in range(int({seconds} * 100)):
    due += 0.01
    time.sleep(max(0.0, due - time.time()))
    now = time.time_ns() // 1000
    done = log.append(events(rng, max(1, {rate} // 100), {keys}, now, 1000), at=now)
    print(done.last_offset + 1, time.time(), flush=True)
"""


def freshness(folder: Path, url: str, rate: int, seconds: float, keys: int) -> None:
    plan = the_plan()
    config = Config(folder, "bench")
    here = str(Path(__file__).parent)
    code = PUSHER.format(here=here, folder=str(folder), seconds=seconds, rate=rate, keys=keys)
    readable: list[tuple[int, float]] = []
    stop = threading.Event()
    with open_store(url, folder) as store:
        stream = ViewStream(
            config,
            plan.views[0],
            store,
            step=lambda name: (
                readable.append((stream.meta.counts["events"], time.time())) if name == "published" else None
            ),
        )

        def run() -> None:
            while not stop.is_set():
                if not stream.advance():
                    stream.wait(0.02)

        thread = threading.Thread(target=run)
        thread.start()
        pusher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        pushed = [tuple(map(float, line.split())) for line in pusher.stdout or ()]
        pusher.wait()
        time.sleep(1)
        stop.set()
        thread.join()
        stream.close()
    counts = np.array([c for c, _ in readable])
    times = np.array([t for _, t in readable])
    taken = [times[np.searchsorted(counts, end)] - at for end, at in pushed]
    p50, p99 = np.percentile(taken, [50, 99])
    print(
        f"{rate:,} events/s for {seconds:.0f} s: event -> readable p50 {p50:.3f} s, p99 {p99:.3f} s, worst {max(taken):.3f} s"
    )
    verdict("p99 of event -> readable", p99, 1.0, 0.3, unit="s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["throughput", "freshness"])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--url", default="lmdb://online")
    args = parser.parse_args()
    print(machine("duckdb", "lmdb", "numpy"))
    for what in args.what:
        with tempfile.TemporaryDirectory() as folder:
            if what == "throughput":
                throughput(Path(folder), args.url, args.events, args.keys)
            else:
                freshness(Path(folder), args.url, args.rate, args.seconds, args.keys)


if __name__ == "__main__":
    main()
