"""Materialisation: written twice is written once, what vanished is gone, and views do not touch each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurestore import declare as d
from featurestore import ir, materialize
from featurestore.compile.sources import Connection, connect
from featurestore.declare import declarations_in
from featurestore.errors import SourceError, StoreFull
from featurestore.expr import col
from featurestore.layout import layout_of
from featurestore.lower import lower
from featurestore.materialize import ENTITIES, materialize_view
from featurestore.online.codec import BASE, HEAD, HEADER, codec_of
from featurestore.online.state import load_states
from featurestore.online.store import OnlineStore, open_store
from featurestore.serving import Reader
from featurestore.time import days, hours, lifetime
from featurestore.types import DType, Int64, String, Timestamp
from tests.parity.cases import instant
from tests.parity.engines import declared, write

COLUMNS: Mapping[str, DType] = {"k": String, "at": Timestamp, "x": Int64}
FEATURES = [d.sum("x").over(hours(1), lifetime), d.latest("x"), d.last("k").over(days(1))]
EVENTS = [
    {"k": "a", "at": "2023-01-01", "x": 1},
    {"k": "a", "at": "12:10", "x": 2},
    {"k": "b", "at": "12:20", "x": 4},
    {"k": "c", "at": "13:00:30", "x": 8},
    {"k": "a", "at": "13:01", "x": 16},
]


@dataclass
class Place:
    """A folder with events, a store, and views over them."""

    root: Path
    con: Connection
    store: OnlineStore

    def events(self, rows: Sequence[Mapping[str, Any]], file: str = "events") -> None:
        write(self.root / f"{file}.parquet", rows, COLUMNS, {})

    def view(
        self, *features: d.Aggregation, file: str = "events", name: str = "view", where: Any = None
    ) -> ir.View:
        source: Any = d.BatchSource(
            file, batch=d.Parquet(f"{file}.parquet"), event_time="at", columns=COLUMNS
        )
        source = source if where is None else source.where(where)
        made = d.FeatureView(name, d.Entity("who", key="k"), source, features or FEATURES)
        return lower(declarations_in([made]), declared).views[0]

    def run(self, view: ir.View, end: str, **more: Any) -> materialize.Materialized:
        return materialize_view(self.con, self.store, view, self.root, end=instant(end), **more)

    def items(self, view: ir.View) -> dict[bytes, bytes]:
        prefix = codec_of(view, layout_of(view)).prefix
        return {k: v for role in (BASE, HEAD) for k, v in self.store.scan(prefix + role)}

    def read(self, view: ir.View, at: str, keys: Sequence[str] = ("a", "b", "c")) -> dict[str, list[Any]]:
        reads = tuple(ir.Read(view.name, f.name, f.name, (("k", "k"),), f.dtype) for f in view.features)
        reader = Reader(self.store, ir.Service("svc", reads), {view.name: view})
        return reader.read({"k": list(keys)}, at=instant(at)).to_dict()


@pytest.fixture(scope="module")
def con() -> Iterator[Connection]:
    connection = connect(threads=1)
    yield connection
    connection.close()


@pytest.fixture
def place(tmp_path: Path, con: Connection) -> Iterator[Place]:
    with open_store("lmdb://online", tmp_path) as store:
        made = Place(tmp_path, con, store)
        made.events(EVENTS)
        yield made


def content(items: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Values without what counts the runs that wrote them."""
    out = {}
    for key, value in items.items():
        header = np.frombuffer(value[:64], HEADER).copy()
        header["counter"] = header["run"] = 0
        out[key] = header.tobytes() + value[64:]
    return out


def test_base_lies_before_the_cut_and_head_after(place: Place) -> None:
    view = place.view(d.sum("x").over(hours(1)))
    done = place.run(view, "13:02")
    assert (done.view, done.start, done.end, done.cut) == ("view", None, instant("13:02"), instant("13:00"))
    prefix = codec_of(view, layout_of(view)).prefix
    assert [len(list(place.store.scan(prefix + role))) for role in (BASE, HEAD)] == [2, 2]
    assert done.bytes == sum(map(len, place.items(view).values()))
    assert place.read(view, "13:02") == {"x_sum_1h": [18, 4, 8]}


