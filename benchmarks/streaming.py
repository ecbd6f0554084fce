"""The road of a Flink job's tiles into the online store.

    python benchmarks/streaming.py writer [--entities N] [--rounds N] [--batch N] [--dense N]
    python benchmarks/streaming.py end-to-end [--events N] [--entities N] [--rate N] [--seconds N]
    python benchmarks/streaming.py recovery [--kills N] [--rate N] [--entities N]

`writer` puts tile records into a Redis of its own, in one process: sparse entities (uniform keys, eight aggregates over two
hops, some tiles each) and dense ones (windows of 1 h, 7 d and 30 d, about 200 tiles each). The floors of the same run are a
plain MSET and a compare-and-set of the same bytes under the same keys.

`end-to-end` runs a broker, a Flink session cluster, the writer and a Redis, all here: how many events a second, of those that
lie in the topic, become readable; then, at a rate, the time from an event's sending until it can be read.

`recovery` starts a job as a user does, `fs stream start`, and kills its task manager while events come: how long it takes until
an event that was sent after the kill can be read.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import redis
from _common import machine, verdict
from confluent_kafka import Producer

sys.path.insert(0, str(Path(__file__).parents[1]))

import featurestore as fs
from featurestore import declare, ir
from featurestore.compile.flink_job import Query, job_of, wire_of
from featurestore.compile.sources import connect
from featurestore.flink.cluster import TASK_MANAGER, processes
from featurestore.flink.place import place_of
from featurestore.layout import layout_of
from featurestore.lower import lower
from featurestore.online.codec import HEAD
from featurestore.online.store import OnlineStore, open_store
from featurestore.store import FeatureStore
from featurestore.stream.apply import Heads
from featurestore.stream.tile_records import Decoder
from featurestore.stream.upserts import Now
from featurestore.types import Float64, Int64, Timestamp
from tests.flink_broker import brokers
from tests.flink_session import processor_seconds, session

NOW = 1_700_000_000_000_000
HOUR = 3_600_000_000
MINUTE = 60_000_000
COLUMNS = {"id": Int64, "ts": Timestamp, "x": Float64, "n": Int64}
FEATURES = [
    fs.count(), fs.sum("x"), fs.mean("x"), fs.min("x"), fs.max("x"), fs.stddev_pop("x"), fs.sum("n"), fs.max("n"),
]  # fmt: skip
SPARSE = (fs.minutes(10), fs.hours(10))  # hops of a minute and of an hour
DENSE = (fs.hours(1), fs.days(7), fs.days(30))
WARM = 0.3  # of the events that lie in the topic: they go by before the rate is taken


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
    with a_redis() as (port, _):
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


# ── from event to value


def end_to_end(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        for name in ("kafka", "flink", "project"):
            (root / name).mkdir()
        broker = stack.enter_context(brokers(root / "kafka"))
        address = broker.address
        port, redis_pid = stack.enter_context(a_redis())
        flink = stack.enter_context(session(root / "flink", heap="1024m"))
        view = project_of(root / "project", address, f"redis://127.0.0.1:{port}/0")
        store = stack.enter_context(FeatureStore(root / "project"))
        now = time.time_ns() // 1000
        events = sample(np.random.default_rng(3), args.events, args.entities, now)
        send(address, view, events)
        command = [sys.executable, "-m", "featurestore.cli", "stream", "write"]
        writing = subprocess.Popen(
            command, cwd=root / "project", stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        stack.callback(lambda: (writing.terminate(), writing.wait()))
        with connect() as con:
            flink.submit(con, view)
        flink.wait(flink.running)
        assert flink.tasks is not None
        assert flink.manager is not None
        parts = {
            "task manager": flink.tasks.pid, "job manager": flink.manager.pid, "broker": broker.pid, "writer": writing.pid,
            "Redis": redis_pid, "this watcher": os.getpid(),
        }  # fmt: skip
        sustained(store, parts, events, args.entities)
        freshness(store, address, view, args.rate, args.seconds, args.entities)


def sustained(store: FeatureStore, parts: Mapping[str, int], sent: Columns, entities: int) -> None:
    """Events a second from the topic to what can be read, once the Java machines are warm.

    A sample of the entities is looked at while it runs, so that looking costs little; at the end all of them.
    """
    ids = np.asarray(sent["id"], np.int64)
    sample = np.random.default_rng(5).choice(entities, entities // 50, replace=False)
    events, share = len(ids), np.isin(ids, sample).sum() / len(ids)
    seen: list[tuple[float, float, dict[str, float]]] = []
    while not seen or seen[-1][1] < events * 0.999999:
        time.sleep(0.25)
        done = readable(store, sample) / share
        seen.append((time.perf_counter(), done, {n: processor_seconds(pid) for n, pid in parts.items()}))
    assert readable(store, np.arange(entities)) == events
    cold = next(i for i, (_, done, _) in enumerate(seen) if done > 0)
    warm = next(i for i, (_, done, _) in enumerate(seen) if done > events * WARM)
    (began, before, cpu), (ended, _, spent) = seen[warm], seen[-1]
    rate = (events - before) / (ended - began)
    whole = events / (ended - seen[cold - 1][0])
    print(f"{events:,} events of {entities:,} entities, from topic to readable:")
    print(
        f"  {whole:,.0f} events/s with the Java machines cold, {rate:,.0f} over the last {1 - before / events:.0%}"
    )
    print(
        "  processor, us an event: "
        + ", ".join(f"{name} {(spent[name] - cpu[name]) / (events - before) * 1e6:.1f}" for name in parts)
    )
    verdict(
        "events from topic to readable a second",
        rate,
        20_000,
        30_000,
        unit="events/s",
        more_is_better=True,
    )


def readable(store: FeatureStore, entities: np.ndarray) -> int:
    """How many events are in the counts that can be read."""
    read = store.get_online_features("read", {"id": entities}).to_dict()["count_10h"]
    return sum(n or 0 for n in read)


def freshness(
    store: FeatureStore, address: str, view: ir.View, rate: int, seconds: float, entities: int
) -> None:
    """Probes are events of entities of their own, among those at the rate."""
    stop = threading.Event()
    sending = threading.Thread(target=at_rate, args=(address, view, rate, entities, stop))
    sending.start()
    time.sleep(3)
    sent: dict[int, float] = {}
    taken: list[float] = []
    first, number = 10**9, 0
    producer = Producer({"bootstrap.servers": address, "linger.ms": 0})
    end = time.perf_counter() + seconds
    due = time.perf_counter()
    while time.perf_counter() < end or (sent and time.perf_counter() < end + 20):
        if time.perf_counter() >= due and time.perf_counter() < end:
            due += 0.05
            at = time.time_ns() // 1000
            event = {"id": [first + number], "ts": [at], "x": [1.0], "n": [1]}
            sent[first + number] = time.perf_counter()
            number += 1
            for line in lines_of(event):
                producer.produce(view.source.stream.path, line)  # type: ignore[union-attr]
            producer.poll(0)
        if sent:
            keys = list(sent)
            found = store.get_online_features("read", {"id": keys}).to_dict()["count_10h"]
            seen = time.perf_counter()
            taken += [seen - sent.pop(key) for key, n in zip(keys, found, strict=True) if n]
        time.sleep(0.004)
    stop.set()
    sending.join()
    p50, p99 = np.percentile(taken, [50, 99])
    print(f"{rate:,} events/s for {seconds:.0f} s, {number} probes, {len(sent)} of them never seen")
    print(f"  event -> readable p50 {p50:.3f} s, p99 {p99:.3f} s, worst {max(taken):.3f} s")
    verdict("p50 of event -> readable", p50, 0.5, 0.25, unit="s")
    verdict("p99 of event -> readable", p99, 1.0, 0.25, unit="s")


def recovery(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        for name in ("kafka", "project"):
            (root / name).mkdir()
        address = stack.enter_context(brokers(root / "kafka")).address
        port, _ = stack.enter_context(a_redis())
        url = f"redis://127.0.0.1:{port}/0"
        view = project_of(root / "project", address, url, '[stream]\nengine = "flink"\npartitions = 2\n')
        send(address, view, sample(np.random.default_rng(3), 20_000, args.entities, time.time_ns() // 1000))
        store = stack.enter_context(FeatureStore(root / "project"))
        stream(root / "project", "start")
        stack.callback(stream, root / "project", "stop")
        stop = threading.Event()
        sending = threading.Thread(target=at_rate, args=(address, view, args.rate, args.entities, stop))
        sending.start()
        try:
            until_readable(store, address, view, 10**9 - 1)
            print(f"{args.rate:,} events/s of {args.entities:,} entities, a checkpoint every 10 s")
            took = [killed(store, address, view, number) for number in range(args.kills)]
        finally:
            stop.set()
            sending.join()
        print("  from kill -9 of the task manager to readable: " + ", ".join(f"{t:.1f} s" for t in took))
        verdict("the longest recovery", max(took), 20.0, 8.0, unit="s")


def stream(folder: Path, word: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "featurestore.cli", "stream", word],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def killed(store: FeatureStore, address: str, view: ir.View, number: int) -> float:
    """Seconds from a kill of the task manager until an event of after it can be read, at some moment between checkpoints."""
    time.sleep(15 + number * 3.7 % 10)
    victim = processes(place_of(store.config))[TASK_MANAGER]
    os.kill(victim.pid, signal.SIGKILL)
    return until_readable(store, address, view, 10**9 + number)


def until_readable(store: FeatureStore, address: str, view: ir.View, entity: int) -> float:
    """Sends one event of an entity of its own; seconds until it can be read."""
    began = time.perf_counter()
    send(address, view, {"id": [entity], "ts": [time.time_ns() // 1000], "x": [1.0], "n": [1]})
    while not readable(store, np.asarray([entity])):
        time.sleep(0.02)
    return time.perf_counter() - began


DEFINITIONS = """
import featurestore as fs

