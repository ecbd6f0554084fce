"""Bases and heads that Flink made, byte for byte or cell for cell those that DuckDB makes of the same files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from featurestore import FeatureStore
from featurestore.aggregates import Moments, Sum
from featurestore.config import Config
from featurestore.errors import FlinkError, MaterializeError, Unsupported
from featurestore.flink_batches import Driver
from featurestore.ir import View
from featurestore.layout import Slot, layout_of
from featurestore.log.payloads import Json as PlainJson
from featurestore.log.payloads import payloads_of
from featurestore.online.codec import BASE, HEAD, Records, Section, codec_of, decode
from featurestore.stream.publish import Publisher
from featurestore.types import (
    Bool,
    Date,
    Decimal,
    DType,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    Timestamp,
    is_float,
)
from tests.flink_cluster import BUILT, PYTHON
from tests.services import MISSING

PREPARE = Path(__file__).parent.parent / "definitions" / "prepare.py"

pytestmark = [pytest.mark.flink, pytest.mark.slow]

DEFINITIONS = """
import featurestore as fs
from featurestore import col

who = fs.Entity("who", keys=("k", "n"))
events = fs.StreamSource(
    "events", batch=fs.{kind}("events/*.{suffix}"), stream=fs.Kafka("events", bootstrap="nowhere"), event_time="at",
    event_id="id",
    columns={{"k": fs.String, "n": fs.Int64, "at": fs.Timestamp, "id": fs.String, "x": fs.Float64, "f": fs.Float32,
              "m": fs.Decimal(12, 2), "i": fs.Int32, "p": fs.Bool, "d": fs.Date, "t": fs.String}},
).where(col("x") < 1000)
day, ever = fs.days(2), fs.lifetime
v = fs.FeatureView("v", who, events, [
    fs.count().over(fs.hours(1), day), fs.sum("x").over(fs.hours(1), day), fs.sum("m").over(day), fs.sum("i").over(ever),
    fs.min("f").over(fs.hours(1)), fs.max("p").over(day), fs.var_pop("m").over(day), fs.mean("x").over(ever),
    fs.first("t").over(day), fs.last("d").over(day), fs.min_by("t", "f").over(day), fs.max_by("x", "i").over(ever),
    fs.last_k("t", k=3).over(day), fs.first_k("f", k=2).over(ever), fs.largest_k("m", k=2).over(day),
    fs.count_distinct("t", k=16).over(day), fs.quantile("x", p=0.5).over(ever), fs.most_frequent("p", k=2).over(day),
    fs.count().where(col("p")).over(day).named("where_p"), fs.latest("t"), fs.latest("f"), fs.latest("p"),
])
plain = fs.FeatureView("plain", who, events, [fs.sum("x").over(fs.hours(3))])
svc = fs.FeatureService("svc", [v, plain])
"""

NOON = datetime(2024, 3, 10, 12, tzinfo=UTC)
END = NOON + timedelta(days=9, hours=7, minutes=13)

COLUMNS: dict[str, DType] = {
    "k": String, "n": Int64, "at": Timestamp, "id": String, "x": Float64, "f": Float32, "m": Decimal(12, 2), "i": Int32,
    "p": Bool, "d": Date, "t": String,
}  # fmt: skip
SCHEMA = pa.schema(
    [
        ("k", pa.string()), ("n", pa.int64()), ("at", pa.timestamp("us", "UTC")), ("id", pa.string()), ("x", pa.float64()),
        ("f", pa.float32()), ("m", pa.decimal128(12, 2)), ("i", pa.int32()), ("p", pa.bool_()), ("d", pa.date32()),
        ("t", pa.string()),
    ]
)  # fmt: skip


@pytest.fixture(scope="module")
def jvm() -> Iterator[Driver]:
    if not (PYTHON.exists() and BUILT.exists()):
        pytest.skip(f"{MISSING}Flink: make -C streaming")
    with Driver(Config(Path.cwd(), "tests")) as driver:
        yield driver


@pytest.fixture(autouse=True)
def driver(jvm: Driver, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """One JVM for all tests here."""
    monkeypatch.setattr("featurestore.store.Driver", lambda _: nullcontext(jvm))
    return jvm


def rows(count: int, seed: int = 3) -> pa.Table:
    """Events of ten days: NULLs, NaN, copies, ties of time, events before 1970 and after the end."""
    chance = np.random.default_rng(seed)

    def maybe(values: Any) -> list[Any]:
        return [None if skip else v for v, skip in zip(values, chance.random(count) < 0.1, strict=True)]

    times = [NOON + timedelta(seconds=int(s)) for s in chance.integers(0, 10 * 86400, count)]
    times[:3] = [datetime(1969, 5, 1, tzinfo=UTC), NOON, NOON]
    floats = chance.normal(0, 100, count).round(3).tolist()
    floats[3:6] = [float("nan"), float("inf"), -0.0]
    table = pa.table(
        {
            "k": maybe([f"é{i}" for i in chance.integers(0, 4, count)]),
            "n": chance.integers(-2, 2, count),
            "at": maybe(times),
            "id": maybe([f"{i}" for i in range(count)]),
            "x": maybe(floats),
            "f": pa.array(maybe(chance.normal(0, 1, count).astype(np.float32).tolist()), pa.float32()),
            "m": pa.array(maybe([f"{i / 4:.2f}" for i in chance.integers(-999, 999, count)])).cast(
                pa.decimal128(12, 2)
            ),
            "i": pa.array(maybe(chance.integers(-(2**31) + 1, 2**31, count).tolist()), pa.int32()),
            "p": maybe((chance.random(count) < 0.5).tolist()),
            "d": pa.array(maybe(chance.integers(-400, 20_000, count).tolist()), pa.int32()).cast(pa.date32()),
            "t": maybe([["", "a", "b\n", '"', "\U00010000"][i] for i in chance.integers(0, 5, count)]),
        },
        SCHEMA,
    )
    return pa.concat_tables([table, table.slice(0, count // 5)])


def project(root: Path, table: pa.Table, kind: str = "Parquet") -> Path:
    root.mkdir(exist_ok=True)
    (root / "fs.toml").write_text("[offline]\nthreads = 1\n")
    suffix = kind.lower()
    (root / "definitions.py").write_text(DEFINITIONS.format(kind=kind, suffix=suffix))
    (root / "events").mkdir(exist_ok=True)
    for part, start in enumerate(range(0, len(table), 400)):
        piece = table.slice(start, 400)
        if kind == "Parquet":
            pq.write_table(piece, root / "events" / f"{part}.parquet", row_group_size=150)
        else:
            # DuckDB 2.0 takes whole numbers of both signs in JSON for HUGEINT.
            whole = {
                name: pc.abs(piece.column(name).cast(pa.int64())).cast(SCHEMA.field(name).type)
                for name in ("n", "i")
            }
            for name, column in whole.items():
                piece = piece.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), column)
            lines = payloads_of(piece, PlainJson(COLUMNS))
            (root / "events" / f"{part}.json").write_bytes(b"\n".join(lines) + b"\n")
    return root


def cells(store: FeatureStore) -> dict[tuple[str, bytes], tuple[View, list[bytes], list[bytes]]]:
    """What lies in the online store: of each view and role, keys and values."""
    found = {}
    for view in store.registry.current().plan.views:
        codec = codec_of(view, layout_of(view))
        for role in (BASE, HEAD):
            items = sorted(store._store().scan(codec.prefix + role))
            found[view.name, role] = (view, [k for k, _ in items], [v for _, v in items])
    return found


def same(got: Mapping[Any, Any], want: Mapping[Any, Any]) -> int:
    """How many records there are; all alike, but for what is summed up in floats, which is close."""
    count = 0
    for name, (view, keys, values) in want.items():
        _, mine, theirs = got[name]
        assert mine == keys, name
        layout = layout_of(view)
        codec = codec_of(view, layout)
        one, other = (decode(codec, some, None) for some in (theirs, values))
        for field in ("cut", "first_at", "last_at", "kept_from"):
            assert (one.header[field] == other.header[field]).all(), (name, field)
        reader = Publisher(None, codec, codec, 0)  # type: ignore[arg-type]
        slots = [{s.name: s for s in level.slots} for level in layout.levels] + [{}]
        for section, a, b, known in zip(
            codec.sections, reader.records(one), reader.records(other), slots, strict=True
        ):
            same_records(section, a, b, known)
            count += len(b.rows)
    return count


def same_records(section: Section, a: Records, b: Records, slots: Mapping[str, Slot]) -> None:
    assert (a.owner == b.owner).all()
    for field in ("tile", "at", "null"):
        if field in (b.rows.dtype.names or ()):
            assert (a.rows[field] == b.rows[field]).all(), field
    for name, (kind, column) in section.places.items():
        x, y = a.rows[kind][:, column], b.rows[kind][:, column]
        slot = slots.get(name.rpartition("_")[0])
        summed = slot is not None and (
            isinstance(slot.reduction, Moments)
            or (isinstance(slot.reduction, Sum) and slot.dtype is not None and is_float(slot.dtype))
        )
        if summed and name.rpartition("_")[2] != "n":
            assert np.allclose(x, y, rtol=1e-9, atol=1e-6), name
        else:
            assert (x == y).all(), name
    assert {n: v.tolist() for n, v in a.strings.items()} == {n: v.tolist() for n, v in b.strings.items()}
    for slot_name, columns in b.items.items():
        for field, values in columns.items():
            assert a.items[slot_name][field].tolist() == values.tolist(), (slot_name, field)


def both(root: Path, table: pa.Table, kind: str, **asked: Any) -> int:
    """How many records both engines wrote, all alike."""
    want = None
    for engine in ("duckdb", "flink"):
        with FeatureStore(project(root / engine, table, kind)) as store:
            store.apply()
            done = store.materialize(end=END, engine=engine, **asked)
            assert {m.outcome for m in done} == {"written"}
            assert not list(store.config.offline.glob("flink/*")), "nothing is left behind"
            if want is None:
                want = cells(store)
                continue
            found = same(cells(store), want)
            assert {m.outcome for m in store.materialize(end=END, engine=engine, **asked)} == {"unchanged"}
            return found
    raise AssertionError("there are two engines")


def test_flink_writes_what_duckdb_writes(tmp_path: Path) -> None:
    assert both(tmp_path, rows(1500), "Parquet") > 350


FLIGHTS = """
import featurestore as fs
from featurestore import col