def test_nothing_is_left_in_the_head_when_the_end_is_a_cut(place: Place) -> None:
    view = place.view(d.sum("x").over(hours(1)))
    place.run(view, "13:02")
    place.run(view, "14:00")
    prefix = codec_of(view, layout_of(view)).prefix
    assert not list(place.store.scan(prefix + HEAD))
    assert place.read(view, "14:00") == {"x_sum_1h": [16, None, 8]}


def test_a_run_again_writes_the_same(place: Place) -> None:
    view = place.view()
    place.run(view, "13:02")
    first = place.items(view)
    place.run(view, "13:02")
    assert content(place.items(view)) == content(first)
    place.run(view, "14:00")
    place.run(view, "13:02")  # and it may go back
    assert content(place.items(view)) == content(first)


def test_entities_that_vanished_are_removed(place: Place) -> None:
    view = place.view()
    place.run(view, "14:00")
    place.events([e for e in EVENTS if e["k"] != "b"])
    place.run(view, "14:00")
    assert place.read(view, "14:00")["x"] == [16, None, 8]
    assert {key[8:] for key in place.items(view)} == {b"a", b"c"}


@pytest.mark.parametrize("earlier", [0, 1])
def test_entities_that_a_failed_run_left_are_removed(place: Place, earlier: int) -> None:
    view = place.view()
    for _ in range(earlier):
        place.run(view, "13:02")

    class Stopped(Exception):
        pass

    def stop(name: str, total: int) -> None:
        raise Stopped

    place.events([*EVENTS, {"k": "z", "at": "12:00", "x": 1}])
    with pytest.raises(Stopped):
        place.run(view, "2024-03-02", progress=stop)
    place.events(EVENTS)
    place.run(view, "2024-03-02")
    assert {key[8:] for key in place.items(view)} == {b"a", b"b", b"c"}


def test_what_was_repaired_in_the_source_is_repaired_in_the_store(place: Place) -> None:
    view = place.view()
    place.run(view, "13:02")
    place.events([{**e, "x": 100} if e["at"] == "12:10" else e for e in EVENTS])
    place.run(view, "13:02")
    assert place.read(view, "13:02")["x_sum_1h"] == [116, 4, 8]


def test_two_views_do_not_touch_each_other(place: Place) -> None:
    one, other = place.view(name="one"), place.view(name="other", where=col("x") > 2)
    place.run(one, "14:00")
    before = place.items(one)
    place.run(other, "14:00")
    place.run(other, "14:00")
    assert place.items(one) == before
    assert place.read(one, "14:00")["x_sum_lifetime"] == [19, 4, 8]
    assert place.read(other, "14:00")["x_sum_lifetime"] == [16, 4, 8]


def test_views_of_one_meaning_share_what_is_stored(place: Place) -> None:
    """Names, defaults and owners are no part of what lies in the store."""
    one, other = (
        place.view(d.sum("x").over(hours(1))),
        place.view(d.sum("x").over(hours(1)).default(0).named("s"), name="b"),
    )
    place.run(one, "13:02")
    assert place.read(other, "13:02") == {"s": [18, 4, 8]}


def test_an_empty_source_writes_nobody_and_a_watermark(place: Place) -> None:
    place.events([])
    view = place.view()
    done = place.run(view, "14:00")
    assert (done.entities, done.bytes) == (0, 0)
    assert place.items(view) == {}
    states = load_states(place.store, {"view": codec_of(view, layout_of(view))})
    assert states["view"].end == instant("14:00")
    assert place.read(view, "14:00") == {
        name: [None] * 3 for name in ("x_sum_1h", "x_sum_lifetime", "x", "k_last_1d")
    }


def test_a_source_that_became_empty_leaves_nobody(place: Place) -> None:
    view = place.view()
    place.run(view, "14:00")
    place.events([])
    place.run(view, "14:00")
    assert place.items(view) == {}


