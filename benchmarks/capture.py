"""What it costs to capture all that is served, and how much of it a process keeps.

    python benchmarks/capture.py [latency server rate bits kills] [--rounds N] [--kills N]

Reads are of 20 float32 latest values of 100 entities. Redis is one of our own, behind a Unix socket and on a TCP port.

- `latency`: one process reads as fast as it can, in blocks with and without capture by turns; what is captured in a block is
  written in that block, to its end. A ratio is taken of two blocks beside each other; the median over the rounds is what counts.
  In `paced` blocks a read begins every 2 ms, as in a process that is asked 500 times a second.
- `server`: the same over HTTP, one connection, from another process: a service that is captured and one that is not, by turns.
- `rate`: rows a second that one process keeps on disk, none of them shed, against a bare write of the same bytes.
- `bits`: captured cells against those that were served, bit for bit.
- `kills`: processes that are killed while they capture: `python -m tests.test_capture_kills`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket as sockets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _common import machine, verdict
from online_read import a_redis, make_data, make_project
from server import running

from featurestore.serving.recorder import LogSink, Recorder

ROWS, FEATURES = 100, 20
SERVICES = """
services.append(fs.FeatureService("kept", features=[numbers], capture=fs.Capture()))
"""

ASK = """
import http.client, statistics, sys, time
host, port, path, body, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4].encode(), float(sys.argv[5])
link = http.client.HTTPConnection(host, port)
for line in sys.stdin:
    taken, stop, asked = [], time.perf_counter() + seconds, body.replace(b"SERVICE", line.strip().encode())
    while time.perf_counter() < stop:
        before = time.perf_counter()
        link.request("POST", path, asked, {"content-type": "application/json"})
        answer = link.getresponse()
        said = answer.read()
        assert answer.status == 200, said
        taken.append(time.perf_counter() - before)
    print(statistics.median(taken) * 1e6, flush=True)
