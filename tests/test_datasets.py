"""Training sets to rely on: manifests, sets made again, comparisons, splits, samples, twins, spines, notebooks."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import featurestore.declare as fs
from featurestore import FeatureStore, joining, training
from featurestore.config import Config
from featurestore.datasets.diff import diff
from featurestore.datasets.digests import RowsDigest
from featurestore.datasets.manifest import load, reproduce
from featurestore.datasets.twins import near_duplicates
from featurestore.errors import DatasetError, DefinitionError, NotFound, SourceError, SpineError
from featurestore.time import HOUR, hours
from featurestore.training import TrainingSet
from tests.test_cli import fs as run
from tests.test_cli import fs_json as run_json
from tests.test_docs import blocks
from tests.test_training import (
    BOTH,
    CITY,
    INSTANT,
    MANY,
    T0,
    many,
    spine_of,
    training_set,
    visits,
    write,
)

pytestmark = pytest.mark.slow  # sets are written and made again whole

EVENTS = [
    {"city": city, "at": T0 + i * HOUR + j, "seq": i, "x": 1.5 * i + j, "n": i, "tag": f"t{i % 3}"}
    for i in range(40)
    for j, city in enumerate(("Ulm", "Köln", "Bonn"))
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three cities with an event each hour."""
    write(tmp_path, EVENTS)
    return tmp_path