def test_a_missing_source_leaves_the_store_as_it_was(place: Place) -> None:
    view = place.view()
    place.run(view, "13:02")
    before = place.items(view)
    (place.root / "events.parquet").unlink()
    with pytest.raises(SourceError, match="no file matches events"):
        place.run(view, "14:00")
    assert place.items(view) == before
    assert place.read(view, "13:02")["x"] == [16, 4, 8]


def test_a_source_that_changed_type_is_refused(place: Place) -> None:
    view = place.view()
    write(place.root / "events.parquet", [{"k": "a", "at": "12:00", "x": "1"}], {**COLUMNS, "x": String}, {})
    with pytest.raises(SourceError, match="column 'x' is VARCHAR, and Int64 in the plan"):
        place.run(view, "14:00")


def test_a_column_added_to_the_source_changes_nothing(place: Place) -> None:
    view = place.view()
    place.run(view, "13:02")
    before = place.items(view)
    rows = [{**e, "added": i} for i, e in enumerate(reversed(EVENTS))]
    write(place.root / "events.parquet", rows, {"added": Int64, **COLUMNS}, {})
    place.run(view, "13:02")
    assert content(place.items(view)) == content(before)


def test_start_leaves_out_what_came_before(place: Place) -> None:
    view = place.view()
    done = place.run(view, "13:02", start=instant("12:15"))
    assert done.start == instant("12:15")
    assert place.read(view, "13:02") == {
        "x_sum_1h": [16, 4, 8],
        "x_sum_lifetime": [16, 4, 8],
        "x": [16, 4, 8],
        "k_last_1d": ["a", "b", "c"],
    }


def test_a_start_after_the_cut(place: Place) -> None:
    view = place.view(d.sum("x").over(hours(1)))
    place.run(view, "13:02", start=instant("13:00:45"))
    assert place.read(view, "13:02") == {"x_sum_1h": [16, None, None]}


def test_progress_is_told_how_many_entities_are_written(place: Place) -> None:
    told: list[tuple[str, int]] = []
    view = place.view(d.sum("x").over(hours(1)))
    done = place.run(view, "14:00", progress=lambda name, total: told.append((name, total)))
    assert told
    assert {name for name, _ in told} == {"view"}
    assert [total for _, total in told] == sorted(total for _, total in told)
    assert told[-1] == ("view", done.entities) == ("view", 3)


def test_entities_are_written_some_at_a_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they are cut into batches, the same bytes lie in the store."""
    rows = [{"k": f"k{i % 97}", "at": f"12:{i % 60:02}", "x": i} for i in range(1000)]
    place.events(rows)
    view = place.view()
    place.run(view, "13:00:30")
    whole = place.items(view)
    monkeypatch.setattr(materialize, "ENTITIES", 10)
    place.run(view, "13:00:30")
    assert content(place.items(view)) == content(whole)
    assert len(whole) == 97
    assert ENTITIES > 97


def test_a_full_store_is_said_and_keeps_its_watermark(tmp_path: Path, con: Connection) -> None:
    with open_store("lmdb://online?map_size=1MiB", tmp_path) as store:
        place = Place(tmp_path, con, store)
        place.events(EVENTS)
        view = place.view()
        place.run(view, "13:02")
        place.events([{"k": "k" * 900 + str(i), "at": "12:00", "x": i} for i in range(20_000)])
        with pytest.raises(StoreFull):
            place.run(view, "14:00")
        states = load_states(store, {"view": codec_of(view, layout_of(view))})
        assert states["view"].end == instant("13:02")


def test_hops_that_do_not_nest_share_a_cut(place: Place) -> None:
    view = place.view(
        d.sum("x").over(hours(7), hop=hours(1)),
        d.sum("x").over(lifetime, hop=hours(7)),
    )
    done = place.run(view, "13:02")
    assert done.cut % (7 * 3_600_000_000) == 0
    assert place.read(view, "13:02") == {"x_sum_7h": [18, 4, 8], "x_sum_lifetime": [19, 4, 8]}
