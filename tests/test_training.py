"""Training sets end to end: real files, real DuckDB, compared with the reference engine."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import featurestore.declare as fs
from featurestore import joining, training
from featurestore.aggregates import AGGREGATES
from featurestore.compile.reference import Value, answers
from featurestore.config import Config
from featurestore.errors import EngineError, SourceError, SpineError
from featurestore.evaluate import point_in_time
from featurestore.evaluate.finish import Cells
from featurestore.evaluate.point_in_time import Asked, Work, cells_of
from featurestore.expr import col
from featurestore.ir import Plan, View
from featurestore.lower import lower
from featurestore.time import DAY, HOUR, MINUTE, SECOND, days, hours, lifetime, minutes
from featurestore.training import TrainingSet
from featurestore.types import Bool, Date, DType, Float64, Int32, Int64, String, Timestamp
from featurestore.types import Decimal as DecimalOf

INSTANT = pa.timestamp("us", tz="UTC")
T0 = 1_372_636_800 * SECOND  # 2013-07-01, a whole day

COLUMNS: dict[str, DType] = {
    "city": String,
    "at": Timestamp,
    "seq": Int64,
    "x": Float64,
    "n": Int64,
    "small": Int32,
    "price": DecimalOf(12, 2),
    "ok": Bool,
    "tag": String,
    "day": Date,
    "due": Timestamp,
}
ARROW = {
    "city": pa.string(),
    "at": pa.timestamp("us"),
    "seq": pa.int64(),
    "x": pa.float64(),
    "n": pa.int64(),
    "small": pa.int32(),
    "price": pa.decimal128(12, 2),
    "ok": pa.bool_(),
    "tag": pa.string(),
    "day": pa.date32(),
    "due": INSTANT,
}
CITY = fs.Entity("city", key="city")
VISITS = fs.BatchSource("visits", fs.Parquet("visits.parquet"), "at", COLUMNS, tiebreak=("seq",))

Row = Mapping[str, Any]


def write(root: Path, rows: Sequence[Row], name: str = "visits.parquet") -> None:
    columns = {c: pa.array([r.get(c) for r in rows], kind) for c, kind in ARROW.items()}
    pq.write_table(pa.table(columns), root / name)


def plan_of(*features: fs.FeatureView | fs.ViewOn | fs.FeatureRef) -> Plan:
    service = fs.FeatureService("svc", features=features)
    return lower(fs.declarations_in([service]), lambda _: {})


def training_set(
    root: Path,
    spine: Any,
    *features: fs.FeatureView | fs.ViewOn | fs.FeatureRef,
    timestamp: str = "ts",
    statuses: bool = False,
    memory: str | None = None,
) -> TrainingSet:
    plan = plan_of(*features)
    config = Config(root, "test", memory_limit=memory)
    views = {v.name: v for v in plan.views}
    return TrainingSet(config, plan.service("svc"), views, spine, timestamp, statuses)


def spine_of(*rows: tuple[str | None, int]) -> pa.Table:
    return pa.table(
        {"city": pa.array([c for c, _ in rows], pa.string()), "ts": pa.array([t for _, t in rows], INSTANT)}
    )


def visits(*features: fs.Aggregation, source: fs.AnySource = VISITS, **options: Any) -> fs.FeatureView:
    return fs.FeatureView("visits", CITY, source, features, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ulm has events at 0 h, 1 h (two at once) and 2 h after T0; Bonn one at 1 h; and one has no city."""
    write(
        tmp_path,
        [
            {"city": "Ulm", "at": T0, "seq": 1, "x": 1.0, "n": 1, "tag": "a"},
            {"city": "Ulm", "at": T0 + HOUR, "seq": 3, "x": 30.0, "n": 3, "tag": "c"},
            {"city": "Ulm", "at": T0 + HOUR, "seq": 2, "x": 20.0, "n": 2, "tag": "b"},
            {"city": "Ulm", "at": T0 + 2 * HOUR, "seq": 4, "x": None, "n": 4, "tag": None},
            {"city": "Bonn", "at": T0 + HOUR, "seq": 5, "x": 5.0, "n": 5, "tag": "e"},
            {"city": None, "at": T0 + HOUR, "seq": 6, "x": 9.0, "n": 6, "tag": "f"},
            {"city": "Ulm", "at": None, "seq": 7, "x": 9.0, "n": 7, "tag": "g"},
        ],
    )
    return tmp_path


BOTH = (fs.count().over(hours(1), lifetime), fs.sum("x").over(days(1)), fs.latest("tag"), fs.latest("x"))


# ------------------------------------------------------------------------------------------------------------- rows


