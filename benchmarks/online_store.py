"""The online stores against the bare clients: the same bytes, the same server, the same run.

    python benchmarks/online_store.py [--rows 100000] [--bytes 120] [--rounds 15]

Every round measures each way once, in turn; a ratio is the median over rounds of ours to the bare one in that round,
so that a neighbour's load hits both. Writes are rows a second, reads are microseconds a call, of a rotating set of keys.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import lmdb
import redis
from _common import machine

from featurestore.online.store import OnlineStore, open_store

Rows = list[tuple[bytes, bytes]]
BATCHES = (1, 10, 100, 1000, 10_000)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--bytes", type=int, default=120, help="of one value")
    options.add_argument("--rounds", type=int, default=15)
    asked = options.parse_args()
    rows = made(asked.rows, asked.bytes)
    print(f"{machine('redis', 'hiredis', 'lmdb')}, load {os.getloadavg()[0]:.1f}")
    print(
        f"{asked.rows} rows, keys of {len(rows[0][0])} bytes, values of {asked.bytes}, {asked.rounds} rounds\n"
    )
    print(f"{'':38}{'ours':>12}{'bare':>12}{'ratio':>8}")
    home = Path(tempfile.mkdtemp(prefix="fs-bench-"))
    try:
        with server(home) as port:
            for url, bare in (
                (f"redis://127.0.0.1:{port}/0", redis.Redis(port=port, db=1)),
                (f"unix://{home}/s?db=0", redis.Redis(unix_socket_path=f"{home}/s", db=1)),
            ):
                with open_store(url, home) as store:
                    against_redis(url.partition(":")[0], store, bare, rows, asked.rounds)
        with open_store(f"lmdb://{home}/ours", home) as store:
            against_lmdb(store, lmdb.open(str(home / "bare"), map_size=1 << 30), rows, asked.rounds)
    finally:
        shutil.rmtree(home)


def against_redis(name: str, store: OnlineStore, bare: redis.Redis, rows: Rows, rounds: int) -> None:
    def mset_of(chunk: int) -> Callable[[], None]:
        def run() -> None:
            source = iter(rows)
            while part := list(islice(source, chunk)):
                bare.mset(dict(part))

        return run

    ours = lambda: store.write(rows)  # noqa: E731
    write_line(f"{name} write, bare MSET of 512", len(rows), ours, mset_of(512), rounds)
    write_line(f"{name} write, bare MSET of 10,000", len(rows), ours, mset_of(10_000), rounds)
    counters = [None] * len(rows)

    def replace() -> None:
        store.delete_prefix(b"")
        start = time.perf_counter()
        assert all(store.replace(rows, counters))
        spent.append(time.perf_counter() - start)

    spent: list[float] = []
    for _ in range(3):
        replace()
    print(f"{name + ' compare and set':38}{len(rows) / statistics.median(spent):>10,.0f}/s")
    for batch in BATCHES:
        sets = key_sets(rows, batch)
        check(store.read, bare.mget, next(sets))
        read_line(f"{name} read of {batch}, bare MGET", sets, store.read, bare.mget, rounds, batch)
    sets = key_sets(rows, 100)
    read_line(
        f"{name} read of 100, with a deadline",
        sets,
        lambda keys: store.read(keys, 1.0),
        bare.mget,
        rounds,
        100,
    )


def against_lmdb(store: OnlineStore, bare: lmdb.Environment, rows: Rows, rounds: int) -> None:
    def put() -> None:
        with bare.begin(write=True) as txn, txn.cursor() as cursor:
            cursor.putmulti(sorted(rows))

    def get(keys: Sequence[bytes]) -> list[bytes | None]:
        with bare.begin() as txn:
            return [txn.get(key) for key in keys]

    write_line("lmdb write, bare sorted putmulti", len(rows), lambda: store.write(rows), put, rounds)
    for batch in BATCHES:
        sets = key_sets(rows, batch)
        check(store.read, get, next(sets))
        read_line(f"lmdb read of {batch}, bare get", sets, store.read, get, rounds, batch)


def write_line(
    name: str, count: int, ours: Callable[[], object], bare: Callable[[], object], rounds: int
) -> None:
    ours(), bare()
    pairs = [(timed(ours), timed(bare)) for _ in range(max(3, rounds // 3))]
    a, b = (count / statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(two / one for one, two in pairs)
    print(f"{name:38}{a:>10,.0f}/s{b:>10,.0f}/s{ratio:>7.2f}x")


def read_line(
    name: str,
    sets: Iterator[list[bytes]],
    ours: Callable[[list[bytes]], object],
    bare: Callable[[list[bytes]], object],
    rounds: int,
    batch: int,
) -> None:
    calls = max(5, min(500, 50_000 // batch))
    pairs = []
    for _ in range(rounds):
        wanted = list(islice(sets, 50))
        pairs.append((per_call(ours, wanted, calls), per_call(bare, wanted, calls)))
    a, b = (statistics.median(column) * 1e6 for column in zip(*pairs, strict=True))
    ratio = statistics.median(one / two for one, two in pairs)
    print(f"{name:38}{a:>9,.1f} us{b:>9,.1f} us{ratio:>7.2f}x")


def per_call(read: Callable[[list[bytes]], object], wanted: list[list[bytes]], calls: int) -> float:
    """The median of the time of one call, which a single stall does not move."""
    return statistics.median(timed(lambda keys=keys: read(keys)) for keys in islice(cycle(wanted), calls))


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def check(
    ours: Callable[[list[bytes]], object], bare: Callable[[list[bytes]], object], keys: list[bytes]
) -> None:
    assert ours(keys) == bare(keys), "the two do not read the same bytes"


def made(count: int, size: int) -> Rows:
    numbers = random.Random(7).sample(range(1 << 40), count)
    noise = os.urandom(size + count)
    return [
        (b"view-07b" + number.to_bytes(8, "little"), bytes(16) + noise[at : at + size - 16])
        for at, number in enumerate(numbers)
    ]


def key_sets(rows: Rows, batch: int) -> Iterator[list[bytes]]:
    chance = random.Random(batch)
    names = [key for key, _ in rows]
    return cycle([chance.choices(names, k=batch) for _ in range(200 if batch < 5000 else 20)])


@contextmanager
def server(home: Path) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    words = ["--port", port, "--bind", "127.0.0.1", "--unixsocket", f"{home}/s", "--save", "", "--dir", home]
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


if __name__ == "__main__":
    main()