carrier = fs.Entity("carrier", key="carrier")
departures = fs.StreamSource(
    "departures", batch=fs.Parquet("*.parquet"), stream=fs.Kafka("departures", bootstrap="nowhere"), event_time="departed_at",
    columns={"carrier": fs.String, "dest": fs.String, "departed_at": fs.Timestamp, "dep_delay": fs.Float64},
)
v = fs.FeatureView("v", carrier, departures, [
    fs.count().over(fs.hours(1), fs.days(7)), fs.mean("dep_delay").over(fs.days(7)), fs.max("dep_delay").over(fs.days(1)),
    fs.count().where(col("dep_delay") > 15).over(fs.lifetime), fs.last("dest").over(fs.days(7)), fs.latest("dest"),
    fs.quantile("dep_delay", p=0.9).over(fs.days(7)), fs.count_distinct("dest", k=64).over(fs.days(7)),
])
svc = fs.FeatureService("svc", [v])
"""


def test_real_flights(tmp_path: Path) -> None:
    command = [sys.executable, str(PREPARE), "--out", str(tmp_path / "data"), "--until", "2013-02-01"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    flights = pq.read_table(tmp_path / "data" / "departures.parquet")
    flights = flights.select(["carrier", "dest", "departed_at", "dep_delay"])
    flights = flights.set_column(3, "dep_delay", flights.column("dep_delay").cast(pa.float64()))
    found = []
    for engine in ("duckdb", "flink"):
        root = tmp_path / engine
        root.mkdir()
        (root / "fs.toml").write_text("[offline]\nthreads = 1\n")
        (root / "definitions.py").write_text(FLIGHTS)
        pq.write_table(flights, root / "flights.parquet", compression="zstd")
        with FeatureStore(root) as store:
            store.apply()
            store.materialize(end="2013-01-28T13:30", engine=engine)
            found.append(cells(store))
    assert same(found[1], found[0]) > 1500


def test_lines_of_json_make_the_same(tmp_path: Path) -> None:
    start = NOON + timedelta(days=5, minutes=7)
    assert both(tmp_path, rows(700), "Json", select="plain", start=start) > 5


def test_a_row_that_cannot_be_read_is_not_left_out(tmp_path: Path) -> None:
    root = project(tmp_path, rows(20), "Json")
    line = (root / "events" / "0.json").read_text().splitlines()[0]
    (root / "events" / "1.json").write_text(line.replace('"i":', '"j":') + "\n")
    with FeatureStore(root) as store:
        store.apply()
        with pytest.raises(
            MaterializeError, match=r"1 rows of source 'events' are no events to Flink.*\n.*column 'i'"
        ):
            store.materialize(end=END, engine="flink", select="plain")
        assert [u.error.splitlines()[0] for u in store.unfinished()] == [
            "MaterializeError: 1 rows of source 'events' are no events to Flink; nothing was written"
        ]
        assert [m.outcome for m in store.materialize(end=END, select="plain")] == ["resumed"], "DuckDB does"


@pytest.mark.parametrize(
    ("kind", "message"),
    [("Csv", "read a batch of kind 'csv'"), ("Parquet", "the streaming project is not at")],
)
def test_where_flink_cannot_it_says_so(
    tmp_path: Path, kind: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurestore.store.Driver", Driver)
    root = project(tmp_path, rows(20))
    (root / "fs.toml").write_text('[stream]\nproject = "nowhere"\n')
    if kind == "Csv":
        (root / "definitions.py").write_text(DEFINITIONS.format(kind=kind, suffix="csv"))
        csv.write_csv(pq.read_table(root / "events" / "0.parquet").cast(SCHEMA), root / "events" / "0.csv")
    with FeatureStore(root) as store:
        store.apply()
        with pytest.raises((Unsupported, FlinkError), match=message):
            store.materialize(end=END, engine="flink", select="plain")