"""


# ------------------------------------------------------------------------------------------------------------------ latency


def block(read: Callable[[int], Any], seconds: float, every: float) -> tuple[float, float]:
    """The median latency of a read and its processor time, in microseconds; one begins each `every` seconds, or at once."""
    taken: list[float] = []
    clock, start, cpu = time.perf_counter, time.perf_counter(), time.process_time()
    while (before := clock()) < start + seconds:
        read(len(taken))
        taken.append(clock() - before)
        if every:
            time.sleep(max(start + every * len(taken) - clock(), 0))
    return statistics.median(taken) * 1e6, (time.process_time() - cpu) / len(taken) * 1e6


def latency(title: str, store: Any, data: dict[str, Any], rounds: int, every: float = 0.0) -> None:
    rng = np.random.default_rng(9)
    keys = [rng.choice(data["ids"], ROWS, replace=False) for _ in range(64)]
    reader, out = store.reader("kept"), np.empty((ROWS, FEATURES), np.float32)

    def reading(capture: bool) -> Callable[[int], Any]:
        return lambda i: reader.get(keys[i % 64], out=out, capture=capture)

    done: list[tuple[tuple[float, float], tuple[float, float]]] = []
    before = store.capture.counts
    for number in range(rounds + 1):
        pair = {}
        for capture in (True, False) if number % 2 else (False, True):
            pair[capture] = block(reading(capture), 0.5, every)
            store.capture.flush()
        if number:
            done.append((pair[True], pair[False]))
    counts = store.capture.counts
    ours, bare = (statistics.median(d[i][0] for d in done) for i in (0, 1))
    cpu, bare_cpu = (statistics.median(d[i][1] for d in done) for i in (0, 1))
    print(
        f"  {title:<24} p50 without {bare:8.1f} us   with {ours:8.1f} us   cpu {bare_cpu:8.1f} and {cpu:8.1f} us"
        f"   {counts.kept - before.kept:,} rows kept, {counts.shed - before.shed:,} shed"
    )
    added = statistics.median(a[0] / b[0] for a, b in done)
    verdict(f"{title}: added to the p50", 100 * (added - 1), 10, 3, unit="%")


@contextmanager
def tcp_redis(folder: Path) -> Iterator[int]:
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with (folder / "redis.log").open("w") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder)
    try:
        for _ in range(200):
            with sockets.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.02)
        yield port
    finally:
        server.terminate()
        server.wait()


def projects(kinds: tuple[str, ...]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    for kind in kinds:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fs-bench-")))
            data = make_data(folder)
            if kind == "lmdb":
                url = "lmdb://.fs/online"
            elif kind == "redis by TCP":
                url = f"redis://127.0.0.1:{stack.enter_context(tcp_redis(folder))}"
            else:
                url = f"unix://{stack.enter_context(a_redis(folder))}"
            store = make_project(folder, url, SERVICES)
            try:
                yield kind, store, data
            finally:
                store.close()


def latencies(rounds: int) -> None:
    for kind, store, data in projects(("redis by socket", "redis by TCP", "lmdb")):
        with_capture_right(store, data)
        latency(kind, store, data, rounds)
        latency(f"{kind}, paced", store, data, rounds, every=0.002)


def with_capture_right(store: Any, data: dict[str, Any]) -> None:
    """Before anything is timed: what is captured is what was asked for, and what the data say."""
    read = store.reader("kept").get(data["ids"][:ROWS])
    store.capture.flush()
    (rows,) = store.capture.rows("kept")
    assert rows.table["row_id"].to_pylist() == read.row_ids
    captured = np.stack([rows.table[f"feature:f{i}"].to_numpy() for i in range(FEATURES)], axis=1)
    np.testing.assert_array_equal(captured, data["matrix"][:ROWS])


def server(rounds: int) -> None:
    """One connection asks two services of the same features by turns: the captured one, and the other."""
    for _, store, data in projects(("lmdb",)):
        root = store.config.root
        store.close()
        argv = [sys.executable, "-m", "featurestore.cli", "-C", str(root), "serve", "--port", "0", "--json"]
        with running(argv, root / "serve.log") as (_, port):
            ids = data["ids"][:ROWS].tolist()
            body = json.dumps({"feature_service": "SERVICE", "entities": {"id": ids}})
            words = [sys.executable, "-c", ASK, "127.0.0.1", str(port), "/get-online-features", body, "0.5"]
            with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
                assert client.stdin is not None
                assert client.stdout is not None

                def p50(service: str) -> float:
                    client.stdin.write(f"{service}\n")  # type: ignore[union-attr]
                    client.stdin.flush()  # type: ignore[union-attr]
                    return float(client.stdout.readline())  # type: ignore[union-attr]

                done = []
                for number in range(rounds + 1):
                    names = ("kept", "read_numbers") if number % 2 else ("read_numbers", "kept")
                    pair = {name: p50(name) for name in names}
                    if number:
                        done.append((pair["kept"], pair["read_numbers"]))
                client.stdin.close()
        ours, bare = (statistics.median(d[i] for d in done) for i in (0, 1))
        print(f"  JSON over HTTP, lmdb: p50 without {bare:8.1f} us   with {ours:8.1f} us")
        added = statistics.median(a / b for a, b in done)
        verdict("JSON over HTTP: added to the p50", 100 * (added - 1), 10, 3, unit="%")


# ------------------------------------------------------------------------------------------------------- rate, bits, kills


def rate(rounds: int) -> None:
    """Reads made beforehand are handed over as fast as they are taken; the bytes that came of them are written bare."""
    for _, store, data in projects(("lmdb",)):
        reader = store.reader("kept")
        rng = np.random.default_rng(10)
        # No read is like another: rows that come again would be compressed away.
        reads = [reader.get(rng.choice(data["ids"], ROWS, replace=False), capture=False) for _ in range(2000)]
        recorder = Recorder(lambda: LogSink(store.capture.log))  # noqa: B023
        tap = recorder.tap(*store.service("kept"), 1)
        assert tap is not None
        rows = 500_000
        rates, cpus, floors = [], [], []
        for _ in range(rounds):
            before, cpu, sent = time.perf_counter(), time.process_time(), 0
            while sent < rows:
                if recorder.counts().waiting + ROWS > 200_000:
                    time.sleep(0.002)
                    continue
                assert tap.offer(reads[sent // ROWS % len(reads)])
                sent += ROWS
            recorder.flush()
            rates.append(rows / (time.perf_counter() - before))
            cpus.append((time.process_time() - cpu) / rows * 1e6)
            floors.append(rows / bare_write(store.config.root, rows * size_of_row(store)))
        recorder.close()
        assert recorder.counts().shed == 0
        print(
            f"  {rows:,} rows of {FEATURES} features: {statistics.median(rates):,.0f} a second"
            f" ({min(rates):,.0f}-{max(rates):,.0f}), {statistics.median(cpus):.2f} us of processor time each;"
            f" a bare write and fsync of as many bytes ({size_of_row(store):.0f} a row) {statistics.median(floors):,.0f} a second"
        )
        verdict(
            "rows kept, thousands a second",
            statistics.median(rates) / 1000,
            100,
            500,
            unit="k/s",
            more_is_better=True,
        )


def size_of_row(store: Any) -> float:
    status = next(s for s in store.capture.status() if s.service == "kept")
    return float(status.log_bytes / status.logged_rows)


def bare_write(folder: Path, size: float) -> float:
    """Seconds that it takes to write so many bytes a MiB at a time, with a sync every 16."""
    piece, path = os.urandom(1 << 20), folder / "bare"
    before = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for number in range(int(size) >> 20):
            file.write(piece)
            if number % 16 == 15:
                os.fsync(file.fileno())
        os.fsync(file.fileno())
    took = time.perf_counter() - before
    path.unlink()
    return took


def bits(cells: int) -> None:
    """What was served as a tensor, against the tensor of what was captured: every bit of every cell."""
    for _, store, data in projects(("lmdb",)):
        reader, rng = store.reader("kept"), np.random.default_rng(11)
        served = []
        for _ in range(cells // (ROWS * FEATURES)):
            ids = rng.choice(data["ids"], ROWS)
            ids[rng.random(ROWS) < 0.05] += 1  # some that nobody knows: NULL, which is NaN
            read = reader.get(ids)
            served.append((read.row_ids, read.to_numpy().view(np.uint32).copy()))
        store.capture.flush()
        table = pa.concat_tables([rows.table for rows in store.capture.rows("kept")])
        place = {row_id: i for i, row_id in enumerate(table["row_id"].to_pylist())}
        columns = [table[f"feature:f{i}"].combine_chunks() for i in range(FEATURES)]
        captured = np.stack([c.fill_null(np.nan).to_numpy() for c in columns], axis=1).view(np.uint32)
        differing = compared = 0
        for row_ids, tensor in served:
            mine = captured[[place[r] for r in row_ids]]
            nan = np.isnan(tensor.view(np.float32)) & np.isnan(mine.view(np.float32))
            differing += int(((mine != tensor) & ~nan).sum())
            compared += tensor.size
        print(f"  {compared:,} cells")
        verdict("captured cells that are not the served ones", differing, 0, 0, unit="cells")


def kills(count: int) -> None:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_capture_kills", str(count)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    print(f"  {done.stdout.splitlines()[-2]}")
    verdict("acknowledged rows lost", float(done.stdout.split()[-1]), 0, 0, unit="rows")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=["latency", "server", "rate", "bits", "kills"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=200)
    given = parser.parse_args()
    print(machine("redis", "lmdb", "numpy", "pyarrow"))
    print(f"  load {os.getloadavg()[0]:.1f}")
    parts: dict[str, Callable[[], None]] = {
        "latency": lambda: latencies(given.rounds),
        "server": lambda: server(given.rounds),
        "rate": lambda: rate(max(given.rounds // 3, 1)),
        "bits": lambda: bits(given.cells),
        "kills": lambda: kills(given.kills),
    }
    for part in given.parts:
        parts[part]()


if __name__ == "__main__":
    main()
