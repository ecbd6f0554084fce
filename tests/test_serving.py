"""The online read: what may be asked, the shapes that come back, and what a status says of a value's exactness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featurestore import declare as d
from featurestore import ir
from featurestore.compile.sources import Connection, connect
from featurestore.declare import declarations_in
from featurestore.errors import RequestError, StoreCorrupt
from featurestore.layout import layout_of
from featurestore.lower import lower
from featurestore.materialize import _batches, materialize_view
from featurestore.online.codec import BASE, HEAD, codec_of, encode, entity_keys
from featurestore.online.state import state_name
from featurestore.online.store import OnlineStore, open_store
from featurestore.serving import Reader
from featurestore.status import Status
from featurestore.time import days, hours, minutes, seconds
from featurestore.types import Bool, Date, DType, Float64, Int32, Int64, String, Timestamp
from featurestore.types import Decimal as DecimalType
from tests.parity.cases import instant
from tests.parity.engines import declared, write

COLUMNS: Mapping[str, DType] = {
    "k": String,
    "n": Int64,
    "at": Timestamp,
    "x": Int64,
    "f": Float64,
    "flag": Bool,
    "text": String,
    "price": DecimalType(12, 2),
    "day": Date,
    "small": Int32,
}


def event(at: str, x: int | None, k: str = "a", n: int = 1) -> dict[str, Any]:
    some = x is not None
    return {
        "k": k, "n": n, "at": at, "x": x, "f": x / 2 if x is not None else None, "flag": some or None,
        "text": f"t{x}" if some else None, "price": Decimal(f"{x}.25") if some else None,
        "day": date(2024, 3, 1) if some else None, "small": x,
    }  # fmt: skip


EVENTS = [
    event("09:10", 1),
    event("12:10", 2),
    event("12:50", 3),
    event("12:59:30", 4),
    event("12:20", 10, "b", 2),
    event("12:30", None, "b", 2),
]


@dataclass
class Place:
    """A folder with events, a store, and what was declared over them."""

    root: Path
    con: Connection
    store: OnlineStore

    def service(
        self, *features: d.Aggregation, key: Sequence[str] = ("k",), ttl: Any = None, **more: Any
    ) -> Reader:
        """A reader of one view of these features."""
        source = d.BatchSource("events", batch=d.Parquet("events.parquet"), event_time="at", columns=COLUMNS)
        view = d.FeatureView("view", d.Entity("who", keys=tuple(key)), source, features, ttl=ttl)
        plan = lower(declarations_in([d.FeatureService("svc", [view], **more)]), declared)
        return Reader(
            self.store, plan.service("svc"), {v.name: v for v in plan.views}, lambda: instant("13:00")
        )

    def materialize(self, reader: Reader, end: str = "13:00", start: str | None = None) -> None:
        for view in views_of(reader):
            first = None if start is None else instant(start)
            materialize_view(self.con, self.store, view, self.root, end=instant(end), start=first)
        reader.forget()


def views_of(reader: Reader) -> list[ir.View]:
    return list({g.view.name: g.view for g in reader._groups}.values())


@pytest.fixture(scope="module")
def con() -> Iterator[Connection]:
    connection = connect(threads=1)
    yield connection
    connection.close()


@pytest.fixture
def place(tmp_path: Path, con: Connection) -> Iterator[Place]:
    write(tmp_path / "events.parquet", EVENTS, COLUMNS, {})
    with open_store("lmdb://online", tmp_path) as store:
        yield Place(tmp_path, con, store)


@pytest.fixture
def reader(place: Place) -> Reader:
    made = place.service(d.sum("x").over(hours(1)), d.latest("text"))
    place.materialize(made)
    return made


def statuses(online: Any) -> list[list[str]]:
    return [[Status(int(s)).name for s in row] for row in online.statuses]


# ------------------------------------------------------------------------------------------------------------ requests


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        ({"k": ["a"], "key": ["b"]}, "service 'svc' has no key 'key'\n  there is k"),
        ({"K1": ["a"]}, "service 'svc' has no key 'K1'"),
        ({}, "key 'k' of service 'svc' is missing\n  a request holds k"),
        ({"k": ["a", 7]}, "key 'k' of service 'svc' is 7 in row 1, and it is declared String"),
        ({"k": [b"a"]}, "is b'a' in row 0, and it is declared String"),
        ([{"k": "a"}, {"z": "b"}], "service 'svc' has no key 'z'"),
        ([{}], "key 'k' of service 'svc' is missing"),
        ({"k": np.array([1, 2])}, "is 1 in row 0, and it is declared String"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(reader: Reader, entities: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        reader.read(entities)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1", "key 'n' of service 'svc' is '1' in row 0, and it is declared Int64"),
        (1.0, "is 1.0 in row 0"),
        (True, "is True in row 0"),
        (2**63, "holds a number of more than 64 bits"),
    ],
)
def test_a_number_key_is_a_number(place: Place, value: Any, message: str) -> None:
    reader = place.service(d.sum("x").over(hours(1)), key=["n"])
    with pytest.raises(RequestError) as caught:
        reader.read({"n": [value]})
    assert message in str(caught.value)


def test_key_columns_have_one_length(place: Place) -> None:
    reader = place.service(d.sum("x").over(hours(1)), key=["k", "n"])
    with pytest.raises(RequestError, match="different lengths: k 2, n 1"):
        reader.read({"k": ["a", "b"], "n": [1]})


def test_ways_to_say_the_same_entities(place: Place) -> None:
    reader = place.service(d.sum("x").over(hours(1)), key=["k", "n"])
    place.materialize(reader)
    ways: list[Any] = [
        {"k": ["a", "a"], "n": [1, 2]},
        {"k": "a", "n": [1, 2]},
        {"k": "a", "n": (1, 2)},
        {"k": "a", "n": np.array([1, 2])},
        {"k": "a", "n": np.array([1, 2], np.int32)},
        {"k": pa.array(["a", "a"]), "n": pa.array([1, 2])},
        {"k": np.array(["a", "a"], object), "n": [1, 2]},
        [{"k": "a", "n": 1}, {"n": 2, "k": "a"}],
    ]
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    ways += [{"k": s(["a", "a"]), "n": s([1, 2])} for s in (pd.Series, pl.Series)]
    for way in ways:
        online = reader.read(way)
        assert online.to_dict() == {"x_sum_1h": [9, None]}, way
        assert statuses(online) == [["PRESENT"], ["NOT_FOUND"]]


def test_scalars_alone_are_one_row(reader: Reader) -> None:
    assert reader.read({"k": "a"}).to_dict() == {"x_sum_1h": [9], "text": ["t4"]}


@pytest.mark.parametrize("nothing", [[], {"k": []}])
def test_no_entities_give_no_rows(reader: Reader, nothing: Any) -> None:
    online = reader.read(nothing)
    assert len(online) == 0
    assert online.to_numpy().shape == (0, 1)
    assert online.mask.shape == online.statuses.shape == online.ages.shape == (0, 2)
    assert online.to_dict() == {"x_sum_1h": [], "text": []}


# -------------------------------------------------------------------------------------------------------------- results


@pytest.fixture
def wide(place: Place) -> Any:
    features = [
        d.sum("x").over(hours(1)), d.latest("text"), d.mean("f").over(hours(1)), d.latest("flag"), d.latest("price"),
        d.latest("day"), d.latest("small"), d.max("at").over(hours(1)),
    ]  # fmt: skip
    reader = place.service(*features)
    place.materialize(reader)
    return reader.read({"k": ["a", "b", "nobody", "a"]})


def test_values_have_declared_types(wide: Any) -> None:
    table = wide.to_arrow()
    assert [str(t) for t in table.schema.types] == [
        "int64", "string", "double", "bool", "decimal128(12, 2)", "date32[day]", "int32", "timestamp[us, tz=UTC]",
    ]  # fmt: skip
    assert table.slice(0, 1).to_pylist() == [
        {
            "x_sum_1h": 9, "text": "t4", "f_mean_1h": 1.5, "flag": True, "price": Decimal("4.25"),
            "day": date(2024, 3, 1), "small": 4, "at_max_1h": datetime(2024, 3, 1, 12, 59, 30, tzinfo=UTC),
        }
    ]  # fmt: skip
    assert wide.to_dict() == table.to_pydict()
    assert wide.to_polars().rows() == [tuple(r.values()) for r in table.to_pylist()]
    assert wide.to_pandas()["text"].tolist()[:1] == ["t4"]


def test_the_tensor_holds_numbers_and_booleans_in_order(wide: Any) -> None:
    assert wide.tensor_names == ("x_sum_1h", "f_mean_1h", "flag", "price", "small")
    tensor = wide.to_numpy()
    assert (tensor.dtype, tensor.shape) == (np.float32, (4, 5))
    assert tensor.flags.c_contiguous
    nan = np.nan
    want = [[9, 1.5, 1, 4.25, 4], [10, 5, nan, nan, nan], [nan] * 5, [9, 1.5, 1, 4.25, 4]]
    np.testing.assert_array_equal(tensor, np.array(want, np.float32))
    np.testing.assert_array_equal(wide.to_numpy("float64"), np.array(want))
    with pytest.raises(RequestError, match="a tensor of int8 is not offered\n  there is float32 and float64"):
        wide.to_numpy("int8")


def test_the_tensor_is_handed_over_by_dlpack(wide: Any) -> None:
    np.testing.assert_array_equal(np.from_dlpack(wide), wide.to_numpy())
    pytest.importorskip("torch")
    np.testing.assert_array_equal(wide.to_torch().numpy(), wide.to_numpy())


def test_mask_and_statuses_of_every_cell(wide: Any) -> None:
    names = statuses(wide)
    assert names[0] == names[3] == ["PRESENT"] * 8
    assert names[1] == ["PRESENT", "NULL", "PRESENT", "NULL", "NULL", "NULL", "NULL", "PRESENT"]
    assert names[2] == ["NOT_FOUND"] * 8
    assert wide.mask.tolist() == [[s == "PRESENT" for s in row] for row in names]


def test_ages_and_freshness(place: Place) -> None:
    reader = place.service(d.sum("x").over(hours(1)), d.latest("text"))
    place.materialize(reader, end="12:59:45")
    online = reader.read({"k": ["a", "b", "nobody"]})
    assert online.at == instant("13:00")
    assert online.ages.tolist() == [[30_000] * 2, [1_800_000] * 2, [-1] * 2]
    assert online.freshness == {"view": 15.0}


def test_every_read_has_a_name_and_so_have_its_rows(reader: Reader) -> None:
    one, other = reader.read({"k": ["a", "b"]}), reader.read({"k": ["a", "b"]})
    assert one.request_id != other.request_id
    assert len({*one.row_ids, *other.row_ids}) == 4


def test_a_tensor_of_texts_is_refused(place: Place) -> None:
    reader = place.service(d.latest("text"), d.last("text").over(hours(1)))
    place.materialize(reader)
    online = reader.read({"k": "a"})
    assert online.tensor_names == ()
    with pytest.raises(RequestError, match="service 'svc' has no numeric feature to make a tensor of"):
        online.to_numpy()


def test_one_view_looked_up_by_two_columns(place: Place) -> None:
    source = d.BatchSource("events", batch=d.Parquet("events.parquet"), event_time="at", columns=COLUMNS)
    view = d.FeatureView(
        "view", d.Entity("who", key="k"), source, [d.sum("x").over(hours(1)), d.latest("text")]
    )
    other = d.FeatureView("other", d.Entity("number", key="n"), source, [d.count().over(days(1))])
    service = d.FeatureService("svc", [view["text"], view.on(k="dest", prefix="dest_"), other])
    plan = lower(declarations_in([service]), declared)
    reader = Reader(place.store, plan.services[0], {v.name: v for v in plan.views}, lambda: instant("13:00"))
    place.materialize(reader)
    assert reader.key_columns == ("k", "dest", "n")
    online = reader.read({"k": ["a", "b"], "dest": ["b", "a"], "n": 1})
    assert online.to_dict() == {
        "text": ["t4", None],
        "dest_x_sum_1h": [10, 9],
        "dest_text": [None, "t4"],
        "count_1d": [4, 4],
    }


# ------------------------------------------------------------------------------------------------- reads of other moments


@pytest.mark.parametrize(
    ("end", "at", "want", "status"),
    [
        ("12:45", "12:45", 1, "PRESENT"),
        ("12:57", "12:55", 2, "PRESENT"),  # an edge between tiles, and all that its window needs was kept
        ("12:57", "12:56", 2, "PRESENT"),  # in the open tile, which holds nothing newer
        ("12:59:45", "12:59:40", 3, "PRESENT"),  # newer than the newest event
        ("12:59:45", "12:59:15", 3, "INEXACT"),  # the open tile holds an event of 12:59:30
        ("12:59:45", "12:45", 1, "INEXACT"),  # its window reaches to 11:45, and before 11:55 nothing was kept
        ("20:00", "12:55", 0, "INEXACT"),  # nothing of that hour was kept
    ],
)
def test_a_past_moment_is_exact_or_says_that_it_is_not(
    place: Place, end: str, at: str, want: int, status: str
) -> None:
    reader = place.service(d.count().over(hours(1)))
    place.materialize(reader, end=end)
    online = reader.read({"k": "a"}, at=instant(at))
    assert (online.to_dict()["count_1h"], statuses(online)) == ([want], [[status]])


def test_the_past_of_an_entity_of_which_nothing_was_dropped_is_exact(place: Place) -> None:
    """The first event of b lies within all that is kept, so no tile of it can be missing."""
    reader = place.service(d.count().over(hours(1)))
    place.materialize(reader, end="12:59:45")
    online = reader.read({"k": "b"}, at=instant("12:25"))
    assert (online.to_dict(), statuses(online)) == ({"count_1h": [1]}, [["PRESENT"]])


@pytest.mark.parametrize(
    "types", [["small", "day"], ["day", "small"], ["x", "at", "price"], ["at", "price", "x"]]
)
def test_dates_and_instants_are_no_columns_of_a_tensor(place: Place, types: list[str]) -> None:
    reader = place.service(*map(d.latest, types))
    place.materialize(reader)
    online = reader.read({"k": ["a", "nobody"]})
    values = {"small": 4.0, "x": 4.0, "price": 4.25}
    assert online.tensor_names == tuple(t for t in types if t in values)
    want = [values[t] for t in types if t in values]
    np.testing.assert_array_equal(online.to_numpy(), np.array([want, [np.nan] * len(want)], np.float32))


def test_a_window_pruned_for_one_size_may_be_whole_for_another(place: Place) -> None:
    reader = place.service(
        d.count().over(hours(1), minutes(50)), d.count().over(hours(2), hop=minutes(5)).named("two")
    )
    place.materialize(reader, end="14:00")
    online = reader.read({"k": "a"}, at=instant("13:00"))
    assert dict(zip(online.names, statuses(online)[0], strict=True))["count_1h"] == "PRESENT"
    online = reader.read({"k": "a"}, at=instant("13:30"))
    assert online.to_dict()["two"] == [3]


def test_a_latest_value_of_the_past_that_was_overwritten_is_never_made_up(place: Place) -> None:
    reader = place.service(d.latest("x"))
    place.materialize(reader)
    online = reader.read({"k": "a"}, at=instant("12:55"))
    assert online.to_dict() == {"x": [None]}
    assert statuses(online)[0][0] != "PRESENT"


def test_before_the_first_event_nothing_is_found(place: Place) -> None:
    reader = place.service(d.count().over(hours(1)), d.latest("x"))
    place.materialize(reader)
    online = reader.read({"k": "a"}, at=instant("09:10"))
    assert statuses(online)[0] == ["NOT_FOUND"] * 2
    assert online.to_dict() == {"count_1h": [0], "x": [None]}


# ------------------------------------------------------------------------------------------------- stale, missing, broken


def test_an_old_watermark_is_stale(place: Place) -> None:
    reader = place.service(d.sum("x").over(hours(1)), d.latest("small"), max_staleness=minutes(10))
    place.materialize(reader, end="12:45")
    assert statuses(reader.read({"k": ["a", "nobody"]}, at=instant("12:55"))) == [
        ["PRESENT"] * 2,
        ["NOT_FOUND"] * 2,
    ]
    late = reader.read({"k": ["a", "nobody"]}, at=instant("12:55") + 1)
    assert statuses(late) == [["STALE"] * 2, ["NOT_FOUND"] * 2]
    assert late.to_dict() == {"x_sum_1h": [2, None], "small": [2, None]}


def test_a_window_that_reaches_before_the_store_is_complete_is_stale(place: Place) -> None:
    reader = place.service(d.count().over(hours(1), hours(9)), d.latest("x"))
    place.materialize(reader, start="12:00")
    online = reader.read({"k": ["a"]})
    assert dict(zip(online.names, statuses(online)[0], strict=True)) == {
        "count_1h": "PRESENT", "count_9h": "STALE", "x": "PRESENT",
    }  # fmt: skip
    assert online.to_dict() == {"count_1h": [3], "count_9h": [3], "x": [4]}


def test_a_view_that_was_never_materialised_finds_nobody(place: Place) -> None:
    reader = place.service(d.count().over(hours(1)), d.latest("x").default(7), d.sum("x").over(hours(1)))
    online = reader.read({"k": ["a"]})
    assert statuses(online) == [["NOT_FOUND", "DEFAULT", "NOT_FOUND"]]
    assert online.freshness == {"view": None}


def test_another_definition_does_not_read_what_was_written_for_the_first(place: Place) -> None:
    place.materialize(place.service(d.count().over(hours(1))))
    other = place.service(d.sum("x").over(hours(1)))
    assert statuses(other.read({"k": ["a"]})) == [["NOT_FOUND"]]


def stored(place: Place, reader: Reader, role: bytes = BASE) -> list[tuple[bytes, bytes]]:
    (view,) = views_of(reader)
    return list(place.store.scan(codec_of(view, layout_of(view)).prefix + role))


@pytest.mark.parametrize("length", [16, 64, 71, 72, 200])
def test_a_value_that_is_cut_short_is_corrupt(place: Place, length: int) -> None:
    reader = place.service(d.sum("x").over(hours(1)), d.latest("text"))
    place.materialize(reader)
    items = stored(place, reader)
    place.store.write([(k, v[: min(length, len(v) - 8)]) for k, v in items])
    with pytest.raises(StoreCorrupt):
        reader.read({"k": ["a", "b"]})


def test_junk_under_a_key_is_corrupt(place: Place, reader: Reader) -> None:
    place.store.write([(k, b"\xff" * 128) for k, _ in stored(place, reader)])
    with pytest.raises(StoreCorrupt):
        reader.read({"k": ["a"]})


def test_a_value_under_the_hash_of_another_key_counts_as_absent(place: Place) -> None:
    long = "a" * 1000
    write(place.root / "events.parquet", [event("12:10", 2, long)], COLUMNS, {})
    reader = place.service(d.sum("x").over(hours(1)), d.latest("x"))
    place.materialize(reader)
    (view,) = views_of(reader)
    codec = codec_of(view, layout_of(view))
    (where,), _ = entity_keys(view, [["b" * 1000]], codec.prefix + BASE)
    ((_, value),) = stored(place, reader)
    place.store.write([(where, value)])
    online = reader.read({"k": [long, "b" * 1000]})
    assert statuses(online) == [["PRESENT"] * 2, ["NOT_FOUND"] * 2]


# ------------------------------------------------------------------------------------------------------ base under head


@pytest.mark.parametrize("back", [0, 5, 30, 90])
@pytest.mark.parametrize("at", ["13:00", "13:02:30"])
def test_a_head_that_still_holds_tiles_below_the_cut_counts_nothing_twice(
    place: Place, back: int, at: str
) -> None:
    """A stream keeps its tiles until a new base is published: the reader takes head from the cut on."""
    reader = place.service(
        d.sum("x").over(hours(1)), d.count().over(hours(9), hop=minutes(5)), d.last("text").over(hours(1)), d.latest("x"),
        d.mean("f").over(hours(1)), d.var_pop("x").over(hours(1)),
    )  # fmt: skip
    place.materialize(reader, end=at)
    want = reader.read({"k": ["a", "b", "nobody"]}, at=instant(at))
    (view,) = views_of(reader)
    layout = layout_of(view)
    codec = codec_of(view, layout)
    end = instant(at)
    cut = end - end % layout.grid
    early = cut - back * 60_000_000
    heads = _batches(place.con, view, layout, codec, place.root, role=HEAD, start=early, end=end)
    for batch in heads:
        values = encode(codec, batch.header(early, 7), batch.sections, batch.key_bytes)
        place.store.write(list(zip(batch.keys, values, strict=True)))
    got = reader.read({"k": ["a", "b", "nobody"]}, at=instant(at))
    assert got.to_dict() == want.to_dict()
    assert statuses(got) == statuses(want)


def test_a_reader_asks_for_watermarks_again_when_told(place: Place) -> None:
    reader = place.service(d.sum("x").over(hours(1)))
    assert reader.read({"k": "a"}).freshness == {"view": None}
    place.materialize(reader, end="12:30")
    assert reader.read({"k": "a"}).freshness == {"view": 1800.0}


def test_the_clock_is_an_argument(place: Place) -> None:
    reader = place.service(d.sum("x").over(hours(1), seconds(60)))
    place.materialize(reader)
    (view,) = views_of(reader)
    later = Reader(place.store, reader.service, {"view": view}, lambda: instant("13:30"))
    assert later.read({"k": "a"}).to_dict() == {"x_sum_1h": [7], "x_sum_1m": [None]}
    assert state_name(codec_of(view, layout_of(view))).startswith("view:")
    assert replace(view, ttl=1) != view