def rows(count: int = 60) -> pa.Table:
    cities = ["Ulm", "Köln", "Bonn", "Rom"]
    spine = spine_of(*((cities[i % 4], T0 + (i // 2) * HOUR) for i in range(count)))
    return spine.append_column("label", pa.array([i % 5 == 0 for i in range(count)]))


def a_set(root: Path, spine: Any = None, *, statuses: bool = False) -> TrainingSet:
    return training_set(root, rows() if spine is None else spine, visits(*BOTH), statuses=statuses)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


# ------------------------------------------------------------------------------------------------------------- manifest


def test_a_manifest_says_what_a_set_was_made_of(root: Path) -> None:
    a_set(root, statuses=True).to_parquet(root / "out")
    said = load(root / "out").content
    assert said["service"] == {"name": "svc", "version": None, "fingerprint": said["service"]["fingerprint"]}
    assert list(said["views"]) == ["visits"]
    assert said["parameters"] == {
        "knowledge": "corrected",
        "lag": {},
        "timestamp": "ts",
        "statuses": True,
        "full_names": False,
        "as_of": None,
        "immature": "drop",
        "bootstrap_from_log": False,
    }
    assert said["spine"]["columns"] == ["city", "ts", "label"]
    assert (said["rows"], said["spine"]["rows"]) == (60, 60)
    (read,) = said["inputs"]
    (file,) = read["files"]
    assert (read["source"], read["checked"], file["path"]) == ("visits", "digest", "visits.parquet")
    assert file["bytes"] == (root / "visits.parquet").stat().st_size
    assert [c["name"] for c in said["columns"]][:5] == ["city", "ts", "label", "count_1h", "count_lifetime"]
    assert {"duckdb", "numpy", "pyarrow", "featurestore"} <= said["made_with"].keys()
    assert [p["file"] for p in said["parts"]] == ["part-00000.parquet"]
    assert sorted(p.name for p in (root / "out").iterdir()) == ["_manifest.json", "part-00000.parquet"]


def test_the_manifest_is_written_last_so_what_broke_off_has_none(root: Path) -> None:
    spine = rows().set_column(1, "ts", pa.array(["2013-07-01T00:00:00"] * 59 + ["soon"]))
    with pytest.raises(SpineError):
        a_set(root, spine).to_parquet(root / "out")
    with pytest.raises(
        DatasetError, match=r"has no _manifest\.json: it is no training set, or not a whole one"
    ):
        load(root / "out")


def test_a_source_that_changes_while_it_is_read_is_noticed(root: Path) -> None:
    def touched() -> Iterator[pa.RecordBatch]:
        yield from rows().to_batches()
        os.utime(root / "visits.parquet", ns=(1, 1))

    reader = pa.RecordBatchReader.from_batches(rows().schema, touched())
    with pytest.raises(SourceError, match="a source changed while it was read"):
        a_set(root, reader).to_parquet(root / "out")
    assert not (root / "out" / "_manifest.json").exists()


def test_the_rows_of_a_query_and_files_of_text_are_inputs_too(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as db:
        db.execute("CREATE TABLE e (city TEXT, x REAL)")
        db.execute("INSERT INTO e VALUES ('Ulm', 1.0), ('Bonn', 2.0)")
    source = fs.BatchSource(
        "e",
        fs.Sql(f"sqlite:///{tmp_path / 'shop.db'}", "SELECT * FROM e"),
        columns={"city": fs_string(), "x": fs_float()},
    )
    made = training_set(tmp_path, spine_of(("Ulm", T0)), fs.FeatureView("v", CITY, source, [fs.latest("x")]))
    made.to_parquet(tmp_path / "out")
    (read,) = load(tmp_path / "out").content["inputs"]
    assert read["checked"] == "rows"
    assert reproduce(made.config, tmp_path / "out", tmp_path / "again").identical
    with sqlite3.connect(tmp_path / "shop.db") as db:
        db.execute("UPDATE e SET x = 9.0 WHERE city = 'Ulm'")
    done = reproduce(made.config, tmp_path / "out", tmp_path / "other")
    assert not done.same_values
    assert any("the rows of its query" in line and "changed" in line for line in done.changes)


def fs_string() -> Any:
    from featurestore.types import String

    return String


def fs_float() -> Any:
    from featurestore.types import Float64

    return Float64


COLUMN_KINDS = st.sampled_from(
    [pa.int64(), pa.float64(), pa.string(), pa.bool_(), pa.date32(), pa.timestamp("us"), pa.list_(pa.int64())]
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=COLUMN_KINDS, cut=st.integers(0, 12), block=st.integers(1, 9))
def test_a_digest_of_rows_is_of_values_not_of_how_arrow_holds_them(
    monkeypatch: pytest.MonkeyPatch, data: st.DataObject, kind: pa.DataType, cut: int, block: int
) -> None:
    monkeypatch.setattr("featurestore.datasets.digests.BLOCK", block)
    value = {
        pa.string(): st.text(max_size=3),
        pa.bool_(): st.booleans(),
        pa.float64(): st.floats(allow_nan=False),
        pa.list_(pa.int64()): st.lists(st.integers(0, 9), max_size=3),
    }.get(kind, st.integers(0, 9))
    values = data.draw(st.lists(st.none() | value, max_size=12))
    whole = pa.table({"a": pa.array(values, kind)})
    pieces = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    assert digest_of(whole) == digest_of(pieces) == digest_of(whole.slice(0, cut), whole.slice(cut))
    if kind == pa.string():
        texts = pa.array(values, kind)
        for other in (texts.cast(pa.large_string()), texts.dictionary_encode(), texts.cast(pa.string_view())):
            assert digest_of(pa.table({"a": other})) == digest_of(whole)
    if values:
        changed = [None if values[0] is not None else data.draw(value), *values[1:]]
        assert digest_of(pa.table({"a": pa.array(changed, kind)})) != digest_of(whole)
    assert digest_of(whole.rename_columns(["b"])) != digest_of(whole)


def digest_of(*tables: pa.Table) -> str:
    digest = RowsDigest()
    for table in tables:
        digest.add(table)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------ make again


@pytest.mark.parametrize(
    "machine",
    [
        pytest.param({}, id="as it was"),
        pytest.param({"threads": 1}, id="one thread"),
        pytest.param({"threads": 7}, id="seven threads"),
        pytest.param({"memory_limit": "60MB"}, id="60 MB of memory"),
    ],
)
def test_a_set_is_made_again_bit_for_bit_with(
    machine: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spine = many(tmp_path, events=300_000, rows=9_000, keys=500)
    monkeypatch.setattr(joining, "BATCH_EVENTS", 1 << 14)
    monkeypatch.setattr(joining, "CHUNK_EVENTS", 1 << 16)
    with monkeypatch.context() as slices:
        slices.setattr(training, "SLICE_BYTES", 304 * 4_000)
        written = training_set(tmp_path, spine, MANY, statuses=True).to_parquet(tmp_path / "out")
    assert len(written) == 3
    config = Config(tmp_path, "test", **machine)
    done = reproduce(config, tmp_path / "out", tmp_path / "again")
    assert (done.identical, done.same_values, done.changes) == (True, True, ())
    assert files(tmp_path / "again").keys() == files(tmp_path / "out").keys()
    again, out = files(tmp_path / "again"), files(tmp_path / "out")
    assert all(again[name] == out[name] for name in out if name != "_manifest.json")
    twice = reproduce(config, tmp_path / "again" / "_manifest.json", tmp_path / "twice")
    assert twice.identical


SPINES = {
    "pandas": lambda table: table.to_pandas(),
    "a dictionary of texts and narrow numbers": lambda table: pa.table(
        {
            "city": table["city"].dictionary_encode(),
            "ts": table["ts"].cast(pa.timestamp("ns")),
            "label": table["label"].cast(pa.int8()),
        }
    ),
    "large texts and seconds": lambda table: pa.table(
        {
            "city": table["city"].cast(pa.large_string()),
            "ts": table["ts"].cast(pa.timestamp("s", "Europe/Berlin")),
        }
    ),
    "no rows": lambda table: table.slice(0, 0),
    "lists and structs beside": lambda table: table.append_column(
        "more", pa.array([{"a": [1, None], "b": None}] * table.num_rows)
    ),
}


@pytest.mark.parametrize("kind", SPINES)
def test_a_set_is_made_again_from_its_own_files_whatever_its_spine_was(kind: str, root: Path) -> None:
    made = a_set(root, SPINES[kind](rows()))
    made.to_parquet(root / "out")
    done = reproduce(made.config, root / "out", root / "again")
    assert (done.identical, done.changes) == (True, ())


def test_what_changed_is_said_when_a_set_cannot_be_made_again(root: Path) -> None:
    made = a_set(root)
    made.to_parquet(root / "out")
    write(root, [*EVENTS, {"city": "Ulm", "at": T0 + 2 * HOUR, "seq": 99, "x": 7.0, "n": 1, "tag": "z"}])
    done = reproduce(made.config, root / "out", root / "again")
    assert (done.identical, done.same_values) == (False, False)
    (change,) = done.changes
    assert change.startswith("input visits.parquet has changed: ")
    assert "bytes of digest" in change
    write(root, [*EVENTS, {"city": "Ulm", "at": T0 + 9999 * HOUR, "seq": 99, "x": 7.0}])
    late = reproduce(made.config, root / "out", root / "late")
    assert late.identical
    assert "has changed" in late.changes[0]
    (root / "visits.parquet").unlink()
    with pytest.raises(DatasetError, match=r"(?s)cannot be made again.*no file matches visits\.parquet"):
        reproduce(made.config, root / "out", root / "gone")


def test_another_version_or_way_of_working_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = a_set(root)
    made.to_parquet(root / "out")
    monkeypatch.setattr("numpy.__version__", "9.9.9")
    monkeypatch.setattr(joining, "CHUNK_EVENTS", 17)
    done = reproduce(made.config, root / "out", root / "again")
    assert done.same_values
    assert done.changes == (
        f"numpy was {load(root / 'out').content['made_with']['numpy']} and is 9.9.9",
        "this version works with chunk_events 17; the set was made with 1048576",
    )


def test_an_edited_manifest_a_missing_one_and_one_from_tomorrow_are_refused(root: Path) -> None:
    made = a_set(root)
    made.to_parquet(root / "out")
    path = root / "out" / "_manifest.json"
    text = path.read_text(encoding="utf-8")
    for edited, says in (
        (text.replace('"timestamp": "ts"', '"timestamp": "tz"'), "was edited after it was written"),
        (text.replace('"format": 1', '"format": 2'), "has format 2, and this version reads 1"),
        (text[:100], "is not a manifest"),
        ("[]", "is not a manifest"),
    ):
        path.write_text(edited, encoding="utf-8")
        with pytest.raises(DatasetError, match=says):
            reproduce(made.config, root / "out", root / "again")
    path.unlink()
    with pytest.raises(DatasetError, match=r"has no _manifest\.json"):
        reproduce(made.config, root / "out", root / "again")
    with pytest.raises(DatasetError, match=r"has no _manifest\.json"):
        load(root / "nowhere")


def test_a_tampered_part_is_refused_unless_its_rows_are_what_they_were(root: Path) -> None:
    made = a_set(root)
    (part,) = made.to_parquet(root / "out")
    table = pq.read_table(part)
    pq.write_table(table.set_column(1, "ts", pa.array([T0] * 60, INSTANT)), part)
    with pytest.raises(DatasetError, match=r"(?s)part-00000.parquet was changed.*give the rows themselves"):
        reproduce(made.config, root / "out", root / "again")
    given = reproduce(made.config, root / "out", root / "given", spine=rows())
    assert given.identical
    wrong = reproduce(made.config, root / "out", root / "wrong", spine=rows(59))
    assert not wrong.same_values
    assert "the rows of the spine are not those the set was made of" in wrong.changes
    pq.write_table(table.set_column(3, "count_1h", pa.array([7] * 60)), part)  # only values
    healed = reproduce(made.config, root / "out", root / "healed")
    assert healed.identical
    assert healed.changes == ("part-00000.parquet was changed after it was written",)
    part.write_bytes(b"PAR1 no more")
    with pytest.raises(DatasetError, match="not what was written"):
        reproduce(made.config, root / "out", root / "torn")
    part.unlink()
    with pytest.raises(DatasetError, match=r"part-00000\.parquet is gone"):
        reproduce(made.config, root / "out", root / "lost")


def test_a_set_is_not_written_over_another(root: Path) -> None:
    a_set(root).to_parquet(root / "out")
    with pytest.raises(FileExistsError, match="holds Parquet files already"):
        a_set(root).to_parquet(root / "out")


# ------------------------------------------------------------------------------------------------------------------ diff


def test_two_sets_of_the_same_rows_do_not_differ(root: Path) -> None:
    a_set(root, statuses=True).to_parquet(root / "a")
    a_set(root, statuses=True).to_parquet(root / "b")
    found = diff(root / "a", root / "b")
    assert found.same
    assert (found.matched, found.examples, found.manifest, found.schema) == (60, (), (), ())
    assert "every cell of theirs is equal" in str(found)


def test_cells_that_differ_are_counted_measured_and_shown_in_few_rows(root: Path) -> None:
    a_set(root, statuses=True).to_parquet(root / "a")
    write(
        root,
        [
            e | {"x": 2 * float(str(e["x"]))} if e["city"] == "Ulm" else e
            for e in EVENTS
            if e["city"] != "Bonn"
        ],
    )
    a_set(root, statuses=True).to_parquet(root / "b")
    found = diff(root / "a", root / "b")
    a, b = (pq.read_table(root / name).to_pylist() for name in "ab")
    by_name = {c.name: c for c in found.columns}
    for name, column in by_name.items():
        assert column.differing == sum(x[name] != y[name] for x, y in zip(a, b, strict=True)), name
        assert column.lost == sum(x[name] is not None and y[name] is None for x, y in zip(a, b, strict=True))
    pairs = [(x["x_sum_1d"], y["x_sum_1d"]) for x, y in zip(a, b, strict=True)]
    both = [(x, y) for x, y in pairs if x is not None and y is not None]
    sums = by_name["x_sum_1d"]
    assert sums.max_absolute == max(abs(x - y) for x, y in both)
    assert sums.max_relative == 0.5
    assert by_name["tag__status"].moves == {"PRESENT -> NOT_FOUND": 15}
    shown = {name for e in found.examples for name in e["cells"]}
    assert shown == {c.name for c in found.columns if c.differing}
    assert len(found.examples) <= 2
    for example in found.examples:
        (i,) = [i for i, r in enumerate(a) if all(r[k] == v for k, v in example["key"].items())]
        assert all((a[i][n], b[i][n]) == cells for n, cells in example["cells"].items())
    assert not found.same
    assert any("visits.parquet" in line for line in found.manifest)
    assert json.dumps(found.to_json(), default=str)


def test_rows_of_one_key_meet_in_their_order_and_rows_without_a_partner_are_counted(root: Path) -> None:
    twice = pa.concat_tables([rows(8), rows(8), rows(4)])
    a_set(root, twice).to_parquet(root / "a")
    a_set(root, rows(8)).to_parquet(root / "b")
    found = diff(root / "a", root / "b")
    assert (found.matched, found.only_in_first, found.only_in_second) == (8, 12, 0)
    assert all(c.differing == 0 for c in found.columns)
    assert not found.same
    empty = pa.table({"city": pa.array([None, None], pa.string()), "ts": pa.array([T0, T0], INSTANT)})
    a_set(root, empty).to_parquet(root / "c")
    a_set(root, empty).to_parquet(root / "d")
    assert diff(root / "c", root / "d").matched == 2


def test_columns_and_types_that_differ_are_said(root: Path) -> None:
    a_set(root).to_parquet(root / "a")
    training_set(root, rows(), visits(fs.count().over(hours(1)), fs.latest("n").named("x"))).to_parquet(
        root / "b"
    )
    found = diff(root / "a", root / "b")
    assert f"column 'tag' is only in {root / 'a'}" in found.schema
    assert "column 'x' is DOUBLE and BIGINT" in found.schema
    assert any(line.startswith("service.fingerprint") for line in found.manifest)
    moved = pq.read_table(root / "b").rename_columns(["city", "ts", "label", "count_1h", "tag"])
    (root / "c").mkdir()
    pq.write_table(moved, root / "c" / "x.parquet")
    texts = diff(root / "a", root / "c", ["city", "ts", "label"])
    assert "column 'tag' is VARCHAR and BIGINT" in texts.schema
    assert next(c for c in texts.columns if c.name == "tag").differing > 0
    assert texts.manifest == ("the second has no manifest",)


def test_what_cannot_be_compared_is_refused(root: Path) -> None:
    (part,) = a_set(root).to_parquet(root / "a")
    bare, torn, void = (root / name for name in ("bare", "torn", "void"))
    for folder in (bare, torn, void):
        folder.mkdir()
    shutil.copy(part, bare / "part.parquet")
    (torn / "part.parquet").write_bytes(b"no")
    for a, b, key, says in (
        (root / "a", root / "nowhere", None, "nowhere does not exist"),
        (root / "a", void, None, "holds no Parquet files"),
        (root / "a", torn, None, "cannot be read"),
        (bare, bare, None, "neither set has a manifest"),
        (root / "a", bare, ["citty"], "(?s)has no column 'citty'.*did you mean 'city'"),
        (root / "a", bare, [], "a key is at least one column"),
    ):
        with pytest.raises(DatasetError, match=says):
            diff(a, b, key)
    assert diff(bare, root / "a").same
    table = pq.read_table(part)
    pq.write_table(table.set_column(3, "count_1h", pa.array([7] * 60)), part)
    with pytest.raises(DatasetError, match=r"(?s)is not what was written.*part-00000\.parquet was changed"):
        diff(root / "a", bare)


# ---------------------------------------------------------------------------------------------------------------- splits


def times(part: TrainingSet) -> list[int]:
    return [int(v.value) for v in part.to_arrow()["ts"]]


def labels(part: TrainingSet) -> list[int]:
    return part.to_arrow()["i"].to_pylist()


def numbered(count: int = 400) -> pa.Table:
    return rows(count).append_column("i", pa.array(range(count)))


def test_a_split_by_time_cuts_at_moments_and_leaves_a_gap(root: Path) -> None:
    cut = T0 + 10 * HOUR
    parts = a_set(root).split("time", at="2013-07-01T10:00:00")
    assert list(parts) == ["train", "test"]
    assert times(parts["train"]) + times(parts["test"]) == times(a_set(root))
    assert max(times(parts["train"])) < cut <= min(times(parts["test"]))
    gone = a_set(root).split("time", at=[cut, cut + 5 * HOUR], gap=hours(2))
    assert list(gone) == ["train", "validation", "test"]
    assert max(times(gone["train"])) == cut - 3 * HOUR
    assert (min(times(gone["validation"])), max(times(gone["validation"]))) == (cut, cut + 2 * HOUR)
    assert min(times(gone["test"])) == cut + 5 * HOUR
    same = a_set(root).split("time", at=[cut, cut + 5 * HOUR], gap=dt.timedelta(hours=2))
    assert times(same["train"]) == times(gone["train"])


def test_a_gap_longer_than_a_part_leaves_nothing_of_it_and_touches_no_other(root: Path) -> None:
    cut = T0 + 10 * HOUR
    parts = a_set(root).split("time", at=[cut, cut + HOUR], gap=hours(5))
    assert max(times(parts["train"])) < cut - 5 * HOUR
    assert parts["validation"].to_arrow().num_rows == 0
    assert min(times(parts["test"])) == cut + HOUR


def test_a_split_by_fractions_of_time_keeps_rows_of_one_moment_together(root: Path) -> None:
    parts = a_set(root, numbered()).split("time", {"past": 0.7, "now": 0.3})
    past, now = times(parts["past"]), times(parts["now"])
    assert len(past) == 280
    assert max(past) < min(now)
    with pytest.raises(DatasetError, match="leave a part without rows"):
        a_set(root, spine_of(*[("Ulm", T0)] * 9)).split("time", [0.5, 0.5])


def test_values_of_parts_are_those_of_the_whole(root: Path) -> None:
    whole = {r["i"]: r for r in a_set(root, numbered()).to_arrow().to_pylist()}
    for parts in (
        a_set(root, numbered()).split("time", [0.5, 0.3, 0.2]),
        a_set(root, numbered()).split("group", [0.5, 0.5], column="city"),
        a_set(root, numbered()).split("random", [0.5, 0.5], seed=3),
    ):
        found = [r for part in parts.values() for r in part.to_arrow().to_pylist()]
        assert sorted(r["i"] for r in found) == list(range(400))
        assert all(r == whole[r["i"]] for r in found)


def test_groups_stay_together_and_stay_where_they_are_when_rows_are_added(root: Path) -> None:
    def cities(count: int) -> pa.Table:
        named = [None if i % 50 == 0 else f"c{i % 200}" for i in range(count)]
        return pa.table({"city": pa.array(named), "ts": pa.array([T0] * count, INSTANT)})

    def groups(spine: pa.Table, seed: int = 0) -> dict[str, set[str | None]]:
        parts = a_set(root, spine).split("group", [0.6, 0.2, 0.2], column="city", seed=seed)
        return {name: set(part.to_arrow()["city"].to_pylist()) for name, part in parts.items()}

    few, all_of_them = groups(cities(100)), groups(cities(1000).take(np.arange(999, -1, -1)))
    assert not few["train"] & few["test"]
    assert all(few[name] <= all_of_them[name] for name in few)
    assert 90 <= len(all_of_them["train"]) <= 145
    assert groups(cities(100), seed=1) != few
    narrow = pa.table({"id": pa.array([1, 2, None], pa.int32())})
    wide = pa.table({"id": pa.array([1, 2, None], pa.int64())})
    assert chances(narrow) == chances(wide)


def chances(table: pa.Table) -> list[int]:
    import duckdb

    from featurestore.datasets.chance import of_values

    return of_values(duckdb.connect(), table, table.column_names, "0/0").tolist()


def test_chance_is_the_same_on_every_machine_and_in_every_version() -> None:
    from featurestore.datasets.chance import of_positions

    assert of_positions(0, 3, "0/0").tolist() == POSITIONS
    assert of_positions(1, 2, "0/0").tolist() == POSITIONS[1:]
    at = pa.array([0, None], pa.timestamp("ns", "Europe/Berlin"))
    assert chances(pa.table({"a": ["x", None], "b": [1, 2], "c": at})) == VALUES


POSITIONS = [1674387183432844245, 15209813671136990686, 9160761967653421396]
VALUES = [
    2705871119118216056,
    8140234045087965620,
]  # of the MD5 of "values:0/0 1:x1:11:0" and "values:0/0 -1:2-"


def test_a_random_split_is_about_as_large_as_asked_and_comes_out_the_same(root: Path) -> None:
    def part(seed: int = 0, count: int = 400) -> list[int]:
        return labels(a_set(root, numbered(count)).split("random", [0.75, 0.25], seed=seed)["test"])

    assert 70 <= len(part()) <= 130
    assert part() == part()
    assert part() != part(seed=1)
    assert [i for i in part() if i < 100] == part(count=100)
    by_value = a_set(root, numbered()).split("random", [0.5, 0.5], columns=["city", "ts"])
    flipped = a_set(root, numbered().take(np.arange(399, -1, -1))).split(
        "random", [0.5, 0.5], columns=["city", "ts"]
    )
    assert sorted(labels(by_value["test"])) == sorted(labels(flipped["test"]))


def test_a_part_is_split_and_sampled_anew(root: Path) -> None:
    outer = a_set(root, numbered()).split("random", [0.5, 0.5], columns=["i"])
    inner = outer["train"].split("random", [0.5, 0.5], columns=["i"])
    sizes = [len(labels(inner[n])) for n in ("train", "test")]
    assert sum(sizes) == len(labels(outer["train"]))
    assert min(sizes) > 60
    some = outer["test"].sample(n=10)
    assert set(labels(some)) <= set(labels(outer["test"]))


def test_parts_behave_like_training_sets(root: Path) -> None:
    parts = a_set(root).split("time", [0.5, 0.5])
    table = parts["test"].to_arrow()
    assert pa.Table.from_batches(parts["test"].batches(7)).equals(table.combine_chunks())
    assert len(parts["test"].to_pandas()) == table.num_rows
    parts.to_parquet(root / "out")
    assert pq.read_table(root / "out" / "test" / "part-00000.parquet").to_pylist() == table.to_pylist()
    said = load(root / "out" / "test").content["spine"]["from"]
    assert said["split"]["part"] == "test"
    done = reproduce(parts["test"].config, root / "out" / "test", root / "again")
    assert done.identical


def test_a_split_of_a_file_reads_the_file(root: Path) -> None:
    pq.write_table(rows(), root / "rows.parquet")
    pa.csv.write_csv(rows(), root / "rows.csv")
    want = times(a_set(root).split("time", [0.5, 0.5])["test"])
    assert times(a_set(root, root / "rows.parquet").split("time", [0.5, 0.5])["test"]) == want
    assert times(a_set(root, str(root / "rows.csv")).split("time", [0.5, 0.5])["test"]) == want


BAD_SPLITS: dict[str, tuple[dict[str, Any], str]] = {
    "fractions do not sum": ({"by": "random", "fractions": [0.5, 0.4]}, r"add up to 0\.9, not to 1"),
    "a fraction is nothing": ({"by": "random", "fractions": [1.0, 0.0]}, "give more than 0"),
    "there is one part": ({"by": "random", "fractions": [1.0]}, "at least two parts"),
    "there are no fractions": ({"by": "random"}, "name the fractions"),
    "a part has no name of a folder": (
        {"by": "random", "fractions": {"a/b": 0.5, "c": 0.5}},
        "not a name for a part",
    ),
    "a group has no column": ({"by": "group", "fractions": [0.5, 0.5]}, "needs the column"),
    "a column is unknown": (
        {"by": "group", "fractions": [0.5, 0.5], "column": "citty"},
        "(?s)no column 'citty'.*did you mean 'city'",
    ),
    "a hashed column is unknown": (
        {"by": "random", "fractions": [0.5, 0.5], "columns": ["z"]},
        "no column 'z'",
    ),
    "by is no way": ({"by": "weather", "fractions": [0.5, 0.5]}, "by 'weather' is not offered"),
    "an option is of another way": (
        {"by": "random", "fractions": [0.5, 0.5], "gap": hours(1)},
        "gap= means nothing",
    ),
    "time has neither": ({"by": "time"}, "either at=, the moments to cut at, or fractions"),
    "time has both": ({"by": "time", "at": T0, "fractions": [0.5, 0.5]}, "either at="),
    "moments go back": ({"by": "time", "at": [T0, T0]}, "each after the one before"),
    "a gap is negative": ({"by": "time", "at": T0, "gap": dt.timedelta(-1)}, "less than nothing"),
}


@pytest.mark.parametrize("mistake", BAD_SPLITS)
def test_a_split_is_refused_when(mistake: str, root: Path) -> None:
    options, says = BAD_SPLITS[mistake]
    with pytest.raises(DatasetError, match=says):
        a_set(root).split(**options)


def test_rows_that_come_only_once_and_rows_that_are_none_are_refused(root: Path) -> None:
    reader = pa.RecordBatchReader.from_batches(rows().schema, rows().to_batches())
    with pytest.raises(DatasetError, match="can be read only once"):
        a_set(root, reader).split("random", [0.5, 0.5])
    with pytest.raises(DatasetError, match="no rows to split"):
        a_set(root, rows(0)).split("time", [0.5, 0.5])
    nothing = a_set(root, rows(0)).split("random", [0.5, 0.5])
    assert nothing["test"].to_arrow().num_rows == 0
    assert nothing["test"].to_arrow().column_names == a_set(root).to_arrow().column_names
    with pytest.raises(KeyError, match="no part 'tset'; there is train, test"):
        nothing["tset"]


# --------------------------------------------------------------------------------------------------------------- samples


def test_a_sample_has_a_weight_for_the_rows_it_stands_for(root: Path) -> None:
    whole = a_set(root, numbered(2000))
    some = whole.sample(0.25, seed=1).to_arrow()
    assert 420 <= some.num_rows <= 580
    assert set(some["weight"].to_pylist()) == {4.0}
    assert some.column_names[:5] == ["city", "ts", "label", "i", "weight"]
    assert some["i"].to_pylist() == sorted(some["i"].to_pylist())
    exact = whole.sample(n=100).to_arrow()
    assert (exact.num_rows, set(exact["weight"].to_pylist())) == (100, {20.0})
    assert whole.sample(n=5000).to_arrow().num_rows == 2000
    assert whole.sample(n=100).to_arrow().equals(exact)
    assert not whole.sample(n=100, seed=2).to_arrow().equals(exact)


def test_a_sample_by_strata_adds_up_to_each_of_them(root: Path) -> None:
    whole = a_set(root, numbered(2000))
    for options, kept in (
        ({"n": 30}, {True: 30, False: 30}),
        ({"fraction": 0.1}, {True: 40, False: 160}),
        ({"fraction": {False: 0.05}}, {True: 400, False: 80}),
    ):
        table = whole.sample(by="label", **options).to_arrow()
        for value, size in ((True, 400), (False, 1600)):
            mine = [r["weight"] for r in table.to_pylist() if r["label"] is value]
            assert len(mine) == kept[value]
            assert sum(mine) == pytest.approx(size)
    with_null = numbered(50).set_column(2, "label", pa.array([None, "a"] * 25))
    few = a_set(root, with_null).sample(n=3, by="label").to_arrow()
    assert few.num_rows == 6
    encoded = with_null.set_column(2, "label", with_null["label"].dictionary_encode())
    assert a_set(root, encoded).sample(n=3, by="label").to_arrow()["i"].equals(few["i"])


def test_a_sample_is_made_again_from_its_manifest(root: Path) -> None:
    some = a_set(root, numbered()).sample(n=50, by="city", weight="w")
    some.to_parquet(root / "out")
    assert load(root / "out").spine_columns == ["city", "ts", "label", "i", "w"]
    assert reproduce(some.config, root / "out", root / "again").identical


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "either a fraction of the rows or n"),
        ({"fraction": 0.1, "n": 3}, "either a fraction of the rows or n"),
        ({"fraction": 0.0}, "give more than 0"),
        ({"fraction": 1.5}, "1 at most"),
        ({"n": 0}, "n=0 is not a number of rows"),
        ({"fraction": {True: 0.5}}, "need the column"),
        ({"fraction": {"yes": 0.5}, "by": "label"}, "no row has 'yes' in column 'label'"),
        ({"n": 3, "by": "lable"}, "(?s)no column 'lable'.*did you mean 'label'"),
        ({"fraction": 0.5, "weight": "label"}, "there is a column 'label' already"),
        ({"fraction": 0.5, "weight": "tag"}, "there is a column 'tag' already"),
    ],
)
def test_a_sample_is_refused_when_it_is_asked_for_wrongly(
    options: dict[str, Any], says: str, root: Path
) -> None:
    with pytest.raises(DatasetError, match=says):
        a_set(root).sample(**options)
    assert a_set(root, rows(0)).sample(n=3).to_arrow().num_rows == 0


# ----------------------------------------------------------------------------------------------------------------- twins


def test_twins_across_parts_are_counted_and_shown(tmp_path: Path) -> None:
    values = {"a": 100.0, "b": 100.00001, "c": 200.0, "d": 100.0, "e": None}
    write(tmp_path, [{"city": c, "at": T0, "seq": 1, "x": x, "tag": "t"} for c, x in values.items()])
    view = visits(fs.latest("x"), fs.latest("tag"))
    late = T0 + HOUR
    train = training_set(tmp_path, spine_of(("a", late), ("c", late), ("Rom", late)), view)
    test = training_set(
        tmp_path, spine_of(("d", late), ("b", late), ("e", late), ("d", late), ("Rom", late)), view
    )
    found = near_duplicates({"train": train, "test": test}, tolerance=1e-3)
    (pair,) = found.pairs
    assert (pair.exact, pair.near) == (2, 3)
    assert (found.rows, found.empty) == ({"train": 3, "test": 5}, {"train": 1, "test": 1})
    assert pair.examples[0] == {"first_row": 0, "second_row": 0, "x": 100.0, "tag": "t"}
    assert found
    assert "test: 2 of 5 rows are in train too, 3 within a tolerance of 0.001" in str(found)
    assert json.dumps(found.to_json())
    tight = near_duplicates({"train": train, "test": test}, tolerance=1e-12)
    assert (tight.pairs[0].exact, tight.pairs[0].near) == (2, 2)
    by_tag = near_duplicates({"train": train, "test": test}, ["tag"])
    assert by_tag.pairs[0].exact == 4
    assert not list((tmp_path / ".fs" / "offline").glob("twins-*"))


def test_splits_know_their_twins_in_slices_and_of_every_pair(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spine = pa.concat_tables([rows(40), rows(40), rows(40)])
    parts = a_set(root, spine).split("random", [0.4, 0.3, 0.3])
    found = parts.near_duplicates(examples=2)
    assert [(p.first, p.second) for p in found.pairs] == [
        ("train", "validation"),
        ("train", "test"),
        ("validation", "test"),
    ]
    tables = {
        n: part.to_arrow().select([n for n, _ in part.service.columns]).to_pylist()
        for n, part in parts.items()
    }
    for pair in found.pairs:
        have = {tuple(r.values()) for r in tables[pair.first]}
        assert pair.exact == sum(tuple(r.values()) in have for r in tables[pair.second])
        assert pair.near >= pair.exact
        assert len(pair.examples) == 2
    monkeypatch.setattr(training, "SLICE_BYTES", (64 + 24 * 5) * 7)
    assert parts.near_duplicates(examples=2).pairs == found.pairs


def test_twins_are_refused_when_asked_for_wrongly(root: Path) -> None:
    one = a_set(root)
    for parts, options, says in (
        ({"a": one}, {}, "fewer than two"),
        ({"a": one, "b": one}, {"columns": ["tga"]}, "(?s)no column 'tga'.*did you mean 'tag'"),
        ({"a": one, "b": one}, {"columns": []}, "none is named"),
        ({"a": one, "b": one}, {"tolerance": 0.0}, "not between 0 and 1"),
    ):
        with pytest.raises(DatasetError, match=says):
            near_duplicates(parts, **options)
    empty = a_set(root, rows(0))
    assert not near_duplicates({"a": empty, "b": one})


# ---------------------------------------------------------------------------------------------- entities known at a moment

DEFINITIONS = """
import featurestore as fs
from featurestore import col, days, hours, lifetime

city = fs.Entity("city", key="city", description="A <b>town</b> & its people.")
visits = fs.BatchSource("visits", fs.Parquet("visits.parquet"), "at", tiebreak=["seq"])
sizes = fs.BatchSource("sizes", fs.Parquet("sizes.parquet"))
stays = fs.FeatureView("stays", city, visits, [fs.count().over(hours(1), lifetime), fs.sum("x").over(days(1))])
tags = fs.FeatureView("tags", city, visits.where(col("n") > 5), [fs.latest("tag").default("<none>")])
size = fs.FeatureView("size", city, sizes, [fs.latest("people")])
svc = fs.FeatureService("svc", [stays, tags, size])
"""


@pytest.fixture
def store(root: Path) -> Iterator[FeatureStore]:
    """The three cities, one more that begins later, one that has only a size; applied."""
    write(root, [*EVENTS, {"city": "Rom", "at": T0 + 5 * HOUR, "seq": 1, "x": 1.0, "n": 1, "tag": "r"}])
    pq.write_table(
        pa.table({"city": ["Ulm", "Wien"], "people": [126_000, 2_000_000]}), root / "sizes.parquet"
    )
    (root / "fs.toml").write_text('[project]\nname = "cities"\n')
    (root / "definitions.py").write_text(DEFINITIONS)
    with FeatureStore(root) as found:
        found.apply()
        yield found


def at(hour: float) -> int:
    return T0 + int(hour * HOUR)


def test_a_spine_has_every_entity_known_and_none_from_the_future(store: FeatureStore) -> None:
    spine = store.spine("city", at=at(5))
    assert isinstance(spine, pa.Table)
    assert spine["city"].to_pylist() == ["Ulm", "Köln", "Bonn"]  # by first event
    assert {v.value for v in spine["event_timestamp"]} == {at(5)}
    assert "Rom" in store.spine("city", at=at(5) + 1)["city"].to_pylist()
    assert store.spine("city", at=T0 + 1)["city"].to_pylist() == ["Ulm"]
    assert store.spine("city", at=T0).num_rows == 0
    assert "Wien" not in store.spine("city", at="2030-01-01")["city"].to_pylist()
    known = store.get_historical_features(spine, "svc", statuses=True).to_arrow()
    assert set(known["count_lifetime__status"].to_pylist()) == {"PRESENT"}
    assert known["people"].to_pylist() == [126_000, None, None]


def test_a_spine_of_many_moments_is_made_when_it_is_read(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    spine = store.spine("city", start=at(0), end=at(12), every=hours(4))
    want = [(c, at(h)) for h in (0, 4, 8) for c in store.spine("city", at=at(h))["city"].to_pylist()]
    table = spine.to_arrow()
    got = list(zip(table["city"].to_pylist(), (v.value for v in table["event_timestamp"]), strict=True))
    assert got == want
    assert store.spine("city", start=at(0), end=at(12), every=dt.timedelta(hours=4)).to_arrow().equals(table)
    monkeypatch.setattr("featurestore.datasets.entities.BATCH_ROWS", 2)
    assert [b.num_rows for b in spine.batches()] == [2, 1, 2, 2]
    features = store.get_historical_features(spine, "svc")
    assert features.to_arrow().num_rows == len(want)
    assert features.to_arrow()["city"].to_pylist() == [c for c, _ in want]
    features.to_parquet(store.config.root / "out")
    assert store.reproduce(store.config.root / "out", store.config.root / "again").identical


def test_an_entity_of_static_sources_alone_is_known_always(root: Path) -> None:
    pq.write_table(
        pa.table({"city": ["Ulm", "Wien"], "people": [126_000, 2_000_000]}), root / "sizes.parquet"
    )
    (root / "fs.toml").write_text('[project]\nname = "cities"\n')
    kept = [line for line in DEFINITIONS.splitlines() if not line.startswith(("stays", "tags", "svc"))]
    (root / "definitions.py").write_text("\n".join(kept))
    with FeatureStore(root) as found:
        assert found.spine("city", at=T0, timestamp="ts")["city"].to_pylist() == ["Ulm", "Wien"]


@pytest.mark.parametrize(
    ("entity", "options", "error", "says"),
    [
        ("citty", {"at": T0}, NotFound, "did you mean 'city'"),
        ("city", {}, DatasetError, "at a moment"),
        ("city", {"at": T0, "start": T0}, DatasetError, "at a moment"),
        ("city", {"start": T0, "end": T0 + 1}, DatasetError, "at a moment"),
        ("city", {"start": T0, "end": T0, "every": hours(1)}, DatasetError, "no moment"),
        ("city", {"start": T0, "end": T0 + 1, "every": dt.timedelta(-1)}, DatasetError, "no moment"),
        ("city", {"at": T0, "timestamp": "city"}, DatasetError, "is a join key"),
    ],
)
def test_a_spine_is_refused_when_it_is_asked_for_wrongly(
    entity: str, options: dict[str, Any], error: type[Exception], says: str, store: FeatureStore
) -> None:
    with pytest.raises(error, match=says):
        store.spine(entity, **options)


# --------------------------------------------------------------------------------------------------- from a notebook


def cities(*hours_: float) -> pa.Table:
    return pa.table(
        {"city": ["Ulm"] * len(hours_), "event_timestamp": pa.array([at(h) for h in hours_], INSTANT)}
    )


def in_files(store: FeatureStore) -> dict[str, Any]:
    from featurestore.repo import load_declarations

    return {d.name: d for d in load_declarations(store.config)}


def test_what_was_never_applied_is_read_by_the_definitions_themselves(store: FeatureStore) -> None:
    stays, tags = in_files(store)["stays"], in_files(store)["tags"]
    applied = store.get_historical_features(cities(9), "svc").to_arrow().to_pylist()[0]

    def columns(asked: Any) -> dict[str, Any]:
        row = store.get_historical_features(cities(9), asked).to_arrow().to_pylist()[0]
        return {k: v for k, v in row.items() if k not in ("city", "event_timestamp")}

    assert columns(tags) == {"tag": "t2"}
    assert columns(stays["count_1h"]) == {"count_1h": applied["count_1h"]}
    assert columns("stays:count_1h") == columns(stays["count_1h"])
    assert list(columns([stays["count_1h"], tags, "stays:x_sum_1d"])) == ["count_1h", "tag", "x_sum_1d"]
    assert list(columns(["tags", "size"])) == ["tag", "people"]
    mine = fs.FeatureService("mine", [tags, stays["count_lifetime"]])
    assert list(columns(mine)) == ["tag", "count_lifetime"]


def test_a_view_written_in_a_notebook_needs_no_file(store: FeatureStore) -> None:
    town = fs.Entity("town", key="city")
    events = fs.BatchSource("events", fs.Parquet("visits.parquet"), "at")
    mine = fs.FeatureView("mine", town, events, [fs.max("x").over(hours(2))])
    row = store.get_historical_features(cities(9), [mine, "stays:count_1h"]).to_arrow().to_pylist()[0]
    assert row["x_max_2h"] == 1.5 * 8
    ratio = fs.OnDemand("ratio", mine["x_max_2h"] / in_files(store)["stays"]["count_1h"])
    assert store.get_historical_features(cities(9), [mine, ratio]).to_arrow()["ratio"].to_pylist() == [12.0]
    files_only = fs.OnDemand("twice", in_files(store)["stays"]["count_1h"] * 2)
    assert store.get_historical_features(cities(9), files_only).to_arrow()["twice"].to_pylist() == [2]
    with pytest.raises(DefinitionError, match="reads feature view 'mine', which no file declares"):
        store.get_historical_features(cities(9), ratio)
    full = store.get_historical_features(cities(9), [mine, ratio], full_names=True).to_arrow()
    assert full.column_names[2:] == ["mine__x_max_2h", "ratio"]
    assert full["ratio"].to_pylist() == [12.0]


def test_an_aggregation_edited_in_a_notebook_counts_beside_what_is_in_the_files(store: FeatureStore) -> None:
    from dataclasses import replace

    found = in_files(store)
    edited = replace(found["stays"], features=[fs.count().over(hours(3))])
    asked = [edited, "stays:count_3h", "tags:tag"]
    with pytest.raises(DefinitionError, match="count_3h"):  # the same feature twice
        store.get_historical_features(cities(9), asked)
    row = store.get_historical_features(cities(9), [edited["count_3h"], "tags:tag"]).to_arrow().to_pylist()[0]
    assert (row["count_3h"], row["tag"]) == (3, "t2")
    source = replace(found["visits"], tiebreak=["n"])
    moved = replace(edited, source=source)
    row = store.get_historical_features(cities(9), [moved, "tags"]).to_arrow().to_pylist()[0]
    assert (row["count_3h"], row["tag"]) == (3, "t2")
    with pytest.raises(NotFound, match="did you mean 'stays'"):
        store.get_historical_features(cities(9), ["stas:count_1h"])
    with pytest.raises(DefinitionError, match="cuont"):
        store.get_historical_features(cities(9), [edited["cuont_3h"]])


def test_a_manifest_names_the_version_that_was_applied(store: FeatureStore) -> None:
    store.get_historical_features(cities(9), "svc", full_names=True).to_parquet(store.config.root / "out")
    said = load(store.config.root / "out").content
    assert said["service"]["version"] == "svc@1"
    assert said["parameters"]["full_names"] is True
    assert "stays__count_1h" in [c["name"] for c in said["columns"]]
    done = store.reproduce(store.config.root / "out", store.config.root / "again")
    assert (done.identical, done.changes) == (True, ())


def shown(value: Any) -> str:
    from html.parser import HTMLParser

    text = value._repr_html_()
    depth: list[str] = []

    class Balanced(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            depth.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert depth.pop() == tag

    Balanced().feed(text)
    assert depth == []
    return str(text)


def test_a_notebook_shows_small_tables_with_everything_escaped(store: FeatureStore) -> None:
    declared = in_files(store)
    assert "A &lt;b&gt;town&lt;/b&gt; &amp; its people." in shown(declared["city"])
    assert "visits.parquet" in shown(declared["visits"])
    view = shown(declared["tags"])
    assert "&lt;none&gt;" in view
    assert "<none>" not in view
    assert "all features" in shown(declared["svc"])
    looked_up = declared["stays"].on(city="town")["count_1h"]
    service = fs.FeatureService(
        "s", [declared["tags"]["tag"], looked_up, fs.OnDemand("double", looked_up * 2)]
    )
    assert "city from town" in shown(service)
    assert "double" in shown(service)
    assert "amount" in shown(fs.RequestSource("r", {"amount": fs_float()}))
    assert "nothing would change" in shown(store.plan())
    (store.config.root / "definitions.py").write_text(DEFINITIONS.replace("hours(1)", "hours(2)"))
    assert "count_2h" in shown(store.plan())


def test_a_training_set_shows_its_first_rows_only_where_they_cost_little(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = store.get_historical_features(cities(*range(1, 15)), "svc")
    text = shown(made)
    assert "training set of svc@1" in text
    assert "count_1h (int64)" in text
    assert "the first 10 of 14 rows" in text
    assert "not computed yet" in shown(store.get_historical_features("nowhere.parquet", "svc"))
    assert "no column &#x27;event_timestamp&#x27;" in shown(store.get_historical_features(rows(), "svc"))
    monkeypatch.setattr("featurestore.datasets.preview.PREVIEW_SOURCE_BYTES", 10)
    assert "not computed yet" in shown(made)
    (store.config.root / "visits.parquet").unlink()
    assert "not computed yet" in shown(made)


def test_a_feature_vector_shows_values_and_why_one_is_missing(store: FeatureStore) -> None:
    store.materialize(end=at(9))
    text = shown(store.get_online_features("svc", {"city": ["Ulm", "<i>"]}, at=at(9)))
    assert "svc: 2 rows" in text
    assert "126000" in text
    assert "NOT_FOUND" in text
    assert "&lt;none&gt; [DEFAULT]" in text


# ------------------------------------------------------------------------------------------------- the page and the command


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that `fs init` writes, applied."""
    root = tmp_path_factory.mktemp("page") / "shop"
    run(root.parent, "init", "shop", "--until", "2025-03-31T12:00:00")
    run(root, "apply", "--yes")
    return root


def test_the_page_on_training_sets_runs_block_by_block(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop)
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks("docs/training-sets.md")):
        exec(compile(block, f"training-sets block {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "2,000 rows matched by purchase_id" in printed
    assert "rows are in train too" in printed
    assert names["again"].changes == ()
    today = names["store"].get_historical_features("data/spine.parquet", "disputes").to_arrow()
    assert names["arrived"].to_arrow().equals(today)
    assert not names["an_hour_behind"].to_arrow().equals(today)
    parts = names["by_time"]
    assert sum(part.to_arrow().num_rows for part in parts.values()) < 2_000
    assert names["some"].to_arrow()["weight"][0].as_py() == 10.0
    labels_ = names["per_label"].to_arrow()["disputed"].to_pylist()
    assert (labels_.count(True), labels_.count(False)) == (50, 50)
    assert names["everyone"].num_rows > 100
    assert names["scores"].to_arrow().num_rows > 30 * 100
    assert names["tried"].column_names[-2:] == ["amount_max_6h", "count_1h"]
    names["store"].close()


def test_the_command_writes_splits_compares_and_makes_again(shop: Path, tmp_path: Path) -> None:
    spine = ("--spine", "data/spine.parquet")

    def out(name: str) -> str:
        return str(tmp_path / name)

    whole = run_json(shop, "dataset", "disputes", *spine, "--out", out("a"))
    assert (whole["rows"], len(whole["files"])) == (2_000, 1)
    again = run_json(shop, "dataset", "reproduce", out("a"), "--out", out("b"))
    assert (again["identical"], again["changes"]) == (True, [])
    assert run_json(shop, "dataset", "diff", out("a"), out("b"))["same"] is True
    run(shop, "dataset", "disputes", *spine, "--out", out("s"), "--statuses")
    found = run_json(shop, "dataset", "diff", out("a"), out("s"), "--key", "purchase_id", status=1)
    assert (found["same"], found["matched"], found["examples"]) == (False, 2_000, [])
    assert "parameters.statuses false | true" in found["manifest"]
    assert "only in" in run(shop, "dataset", "diff", out("a"), out("s"), status=1).stdout
    options = ("--split", "time", "--at", "2025-03-20,2025-03-25", "--gap", "36h")
    parts = run_json(shop, "dataset", "disputes", *spine, "--out", out("t"), *options)["parts"]
    assert list(parts) == ["train", "validation", "test"]
    assert sum(p["rows"] for p in parts.values()) < 2_000
    by_card = ("--split", "group", "--column", "card_id", "--fractions", "0.8,0.2", "--seed", "7")
    parts = run_json(shop, "dataset", "disputes", *spine, "--out", out("g"), *by_card)["parts"]
    cards = [set(pq.read_table(out(f"g/{n}"))["card_id"].to_pylist()) for n in ("train", "test")]
    assert not cards[0] & cards[1]
    assert run(shop, "dataset", "--help").stdout.startswith("Usage: fs dataset [OPTIONS] SERVICE")
    assert run(shop, "dataset", "diff", "--help").stdout.startswith(
        "Usage: fs dataset diff [OPTIONS] FIRST SECOND"
    )


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("diff", "nowhere", "nowhere"), 1, "nowhere does not exist"),
        (("diff", "nowhere"), 2, "Missing argument 'SECOND'"),
        (("reproduce", "data", "--out", "made"), 1, "has no _manifest.json"),
        (
            ("disputes", "--spine", "data/spine.parquet", "--out", "made", "--fractions", "1"),
            2,
            "name that too",
        ),
        (
            (
                "disputes",
                "--spine",
                "data/spine.parquet",
                "--out",
                "made",
                "--split",
                "random",
                "--fractions",
                "x",
            ),
            2,
            "no numbers",
        ),
        (
            (
                "disputes",
                "--spine",
                "data/spine.parquet",
                "--out",
                "made",
                "--split",
                "random",
                "--fractions",
                "1,1",
            ),
            1,
            "add up to 2, not to 1",
        ),
        (
            (
                "disputes",
                "--spine",
                "data/spine.parquet",
                "--out",
                "made",
                "--split",
                "time",
                "--gap",
                "soon",
            ),
            2,
            "no length of time",
        ),
    ],
)
def test_the_command_says_what_is_wrong_and_leaves_nothing(
    arguments: tuple[str, ...], status: int, says: str, shop: Path
) -> None:
    done = run(shop, "dataset", *arguments, status=status)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (shop / "made").exists()
    assert not list(shop.glob(".made*"))
