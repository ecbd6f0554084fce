"""Online reads against a bare fetch of the same bytes: in-process, from Redis and from LMDB.

    python benchmarks/online_read.py [redis lmdb] [--entities N] [--rounds N] [--cpu]

Makes a project in a temporary folder, materialises it, and reads batches of random entities with
`FeatureStore.get_online_features(...).to_numpy()`. The floor is what anybody would write who knows the keys: redis-py's
`MGET` (a loop over `get` in LMDB) and `np.frombuffer` over what came. All contenders take turns within each round, and a
ratio is taken inside a round. Every kind of read is compared with the data it was made of before anything is timed.
Redis is one of our own, behind a Unix socket.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import redis
from _common import machine, verdict

from featurestore.layout import layout_of
from featurestore.online.codec import BASE, HEAD, codec_of, entity_keys
from featurestore.store import FeatureStore

KNOWN = 20_000
FEATURES = 20
TILES = 60
MINUTE = 60_000_000
END = 1_700_000_000_000_000 // MINUTE * MINUTE + MINUTE // 2
"""The moment that is materialised and asked for: in the middle of a tile, so that there is an open one."""

BATCHES = 64
Call = Callable[[int], Any]
_FLOORS: dict[Path, lmdb.Environment[bytes]] = {}

DEFINITIONS = """
import featurestore as fs

def values(name, key, dtype):
    columns = {"ts": fs.Timestamp, key: fs.Int64 if key == "id" else fs.String, **{f"f{i}": dtype for i in range(20)}}
    source = fs.BatchSource(name, fs.Parquet(f"{name}.parquet"), event_time="ts", columns=columns)
    entity = fs.Entity(name, key=key)
    return fs.FeatureView(name, entity, source, [fs.latest(f"f{i}") for i in range(20)])

numbers = values("numbers", "id", fs.Float32)
doubles = values("doubles", "id", fs.Float64)
texts = values("texts", "name", fs.Float32)
events = fs.BatchSource("events", fs.Parquet("events.parquet"), event_time="ts",
                        columns={"id": fs.Int64, "ts": fs.Timestamp, "x": fs.Float64})
hour = [a.over(fs.hours(1), hop=fs.minutes(1)) for a in
        (fs.count(), fs.sum("x"), fs.mean("x"), fs.min("x"), fs.max("x"), fs.stddev_samp("x"))]
windows = fs.FeatureView("windows", fs.Entity("source", key="id"), events, hour)

