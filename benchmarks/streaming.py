"""The road of a Flink job's tiles into the online store.

    python benchmarks/streaming.py writer [--entities N] [--rounds N] [--batch N] [--dense N]

`writer` puts tile records into a Redis of its own, in one process: sparse entities (uniform keys, eight aggregates over two
hops, some tiles each) and dense ones (windows of 1 h, 7 d and 30 d, about 200 tiles each). The floors of the same run are a
plain MSET and a compare-and-set of the same bytes under the same keys.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import redis
from _common import machine, verdict

import featurestore as fs
from featurestore import declare, ir
from featurestore.compile.flink_job import Query, job_of, wire_of
from featurestore.layout import layout_of
from featurestore.lower import lower
from featurestore.online.codec import HEAD
from featurestore.online.store import OnlineStore, open_store
from featurestore.stream.apply import Heads
from featurestore.stream.tile_records import Decoder
from featurestore.stream.upserts import Now
from featurestore.types import Float64, Int64, Timestamp

NOW = 1_700_000_000_000_000
HOUR = 3_600_000_000
MINUTE = 60_000_000
COLUMNS = {"id": Int64, "ts": Timestamp, "x": Float64, "n": Int64}
FEATURES = [
    fs.count(), fs.sum("x"), fs.mean("x"), fs.min("x"), fs.max("x"), fs.stddev_pop("x"), fs.sum("n"), fs.max("n"),
]  # fmt: skip
SPARSE = (fs.minutes(10), fs.hours(10))  # hops of a minute and of an hour
DENSE = (fs.hours(1), fs.days(7), fs.days(30))


def the_view(windows: Sequence[fs.Duration], address: str = "nowhere:9092") -> ir.View:
    source = fs.StreamSource(
        "events", batch=fs.Parquet("events.parquet"), stream=fs.Kafka("events", bootstrap=address), event_time="ts",
        columns=COLUMNS, lateness=fs.hours(2),
    )  # fmt: skip
    view = fs.FeatureView("v", fs.Entity("one", key="id"), source, [f.over(*windows) for f in FEATURES])
    plan = lower(declare.declarations_in([fs.FeatureService("read", features=[view])]), lambda _: {})
    return plan.views[0]


# ── the writer alone


def records(
    rng: np.random.Generator, query: Query, keys: np.ndarray, tiles: np.ndarray, rows: int
) -> list[bytes]:
    """Tile records as a job writes them, of numbers alone."""
    columns = list(query.columns)
    words = np.zeros((len(keys), 1 + len(columns) - (-len(columns) // 64)), "<u8")
    words[:, 0] = 1 | query.level << 8 | 1 << 32
    for i, name in enumerate(columns, 1):
        match name:
            case "k0":
                words[:, i] = keys.view("<u8")
            case "tile" | "first_at" | "last_at":
                words[:, i] = tiles.astype("<i8").view("<u8")
            case "rows":
                words[:, i] = rows
            case _ if query.columns[name] == "DOUBLE":
                words[:, i] = rng.normal(size=len(keys)).view("<u8")
            case _:
                words[:, i] = rng.integers(0, 1000, len(keys)).view("<u8")
    return words.view(f"V{words.shape[1] * 8}")[:, 0].tolist()


def writer(args: argparse.Namespace) -> None:
    with a_redis() as port:
        sparse(f"redis://127.0.0.1:{port}/0", args.entities, args.rounds, args.batch)
        dense(f"redis://127.0.0.1:{port}/1", args.dense, args.batch // 10)


def sparse(url: str, entities: int, rounds: int, size: int) -> None:
    """Each round touches entities at random: their tile of this minute, and that of this hour."""
    view = the_view(SPARSE)
    queries = job_of(view, wire_of(view)).queries
    rng = np.random.default_rng(7)
    batches = []
    for number in range(entities * rounds // size * 2):
        keys = rng.integers(0, entities, size // 2)
        minute = NOW - NOW % MINUTE + number * 8 // rounds * MINUTE // 4
        at = [minute - minute % hop for hop in (MINUTE, HOUR)]
        some = [
            records(rng, q, keys, np.full(len(keys), t), number + 1) for q, t in zip(queries, at, strict=True)
        ]
        batches.append([record for both in zip(*some, strict=True) for record in both])
    with open_store(url, Path()) as store:
        took = put(store, view, queries, batches)
        upserts = sum(map(len, batches))
        floors(store, view, f"sparse: {upserts:,} upserts of {entities:,} entities", upserts, took)
    verdict(
        "tile upserts of sparse entities a second",
        upserts / took[0],
        100_000,
        200_000,
        unit="upserts/s",
        more_is_better=True,
    )


def dense(url: str, entities: int, size: int) -> None:
    """Entities that have all their tiles; each upsert is of one of the newest of each hop."""
    view = the_view(DENSE)
    queries = job_of(view, wire_of(view)).queries
    hops = [level.hop for level in layout_of(view).levels]
    reach = [level.reach or 0 for level in layout_of(view).levels]
    rng = np.random.default_rng(7)
    with open_store(url, Path()) as store:
        everyone = np.arange(entities)
        full = []
        for query, hop, span in zip(queries, hops, reach, strict=True):
            tiles = np.arange(NOW - NOW % hop - span + hop, NOW + 1, hop)
            full += records(rng, query, np.repeat(everyone, len(tiles)), np.tile(tiles, entities), 1)
        put(store, view, queries, [full])
        batches = []
        for number in range(20):
            keys = rng.integers(0, entities, size)
            some = [
                records(rng, q, keys, np.full(size, NOW - NOW % hop), number + 2)
                for q, hop in zip(queries, hops, strict=True)
            ]
            batches.append([record for all_ in zip(*some, strict=True) for record in all_])
        took = put(store, view, queries, batches)
        upserts = sum(map(len, batches))
        floors(
            store,
            view,
            f"dense: {upserts:,} upserts of {entities:,} entities of {len(full) / entities:.0f} tiles",
            upserts,
            took,
        )


def put(
    store: OnlineStore, view: ir.View, queries: Sequence[Query], batches: Sequence[Sequence[bytes]]
) -> tuple[float, float, int]:
    """Seconds, seconds of processor and heads written to put records in."""
    heads = Heads(store, view)
    decoder = Decoder(view, heads.layout, heads.codec, queries)
    began, cpu, at, written = time.perf_counter(), time.process_time(), 0, 0
    for batch in batches:
        upserts, _ = decoder.decode(batch, np.arange(at, at + len(batch)))
        written += heads.apply(upserts, Now(0x80000001, clock=NOW))["heads"]
        at += len(batch)
    return time.perf_counter() - began, time.process_time() - cpu, written


def floors(
    store: OnlineStore, view: ir.View, what: str, upserts: int, took: tuple[float, float, int]
) -> None:
    """Writes what is there once more, as it is."""
    wall, cpu, written = took
    heads = Heads(store, view)
    items = list(store.scan(heads.codec.prefix + HEAD))
    size = sum(len(v) for _, v in items) / len(items)
    began = time.perf_counter()
    store.write(items)
    mset = (time.perf_counter() - began) / len(items)
    began = time.perf_counter()
    store.replace(items, [int.from_bytes(v[8:16], "little") for _, v in items])
    cas = (time.perf_counter() - began) / len(items)
    print(f"{what}, {size:,.0f} bytes a head")
    print(
        f"  {upserts / wall:,.0f} upserts/s, {cpu / upserts * 1e6:.2f} us of processor an upsert; {written:,} heads written"
    )
    print(
        f"  floor: MSET of the same bytes {1 / mset:,.0f} heads/s, compare-and-set {1 / cas:,.0f} heads/s; "
        f"the writer takes {wall / written / mset:.1f}x and {wall / written / cas:.1f}x of that a head"
    )


@contextmanager
def a_redis() -> Iterator[int]:
    """The port of a Redis of our own."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as home:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        free.close()
        words = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", home]
        running = subprocess.Popen(["redis-server", *map(str, words)], stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(port=port) as client:
                for _ in range(200):
                    try:
                        client.ping()
                        break
                    except redis.ConnectionError:
                        time.sleep(0.05)
            yield port
        finally:
            running.terminate()
            running.wait()


WHAT = {"writer": writer}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["writer"], choices=list(WHAT))
    parser.add_argument("--entities", type=int, default=100_000, help="of sparse ones")
    parser.add_argument("--rounds", type=int, default=8, help="how often each sparse entity comes")
    parser.add_argument("--batch", type=int, default=20_000, help="records merged at a time")
    parser.add_argument("--dense", type=int, default=1_000, help="dense entities")
    args = parser.parse_args()
    print(machine("numpy", "redis"))
    for what in args.what:
        WHAT[what](args)


if __name__ == "__main__":
    main()