def test_every_row_comes_out_once_and_in_order(root: Path) -> None:
    rows = [
        ("Ulm", T0 + 3 * HOUR),
        ("Bonn", T0),
        ("Ulm", T0 + HOUR),
        (None, T0),
        ("Rom", T0),
        ("Ulm", T0 + 3 * HOUR),
    ]
    spine = spine_of(*rows).append_column("extra", pa.array(range(6)))
    got = training_set(root, spine, visits(*BOTH)).to_arrow()
    assert got.select(["city", "ts", "extra"]).equals(spine)
    assert got.column_names[3:] == ["count_1h", "count_lifetime", "x_sum_1d", "tag", "x"]
    assert got["count_1h"].to_pylist() == [1, 0, 1, 0, 0, 1]
    assert got["count_lifetime"].to_pylist() == [4, 0, 1, 0, 0, 4]
    assert got["x_sum_1d"].to_pylist() == [51.0, None, 1.0, None, None, 51.0]
    assert got["tag"].to_pylist() == [None, None, "a", None, None, None]


def test_the_last_of_several_events_at_one_time_is_the_greatest_in_order(root: Path) -> None:
    got = training_set(
        root, spine_of(("Ulm", T0 + HOUR + 1)), visits(fs.latest("tag"), fs.latest("x"))
    ).to_arrow()
    assert (got["tag"][0].as_py(), got["x"][0].as_py()) == ("c", 30.0)
    first = visits(fs.first("tag").over(hours(1)), fs.last("tag").over(hours(1)))
    got = training_set(root, spine_of(("Ulm", T0 + HOUR + 30 * MINUTE)), first).to_arrow()
    assert (got["tag_first_1h"][0].as_py(), got["tag_last_1h"][0].as_py()) == ("b", "c")


def test_an_event_at_the_very_moment_is_not_visible(root: Path) -> None:
    moments = [T0, T0 + 1, T0 + HOUR, T0 + HOUR + 1]
    got = training_set(root, spine_of(*(("Ulm", t) for t in moments)), visits(*BOTH)).to_arrow()
    assert got["count_lifetime"].to_pylist() == [0, 1, 1, 3]
    assert got["tag"].to_pylist() == [None, "a", "a", "c"]


def test_a_latest_value_expires_a_microsecond_after_its_ttl(root: Path) -> None:
    view = visits(fs.latest("tag"), ttl=hours(1))
    spine = spine_of(("Bonn", T0 + 2 * HOUR), ("Bonn", T0 + 2 * HOUR + 1), ("Rom", T0))
    got = training_set(root, spine, view, statuses=True).to_arrow()
    assert got["tag"].to_pylist() == ["e", None, None]
    assert got["tag__status"].to_pylist() == ["PRESENT", "EXPIRED", "NOT_FOUND"]
    assert training_set(root, spine, view).to_arrow()["tag"].to_pylist() == ["e", None, None]


def test_an_empty_spine_gives_an_empty_set_with_all_columns(root: Path) -> None:
    got = training_set(root, spine_of(), visits(*BOTH)).to_arrow()
    assert got.num_rows == 0
    assert got.column_names == ["city", "ts", "count_1h", "count_lifetime", "x_sum_1d", "tag", "x"]


def test_a_source_without_rows_gives_empty_values(tmp_path: Path) -> None:
    write(tmp_path, [])
    view = visits(*BOTH, fs.mean("n").over(hours(1)).default(-1.0))
    got = training_set(tmp_path, spine_of(("Ulm", T0)), view, statuses=True).to_arrow().to_pylist()[0]
    assert (got["count_1h"], got["x_sum_1d"], got["tag"], got["n_mean_1h"]) == (0, None, None, -1.0)
    assert (got["count_1h__status"], got["n_mean_1h__status"]) == ("NOT_FOUND", "DEFAULT")


def test_parts_of_a_composite_key_do_not_run_together(tmp_path: Path) -> None:
    rows = [("a", "bc", 1), ("ab", "c", 2), ("a", None, 3), (None, "c", 4)]
    columns = {"l": [r[0] for r in rows], "r": [r[1] for r in rows], "n": [r[2] for r in rows]}
    pq.write_table(pa.table({**columns, "at": pa.array([T0] * 4, INSTANT)}), tmp_path / "pairs.parquet")
    types: dict[str, DType] = {"l": String, "r": String, "n": Int64, "at": Timestamp}
    source = fs.BatchSource("pairs", fs.Parquet("pairs.parquet"), "at", types)
    pair = fs.FeatureView(
        "pair", fs.Entity("pair", keys=("l", "r")), source, [fs.sum("n").over(hours(1)), fs.latest("n")]
    )
    spine = pa.table(
        {"l": ["a", "ab", "a", "abc"], "r": ["bc", "c", None, ""], "ts": pa.array([T0 + 1] * 4, INSTANT)}
    )
    got = training_set(tmp_path, spine, pair).to_arrow()
    assert got["n_sum_1h"].to_pylist() == got["n"].to_pylist() == [1, 2, None, None]


