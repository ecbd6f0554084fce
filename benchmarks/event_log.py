"""The event log against the bare disk: appends synced one by one, reads from any offset, and how soon a reader knows.

    python benchmarks/event_log.py [--rows N] [--repeat N] [--at DIRECTORY]

The floor of an append is the same bytes written and synced with nothing else; it runs in turns with the log, in the same
directory. Five columns (two texts, a whole number, a double, an instant); batches of 1,000 events unless it says otherwise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from _common import machine, verdict

from featurestore.log import EventLog, events_table
from featurestore.log.segment import payload_of
from featurestore.types import DType, Float64, Int64, String, Timestamp

SCHEMA: dict[str, DType] = {
    "event_id": String,
    "card_id": Int64,
    "merchant": String,
    "amount": Float64,
    "occurred_at": Timestamp,
}
BATCH = 1000


def events(rows: int) -> pa.Table:
    """Payments of 100,000 cards at 500 merchants, in order of time."""
    rng = np.random.default_rng(7)
    at = 1_700_000_000_000_000 + np.sort(rng.integers(0, rows * 100, rows))
    return pa.table(
        {
            "event_id": [f"evt-{i:012d}" for i in range(rows)],
            "card_id": rng.integers(0, 100_000, rows),
            "merchant": [f"merchant-{i}" for i in rng.integers(0, 500, rows)],
            "amount": rng.gamma(2, 20, rows).round(2),
            "occurred_at": pa.array(at).cast(pa.timestamp("us", "UTC")),
        }
    )


def bare(folder: Path, payload: bytes, times: int, *, sync: bool) -> float:
    """Seconds for writing the same bytes `times` times."""
    fd = os.open(folder / "bare", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    start = time.perf_counter()
    for _ in range(times):
        os.write(fd, payload)
        if sync:
            os.fsync(fd)
    took = time.perf_counter() - start
    os.close(fd)
    return took


def appended(folder: Path, batches: list[object]) -> tuple[float, int]:
    """Seconds for appending the batches, and the bytes that they took."""
    with EventLog.open(folder, SCHEMA) as log:
        start = time.perf_counter()
        for at, batch in enumerate(batches):
            log.append(batch, at)
        return time.perf_counter() - start, log.stats().bytes


def appended_by_threads(folder: Path, single: pa.Table, threads: int, times: int) -> float:
    """Seconds for as many threads appending one event at a time, each `times` times, to one log object."""
    with EventLog.open(folder, SCHEMA) as log:
        work = [
            threading.Thread(target=lambda: [log.append(single, at) for at in range(times)])
            for _ in range(threads)
        ]
        start = time.perf_counter()
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        assert log.end() == threads * times
        return time.perf_counter() - start


def read_all(folder: Path, limit: int, want: pa.Table | None = None) -> tuple[float, int]:
    """Seconds for reading all events, `limit` at a time, and how many; compares them with `want`."""
    start, offset, parts, rows = time.perf_counter(), 0, [], 0
    with EventLog.open(folder, SCHEMA) as log:
        while (batch := log.read(offset, limit)).next_offset > offset:
            offset = batch.next_offset
            rows += batch.table.num_rows
            if want is not None:
                parts.append(batch.table.drop_columns(["__offset", "__appended_at"]))
    took = time.perf_counter() - start
    assert want is None or pa.concat_tables(parts).combine_chunks().equals(want), "the log changed an event"
    return took, rows


def latency(folder: Path, times: int) -> list[float]:
    """Seconds from before an append of one event to a waiting reader holding it, another object on the same log."""
    one = [
        {"event_id": "e", "card_id": 1, "merchant": "m", "amount": 1.0, "occurred_at": "2024-01-01T00:00:00Z"}
    ]
    sent, got = [], []

    def follow() -> None:
        with EventLog.open(folder, SCHEMA) as reader:
            for offset in range(times):
                assert reader.wait(offset, 10), "an append was not seen"
                assert reader.read(offset, 1).table.num_rows == 1
                got.append(time.perf_counter())

    with EventLog.open(folder, SCHEMA) as log:
        thread = threading.Thread(target=follow)
        thread.start()
        for at in range(times):
            time.sleep(0.005 + 0.005 * (at % 4))
            sent.append(time.perf_counter())
            log.append(one, at)
        thread.join()
    return sorted(b - a for a, b in zip(sent, got, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--at", type=Path, help="where to write; the disk is what is measured")
    chosen = parser.parse_args()
    print(machine("pyarrow"), f"{chosen.rows:,} events", sep="\n")
    table = events(chosen.rows)
    parts: list[object] = [table.slice(i, BATCH) for i in range(0, chosen.rows, BATCH)]
    payload = payload_of(table.slice(0, BATCH).combine_chunks().to_batches()[0])
    print(f"  1,000 events: {table.slice(0, BATCH).nbytes:,} bytes in memory, {len(payload):,} on disk\n")
    runs: dict[str, list[float]] = {}

    def took(name: str, work: Callable[[], float]) -> None:
        runs.setdefault(name, []).append(work())

    for turn in range(chosen.repeat):
        with tempfile.TemporaryDirectory(dir=chosen.at) as name:
            folder = Path(name)
            took("bare write", lambda f=folder: bare(f, payload, len(parts), sync=False))
            took("bare write + fsync", lambda f=folder: bare(f, payload, len(parts), sync=True))
            took("append", lambda f=folder: appended(f / "log", parts)[0])
            took("read, 65,536 at a time", lambda f=folder: read_all(f / "log", 65_536)[0])
            took("read, 1,000 at a time", lambda f=folder: read_all(f / "log", 1000)[0])
            if not turn:
                read_all(folder / "log", 10_007, table)
            dicts: list[object] = [p.to_pylist() for p in map(pa.Table.combine_chunks, parts[:100])]  # type: ignore[arg-type]
            took("dicts to a table", lambda d=dicts: _seconds(lambda: [events_table(x, SCHEMA) for x in d]))
            singles: list[object] = [table.slice(i, 1) for i in range(2000)]
            took("append one by one", lambda f=folder, s=singles: appended(f / "single", s)[0])
            took(
                "one by one, 16 threads",
                lambda f=folder, s=singles: appended_by_threads(f / "threads", s[0], 16, 125),
            )
            took("read what came one by one", lambda f=folder: read_all(f / "single", 65_536)[0])
    counts = {
        "dicts to a table": 100_000,
        "append one by one": 2000,
        "one by one, 16 threads": 2000,
        "read what came one by one": 2000,
    }
    rate = {}
    for name, seconds in runs.items():
        rows = counts.get(name, chosen.rows)
        rate[name] = rows / statistics.median(seconds)
        print(f"  {name:<28}{rate[name]:>12,.0f} rows/s   {min(seconds):.3f}-{max(seconds):.3f} s")
    synced = statistics.median(runs["bare write + fsync"]) - statistics.median(runs["bare write"])
    print(f"\n  fsync: {synced / len(parts) * 1e3:.3f} ms for {len(payload):,} bytes")
    verdict(
        "append, 1,000 events each", rate["append"], 200_000, 1_000_000, unit="rows/s", more_is_better=True
    )
    verdict("append / bare write + fsync", rate["bare write + fsync"] / rate["append"], 5, 2)
    verdict("read", rate["read, 65,536 at a time"], 2_000_000, 5_000_000, unit="rows/s", more_is_better=True)
    with tempfile.TemporaryDirectory(dir=chosen.at) as name:
        waits = latency(Path(name), 200)
    p50, p99 = waits[100] * 1e3, waits[198] * 1e3
    print(f"  one event, append to read by a waiting reader: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    verdict("p99", p99, 50, 25, unit="ms")


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
