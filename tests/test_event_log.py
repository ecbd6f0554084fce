"""The event log of a source: nothing acknowledged is lost, nothing torn is read, nothing damaged is passed over."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import gzip
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from decimal import Context
from decimal import Decimal as Dec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import EventError, LogCorrupt, LogError, LogPruned
from featurestore.log import EventLog, FilesFeed, arrow_schema, events_table, events_table_lenient
from featurestore.log.segment import SUFFIX
from featurestore.types import (
    Bool,
    Date,
    Decimal,
    DType,
    Float32,
    Float64,
    Int32,
    Int64,
    List,
    String,
    Timestamp,
    Vector,
)
from tests.forks import forks

SCHEMA: dict[str, DType] = {"card": String, "amount": Float64}
ALL: dict[str, DType] = {
    "text": String,
    "long": Int64,
    "int": Int32,
    "double": Float64,
    "float": Float32,
    "flag": Bool,
    "at": Timestamp,
    "day": Date,
    "price": Decimal(12, 2),
    "big": Decimal(38, 10),
    "tags": List(String),
    "prices": List(Decimal(6, 3)),
    "vector": Vector(3),
}
UTC = dt.UTC


def rows(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"card": f"c{i}", "amount": i / 4} for i in range(start, start + n)]


def cards(log: EventLog, offset: int = 0) -> list[str]:
    """All events from an offset on, a few rows at a time."""
    found: list[str] = []
    while True:
        batch = log.read(offset, 7)
        assert batch.table["__offset"].to_pylist() == sorted(batch.table["__offset"].to_pylist())
        found += batch.table["card"].to_pylist()
        if batch.next_offset == offset:
            return found
        offset = batch.next_offset


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog.open(tmp_path / "log", SCHEMA) as opened:
        yield opened


def segments(log: EventLog) -> list[Path]:
    return sorted(log.directory.glob(f"*{SUFFIX}"))


# ── offsets and times


def test_offsets_are_consecutive_and_reading_may_start_and_stop_anywhere(log: EventLog) -> None:
    assert (log.start(), log.end()) == (0, 0)
    assert log.read(0).table.num_rows == 0
    assert log.append(rows(3), at=10) == log_appended(0, 2, 10)
    assert log.append(rows(2, 3), at=20) == log_appended(3, 4, 20)
    batch = log.read(1, 3)
    assert batch.table.to_pylist() == [
        {"card": f"c{i}", "amount": i / 4, "__offset": i, "__appended_at": moment(10 if i < 3 else 20)}
        for i in (1, 2, 3)
    ]
    assert batch.next_offset == 4
    assert cards(log) == [f"c{i}" for i in range(5)]
    assert log.read(5).table.schema.names == ["card", "amount", "__offset", "__appended_at"]


def log_appended(first: int, last: int, at: int) -> Any:
    from featurestore.log import Appended

    return Appended(first, last, at)


def said(value: object) -> str:
    """A value as text, so that NaN is NaN and −0 is −0; Arrow's UTC is anybody's."""
    return repr(value).replace("zoneinfo.ZoneInfo(key='UTC')", repr(UTC))


def moment(us: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=UTC) + dt.timedelta(microseconds=us)


def test_a_clock_that_steps_back_does_not_turn_append_times_back(tmp_path: Path) -> None:
    with EventLog.open(tmp_path, SCHEMA, segment_bytes=1) as log:
        log.append(rows(1), at=100)
        late = log.append(rows(1), at=40)
        assert (late.appended_at, late.clamped) == (100, True)
        assert log.append(rows(1), at=101).clamped is False
        assert log.stats().clamped == 1
        log.prune(before_offset=2)
    with EventLog.open(tmp_path, SCHEMA) as log:
        assert log.append(rows(1), at=7).appended_at == 101
        assert log.read(2).table["__appended_at"].to_pylist() == [moment(101), moment(101)]


def test_an_append_of_nothing_writes_nothing(log: EventLog) -> None:
    assert log.append([], at=1).rows == 0
    assert segments(log) == []
    assert log.append(rows(1), at=1).first_offset == 0


def test_an_offset_past_the_end_is_an_error_and_not_a_long_wait(log: EventLog) -> None:
    log.append(rows(2), at=1)
    with pytest.raises(LogError, match="past the end, 2"):
        log.read(3)


def test_segments_roll_and_read_as_one(tmp_path: Path) -> None:
    with EventLog.open(tmp_path, SCHEMA, segment_bytes=2000) as log:
        for i in range(40):
            log.append(rows(5, 5 * i), at=i)
        assert len(segments(log)) > 5
        assert cards(log) == [f"c{i}" for i in range(200)]
        assert cards(log, 123) == [f"c{i}" for i in range(123, 200)]
        assert log.read(0, 1000).table.num_rows == 200
        assert log.read(0, 1000).table["card"].num_chunks == 1
        stats = log.stats()
        assert (stats.start, stats.end, stats.appends, stats.last_appended_at) == (0, 200, 40, 39)
        assert stats.bytes == sum(p.stat().st_size for p in segments(log))
        assert log.check() == ()


def test_a_second_log_object_follows_the_first_over_segments(tmp_path: Path) -> None:
    with EventLog.open(tmp_path, SCHEMA, segment_bytes=700) as one, EventLog.open(tmp_path, SCHEMA) as two:
        for i in range(30):
            (one if i % 3 else two).append(rows(2, 2 * i), at=i)
            assert one.end() == two.end() == 2 * i + 2
        assert cards(one) == cards(two) == [f"c{i}" for i in range(60)]


def test_wait_wakes_for_an_append_of_another_thread(log: EventLog) -> None:
    log.append(rows(1), at=1)
    assert log.wait(0, 0)
    start = time.monotonic()
    assert not log.wait(1, 0.05)
    assert time.monotonic() - start < 1
    thread = threading.Timer(0.1, log.append, (rows(1), 2))
    thread.start()
    assert log.wait(1, 30)
    thread.join()


def test_threads_that_append_at_once_share_a_sync(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append(rows(1), at=0)
    real, syncs = os.fsync, []

    def slow(fd: int) -> None:
        syncs.append(fd)
        time.sleep(0.02)
        real(fd)

    monkeypatch.setattr(os, "fsync", slow)
    done: list[Any] = []
    threads = [threading.Thread(target=lambda: done.append(log.append(rows(2), at=1))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(a.first_offset for a in done) == list(range(1, 41, 2))
    assert len(syncs) < 10


def test_threads_append_to_one_log_object(log: EventLog) -> None:
    def work(name: int) -> None:
        for i in range(20):
            log.append([{"card": f"{name}:{i}", "amount": 0.0}], at=i)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = cards(log)
    assert len(found) == len(set(found)) == 80
    for n in range(4):
        assert [c for c in found if c.startswith(f"{n}:")] == [f"{n}:{i}" for i in range(20)]


def test_a_directory_that_is_gone_or_none_is_named(tmp_path: Path) -> None:
    with EventLog.open(tmp_path / "log", SCHEMA) as log:
        log.append(rows(1), at=1)
        (log.directory / f"notes{SUFFIX}").touch()
        assert EventLog.open(log.directory, SCHEMA).read(0).table.num_rows == 1
        shutil.rmtree(log.directory)
        for call in (log.end, lambda: log.read(0), lambda: log.append(rows(1), at=2), log.stats):
            with pytest.raises(LogError, match="No such file"):
                call()
    (tmp_path / "file").touch()
    with pytest.raises(LogError, match="wants a directory"):
        EventLog.open(tmp_path / "file", SCHEMA)


# ── values


def test_every_type_comes_back_with_its_nulls(tmp_path: Path) -> None:
    full = {
        "text": "naïve 🎈\0",
        "long": -(2**63),
        "int": 2**31 - 1,
        "double": -0.0,
        "float": 0.5,
        "flag": False,
        "at": dt.datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        "day": dt.date(1, 1, 1),
        "price": Dec("-9999999999.99"),
        "big": Dec("1234567890123456789012345678.0123456789"),
        "tags": ["a", None, ""],
        "prices": [Dec("1.125")],
        "vector": [1.0, 2.5, -3.0],
    }
    empty = dict.fromkeys(ALL)
    with EventLog.open(tmp_path, ALL) as log:
        for events in ([full, empty], [empty, full, full], [empty]):
            log.append(events, at=1)
        table = log.read(0).table
        assert table.drop_columns(["__offset", "__appended_at"]).to_pylist() == [
            full,
            empty,
            empty,
            full,
            full,
            empty,
        ]
        assert math.copysign(1, table["double"][0].as_py()) == -1
        assert table.schema.names[: len(ALL)] == list(ALL)


_WIDE = Context(prec=60)
VALUES: Mapping[str, st.SearchStrategy] = {
    "text": st.text(st.characters(exclude_categories=["Cs"])),
    "long": st.integers(-(2**63), 2**63 - 1),
    "int": st.integers(-(2**31), 2**31 - 1),
    "double": st.floats(),
    "float": st.floats(width=32),
    "flag": st.booleans(),
    "at": st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(fold=0)),
    "day": st.dates(),
    "price": st.decimals(Dec("-9999999999.99"), Dec("9999999999.99"), places=2),
    "big": st.integers(-(10**38) + 1, 10**38 - 1).map(lambda i: Dec(i).scaleb(-10, _WIDE)),
    "tags": st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=4),
    "prices": st.lists(st.decimals(Dec("-999.999"), Dec("999.999"), places=3), max_size=3),
    "vector": st.lists(st.floats(width=32), min_size=3, max_size=3),
}


@settings(max_examples=60)
@given(
    appends=st.lists(
        st.lists(st.fixed_dictionaries({n: st.none() | s for n, s in VALUES.items()}), max_size=5), max_size=5
    ),
    segment_bytes=st.sampled_from([1, 3000, 1 << 26]),
    limit=st.integers(1, 12),
)
def test_what_is_read_is_what_was_appended(
    appends: list[list[dict[str, Any]]], segment_bytes: int, limit: int
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        EventLog.open(Path(folder), ALL, segment_bytes=segment_bytes) as log,
    ):
        for at, events in enumerate(appends):
            log.append(events, at)
        given = [(at, event) for at, events in enumerate(appends) for event in events]
        offset, found = 0, []
        while offset < log.end():
            batch = log.read(offset, limit)
            assert 0 < batch.table.num_rows <= limit
            found += batch.table.to_pylist()
            offset = batch.next_offset
        assert [r.pop("__offset") for r in found] == list(range(len(given)))
        assert [r.pop("__appended_at") for r in found] == [moment(at) for at, _ in given]
        assert said(found) == said([{n: e[n] for n in ALL} for _, e in given])


def test_a_new_schema_reads_what_the_old_one_wrote(tmp_path: Path) -> None:
    old: dict[str, DType] = {"card": String, "n": Int32, "gone": Bool}
    with EventLog.open(tmp_path, old) as log:
        log.append([{"card": "a", "n": 1, "gone": True}], at=1)
    new: dict[str, DType] = {"n": Int64, "card": String, "more": Float64}
    with EventLog.open(tmp_path, new) as log:
        assert log.append([{"card": "b", "n": 2**40, "more": 0.5}], at=2).first_offset == 1
        found = [tuple(r[n] for n in new) for r in log.read(0).table.to_pylist()]
        assert found == [(1, "a", None), (2**40, "b", 0.5)]
    with EventLog.open(tmp_path, old) as log, pytest.raises(LogError, match="'n' was appended as Int64"):
        cards(log)


def test_the_names_that_the_log_adds_are_taken(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="__offset"):
        EventLog.open(tmp_path, {"__offset": Int64})


# ── events of the wrong shape


WRONG: list[tuple[str, Any, str | None, int | None, str]] = [
    ("a missing key", [{"card": "a"}], "amount", 0, "row 0, column 'amount': the column is missing"),
    ("a misspelt key", [{"card": "a", "amuont": 1.0}], "amount", 0, "it has 'amuont'"),
    ("an extra key", [{"card": "a", "amount": 1.0, "x": 1}], "x", 0, "no such column"),
    ("a text for a number", [*rows(2), {"card": "a", "amount": "1"}], "amount", 2, "'1' is not Float64"),
    ("a number for a text", [{"card": 5, "amount": 1.0}], "card", 0, "5 is not String"),
    ("a truth for a number", [{"card": "a", "amount": True}], "amount", 0, "True is not Float64"),
    ("half a character", [{"card": "\ud800", "amount": 1.0}], "card", 0, "not valid text"),
    ("no mapping", [5], None, 0, "not int"),
    ("a missing column", pa.table({"card": ["a"]}), "amount", None, "column 'amount' is missing"),
    (
        "an extra column",
        pa.table({"card": ["a"], "amount": [1.0], "x": [1]}),
        "x",
        None,
        "not one of the source",
    ),
    (
        "a column of another type",
        pa.table({"card": [1], "amount": [1.0]}),
        "card",
        None,
        "is int64, which is not String",
    ),
    (
        "a polars frame of another type",
        pl.DataFrame({"card": ["a"], "amount": ["1"]}),
        "amount",
        None,
        "give numbers",
    ),
    (
        "a pandas frame of another type",
        pd.DataFrame({"card": ["a"], "amount": ["1"]}),
        "amount",
        None,
        "give numbers",
    ),
    (
        "a column twice",
        pa.table([["a"], [1.0], [1.0]], names=["card", "amount", "amount"]),
        "amount",
        None,
        "twice",
    ),
    ("no table at all", 7, None, None, "cannot be a int"),
    ("a text", "card", None, None, "cannot be a str"),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case[0])
def test_events_of_the_wrong_shape_are_named_and_nothing_is_written(case: Any, log: EventLog) -> None:
    _, events, column, row, message = case
    log.append(rows(1), at=1)
    size = segments(log)[0].stat().st_size
    with pytest.raises(EventError) as caught:
        log.append(events, at=2)
    assert message in str(caught.value)
    assert (caught.value.column, caught.value.row) == (column, row)
    assert segments(log)[0].stat().st_size == size
    assert log.append(rows(1), at=3).first_offset == 1


ONE: list[tuple[str, DType, Any, Any]] = [
    ("a whole number widens to a double", Float64, 5, 5.0),
    ("a whole number that a double cannot hold", Float64, 2**53 + 1, EventError),
    ("NaN stays", Float64, float("nan"), float("nan")),
    ("a double too large for a float", Float32, 1e300, EventError),
    ("a double is rounded to a float", Float32, 0.1, float(np.float32(0.1))),
    ("a whole float is no whole number", Int64, 5.0, EventError),
    ("a number past 64 bits", Int64, 2**63, EventError),
    ("a number past 32 bits", Int32, 2**31, EventError),
    ("NumPy's scalars are numbers", Int32, np.int64(7), 7),
    ("a decimal as text", Decimal(12, 2), "12.34", Dec("12.34")),
    ("a decimal as JSON's float", Decimal(12, 2), 12.34, Dec("12.34")),
    ("a decimal as a whole number", Decimal(12, 2), 12, Dec("12.00")),
    ("a decimal with zeros to spare", Decimal(12, 2), Dec("12.3400"), Dec("12.34")),
    ("a decimal with a digit too many", Decimal(12, 2), Dec("12.345"), EventError),
    ("a float with a digit too many", Decimal(12, 2), 12.345, EventError),
    ("a float that cannot vouch for its digits", Decimal(38, 2), 12345678901234567.89, EventError),
    ("a decimal that is too large", Decimal(4, 2), 100, EventError),
    ("no number at all", Decimal(4, 2), float("nan"), EventError),
    ("a text that is no number", Decimal(4, 2), "1,5", EventError),
    ("a naive time is UTC", Timestamp, dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 1, tzinfo=UTC)),  # noqa: DTZ001
    ("an instant as text", Timestamp, "2020-01-01T02:00:00+02:00", dt.datetime(2020, 1, 1, tzinfo=UTC)),
    ("a naive text is UTC", Timestamp, "2020-01-01 00:00:00", dt.datetime(2020, 1, 1, tzinfo=UTC)),
    ("a day as text", Timestamp, "2020-01-01", dt.datetime(2020, 1, 1, tzinfo=UTC)),
    (
        "nanoseconds are floored",
        Timestamp,
        "2020-01-01T00:00:00.000000999Z",
        dt.datetime(2020, 1, 1, tzinfo=UTC),
    ),
    (
        "pandas' instants are",
        Timestamp,
        pd.Timestamp("2020-01-01T00:00", tz="UTC"),
        dt.datetime(2020, 1, 1, tzinfo=UTC),
    ),
    (
        "NumPy's instants are",
        Timestamp,
        np.datetime64("2020-01-01T00:00:00", "ns"),
        dt.datetime(2020, 1, 1, tzinfo=UTC),
    ),
    ("a number is no time", Timestamp, 1577836800, EventError),
    ("a text that is no time", Timestamp, "yesterday", EventError),
    ("a day in text", Date, "2020-02-29", dt.date(2020, 2, 29)),
    ("a day that is none", Date, "2021-02-29", EventError),
    ("a moment is no day", Date, dt.datetime(2020, 1, 1, tzinfo=UTC), EventError),
    ("a number is no truth", Bool, 1, EventError),
    ("a UUID is text", String, uuid.UUID(int=1), str(uuid.UUID(int=1))),
    ("bytes are no text", String, b"a", EventError),
    ("a list of another type", List(Int64), [1, "2"], EventError),
    ("a list for a text", List(String), "ab", EventError),
    ("a vector of another size", Vector(2), [1.0], EventError),
    ("a vector from NumPy", Vector(2), np.array([1.0, 2.0], np.float32), [1.0, 2.0]),
]


@pytest.mark.parametrize("case", ONE, ids=lambda case: case[0])
def test_a_value_is_itself_or_refused(case: tuple[str, DType, Any, Any]) -> None:
    _, dtype, value, want = case
    schema = {"x": dtype}
    if want is EventError:
        with pytest.raises(EventError, match="row 1, column 'x'"):
            events_table([{"x": None}, {"x": value}], schema)
    else:
        assert said(events_table([{"x": value}], schema)["x"].to_pylist()) == said([want])
        # Its neighbours do not matter: one value of another kind makes the column go value by value.
        assert said(events_table([{"x": value}, {"x": None}], schema)["x"].to_pylist()) == said([want, None])


FRAMES: list[tuple[str, DType, pa.Array, Any]] = [
    ("a dictionary of texts", String, pa.array(["a", None]).dictionary_encode(), ["a", None]),
    ("large text", String, pa.array(["a"], pa.large_string()), ["a"]),
    ("views of text", String, pa.array(["a"], pa.string_view()), ["a"]),
    ("small whole numbers", Int64, pa.array([1, None], pa.int8()), [1, None]),
    ("unsigned numbers that fit", Int64, pa.array([5], pa.uint64()), [5]),
    ("unsigned numbers that do not", Int64, pa.array([2**63], pa.uint64()), EventError),
    ("long numbers that fit", Int32, pa.array([5], pa.int64()), [5]),
    ("long numbers that do not", Int32, pa.array([2**31], pa.int64()), EventError),
    ("floats are not whole numbers", Int64, pa.array([1.0]), EventError),
    ("doubles are not floats", Float32, pa.array([0.5]), EventError),
    ("floats are doubles", Float64, pa.array([0.5, None], pa.float32()), [0.5, None]),
    ("NaN stays", Float64, pa.array([float("nan")]), [float("nan")]),
    ("nanoseconds before 1970 are floored", Timestamp, pa.array([-1], pa.timestamp("ns")), [moment(-1)]),
    (
        "seconds in another zone",
        Timestamp,
        pa.array([5], pa.timestamp("s", "Asia/Tokyo")),
        [moment(5_000_000)],
    ),
    ("days are instants", Timestamp, pa.array([dt.date(1970, 1, 2)]), [moment(86_400_000_000)]),
    ("texts of instants", Timestamp, pa.array(["1970-01-01T00:00:01Z", None]), [moment(1_000_000), None]),
    ("days", Date, pa.array([dt.date(1970, 1, 2)], pa.date64()), [dt.date(1970, 1, 2)]),
    ("decimals of another scale", Decimal(12, 2), pa.array([Dec("1.5")]), [Dec("1.50")]),
    ("decimals that do not fit", Decimal(12, 2), pa.array([Dec("1.555")]), EventError),
    ("whole numbers as decimals", Decimal(12, 2), pa.array([15]), [Dec("15.00")]),
    ("whole numbers that do not fit", Decimal(4, 2), pa.array([1500]), EventError),
    ("texts of decimals", Decimal(12, 2), pa.array(["1.5"]), [Dec("1.50")]),
    ("floats are not decimals", Decimal(12, 2), pa.array([1.5]), EventError),
    ("lists of lists' kinds", List(Int64), pa.array([[1], None], pa.large_list(pa.int32())), [[1], None]),
    ("a vector as a list", Vector(2), pa.array([[1.0, 2.0]], pa.list_(pa.float32())), [[1.0, 2.0]]),
    ("a vector of another size", Vector(2), pa.array([[1.0]], pa.list_(pa.float32())), EventError),
    ("only NULL", Int64, pa.nulls(2), [None, None]),
    ("UUIDs", String, pa.array([uuid.UUID(int=1).bytes], pa.uuid()), [str(uuid.UUID(int=1))]),
]


@pytest.mark.parametrize("case", FRAMES, ids=lambda case: case[0])
def test_a_column_is_itself_or_refused(case: tuple[str, DType, pa.Array, Any]) -> None:
    _, dtype, column, want = case
    table = pa.table({"x": column})
    if want is EventError:
        with pytest.raises(EventError, match="column 'x'"):
            events_table(table, {"x": dtype})
    else:
        made = events_table(table, {"x": dtype})
        assert made.schema.equals(arrow_schema({"x": dtype}))
        assert said(made["x"].to_pylist()) == said(want)


def test_frames_and_dicts_make_the_same_table() -> None:
    schema: dict[str, DType] = {"card": String, "n": Int64, "amount": Float64, "at": Timestamp}
    at = dt.datetime(2020, 1, 1, 12, tzinfo=UTC)
    dicts = [
        {"card": "a", "n": 1, "amount": 0.5, "at": at},
        {"card": None, "n": None, "amount": None, "at": None},
    ]
    table = events_table(dicts, schema)
    assert events_table(pa.Table.from_pylist(dicts).select(["at", "n", "card", "amount"]), schema).equals(
        table
    )
    assert events_table(pd.DataFrame(dicts, index=["x", "y"]), schema).equals(table)
    assert events_table(pl.DataFrame(dicts), schema).equals(table)
    assert events_table(pa.Table.from_pylist(dicts).to_batches()[0], schema).equals(table)
    assert events_table(tuple(dicts), schema).equals(table)
    assert events_table([], schema).num_rows == 0


def test_what_does_not_fit_becomes_a_dead_letter_and_the_rest_goes_on() -> None:
    events = [
        *rows(2),
        {"card": 1, "amount": 1.0},
        {"card": "a"},
        5,
        {"card": "z", "amount": "x"},
        *rows(1, 9),
    ]
    table, dead = events_table_lenient(events, SCHEMA)
    assert table["card"].to_pylist() == ["c0", "c1", "c9"]
    assert [(d.row, d.column) for d in dead] == [(2, "card"), (3, "amount"), (4, None), (5, "amount")]
    assert dead[0].event == {"card": 1, "amount": 1.0}
    frame = pa.table({"n": [1, 2**40, 3]})
    table, dead = events_table_lenient(frame, {"n": Int32})
    assert table["n"].to_pylist() == [1, 3]
    assert [(d.row, d.reason, dict(d.event)) for d in dead] == [
        (1, f"{2**40} is outside Int32", {"n": 2**40})
    ]
    with pytest.raises(EventError, match="and 2 more"):
        events_table([{"card": 1, "amount": 1.0}] * 7, SCHEMA)


# ── many processes, killed at any moment


def _append_many(directory: str, name: int, count: int) -> None:
    with EventLog.open(Path(directory), SCHEMA, segment_bytes=4000) as log:
        for i in range(count):
            log.append([{"card": f"{name}:{i}:{k}", "amount": 0.0} for k in range(3)], at=i)


@pytest.mark.slow
def test_processes_append_at_once_while_another_reads(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(str(tmp_path), n, 40)) for n in range(3)]
    for worker in workers:
        worker.start()
    found: list[str] = []
    with EventLog.open(tmp_path, SCHEMA) as log:
        offset, deadline = 0, time.monotonic() + 120
        while len(found) < 360 and time.monotonic() < deadline:
            if log.wait(offset, 0.2):
                batch = log.read(offset, 50)
                assert batch.table["__offset"].to_pylist() == list(range(offset, batch.next_offset))
                found += batch.table["card"].to_pylist()
                offset = batch.next_offset
        assert cards(log) == found
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    for n in range(3):
        assert [c for c in found if c.startswith(f"{n}:")] == [
            f"{n}:{i}:{k}" for i in range(40) for k in range(3)
        ]


_VICTIM = """
from pathlib import Path
from featurestore.log import EventLog
from featurestore.types import Float64, String