def test_one_view_is_looked_up_by_several_columns(root: Path) -> None:
    view = visits(fs.count().over(lifetime), fs.latest("tag"))
    spine = pa.table(
        {"here": ["Ulm", "Bonn"], "there": ["Bonn", None], "ts": pa.array([T0 + DAY] * 2, INSTANT)}
    )
    got = training_set(
        root, spine, view.on("from_", city="here"), view.on("to_", city="there")["tag"]
    ).to_arrow()
    assert got.column_names[3:] == ["from_count_lifetime", "from_tag", "to_tag"]
    assert got["from_count_lifetime"].to_pylist() == [4, 1]
    assert got["to_tag"].to_pylist() == ["e", None]


def test_a_static_source_is_visible_always_and_its_copies_tie_by_order(tmp_path: Path) -> None:
    table = pa.table({"city": ["Ulm", "Ulm", "Bonn"], "n": [1, 2, None], "tag": ["z", "a", "b"]})
    pq.write_table(table, tmp_path / "cities.parquet")
    types: dict[str, DType] = {"city": String, "n": Int64, "tag": String}
    source = fs.BatchSource("cities", fs.Parquet("cities.parquet"), columns=types)
    view = fs.FeatureView("cities", CITY, source, [fs.latest("n"), fs.latest("tag")])
    got = training_set(
        tmp_path, spine_of(("Ulm", -DAY), ("Bonn", T0), ("Rom", T0)), view, statuses=True
    ).to_arrow()
    assert got["n"].to_pylist() == [2, None, None]
    assert got["tag"].to_pylist() == ["a", "b", None]
    assert got["n__status"].to_pylist() == ["PRESENT", "NULL", "NOT_FOUND"]


def test_copies_of_an_event_count_once(tmp_path: Path) -> None:
    rows = [{"city": "Ulm", "at": T0, "seq": s, "n": 10, "x": 0.5} for s in (1, 1, 2, None, None)]
    write(
        tmp_path,
        [*rows, {"city": "Ulm", "at": T0 + 1, "seq": 1, "n": 10}, {"city": "Bonn", "at": T0, "seq": 1}],
    )
    source = fs.BatchSource("visits", fs.Parquet("visits.parquet"), "at", COLUMNS, event_id="seq")
    view = visits(
        fs.count().over(lifetime), fs.sum("n").over(hours(1)), fs.sum("x").over(hours(1)), source=source
    )
    got = (
        training_set(tmp_path, spine_of(("Ulm", T0 + SECOND), ("Bonn", T0 + 1)), view).to_arrow().to_pylist()
    )
    assert [(r["count_lifetime"], r["n_sum_1h"], r["x_sum_1h"]) for r in got] == [
        (5, 50, 2.0),  # an event without an id is nobody's copy
        (1, None, None),
    ]


def test_the_copy_that_arrived_first_stays(tmp_path: Path) -> None:
    rows = [{"city": "Ulm", "at": T0, "seq": 1, "n": n, "due": T0 + n * SECOND} for n in (7, 3, 5)]
    write(tmp_path, rows)
    source = fs.BatchSource(
        "visits", fs.Parquet("visits.parquet"), "at", COLUMNS, arrival_time="due", event_id="seq"
    )
    view = visits(fs.latest("n"), fs.sum("n").over(hours(1)), source=source)
    got = training_set(tmp_path, spine_of(("Ulm", T0 + 1)), view).to_arrow().to_pylist()[0]
    assert (got["n"], got["n_sum_1h"]) == (3, 3)


# ------------------------------------------------------------------------------------------------ what a spine may be


def _relation(table: pa.Table, _: Path) -> Any:
    return duckdb.connect().from_arrow(table)


def _parquet(table: pa.Table, folder: Path) -> str:
    pq.write_table(table, folder / "spine.parquet", row_group_size=2)
    return str(folder / "spine.parquet")


def _csv(table: pa.Table, folder: Path) -> Path:
    pyarrow.csv.write_csv(table, folder / "spine.csv")
    return folder / "spine.csv"


SPINES: dict[str, Callable[[pa.Table, Path], Any]] = {
    "an Arrow table": lambda table, _: table,
    "an Arrow batch": lambda table, _: table.to_batches()[0],
    "an Arrow reader": lambda table, _: table.to_reader(),
    "a pandas frame": lambda table, _: table.to_pandas(),
    "a polars frame": lambda table, _: pl.from_arrow(table),
    "a DuckDB relation": _relation,
    "a Parquet path": _parquet,
    "a CSV path": _csv,
    "a dict": lambda table, _: table.to_pydict(),
    "a list of rows": lambda table, _: table.to_pylist(),
}


