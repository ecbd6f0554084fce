"""An online read in process against the least that anybody could do: a C client that asks Redis for the same keys.

    python benchmarks/serving.py [--rounds N]

Builds `mget.c` against hiredis (Debian: libhiredis-dev) with `gcc`; without them redis-py with its C parser stands in, and
the figures say so. Redis is one of our own, behind a Unix socket. Contenders take turns within each round, a ratio is taken
inside a round, and the median over the rounds is what counts. Values are compared with the data before anything is timed.

- `Reader.get` of 20 float32 latest values by int64 key into float32, for 1, 100, 1000 and 10000 entities, against `mget.c`
- processor time of our side per key
- 5 windows of 6 aggregates for 100 entities against a bare MGET of the same bytes by redis-py
- 64 concurrent one-key reads of one event loop: coalesced, and one after another
- `Reader.get` of the same values against Feast's `get_online_features` (see `_feast.py`), both from one Redis over TCP
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, verdict
from _feast import feast_python, prepare, reads
from online_read import END, a_redis, keys_of, make_data, make_project, race, redis_floor
from server import redis as tcp_redis

SIZES = {1: (3.0, 1.6), 100: (1.8, 1.25), 1000: (1.7, 1.15), 10_000: (2.8, 1.25)}
"""Entities of a read: how many times the time of the C client it must and may take."""

WINDOWS = """

many = [a.over(fs.minutes(5), fs.minutes(10), fs.minutes(20), fs.minutes(30), fs.minutes(50), hop=fs.minutes(1)) for a in
        (fs.count(), fs.sum("x"), fs.mean("x"), fs.min("x"), fs.max("x"), fs.stddev_samp("x"))]
spread = fs.FeatureView("spread", fs.Entity("spread_source", key="id"), events, many)
services.append(fs.FeatureService("read_spread", features=[spread]))
"""

Floor = Callable[[int], float]
"""Microseconds of a call, the median over so many."""


@contextmanager
def c_client(
    folder: Path, socket: Path, prefix: bytes, ids: Any, width: int, batch: int
) -> Iterator[Floor | None]:
    """The C client over keys of this prefix; None if it cannot be built here."""
    binary, keys = folder / "mget", folder / "keys.bin"
    if not binary.exists():
        source = Path(__file__).with_name("mget.c")
        if shutil.which("gcc") is None:
            yield None
            return
        built = subprocess.run(
            ["gcc", "-O2", "-o", str(binary), str(source), "-lhiredis"], capture_output=True, check=False
        )
        if built.returncode:
            yield None
            return
    (ids ^ np.int64(-(1 << 63))).byteswap().tofile(keys)
    words = [str(binary), str(socket), prefix.hex(), str(keys), str(width), str(batch)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None

        def ask(calls: int) -> float:
            client.stdin.write(f"{calls}\n")  # type: ignore[union-attr]
            client.stdin.flush()  # type: ignore[union-attr]
            return float(client.stdout.readline().split()[0])  # type: ignore[union-attr]

        yield ask
        client.stdin.close()


def timed(call: Callable[[int], Any], calls: int) -> tuple[float, float]:
    """The median of so many calls and the processor time of one, in microseconds."""
    took, cpu = [], time.process_time()
    for i in range(calls):
        before = time.perf_counter()
        call(i)
        took.append(time.perf_counter() - before)
    return statistics.median(took) * 1e6, (time.process_time() - cpu) / calls * 1e6


def against_c(store: Any, folder: Path, socket: Path, data: dict[str, Any], rounds: int) -> None:
    ids, matrix = data["ids"], data["matrix"]
    reader = store.reader("read_numbers")
    (one,) = keys_of(store, "numbers", ids[:1], heads=False)
    prefix = b"fs:" + one[:-8]
    rng = np.random.default_rng(5)
    for batch, (must, reach) in SIZES.items():
        picks = [rng.choice(len(ids), batch, replace=False) for _ in range(min(64, 1 + 60_000 // batch))]
        keys = [ids[p] for p in picks]
        out = np.empty((batch, matrix.shape[1]), np.float32)
        for p, k in zip(picks, keys, strict=True):
            reader.get(k, out=out)
            np.testing.assert_array_equal(out, matrix[p])

        def read(i: int, keys: list[Any] = keys, out: Any = out) -> Any:
            return reader.get(keys[i % len(keys)], out=out)

        calls = max(20, min(2000, 40_000 // batch))
        with c_client(folder, socket, prefix, ids, 168, batch) as floor:
            stand_in = redis_floor(
                socket, [keys_of(store, "numbers", k, heads=False) for k in keys] * 64, view=True
            )
            done = []
            for number in range(rounds + 1):
                base = floor(calls) if floor is not None else timed(stand_in, calls)[0]
                if number:  # the first is for warming up
                    done.append((base, *timed(read, calls)))
        base, ours, cpu = (statistics.median(d[i] for d in done) for i in range(3))
        peer = "C client" if floor is not None else "redis-py (no C client could be built)"
        print(
            f"  {batch:>6} x 20 float32: {peer} p50 {base:8.1f} us   reader.get p50 {ours:8.1f} us   cpu {cpu:8.1f} us"
        )
        verdict(
            f"{batch} x 20, time over the {peer}", statistics.median(o / b for b, o, _ in done), must, reach
        )
        if batch == 1000:
            verdict("processor time of the client per key", cpu / batch, 0.45, 0.07, unit="us")


def windowed(store: Any, socket: Path, data: dict[str, Any], rounds: int) -> None:
    few = data["few"]
    rng = np.random.default_rng(6)
    keys = [few[rng.choice(len(few), 100, replace=False)] for _ in range(64)]
    reader = store.reader("read_spread")
    out = np.empty((100, 30), np.float32)
    asked = [keys_of(store, "spread", k, heads=True) for k in keys]

    def read(i: int) -> Any:
        return reader.get(keys[i % 64], out=out, at=END)

    done = race({"floor": redis_floor(socket, asked, view=False), "read": read}, rounds, 0.25)
    for name, figures in done.items():
        p50, cpu = (statistics.median(f[i] for f in figures) for i in (0, 1))
        print(f"  100 x 5 windows x 6 aggregates: {name:<6} p50 {p50:8.1f} us   cpu {cpu:8.1f} us")
    ratio = statistics.median(a[0] / b[0] for a, b in zip(done["read"], done["floor"], strict=True))
    verdict("100 x 5 windows x 6 aggregates, time over a bare MGET of the same bytes", ratio, 2, 1.2)


def concurrent(store: Any, data: dict[str, Any], rounds: int) -> None:
    reader, ids = store.reader("read_numbers"), data["ids"]

    async def both() -> list[tuple[float, float]]:
        done = []
        for number in range(10 * rounds):
            mine = ids[64 * number % 10_000 :][:64].reshape(64, 1)
            before = time.perf_counter()
            await asyncio.gather(*(reader.get_async(k) for k in mine))
            between = time.perf_counter()
            for k in mine:
                await reader.get_async(k)
            done.append((between - before, time.perf_counter() - between))
        return done

    done = asyncio.run(both())
    merged, alone = (statistics.median(d[i] for d in done) * 1e3 for i in (0, 1))
    print(
        f"  64 one-key reads of one event loop: coalesced {merged:.2f} ms, one after another {alone:.2f} ms\n"
    )


FEAST_SIZES = {1: (2, 5), 100: (12, 30), 1000: (25, 60)}
"""Entities of a read: how many times the time of ours Feast's must and may take."""