def work(name, directory):
    log = EventLog.open(Path(directory), {"card": String, "amount": Float64}, segment_bytes=30_000)
    i = 0
    while True:
        # Long texts, so that a write takes long enough to be killed in.
        log.append([{"card": f"{name}:{i}:{k}:" + "x" * 4000, "amount": 0.0} for k in range(1 + i % 40)], at=i)
        print(i, flush=True)
        i += 1
"""


@pytest.mark.slow
def test_kills_lose_nothing_that_was_acknowledged_and_leave_nothing_torn(tmp_path: Path) -> None:
    draw = random.Random(7)
    acknowledged: dict[int, int] = {}
    with forks(_VICTIM) as victims:
        for name in range(20):
            victim = victims.start(name, str(tmp_path))
            assert victim.readline() == "0\n"
            time.sleep(draw.uniform(0, 0.03))
            victim.kill()
            acknowledged[name] = max([0, *map(int, victim.rest().split("\n")[:-1])])
            assert victim.wait() == -signal.SIGKILL
            if name % 3 == 0:
                # Kills between the bytes of one write are rare: make one.
                last = max(tmp_path.glob(f"*{SUFFIX}"))
                with last.open("ab") as file:
                    whole = last.read_bytes()
                    start = whole.rfind(b"FRM1")
                    file.write(whole[start : start + draw.randrange(1, len(whole) - start)])
            with EventLog.open(tmp_path, SCHEMA) as log:
                found = [":".join(c.split(":")[:3]) for c in cards(log)]
                assert log.check() == ()
            assert len(found) == len(set(found))
            for victim_name, last_i in acknowledged.items():
                mine = [c for c in found if c.startswith(f"{victim_name}:")]
                # Whole appends, in order; at most one that was written and not yet acknowledged.
                for upto in (last_i, last_i + 1):
                    if mine == [f"{victim_name}:{i}:{k}" for i in range(upto + 1) for k in range(1 + i % 40)]:
                        break
                else:
                    pytest.fail(f"process {victim_name} acknowledged {last_i}, and the log has {mine[-3:]}")


def three(tmp_path: Path) -> tuple[EventLog, Path, list[tuple[int, int]]]:
    """A log of three appends of 4 rows in one segment, and where each frame begins and ends."""
    log = EventLog.open(tmp_path, SCHEMA)
    log.append(rows(4), at=0)
    path = segments(log)[0]
    ends = [path.read_bytes().index(b"FRM1"), path.stat().st_size]
    for i in (1, 2):
        log.append(rows(4, 4 * i), at=i)
        ends.append(path.stat().st_size)
    return log, path, list(pairwise(ends))


def test_every_torn_end_is_passed_over_and_written_over(tmp_path: Path) -> None:
    log, path, frames = three(tmp_path)
    log.close()
    whole = path.read_bytes()
    begin, end = frames[2]
    for cut in range(begin, end):
        path.write_bytes(whole[:cut])
        with EventLog.open(tmp_path, SCHEMA) as again:
            assert again.end() == 8
            assert cards(again) == [f"c{i}" for i in range(8)]
            if cut % 17 == 0:
                again.append(rows(2, 50), at=9)
                assert cards(again) == [*(f"c{i}" for i in range(8)), "c50", "c51"]
                assert again.check() == ()


@pytest.mark.parametrize("kept", [0, 10, 60, 200])
def test_zeros_in_place_of_an_end_are_torn_as_a_loss_of_power_leaves_them(tmp_path: Path, kept: int) -> None:
    log, path, frames = three(tmp_path)
    log.close()
    whole = path.read_bytes()
    begin, end = frames[2]
    for length in (end, end + 4096):
        path.write_bytes(whole[: begin + kept].ljust(length, b"\0"))
        with EventLog.open(tmp_path, SCHEMA) as again:
            if 0 < kept < 48:  # half a header and zeros: no kill leaves that, and so it is said
                with pytest.raises(LogCorrupt):
                    again.end()
                continue
            assert cards(again) == [f"c{i}" for i in range(8)]


def test_a_torn_end_that_another_process_replaces_does_not_confuse_a_reader(tmp_path: Path) -> None:
    log, path, frames = three(tmp_path)
    whole = path.read_bytes()
    begin, end = frames[2]
    path.write_bytes(whole[: end - 20])
    with EventLog.open(tmp_path, SCHEMA) as reader, EventLog.open(tmp_path, SCHEMA) as writer:
        assert reader.end() == 8
        writer.append(rows(30, 100), at=5)
        assert cards(reader, 8) == [f"c{i}" for i in range(100, 130)]
    log.close()
    assert begin < end


PLACES: dict[str, Callable[[tuple[int, int]], int]] = {
    "magic": lambda frame: frame[0],
    "checksum": lambda frame: frame[0] + 5,
    "length": lambda frame: frame[0] + 8,
    "offset": lambda frame: frame[0] + 17,
    "rows": lambda frame: frame[0] + 33,
    "payload": lambda frame: frame[0] + 48 + 50,
    "payload's end": lambda frame: frame[1] - 9 - 8,
    "end": lambda frame: frame[1] - 8,
}


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("place", PLACES)
def test_a_flipped_byte_is_named_never_read_and_can_be_set_aside(
    tmp_path: Path, which: int, place: str
) -> None:
    log, path, frames = three(tmp_path)
    log.close()
    data = bytearray(path.read_bytes())
    position = PLACES[place](frames[which])
    data[position] ^= 0x10
    path.write_bytes(data)
    with EventLog.open(tmp_path, SCHEMA) as again:
        before = [f"c{i}" for i in range(4 * which)]
        if which:
            assert again.wait(0, 0)
            assert again.read(0).table["card"].to_pylist() == before
        with pytest.raises(LogCorrupt) as caught:
            again.read(4 * which)
        assert caught.value.offset == 4 * which
        assert caught.value.file == path
        assert caught.value.position == frames[which][0]
        assert "EventLog.skip" in str(caught.value)
        assert [e.offset for e in again.check()] == [4 * which]
        for offset in {0, 4, 8} - {4 * which}:
            with pytest.raises(LogError, match="nothing is damaged"):
                again.skip(offset)
        skipped = again.skip(4 * which)
        begin, end = frames[which]
        assert skipped.file.read_bytes()[: end - begin] == bytes(data[begin:end])
        assert again.check() == ()
        after = [f"c{i}" for i in range(12) if i // 4 != which]
        assert cards_over_gaps(again) == after
        assert again.stats().skipped == skipped.rows
        assert again.stats().bad_files == (skipped.file,)
        if which < 2:
            assert skipped.rows == 4
        added = again.append(rows(1, 77), at=9)
        assert added.first_offset >= 12
        assert again.read(added.first_offset).table["card"].to_pylist() == ["c77"]
        assert again.read(4 * which).skipped == skipped.rows


def test_wherever_a_byte_flips_no_wrong_event_is_read(tmp_path: Path) -> None:
    log, path, _ = three(tmp_path)
    log.close()
    whole = path.read_bytes()
    right = [f"c{i}" for i in range(12)]
    draw = random.Random(11)
    for position in draw.sample(range(len(whole)), 120):
        data = bytearray(whole)
        data[position] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        with EventLog.open(tmp_path, SCHEMA) as again:
            found: list[str] = []
            try:
                while len(found) < 12:
                    found += again.read(len(found), 3).table["card"].to_pylist()
            except LogCorrupt as error:
                assert error.offset == len(found)  # noqa: PT017 (a flip of padding harms nothing)
            assert found == right[: len(found)]


def cards_over_gaps(log: EventLog) -> list[str]:
    return list(log.read(0, 10_000).table["card"].to_pylist())


@pytest.mark.parametrize("flip", [0, 9, 17, 30, 50])
def test_a_damaged_header_of_a_segment_is_written_anew_without_losing_an_event(
    tmp_path: Path, flip: int
) -> None:
    with EventLog.open(tmp_path, SCHEMA, segment_bytes=600) as log:
        for i in range(12):
            log.append(rows(2, 2 * i), at=i)
        path = segments(log)[2]
        data = bytearray(path.read_bytes())
        data[flip] ^= 1
        path.write_bytes(data)
        (error,) = log.check()
        assert error.offset is not None
        assert (error.file, error.position) == (path, 0)
        with pytest.raises(LogCorrupt):
            log.read(error.offset)
        assert log.skip(error.offset).rows == 0
        assert cards(log) == [f"c{i}" for i in range(24)]
        assert log.check() == ()


def test_a_segment_of_which_nothing_is_left_leaves_a_gap_of_its_size(tmp_path: Path) -> None:
    with EventLog.open(tmp_path, SCHEMA, segment_bytes=600) as log:
        for i in range(12):
            log.append(rows(2, 2 * i), at=i)
        path, following = segments(log)[1:3]
        path.write_bytes(b"?" * path.stat().st_size)
        first, after = (int(p.name.removesuffix(SUFFIX)) for p in (path, following))
        assert log.skip(first).rows == after - first
        batch = log.read(0, 1000)
        assert batch.skipped == after - first
        assert batch.table["__offset"].to_pylist() == [i for i in range(24) if not first <= i < after]


def test_a_sealed_segment_that_lost_its_end_is_corrupt_not_short(tmp_path: Path) -> None:
    with EventLog.open(tmp_path, SCHEMA, segment_bytes=600) as log:
        for i in range(12):
            log.append(rows(2, 2 * i), at=i)
        path = segments(log)[0]
        os.truncate(path, path.stat().st_size - 5)
        (error,) = log.check()
        assert error.offset is not None
        with pytest.raises(LogCorrupt):
            log.read(error.offset)
        assert log.skip(error.offset).rows == 2
        assert len(cards_over_gaps(log)) == 22


# ── a disk that refuses


def test_a_full_disk_refuses_the_append_and_keeps_the_log(tmp_path: Path) -> None:
    log, path, _ = three(tmp_path)
    size = path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
    try:
        with pytest.raises(LogError, match="nothing was appended"):
            log.append(rows(50), at=9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.stat().st_size == size
    assert log.append(rows(1, 12), at=10).first_offset == 12
    assert cards(log) == [f"c{i}" for i in range(13)]
    log.close()


@pytest.mark.parametrize("call", ["fsync", "pwritev"])
def test_a_disk_that_fails_leaves_the_log_as_it_was(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, path, _ = three(tmp_path)
    size = path.stat().st_size
    real = os.pwritev

    def fails(fd: int, *rest: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    def begins(fd: int, parts: Any, position: int) -> int:
        return real(fd, [b"".join(parts)[:60]], position)  # a part, and then no more

    with monkeypatch.context() as patched:
        if call == "pwritev":
            patched.setattr(os, "pwritev", begins)
            patched.setattr(os, "pwrite", fails)
        else:
            patched.setattr(os, call, fails)
        with pytest.raises(LogError, match="No space left"):
            log.append(rows(50), at=9)
    assert path.stat().st_size == size
    assert log.append(rows(1, 12), at=10).first_offset == 12
    assert cards(log) == [f"c{i}" for i in range(13)]
    log.close()


# ── pruning


def test_pruning_removes_whole_segments_and_says_so_to_who_comes_late(tmp_path: Path) -> None:
    with EventLog.open(tmp_path, SCHEMA, segment_bytes=600) as log:
        for i in range(12):
            log.append(rows(2, 2 * i), at=i)
        files = segments(log)
        firsts = [int(p.name.removesuffix(SUFFIX)) for p in files]
        with pytest.raises(LogError, match="prune what"):
            log.prune()
        assert log.prune(before_offset=firsts[1] - 1).segments == 0
        pruned = log.prune(before_offset=firsts[2] + 1)
        assert (pruned.segments, pruned.start, log.start()) == (2, firsts[2], firsts[2])
        with pytest.raises(LogPruned) as caught:
            log.read(0)
        assert caught.value.start == firsts[2]
        assert cards(log, firsts[2])[0] == f"c{firsts[2]}"
        # The last append before the fourth segment was at its first offset / 2 - 1.
        assert log.prune(older_than=firsts[3] // 2 - 1).segments == 0
        assert log.prune(older_than=firsts[3] // 2).segments == 1
        assert log.prune(older_than=1 << 60).start == firsts[-1]
        assert log.end() == 24
        assert log.append(rows(1), at=99).first_offset == 24


def test_reading_goes_on_while_segments_are_pruned(tmp_path: Path) -> None:
    with EventLog.open(tmp_path, SCHEMA, segment_bytes=2000) as log, EventLog.open(tmp_path, SCHEMA) as other:
        for i in range(100):
            log.append(rows(5, 5 * i), at=i)
        stop = threading.Event()

        def prune() -> None:
            for offset in range(0, 500, 10):
                other.prune(before_offset=offset)
                time.sleep(0.001)
            stop.set()

        thread = threading.Thread(target=prune)
        thread.start()
        offset = 0
        while offset < 500:
            try:
                batch = log.read(offset, 3)
            except LogPruned as pruned:
                offset = pruned.start
                continue
            first = batch.table["__offset"].to_pylist()[0]
            assert first == offset
            assert batch.table["card"].to_pylist()[0] == f"c{first}"
            offset = batch.next_offset
        thread.join()
        assert stop.is_set()


# ── folders of files

EVENTS: dict[str, DType] = {"card": String, "n": Int64, "price": Decimal(8, 2), "at": Timestamp, "ok": Bool}
NOW = 2_000_000_000_000_000


def drop(folder: Path, name: str, text: str | bytes | pa.Table, mtime: int = 1_000_000_000) -> Path:
    path = folder / name
    if isinstance(text, pa.Table):
        pq.write_table(text, path, row_group_size=100)
    else:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    os.utime(path, (mtime, mtime))
    return path


def take_all(
    feed: FilesFeed, position: Any = None, limit: int = 1000
) -> tuple[list[Any], list[Any], Any, list[Any]]:
    """Everything that is ready: events, dead letters, the position (as JSON keeps it), and changed files."""
    found: list[Any] = []
    dead: list[Any] = []
    changed: list[Any] = []
    while True:
        batch = feed.read(position, NOW, limit)
        position = json.loads(json.dumps(batch.position))
        found += batch.table.to_pylist()
        dead += batch.dead
        changed += batch.changed
        if batch.file is None:
            return found, dead, position, changed


def event(i: int) -> dict[str, Any]:
    return {"card": f"c{i}", "n": i, "price": Dec(i) / 4, "at": moment(i), "ok": i % 2 == 0}


def as_file(kind: str, events: list[dict[str, Any]]) -> str | pa.Table:
    if kind == "parquet":
        return events_table(events, EVENTS)
    flat = [{**e, "price": str(e["price"]), "at": e["at"].isoformat(), "ignored": 1} for e in events]
    if kind == "json":
        return "".join(json.dumps(e) + "\n" for e in flat)
    return "card,ok,ignored,n,price,at\n" + "".join(
        f"{e['card']},{str(e['ok']).lower()},1,{e['n']},{e['price']},{e['at']}\n" for e in flat
    )


@pytest.mark.parametrize("limit", [1, 7, 1000])
@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
def test_files_are_read_once_in_the_order_they_were_written(tmp_path: Path, kind: str, limit: int) -> None:
    events = [event(i) for i in range(30)]
    drop(tmp_path, f"b.{kind}", as_file(kind, events[:10]), 100)
    drop(tmp_path, f"a.{kind}", as_file(kind, events[10:20]), 200)
    drop(tmp_path, f"c.{kind}", as_file(kind, events[20:]), 200)
    feed = FilesFeed(tmp_path, kind, EVENTS)
    found, dead, position, changed = take_all(feed, None, limit)
    assert (found, dead, changed) == (events, [], [])
    assert take_all(FilesFeed(tmp_path, kind, EVENTS), position) == ([], [], position, [])
    # From any position kept on the way another process goes on with the next event.
    position, seen = None, 0
    while seen < 30:
        with FilesFeed(tmp_path, kind, EVENTS) as feed:
            batch = feed.read(position, NOW, limit)
        assert batch.table.to_pylist() == events[seen : seen + batch.table.num_rows]
        position, seen = batch.position, seen + batch.table.num_rows


def test_unfinished_and_foreign_files_are_left_alone(tmp_path: Path) -> None:
    line = as_file("json", [event(1)])
    for name in (".a.json", "_a.json", "a.json.tmp", "a.json.part", "a.txt", "a.parquet"):
        drop(tmp_path, name, line)
    (tmp_path / "sub.json").mkdir()
    assert FilesFeed(tmp_path, "json", EVENTS).read(None, NOW).file is None


def test_a_file_that_still_changes_waits(tmp_path: Path) -> None:
    line = as_file("json", [event(1)])
    drop(tmp_path, "a.json", line, NOW // 1_000_000 - 1)
    feed = FilesFeed(tmp_path, "json", EVENTS, settle=2_000_000)
    assert feed.read(None, NOW).waiting == ("a.json",)
    drop(tmp_path, "a.json", str(line) * 2, NOW // 1_000_000 + 1)
    assert feed.read(None, NOW + 2_000_000).waiting == ("a.json",)
    assert feed.read(None, NOW + 3_500_000).table.num_rows == 2
    # A clock that runs ahead: seen unchanged for as long is enough.
    drop(tmp_path, "a.json", line, NOW // 1_000_000 + 10_000)
    feed = FilesFeed(tmp_path, "json", EVENTS)
    assert feed.read(None, NOW).file is None
    assert feed.read(None, NOW + 2_000_000).table.num_rows == 1


def test_a_changed_file_is_reported_once_and_not_read_again(tmp_path: Path) -> None:
    drop(tmp_path, "a.json", as_file("json", [event(1)]))
    drop(tmp_path, "b.json", as_file("json", [event(2)]))
    feed = FilesFeed(tmp_path, "json", EVENTS)
    _, _, position, _ = take_all(feed)
    drop(tmp_path, "a.json", as_file("json", [event(1), event(5)]), 2_000_000_00)
    drop(tmp_path, "b.json", as_file("json", [event(2)]), 300_000_000)  # the same bytes, only touched
    found, _, position, changed = take_all(feed, position)
    assert found == []
    assert [(c.name, c.rows, c.gone) for c in changed] == [("a.json", 1, False)]
    assert take_all(feed, position)[3] == []
    # Bytes of the same number, changed within, are noticed too.
    same = str(as_file("json", [event(2)])).replace("c2", "c3")
    drop(tmp_path, "b.json", same, 400_000_000)
    assert [c.name for c in take_all(feed, position)[3]] == ["b.json"]


def test_a_renamed_file_is_the_same_and_a_removed_one_no_matter(tmp_path: Path) -> None:
    path = drop(tmp_path, "a.json", as_file("json", [event(1)]))
    drop(tmp_path, "b.json", as_file("json", [event(2)]))
    feed = FilesFeed(tmp_path, "json", EVENTS)
    _, _, position, _ = take_all(feed)
    path.rename(tmp_path / "z.json")
    (tmp_path / "b.json").unlink()
    found, _, position, changed = take_all(feed, position)
    assert (found, changed) == ([], [])
    assert sorted(position) == ["b.json", "z.json"]
    assert sorted(feed.compact(position)) == ["z.json"]


@pytest.mark.parametrize("gone", [False, True])
def test_a_file_that_changes_while_half_read_ends_there(tmp_path: Path, gone: bool) -> None:
    path = drop(tmp_path, "a.json", as_file("json", [event(i) for i in range(5)]))
    feed = FilesFeed(tmp_path, "json", EVENTS)
    batch = feed.read(None, NOW, 2)
    assert batch.table.num_rows == 2
    path.unlink()
    if not gone:
        drop(tmp_path, "a.json", as_file("json", [event(9)] * 5), 50)
    drop(tmp_path, "b.json", as_file("json", [event(7)]))
    found, _, _, changed = take_all(feed, batch.position, 2)
    assert found == [event(7)]
    assert [(c.name, c.rows, c.gone) for c in changed] == [("a.json", 2, gone)]


def test_lines_that_do_not_fit_are_dead_letters_of_their_file(tmp_path: Path) -> None:
    good = str(as_file("json", [event(1)]))
    drop(tmp_path, "a.json", good + "{not json\n\n" + good.replace('"n": 1', '"n": "1"') + good)
    found, dead, *_ = take_all(FilesFeed(tmp_path, "json", EVENTS), None, 2)
    assert found == [event(1), event(1)]
    assert [(d.row, d.column) for d in dead] == [(1, None), (2, "n")]
    assert dead[0].event == {"line": "{not json"}
    drop(
        tmp_path,
        "c.csv",
        "card,n,price,at,ok\na,1,1.5,2020-01-01,true\nb,x,,,\n,,,,\nc,0x10,1,2020-01-01,yes\n",
    )
    found, dead, *_ = take_all(FilesFeed(tmp_path, "csv", EVENTS))
    assert [r["card"] for r in found] == ["a", None]
    assert [(d.row, d.column) for d in dead] == [(1, "n"), (3, "n")]


def test_a_key_that_is_not_there_is_null_in_a_file_as_it_is_for_batch(tmp_path: Path) -> None:
    drop(tmp_path, "a.json", '{"card": "a"}\n')
    found, *_ = take_all(FilesFeed(tmp_path, "json", EVENTS))
    assert found == [{"card": "a", "n": None, "price": None, "at": None, "ok": None}]


def test_files_may_be_compressed_or_one_json_array(tmp_path: Path) -> None:
    drop(tmp_path, "a.ndjson.gz", gzip.compress(str(as_file("json", [event(1)])).encode()), 1)
    drop(tmp_path, "b.json", f"[{str(as_file('json', [event(2)])).strip()}]", 2)
    drop(tmp_path, "empty.json", "", 3)
    assert take_all(FilesFeed(tmp_path, "json", EVENTS))[0] == [event(1), event(2)]
    drop(tmp_path, "a.csv.gz", gzip.compress(str(as_file("csv", [event(3)])).encode()))
    assert take_all(FilesFeed(tmp_path, "csv", EVENTS))[0] == [event(3)]


@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
def test_a_file_that_is_not_what_it_should_be_is_named_and_can_be_skipped(tmp_path: Path, kind: str) -> None:
    broken = {"parquet": b"PAR1nonsense", "csv": b"card,n,price,at,ok\na,1\n", "json": b"[1, 2"}[kind]
    drop(tmp_path, f"a.{kind}", broken, 1)
    drop(tmp_path, f"b.{kind}", as_file(kind, [event(1)]), 2)
    feed = FilesFeed(tmp_path, kind, EVENTS)
    with pytest.raises(LogCorrupt, match="skip") as caught:
        feed.read(None, NOW)
    assert caught.value.offset is None
    position = feed.skip(None, f"a.{kind}")
    assert take_all(feed, position)[0] == [event(1)]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_file_without_a_column_is_named(tmp_path: Path, kind: str) -> None:
    drop(tmp_path, f"a.{kind}", pa.table({"crd": ["a"]}) if kind == "parquet" else "crd\na\n")
    with pytest.raises(EventError, match="column 'card' is missing"):
        FilesFeed(tmp_path, kind, EVENTS).read(None, NOW)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="No such file"):
        FilesFeed(tmp_path / "nowhere", "json", EVENTS).read(None, NOW)
    with pytest.raises(LogError, match="there is parquet, csv, json"):
        FilesFeed(tmp_path, "avro", EVENTS)


def test_a_position_that_is_kept_survives_a_kill_between_any_two_reads(tmp_path: Path) -> None:
    events = [event(i) for i in range(50)]
    for i in range(5):
        drop(tmp_path, f"{i}.json", as_file("json", events[10 * i : 10 * i + 10]), i + 1)
    draw, kept = random.Random(3), None
    found: list[Any] = []
    feed = FilesFeed(tmp_path, "json", EVENTS)
    while True:
        batch = feed.read(kept, NOW, draw.randrange(1, 8))
        if batch.file is None:
            break
        if draw.random() < 0.3:
            continue  # killed before it was kept: the same events come again
        if draw.random() < 0.3:
            feed.close()
            feed = FilesFeed(tmp_path, "json", EVENTS)
        kept, found = json.loads(json.dumps(batch.position)), [*found, *batch.table.to_pylist()]
    assert found == events


def test_closing_twice_and_using_a_closed_log_is_fine(log: EventLog) -> None:
    log.append(rows(1), at=1)
    log.close()
    log.close()
    with contextlib.suppress(LogError):
        log.append(rows(1), at=2)
    assert log.end() == 2
