"""Materialisation of 20 floats: Parquet to LMDB and Redis, end to end, against a raw `MSET` of the same bytes.

    python benchmarks/materialize.py [redis lmdb] [--rows N] [--key number|text] [--repeat N]

Every run is a process of its own on a store of its own. The floor writes the very keys and values that the run before it
wrote, as one pipeline of redis-py's `MSET` of 512 keys (`putmulti` of sorted keys and one commit, in LMDB): what remains
when SQL and encoding cost nothing. `sql only` fetches what materialisation reads as Arrow; `no store` is all of it but
the store. Afterwards a sample of entities is read back and compared with the Parquet file.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _common import alone, machine, measure, verdict
from online_read import FEATURES, a_redis, texts

import featurestore.declare as fs
from featurestore import ir
from featurestore.compile.newest import newest_sql
from featurestore.compile.sources import connect
from featurestore.layout import layout_of
from featurestore.lower import lower
from featurestore.materialize import materialize_view
from featurestore.online.store import open_store
from featurestore.serving import Reader
from featurestore.types import Float32, Int64, String, Timestamp

END = 1_700_000_000_000_000


def make_data(folder: Path, rows: int, key: str) -> None:
    rng = np.random.default_rng(7)
    ids = rng.permutation(np.arange(rows) * 977)
    matrix = rng.normal(size=(rows, FEATURES)).astype(np.float32)
    ts = pa.array(END - rng.integers(1, 3600 * 10**6, rows), pa.timestamp("us"))
    columns = {"id": pa.array(ids if key == "number" else texts(ids)), "ts": ts}
    columns |= {f"f{i}": pa.array(matrix[:, i]) for i in range(FEATURES)}
    pq.write_table(pa.table(columns), folder / "values.parquet")


def the_plan(folder: Path, key: str) -> ir.Plan:
    columns = {"id": Int64 if key == "number" else String, "ts": Timestamp} | {
        f"f{i}": Float32 for i in range(FEATURES)
    }
    source = fs.BatchSource(
        "values", fs.Parquet(str(folder / "values.parquet")), event_time="ts", columns=columns
    )
    features = [fs.latest(f"f{i}") for i in range(FEATURES)]
    view = fs.FeatureView("values", fs.Entity("one", key="id"), source, features)
    return lower(fs.declarations_in([fs.FeatureService("read", features=[view])]), lambda _: {})


class Nowhere:
    """A store that keeps nothing."""

    def get_meta(self, name: str) -> bytes | None:
        return None

    def set_metas(self, metas: Mapping[str, bytes]) -> None:
        pass

    def write(self, items: Iterable[tuple[bytes, bytes]], metas: Any = None) -> int:
        return sum(1 for _ in items)


def contend(what: str, folder: Path, url: str, key: str) -> tuple[int, str]:
    plan = the_plan(folder, key)
    view = plan.views[0]
    con = connect(None, None, folder / "spill")
    if what == "sql":
        sql = newest_sql(con, view, layout_of(view).latest, folder, end=END)
        rows = sum(b.num_rows for b in con.sql(sql).to_arrow_reader(100_000))
        return rows, ""
    if what == "nowhere":
        return materialize_view(con, Nowhere(), view, folder, end=END).entities, ""  # type: ignore[arg-type]
    with open_store(url, folder) as store:
        done = materialize_view(con, store, view, folder, end=END)
    return done.entities, f"{done.bytes / done.entities:.0f} B a value"


def floor(url: str, folder: Path, items: Sequence[tuple[bytes, bytes]]) -> tuple[int, str]:
    if url.startswith("unix"):
        import redis

        client = redis.Redis(unix_socket_path=url.removeprefix("unix://"))
        for at in range(0, len(items), 512 * 16):
            pipe = client.pipeline(transaction=False)
            for i in range(at, min(at + 512 * 16, len(items)), 512):
                pipe.mset(dict(items[i : i + 512]))
            pipe.execute()
    else:
        import lmdb

        with lmdb.open(str(folder / "raw"), map_size=1 << 34) as env, env.begin(write=True) as txn:
            txn.cursor().putmulti(items)
    return len(items), ""


def check(folder: Path, url: str, key: str) -> None:
    plan = the_plan(folder, key)
    table = pq.read_table(folder / "values.parquet").slice(0, 2000)
    with open_store(url, folder) as store:
        reader = Reader(store, plan.services[0], {v.name: v for v in plan.views})
        got = reader.read({"id": table.column("id").to_pylist()}).to_numpy()
    want = np.stack([table.column(f"f{i}").to_numpy() for i in range(FEATURES)], axis=1)
    np.testing.assert_array_equal(got, want)


def figures(kind: str, folder: Path, key: str, rows: int, repeat: int) -> None:
    rates: dict[str, list[float]] = {}
    for turn in range(repeat):
        for what in ("sql", "nowhere", "write", "floor"):
            place = folder / f"{kind}{turn}{what == 'floor'}"
            place.mkdir(exist_ok=True)
            if kind == "redis":
                with a_redis(place) as socket:
                    url = f"unix://{socket}"
                    done = alone(__file__, what, str(folder), url, key)
                    if what == "write":
                        check(folder, url, key)
            else:
                url = f"lmdb://{place}"
                done = alone(__file__, what, str(folder), url, key)
                if what == "write":
                    check(folder, url, key)
            print(
                f"  {kind} {what:<8}{done.wall:7.2f} s  cpu {done.cpu:6.2f} s  rss {done.rss_mb:6,} MB  {done.note}",
                flush=True,
            )
            rates.setdefault(what, []).append(rows / done.wall)
    middle = {what: float(np.median(r)) for what, r in rates.items()}
    ratio = float(np.median([a / b for a, b in zip(rates["write"], rates["floor"], strict=True)]))
    verdict(
        f"{kind}, {rows:,} rows end to end",
        middle["write"] / 1000,
        300,
        300,
        unit="thousand rows/s",
        more_is_better=True,
    )
    verdict(f"{kind}, rate over the raw write of the same bytes", ratio, 0, 0.8, more_is_better=True)


def items_of(folder: Path, key: str) -> list[tuple[bytes, bytes]]:
    """What materialisation writes."""
    kept: list[tuple[bytes, bytes]] = []

    class Keeping(Nowhere):
        def write(self, items: Iterable[tuple[bytes, bytes]], metas: Any = None) -> int:
            kept.extend(items)
            return len(kept)

    con = connect(None, None, folder / "spill")
    materialize_view(con, Keeping(), the_plan(folder, key).views[0], folder, end=END)  # type: ignore[arg-type]
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="STORE", help="redis, lmdb; both by default")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--key", choices=("number", "text"), default="number")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        what, place, url, key = given.words
        folder = Path(place)
        if what == "floor":
            items = items_of(folder, key)
            measure(lambda: floor(url, Path(url.partition("://")[2]), items))
        else:
            measure(lambda: contend(what, folder, url, key))
        return
    print(machine("duckdb", "redis", "lmdb", "numpy", "pyarrow"))
    with tempfile.TemporaryDirectory(prefix="fs-bench-", dir=os.environ.get("FS_BENCH_DATA")) as name:
        make_data(Path(name), given.rows, given.key)
        for kind in given.words or ("redis", "lmdb"):
            figures(kind, Path(name), given.key, given.rows, given.repeat)


if __name__ == "__main__":
    main()