def against_feast(python: Path, folder: Path, rounds: int) -> None:
    """Our read into a tensor and Feast's into its response, by turns; each in a process of its own, from the same Redis."""
    place = folder / "feast-peer"
    place.mkdir()
    data = make_data(place)
    with tcp_redis() as port:
        store = make_project(place, f"redis://127.0.0.1:{port}/0")
        reader, ids, matrix = store.reader("read_numbers"), data["ids"], data["matrix"]
        prepare(python, place / "repo", port, place / "numbers.parquet")
        with reads(python, place / "repo") as feast:
            got = np.array(json.loads(feast(json.dumps({"values": ids[:50].tolist()}))), np.float32).T
            np.testing.assert_array_equal(got, matrix[:50])
            for batch, (must, reach) in FEAST_SIZES.items():
                picks = [
                    np.random.default_rng(i).choice(len(ids), batch, replace=False) for i in range(8)
                ]  # fmt: skip
                keys, out = [ids[p] for p in picks], np.empty((batch, matrix.shape[1]), np.float32)
                reader.get(keys[0], out=out)
                np.testing.assert_array_equal(out, matrix[picks[0]])
                calls = max(5, 400 // batch)
                asked = json.dumps({"calls": calls, "keys": [k.tolist() for k in keys]})
                done = []
                for number in range(rounds + 1):
                    peer = json.loads(feast(asked))
                    mine = timed(lambda i, k=keys, o=out: reader.get(k[i % 8], out=o), 20 * calls)
                    if number:  # the first is for warming up
                        done.append((peer, mine))
                ours, theirs = (statistics.median(d[i][0] for d in done) for i in (1, 0))
                print(
                    f"  {batch:>6} x 20 float32: Feast p50 {theirs:10.1f} us   reader.get p50 {ours:8.1f} us"
                )
                ratio, cpu = (statistics.median(f[i] / o[i] for f, o in done) for i in (0, 1))
                what = f"{batch} x 20, Feast's time over ours"
                verdict(what, ratio, must, reach, cpu=cpu, more_is_better=True)
        store.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-feast", action="store_true")
    parser.add_argument("--only-feast", action="store_true")
    given = parser.parse_args()
    python = None if given.no_feast else feast_python()
    print(machine("redis", "hiredis", "numpy"))
    with tempfile.TemporaryDirectory(prefix="fs-bench-") as name:
        folder = Path(name)
        if python is not None:
            against_feast(python, folder, given.rounds)
        if given.only_feast:
            return
        data = make_data(folder)
        with a_redis(folder) as socket:
            store = make_project(folder, f"unix://{socket}", WINDOWS)
            against_c(store, folder, socket, data, given.rounds)
            windowed(store, socket, data, given.rounds)
            concurrent(store, data, given.rounds)
            store.close()


if __name__ == "__main__":
    main()