services = [fs.FeatureService(f"read_{v.name}", features=[v]) for v in (numbers, doubles, texts, windows)]
"""


# ---------------------------------------------------------------------------------------------------------------- the data


def texts(ids: Any) -> list[str]:
    return [f"customer-{i:012d}" for i in ids]


def make_project(folder: Path, url: str, more: str = "") -> FeatureStore:
    (folder / "definitions.py").write_text(DEFINITIONS + more, encoding="utf-8")
    (folder / "fs.toml").write_text(f'[project]\nname = "bench"\n[online]\nurl = "{url}"\n', encoding="utf-8")
    store = FeatureStore(folder)
    store.apply(who="bench")
    store.materialize(end=END)
    return store


def make_data(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    ids = rng.choice(10**12, KNOWN, replace=False)
    matrix = rng.normal(size=(KNOWN, FEATURES)).astype(np.float32)
    ts = pa.array(END - rng.integers(1, 3600 * 10**6, KNOWN), pa.timestamp("us"))
    floats = {f"f{i}": matrix[:, i] for i in range(FEATURES)}
    doubles = {name: column.astype(np.float64) for name, column in floats.items()}
    pq.write_table(pa.table({"id": ids, "ts": ts, **floats}), folder / "numbers.parquet")
    pq.write_table(pa.table({"id": ids, "ts": ts, **doubles}), folder / "doubles.parquet")
    pq.write_table(pa.table({"name": texts(ids), "ts": ts, **floats}), folder / "texts.parquet")
    few = ids[: KNOWN // 10]
    minutes = END - END % MINUTE - MINUTE * np.arange(TILES)
    times = np.repeat(minutes[None, :, None], len(few), 0) + rng.integers(
        0, MINUTE // 2, (len(few), TILES, 2)
    )
    x = rng.normal(100, 10, times.shape)
    events = {
        "id": np.repeat(few, TILES * 2),
        "ts": pa.array(times.reshape(-1), pa.timestamp("us")),
        "x": x.reshape(-1),
    }
    pq.write_table(pa.table(events), folder / "events.parquet")
    flat = x.reshape(len(few), -1)
    windows = [
        np.full(len(few), flat.shape[1]),
        flat.sum(1),
        flat.mean(1),
        flat.min(1),
        flat.max(1),
        flat.std(1, ddof=1),
    ]
    return {"ids": ids, "matrix": matrix, "few": few, "windows": np.stack(windows, axis=1)}


# ----------------------------------------------------------------------------------------------------------- the contenders


def keys_of(store: FeatureStore, view_name: str, ids: Any, *, heads: bool) -> list[bytes]:
    view = store.definitions().view(view_name)
    codec = codec_of(view, layout_of(view))
    keys, _ = entity_keys(view, [ids], *(codec.prefix + role for role in ([BASE, HEAD] if heads else [BASE])))
    return keys


def ours(store: FeatureStore, view: str, key: str, batches: list[Any]) -> Call:
    at = END if view == "windows" else None

    def read(i: int) -> Any:
        return store.get_online_features(f"read_{view}", {key: batches[i % BATCHES]}, at=at).to_numpy()

    return read


def redis_floor(socket: Path, batches: list[list[bytes]], *, view: bool) -> Call:
    client = redis.Redis(unix_socket_path=str(socket))
    named = [[b"fs:" + k for k in batch] for batch in batches]

    def read(i: int) -> Any:
        values = client.mget(named[i % BATCHES])
        return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1) if view else values

    return read


def lmdb_floor(folder: Path, batches: list[list[bytes]], *, view: bool) -> Call:
    copy = folder.with_name("floor")  # one process opens a file of LMDB's once
    if not copy.exists():
        shutil.copytree(folder, copy)
        _FLOORS[copy] = lmdb.open(str(copy), max_dbs=4, readonly=True)
    env = _FLOORS[copy]
    data = env.open_db(b"data", create=False)

    def read(i: int) -> Any:
        with env.begin(data) as txn:
            get = txn.get
            values = [get(k) for k in batches[i % BATCHES]]
        return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1) if view else values

    return read


# ------------------------------------------------------------------------------------------------------------------- timing


def race(
    calls: Mapping[str, Call], rounds: int, budget: float = 0.08
) -> dict[str, list[tuple[float, float]]]:
    """For each contender and round the median latency and the CPU time of a call, in microseconds."""
    out: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for call in calls.values():
        for i in range(20):
            call(i)
    for _ in range(rounds):
        for name, call in calls.items():
            taken, cpu, stop, i = [], time.process_time(), time.perf_counter() + budget, 0
            while time.perf_counter() < stop:
                before = time.perf_counter()
                call(i)
                taken.append(time.perf_counter() - before)
                i += 1
            out[name].append((statistics.median(taken) * 1e6, (time.process_time() - cpu) / i * 1e6))
    return out


def compare(title: str, floor: Call, read: Call, rounds: int, must: float, reach: float) -> None:
    done = race({"floor": floor, "read": read}, rounds)
    pairs = list(zip(done["read"], done["floor"], strict=True))
    wall = statistics.median(a[0] / b[0] for a, b in pairs)
    for name, figures in done.items():
        p50, cpu = (statistics.median(f[i] for f in figures) for i in (0, 1))
        best = min(f[0] for f in figures)
        print(
            f"  {title:<44} {name:<6} p50 {p50:8.1f} us   best round {best:8.1f} us   cpu {cpu:8.1f} us",
            flush=True,
        )
    verdict(f"{title}, time over the bare fetch", wall, must, reach)


def figures(
    kind: str, folder: Path, place: Path, data: Mapping[str, Any], entities: int, rounds: int
) -> None:
    url = f"unix://{place}" if kind == "redis" else f"lmdb://{place}"
    store = make_project(folder, url)
    rng = np.random.default_rng(11)
    picks = [rng.integers(0, KNOWN, entities) for _ in range(BATCHES)]
    few = [p % len(data["few"]) for p in picks]
    bare: Callable[..., Call] = redis_floor if kind == "redis" else lmdb_floor
    ids, names = data["ids"], np.array(texts(data["ids"]), object)
    cases = [
        ("numbers", "id", "20 float32 by int64 key", [ids[p].tolist() for p in picks], picks, (3, 1.5)),
        ("doubles", "id", "20 float64 by int64 key", [ids[p].tolist() for p in picks], picks, (3, 1.5)),
        ("texts", "name", "20 float32 by string key", [names[p].tolist() for p in picks], picks, (3, 1.5)),
        (
            "windows",
            "id",
            f"{TILES + 1} tiles x 5 partials",
            [data["few"][p].tolist() for p in few],
            few,
            (2, 1.2),
        ),
    ]
    for view, key, title, batches, rows, (must, reach) in cases:
        heads = view == "windows"
        keys = [keys_of(store, view, batch, heads=heads) for batch in batches]
        read, floor = ours(store, view, key, batches), bare(place, keys, view=not heads)
        truth = data["windows"] if heads else data["matrix"]
        for i in range(BATCHES):
            np.testing.assert_allclose(read(i), truth[rows[i]].astype(np.float32), rtol=2e-7 if heads else 0)
        size = sum(len(v) for v in floor(0) if v is not None)
        compare(
            f"{kind}: {entities} x {title}, {size / entities:,.0f} B each", floor, read, rounds, must, reach
        )
    store.close()


@contextmanager
def a_redis(folder: Path) -> Iterator[Path]:
    binary = shutil.which("redis-server")
    if binary is None:
        raise SystemExit("redis-server is not installed\n  python benchmarks/online_read.py lmdb needs none")
    socket = folder / "redis.sock"
    words = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
    with (folder / "redis.log").open("w") as log:
        server = subprocess.Popen([binary, *words], stdout=log, stderr=log, cwd=folder)
    try:
        for _ in range(200):
            if socket.exists():
                break
            time.sleep(0.02)
        yield socket
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", nargs="*", metavar="STORE", help="redis, lmdb; both by default")
    parser.add_argument("--entities", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    print(machine("redis", "hiredis", "lmdb", "numpy"))
    print(f"batches of {given.entities} of {KNOWN:,} entities, {given.rounds} rounds")
    with tempfile.TemporaryDirectory(prefix="fs-bench-") as name:
        folder = Path(name)
        data = make_data(folder)
        for kind in given.stores or ("redis", "lmdb"):
            if kind == "redis":
                with a_redis(folder) as socket:
                    figures(kind, folder, socket, data, given.entities, given.rounds)
            else:
                figures(kind, folder, folder / "online", data, given.entities, given.rounds)


if __name__ == "__main__":
    main()