source = fs.StreamSource(
    "events", batch=fs.Parquet("events.parquet"), stream=fs.Kafka("events", bootstrap="{address}"), event_time="ts",
    columns={{"id": fs.Int64, "ts": fs.Timestamp, "x": fs.Float64, "n": fs.Int64}}, lateness=fs.hours(2),
)
windows = fs.minutes(10), fs.hours(10)
features = [
    fs.count(), fs.sum("x"), fs.mean("x"), fs.min("x"), fs.max("x"), fs.stddev_pop("x"), fs.sum("n"), fs.max("n"),
]
view = fs.FeatureView("v", fs.Entity("one", key="id"), source, [f.over(*windows) for f in features])
read = fs.FeatureService("read", [view])
"""


def project_of(root: Path, address: str, url: str, more: str = "") -> ir.View:
    (root / "fs.toml").write_text(f'[online]\nurl = "{url}"\n{more}')
    (root / "definitions.py").write_text(DEFINITIONS.format(address=address))
    with FeatureStore(root) as store:
        store.apply()
        return store.registry.current().plan.view("v")


Columns = dict[str, Sequence[float]]


def sample(rng: np.random.Generator, count: int, entities: int, now: int) -> Columns:
    """Events of the last half hour."""
    return {
        "id": rng.integers(0, entities, count).tolist(),
        "ts": np.sort(now - rng.integers(1, 30 * MINUTE, count)).tolist(),
        "x": rng.normal(size=count).round(6).tolist(),
        "n": rng.integers(0, 1000, count).tolist(),
    }


def lines_of(columns: Columns) -> Iterator[bytes]:
    for key, at, x, n in zip(*columns.values(), strict=True):
        when = datetime.fromtimestamp(at / 1e6, UTC).isoformat()
        yield f'{{"id":{key},"ts":"{when}","x":{x},"n":{n}}}'.encode()


def send(address: str, view: ir.View, columns: Columns) -> None:
    topic = view.source.stream.path  # type: ignore[union-attr]
    producer = Producer(
        {"bootstrap.servers": address, "linger.ms": 50, "queue.buffering.max.messages": 1_000_000}
    )
    for line in lines_of(columns):
        producer.produce(topic, line)
        producer.poll(0)
    producer.flush()


def at_rate(address: str, view: ir.View, rate: int, entities: int, stop: threading.Event) -> None:
    producer = Producer({"bootstrap.servers": address, "linger.ms": 1})
    rng, due = np.random.default_rng(1), time.perf_counter()
    while not stop.is_set():
        due += 0.02
        time.sleep(max(0.0, due - time.perf_counter()))
        now = time.time_ns() // 1000
        count = rate // 50
        columns = sample(rng, count, entities, now) | {"ts": [now] * count}
        for line in lines_of(columns):
            producer.produce(view.source.stream.path, line)  # type: ignore[union-attr]
        producer.poll(0)
    producer.flush()


@contextmanager
def a_redis() -> Iterator[tuple[int, int]]:
    """A Redis of our own: its port, its process."""
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
            yield port, running.pid
        finally:
            running.terminate()
            running.wait()


WHAT = {"writer": writer, "end-to-end": end_to_end, "recovery": recovery}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["writer"], choices=list(WHAT))
    parser.add_argument("--entities", type=int, default=100_000, help="of sparse ones")
    parser.add_argument("--rounds", type=int, default=8, help="how often each sparse entity comes")
    parser.add_argument("--batch", type=int, default=20_000, help="records merged at a time")
    parser.add_argument("--events", type=int, default=1_500_000, help="that lie in the topic")
    parser.add_argument("--rate", type=int, default=2_000, help="events a second")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--kills", type=int, default=5, help="of the task manager")
    parser.add_argument("--dense", type=int, default=1_000, help="dense entities")
    args = parser.parse_args()
    print(machine("numpy", "redis"))
    for what in args.what:
        WHAT[what](args)


if __name__ == "__main__":
    main()