@pytest.mark.parametrize("form", SPINES)
def test_a_spine_may_be(form: str, root: Path) -> None:
    rows = [("Ulm", T0 + 3 * HOUR), ("Bonn", T0 + 2 * HOUR), ("Ulm", T0 + HOUR), ("Rom", T0)]
    got = training_set(root, SPINES[form](spine_of(*rows), root), visits(*BOTH)).to_arrow()
    assert got["city"].to_pylist() == [c for c, _ in rows]
    assert got["count_lifetime"].to_pylist() == [4, 1, 1, 0]
    assert got["tag"].to_pylist() == [None, "e", "a", None]


UTC = dt.UTC
TIMES: dict[str, pa.Array] = {
    "microseconds": pa.array([T0 + HOUR + 1], pa.timestamp("us")),
    "microseconds in a zone": pa.array([T0 + HOUR + 1], pa.timestamp("us", tz="America/New_York")),
    "nanoseconds, cut to the microsecond": pa.array([(T0 + HOUR + 1) * 1000 + 999], pa.timestamp("ns")),
    "milliseconds": pa.array([T0 // 1000 + 3_600_001], pa.timestamp("ms")),
    "seconds": pa.array([T0 // SECOND + 3601], pa.timestamp("s", tz="UTC")),
    "a text": pa.array(["2013-07-01T01:00:00.000001"]),
    "a text with a space": pa.array(["2013-07-01 01:00:01"]),
    "a text in UTC": pa.array(["2013-07-01T01:00:01Z"]),
    "a text with an offset": pa.array(["2013-07-01T03:00:01+02:00"]),
    "a text finer than a microsecond": pa.array(["2013-07-01T01:00:00.000001999"]),
    "a text of a day and an offset without minutes": pa.array(["2013-07-01 03:00:01+02"]),
    "a category": pa.array(["2013-07-01T01:00:01"]).dictionary_encode(),
    "a large text": pa.array(["2013-07-01T01:00:01"], pa.large_string()),
    "a date": pa.array([dt.date(2013, 7, 2)]),
    "a date as text": pa.array(["2013-07-02"]),
}


@pytest.mark.parametrize("form", TIMES)
def test_a_time_may_be(form: str, root: Path) -> None:
    spine = pa.table({"city": ["Ulm"], "ts": TIMES[form]})
    got = training_set(root, spine, visits(fs.count().over(lifetime))).to_arrow()
    assert got["count_lifetime"].to_pylist() == [4 if form.startswith("a date") else 3]
    assert got["ts"].combine_chunks().equals(TIMES[form])


KEYS = {
    "a text": pa.array(["Ulm", None, "Rom"]),
    "a large text": pa.array(["Ulm", None, "Rom"], pa.large_string()),
    "a text view": pa.array(["Ulm", None, "Rom"], pa.string_view()),
    "a category": pa.array(["Ulm", None, "Rom"]).dictionary_encode(),
}


@pytest.mark.parametrize("form", KEYS)
def test_a_key_may_be(form: str, root: Path) -> None:
    spine = pa.table({"city": KEYS[form], "ts": pa.array([T0 + DAY] * 3, INSTANT)})
    got = training_set(root, spine, visits(fs.count().over(lifetime))).to_arrow()
    assert got["count_lifetime"].to_pylist() == [4, 0, 0]


@pytest.mark.parametrize("stored", [Int32, Int64])
@pytest.mark.parametrize("asked", [pa.int8(), pa.int32(), pa.int64(), pa.uint64()])
def test_whole_keys_may_be_narrow_or_wide(stored: DType, asked: pa.DataType, tmp_path: Path) -> None:
    kind = pa.int32() if stored == Int32 else pa.int64()
    table = pa.table({"id": pa.array([1, 2], kind), "at": pa.array([T0] * 2, INSTANT)})
    pq.write_table(table, tmp_path / "ids.parquet")
    source = fs.BatchSource("ids", fs.Parquet("ids.parquet"), "at", {"id": stored, "at": Timestamp})
    view = fs.FeatureView("ids", fs.Entity("id", key="id"), source, [fs.count().over(lifetime)])
    spine = pa.table({"id": pa.array([2, 3, None], asked), "ts": pa.array([T0 + 1] * 3, INSTANT)})
    assert training_set(tmp_path, spine, view).to_arrow()["count_lifetime"].to_pylist() == [1, 0, 0]
    if asked == pa.int64():
        far = spine.set_column(0, "id", pa.array([2**40] * 3, asked))
        assert training_set(tmp_path, far, view).to_arrow()["count_lifetime"].to_pylist() == [0, 0, 0]
    if asked == pa.uint64():
        huge = pa.array([2**63] * 3, asked)
        with pytest.raises(SpineError, match="does not fit the join key of feature view 'ids'"):
            training_set(tmp_path, spine.set_column(0, "id", huge), view).to_arrow()


def test_texts_with_and_without_a_zone_may_be_mixed(root: Path) -> None:
    times = ["2013-07-01T01:00:01", "2013-07-01T03:00:01+02:00", "2013-07-01T01:00:00Z"]
    got = training_set(root, {"city": ["Ulm"] * 3, "ts": times}, visits(fs.count().over(lifetime))).to_arrow()
    assert got["count_lifetime"].to_pylist() == [3, 3, 1]


# ------------------------------------------------------------------------------------------------------------ mistakes

ULM = pa.array(["Ulm", "Ulm"])
NOW = pa.array([T0, T0], INSTANT)
BAD_SPINES: dict[str, tuple[Any, str]] = {
    "a key column is missing": (
        {"town": ULM, "ts": NOW},
        "no column 'city', a join key of feature view 'visits'",
    ),
    "the time column is missing": ({"city": ULM, "tss": NOW}, "(?s)no column 'ts'.*did you mean 'tss'"),
    "a text is not a time": ({"city": ULM, "ts": ["2013-07-01", "yesterday"]}, "'yesterday' in row 1"),
    "a text is a time that no day has": (
        {"city": ULM, "ts": ["2013-07-01", "2013-02-30"]},
        "'2013-02-30' in row 1",
    ),
    "a time is NULL": ({"city": ULM, "ts": pa.array([T0, None], INSTANT)}, "NULL in row 1"),
    "a text is NULL": ({"city": ULM, "ts": ["2013-07-01", None]}, "NULL in row 1"),
    "a time is a number": ({"city": ULM, "ts": [1, 2]}, "int64, not a time"),
    "a time is a list": ({"city": ULM, "ts": [[1], [2]]}, "is not a time"),
    "a key is of another type": (
        {"city": [1, 2], "ts": NOW},
        "int64, and the join key of feature view 'visits' is String",
    ),
    "a column has a feature's name": (
        {"city": ULM, "ts": NOW, "tag": ULM},
        "has a column 'tag', and so has service",
    ),
    "two columns have one name": (pa.table([ULM, ULM, NOW], ["city", "city", "ts"]), "two columns 'city'"),
    "columns differ in length": (
        {"city": ["Ulm"], "ts": []},
        "the spine is not a table: .* expected length 1",
    ),
    "the spine is a number": (7, "cannot be a int"),
    "the spine is a file that is not there": ("nowhere.parquet", "nowhere.parquet does not exist"),
}


@pytest.mark.parametrize("mistake", BAD_SPINES)
def test_a_spine_is_refused_when(mistake: str, root: Path) -> None:
    spine, message = BAD_SPINES[mistake]
    with pytest.raises(SpineError, match=message):
        training_set(root, spine, visits(fs.latest("tag"))).to_arrow()


def test_the_row_of_a_bad_time_counts_from_the_beginning_of_the_spine(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SLICE_BYTES", 200)
    times = ["2013-07-01T00:00:00"] * 9 + ["soon"]
    with pytest.raises(SpineError, match="'soon' in row 9"):
        training_set(root, {"city": ["Ulm"] * 10, "ts": times}, visits(fs.latest("tag"))).to_arrow()
    empty = [T0] * 9 + [None]
    spine = pa.table({"city": ["Ulm"] * 10, "ts": pa.array(empty, INSTANT)})
    with pytest.raises(SpineError, match="NULL in row 9"):
        training_set(root, spine, visits(fs.latest("tag"))).to_arrow()


def test_a_source_is_refused_when_its_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no file matches visits\.parquet"):
        training_set(tmp_path, spine_of(("Ulm", T0)), visits(*BOTH)).to_arrow()


def test_a_source_is_refused_when_a_column_is_gone(root: Path) -> None:
    table = pq.read_table(root / "visits.parquet")
    pq.write_table(
        table.rename_columns(["tags" if n == "tag" else n for n in table.column_names]),
        root / "visits.parquet",
    )
    with pytest.raises(SourceError, match=r"(?s)column 'tag' is gone.*did you mean 'tags'"):
        training_set(root, spine_of(("Ulm", T0)), visits(*BOTH)).to_arrow()


def test_a_source_is_refused_when_a_type_has_changed(root: Path) -> None:
    table = pq.read_table(root / "visits.parquet")
    changed = table.set_column(table.column_names.index("x"), "x", pa.array(["?"] * table.num_rows))
    pq.write_table(changed, root / "visits.parquet")
    with pytest.raises(SourceError, match=r"column 'x' is VARCHAR, and Float64 in the plan"):
        training_set(root, spine_of(("Ulm", T0)), visits(*BOTH)).to_arrow()


def test_a_source_is_refused_when_it_is_no_parquet_file(root: Path) -> None:
    (root / "visits.parquet").write_text("not Parquet")
    with pytest.raises(SourceError, match=r"cannot read visits\.parquet"):
        training_set(root, spine_of(("Ulm", T0)), visits(*BOTH)).to_arrow()


# ------------------------------------------------------------------------------------------------- one result, many ways


def many(root: Path, events: int = 40_000, rows: int = 3_000, keys: int = 50) -> pa.Table:
    """Writes many events, one key of which has half of all, and gives a spine."""
    con = duckdb.connect()
    con.execute("SELECT setseed(0.5)")
    key = f"'c' || CASE WHEN random() < 0.5 THEN 0 ELSE (random() * {keys})::INTEGER END"
    at = f"make_timestamp({T0} + (random() * 200000)::BIGINT * 1000000)"
    most = "CASE WHEN random() < 0.9 THEN"
    select = f"""SELECT {key} AS city, {at} AS at, i AS seq, {most} random() * 100 END AS x,
        {most} (random() * 9)::BIGINT END AS n, {most} 't' || (random() * 9)::INTEGER END AS tag"""
    con.execute(f"COPY ({select} FROM range({events}) r(i)) TO '{root / 'visits.parquet'}' (FORMAT parquet)")
    return con.sql(f"SELECT {key} AS city, {at} AS ts, i AS label FROM range({rows}) r(i)").to_arrow_table()


MANY = visits(
    fs.count().over(hours(1), days(1), lifetime),
    fs.sum("x").over(hours(1), lifetime),
    fs.stddev_samp("x").over(hours(6)),
    fs.last("tag").over(hours(1)),
    fs.max("n").over(days(1)),
    fs.latest("tag"),
    fs.latest("x"),
)


def test_slices_of_the_spine_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spine = many(tmp_path)
    whole = training_set(tmp_path, spine, MANY, statuses=True).to_arrow()
    monkeypatch.setattr(training, "SLICE_BYTES", 304 * 700)
    tables = list(training_set(tmp_path, spine, MANY, statuses=True).tables())
    assert [t.num_rows for t in tables] == [700, 700, 700, 700, 200]
    assert same(pa.concat_tables(tables), whole)


def test_chunks_of_events_and_pieces_of_rows_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spine = many(tmp_path)
    whole = training_set(tmp_path, spine, MANY).to_arrow()
    monkeypatch.setattr(joining, "BATCH_EVENTS", 2048)
    monkeypatch.setattr(joining, "CHUNK_EVENTS", 1000)
    monkeypatch.setattr(point_in_time, "PIECE", 77)
    chunks: list[int] = []
    monkeypatch.setattr(joining, "cells_of", partial(_seen, chunks))
    assert same(training_set(tmp_path, spine, MANY).to_arrow(), whole)
    assert 39_900 < sum(chunks) <= 40_000  # those after the last row of the spine are not read
    assert len(chunks) > 10


def _seen(sizes: list[int], work: Work, events: pa.Table, asked: Asked) -> dict[str, Cells]:
    sizes.append(events.num_rows)
    return cells_of(work, events, asked)


def test_what_does_not_fit_into_memory_is_spilled_and_changes_nothing(tmp_path: Path) -> None:
    spine = many(tmp_path, events=1_000_000, keys=2_000)
    whole = training_set(tmp_path, spine, MANY).to_arrow()
    small = training_set(tmp_path, spine, MANY, memory="60MB").to_arrow()
    assert small.equals(whole)
    con = duckdb.connect(config={"memory_limit": "60MB", "temp_directory": ""})
    with pytest.raises(duckdb.OutOfMemoryException):  # so it was spilled
        con.sql(f"FROM '{tmp_path / 'visits.parquet'}' ORDER BY city, \"at\"").to_arrow_table()


def test_a_training_set_is_the_same_bits_every_time(tmp_path: Path) -> None:
    spine = many(tmp_path)
    assert (
        training_set(tmp_path, spine, MANY).to_arrow().equals(training_set(tmp_path, spine, MANY).to_arrow())
    )


def same(a: pa.Table, b: pa.Table) -> bool:
    """Equal but for the last bits of sums of floats, which are added up in blocks."""
    assert a.schema.equals(b.schema)
    for name in a.column_names:
        if pa.types.is_floating(a[name].type):
            for x, y in zip(a[name].to_pylist(), b[name].to_pylist(), strict=True):
                assert x == y or math.isclose(x, y, rel_tol=1e-12), name
        else:
            assert a[name].to_pylist() == b[name].to_pylist(), name
    return True


def test_batches_are_the_same_rows_in_pieces(root: Path) -> None:
    spine = spine_of(*(("Ulm", T0 + i * HOUR) for i in range(7)))
    found = training_set(root, spine, visits(*BOTH))
    batches = list(found.batches(3))
    assert [b.num_rows for b in batches] == [3, 3, 1]
    assert pa.Table.from_batches(batches).equals(found.to_arrow())


def test_frames_and_files_hold_the_same(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spine = spine_of(*(("Ulm", T0 + i * HOUR) for i in range(5)), (None, T0))
    found = training_set(root, spine, visits(*BOTH))
    table = found.to_arrow()
    assert found.to_polars().to_arrow().to_pylist() == table.to_pylist()
    frame = found.to_pandas()
    assert frame["count_lifetime"].tolist() == table["count_lifetime"].to_pylist()
    assert frame["x_sum_1d"].isna().tolist() == [v is None for v in table["x_sum_1d"].to_pylist()]
    monkeypatch.setattr(training, "SLICE_BYTES", 64 + 24 * 5)
    files = found.to_parquet(tmp_path / "out")
    assert len(files) == 6
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "_manifest.json",
        *(p.name for p in files),
    ]
    assert pa.concat_tables(pq.read_table(f) for f in files).to_pylist() == table.to_pylist()
    with pytest.raises(FileExistsError, match="holds Parquet files already"):
        found.to_parquet(tmp_path / "out")


# ---------------------------------------------------------------------------------------------------- against the reference

EDGES = [0, 1, HOUR - 1, HOUR, HOUR + 1, 2 * HOUR, DAY - 1, DAY, DAY + 5 * MINUTE, -1, -HOUR]
BASES = [T0, 0]  # a time of our days, and one that reaches before 1970
FLOATS = st.sampled_from([0.1, -0.0, 1e9, 1e9 + 1e-3, -7.25, math.nan, math.inf]) | st.floats(-1e6, 1e6)
CITIES = st.sampled_from(["Ulm", "Köln", "", None])
EVENT = st.fixed_dictionaries(
    {
        "city": CITIES,
        "at": st.sampled_from([None, *EDGES, *EDGES]),
        "seq": st.sampled_from([None, 1, 2, 3]),
        "x": st.none() | FLOATS,
        "n": st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9),
        "small": st.none() | st.integers(-(2**31), 2**31 - 1),
        "price": st.none() | st.integers(-(10**12) + 1, 10**12 - 1),
        "ok": st.none() | st.booleans(),
        "tag": st.sampled_from([None, "", "a", "é", "z", "\U0001f600"]),
        "day": st.none() | st.integers(-1000, 20000),
        "due": st.none() | st.integers(-DAY, DAY),
    }
)
WINDOWS = (
    (hours(1), minutes(5)),
    (hours(1), hours(1)),
    (days(1), hours(1)),
    (days(1), minutes(30)),
    (lifetime, None),
)
ONE = [
    *(a(c) for a in (fs.sum, fs.mean, fs.var_samp, fs.stddev_pop) for c in ("x", "n", "small", "price")),
    *(a(c) for a in (fs.min, fs.max) for c in ("x", "n", "small", "price", "ok", "day", "due")),
    *(a(c) for a in (fs.first, fs.last) for c in ("x", "n", "price", "ok", "tag", "day", "due")),
    fs.count(),
    fs.count("tag"),
    fs.sum(col("small") * 2),
]
FEATURE = st.builds(
    lambda a, w, condition, fallback: _dressed(a.over(w[0], hop=w[1]), condition, fallback),
    st.sampled_from(ONE),
    st.sampled_from(WINDOWS),
    st.sampled_from([None, col("ok"), col("n") > 0, col("x").is_null()]),
    st.booleans(),
)
LATEST = st.sampled_from([fs.latest(c) for c in ("x", "n", "small", "price", "ok", "tag", "day", "due")])
SOURCES = [
    VISITS,
    fs.BatchSource("visits", fs.Parquet("visits.parquet"), "at", COLUMNS),
    fs.BatchSource("visits", fs.Parquet("visits.parquet"), "at", COLUMNS, event_id="seq"),
    fs.BatchSource("visits", fs.Parquet("visits.parquet"), "at", COLUMNS, arrival_time="due", event_id="tag"),
]


def _dressed(feature: fs.Aggregation, condition: Any, fallback: bool) -> fs.Aggregation:
    feature = feature if condition is None else feature.where(condition)
    numbers = feature.aggregate in ("sum", "mean") and str(feature.inputs[0]) == "x"
    return feature.default(-1.0) if fallback and numbers else feature


@st.composite
def views(draw: st.DrawFn) -> fs.FeatureView:
    windowed = draw(st.lists(FEATURE, min_size=1, max_size=8))
    latest = draw(st.lists(LATEST, max_size=4))
    named = [f.named(f"f{i}") for i, f in enumerate([*windowed, *latest])]
    source: fs.AnySource = draw(st.sampled_from(SOURCES))
    if draw(st.booleans()):
        source = source.where(col("tag").is_not_null() | (col("n") < 5))
    ttl = draw(st.sampled_from([None, hours(1)])) if not windowed else None
    return fs.FeatureView("visits", CITY, source, named, ttl=ttl)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    view=views(),
    base=st.sampled_from(BASES),
    events=st.lists(EVENT, max_size=25),
    rows=st.lists(st.tuples(CITIES | st.just("Rom"), st.sampled_from(EDGES)), min_size=1, max_size=8),
)
def test_training_sets_agree_with_the_reference(
    tmp_path: Path,
    view: fs.FeatureView,
    base: int,
    events: list[dict[str, Any]],
    rows: list[tuple[str | None, int]],
) -> None:
    events = [e | {"at": None if e["at"] is None else base + e["at"]} for e in events]
    rows = [(city, base + at) for city, at in rows]
    write(tmp_path, [e | {"price": e["price"] and Decimal(e["price"]) / 100} for e in events])
    got = training_set(tmp_path, spine_of(*rows), view, statuses=True).to_arrow()
    quick = training_set(tmp_path, spine_of(*rows), view).to_arrow()
    plan = plan_of(view).view("visits")
    for i, (city, at) in enumerate(rows):
        want = answers(plan, events, [city], at)
        for feature in plan.features:
            value = physical(got[feature.name][i])
            assert agree(plan, feature.name, value, want[feature.name].value, events), (
                i,
                feature,
                value,
                want,
            )
            assert got[f"{feature.name}__status"][i].as_py() == want[feature.name].status.name, (
                i,
                feature,
                want,
            )
            assert agree(
                plan, feature.name, physical(quick[feature.name][i]), want[feature.name].value, events
            )


def physical(scalar: pa.Scalar) -> Value:
    """The value as the reference has it: instants, dates and decimals as whole numbers."""
    if not scalar.is_valid:
        return None
    if pa.types.is_timestamp(scalar.type) or pa.types.is_date32(scalar.type):
        return int(scalar.value)
    value = scalar.as_py()
    if isinstance(value, Decimal):
        return int(value.scaleb(scalar.type.scale))
    assert value is None or isinstance(value, bool | int | float | str)
    return value


def agree(view: View, name: str, got: Any, want: Any, events: Sequence[Row]) -> bool:
    """Equal, or close where the aggregate promises no more; -0 is 0."""
    feature = view.feature(name)
    if feature.window is None or got is None or want is None:
        return got == want
    if AGGREGATES[feature.aggregate].parity(feature.input_types) == "exact":
        return got == want and type(got) is type(want)
    assert isinstance(got, float)
    assert isinstance(want, float)
    total = math.fsum(abs(e["x"]) for e in events if e["x"] is not None and math.isfinite(e["x"]))
    scale = total if feature.aggregate in ("sum", "mean") else 0.0
    return math.isclose(got, want, rel_tol=1e-9, abs_tol=1e-9 * scale)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    view=views(),
    events=st.lists(EVENT, max_size=15),
    later=st.lists(EVENT, min_size=1, max_size=15),
    at=st.sampled_from(EDGES),
)
def test_later_events_never_change_a_value(
    tmp_path: Path, view: fs.FeatureView, events: list[dict[str, Any]], later: list[dict[str, Any]], at: int
) -> None:
    spine = spine_of(*((city, at) for city in ("Ulm", "Köln", "")))

    def values(rows: list[dict[str, Any]]) -> list[Any]:
        write(tmp_path, [r | {"price": r["price"] and Decimal(r["price"]) / 100} for r in rows])
        return training_set(tmp_path, spine, view, statuses=True).to_arrow().to_pylist()

    after = [e | {"at": at + abs(e["at"] or 0)} for e in later]
    assert values(events) == values(events + after)


def test_memory_that_does_not_suffice_is_said_with_the_way_out(tmp_path: Path) -> None:
    rows = 200_000
    table = pa.table(
        {
            "city": [f"city number {i % 50_000}" for i in range(rows)],
            "at": pa.array(range(T0, T0 + rows), INSTANT),
            "x": [float(i) for i in range(rows)],
        }
    )
    pq.write_table(table, tmp_path / "visits.parquet")
    view = visits(fs.sum("x").over(hours(1)))
    spine = spine_of(*((f"city number {i}", T0 + rows) for i in range(100)))
    with pytest.raises(EngineError, match="memory_limit"):
        training_set(tmp_path, spine, view, memory="2MB").to_arrow()
