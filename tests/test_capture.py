"""What is served is kept: bit for bit, under the meaning it had, each row once, whatever becomes of the process or the disk."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import FeatureStore
from featurestore.capture import CapturedSchema, CaptureLog
from featurestore.errors import CaptureConflict, CaptureError, DefinitionError, NotFound, RequestError
from featurestore.serving.captured import entity_hashes
from featurestore.serving.recorder import LogSink, Recorder
from featurestore.types import DType, Int64, String

NOW = datetime(2026, 1, 5, tzinfo=UTC)
CARDS = 25

DEFINITIONS = """
from featurestore import *

card = Entity("card", key="card_id")
paid = BatchSource("paid", batch=Parquet("paid.parquet"), event_time="at",
                   columns={"card_id": Int64, "at": Timestamp, "amount": Float64, "who": String, "n": Int64})
newest = FeatureView("newest", entity=card, source=paid, features=[latest("amount"), latest("who"), latest("n").default(7)])
spent = FeatureView("spent", entity=card, source=paid, features=[
    count().over(hours(1)), mean("amount").over(days(7)), last_k("who", 3).over(days(7)), most_frequent("who", 2).over(days(7)),
])
asked = RequestSource("asked", columns={"x": Float64})
ratio = OnDemand("ratio", asked["x"] / spent["amount_mean_7d"], default=1.0)
pay = FeatureService("pay", features=[newest, spent, ratio], capture=Capture(retention=None))
some = FeatureService("some", features=[newest], capture=Capture(sample=0.25, context={"arm": String}))
each = FeatureService("each", features=[newest], capture=Capture(sample=0.25, by="request"))
silent = FeatureService("silent", features=[newest])
"""


def project(path: Path, definitions: str = DEFINITIONS) -> Path:
    n = range(400)
    table = pa.table(
        {
            "card_id": pa.array([i % CARDS for i in n], pa.int64()),
            "at": pa.array([NOW - timedelta(minutes=400 - i) for i in n], pa.timestamp("us", tz="UTC")),
            "amount": pa.array([None if i % 7 == 0 else i / 3 for i in n], pa.float64()),
            "who": pa.array([None if i % 11 == 0 else f"m{i % 4}" for i in n]),
            "n": pa.array([None if i % 5 == 0 else i for i in n], pa.int64()),
        }
    )
    pq.write_table(table, path / "paid.parquet")
    (path / "fs.toml").write_text('[project]\nname = "captured"\n')
    (path / "definitions.py").write_text(definitions)
    with FeatureStore(path) as store:
        store.apply()
        store.materialize(end=NOW)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("captured"))


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FeatureStore]:
    """The project, with a capture log of the test's own."""
    monkeypatch.setenv("FS_CAPTURE_PATH", str(tmp_path / "capture"))
    with FeatureStore(made) as opened:
        yield opened


def captured(store: FeatureStore, service: str, **bounds: Any) -> pa.Table:
    return pa.concat_tables([rows.table for rows in store.capture.rows(service, **bounds)])


def differing(read: Any, rows: dict[str, dict[str, Any]]) -> int:
    """Cells of a read that are not what was captured of them, in type, value, presence or status."""
    given, wrong = read.to_dict(), 0
    for i, row_id in enumerate(read.row_ids):
        row = rows[row_id]
        wrong += row["statuses"] != "".join(map(str, read.statuses[i].tolist()))
        wrong += sum(row[f"feature:{name}"] != given[name][i] for name in read.names)
    return wrong


def by_id(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["row_id"]: row for row in table.to_pylist(maps_as_pydicts="strict")}


def ask(store: FeatureStore, *cards: int | None, **more: Any) -> Any:
    return store.get_online_features("pay", {"card_id": list(cards)}, request={"x": 2.0}, at=NOW, **more)


def test_a_captured_vector_is_the_served_one(store: FeatureStore) -> None:
    reads = [
        ask(store, i % 30, None, 99, 3) for i in range(40)
    ]  # known, NULL and unknown, together and by themselves
    reads += [ask(store, i) for i in range(30)]
    assert store.capture.flush().kept == 190
    rows = by_id(captured(store, "pay"))
    assert len(rows) == 190
    assert sum(differing(read, rows) for read in reads) == 0
    row = rows[reads[0].row_ids[0]]
    assert (row["key:card_id"], row["request:x"], row["at"], row["version"]) == (0, 2.0, NOW, 1)
    assert row["watermarks"] == '{"newest": 1767571200000000, "spent": 1767571200000000}'
    assert (row["degraded"], row["scaler"], row["context"]) == (False, None, None)


def test_readers_and_event_loops_are_captured_too(store: FeatureStore) -> None:
    reader = store.reader("some")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader._tap, "kind", _all_of(reader._tap.kind))  # type: ignore[union-attr]
        one = reader.get(np.array([1, 2]))

        async def several() -> list[Any]:
            return await asyncio.gather(*(reader.get_async(np.array([i])) for i in range(5)))

        reads = [one, *asyncio.run(several())]
        reader.get(np.array([1]), capture=False)
        store.capture.flush()
    rows = by_id(captured(store, "some"))
    assert rows.keys() == {row_id for read in reads for row_id in read.row_ids}
    assert sum(differing(read, rows) for read in reads) == 0


def _all_of(kind: Any) -> Any:
    from dataclasses import replace

    return replace(kind, capture=replace(kind.capture, sample=1.0))


LEAN = """
import sys
from featurestore import FeatureStore
with FeatureStore(sys.argv[1]) as store:
    store.get_online_features("pay", {"card_id": [1, None, 99]}, request={"x": [1.0, 2.0, 3.0]}, context={"arm": "b"})
    store.get_online_features("some", {"card_id": list(range(100))})
    store.get_online_features("each", {"card_id": [1]})
    assert store.capture.flush().kept
    print(sorted({"pandas", "polars", "torch"} & sys.modules.keys()))
"""


def test_capture_loads_nothing_that_serving_has_no_use_for(made: Path, tmp_path: Path) -> None:
    """Whoever has pandas beside waits for it, and holds its memory, where a frame is asked for and nowhere else."""
    environment = {**os.environ, "FS_CAPTURE_PATH": str(tmp_path / "capture")}
    done = subprocess.run(
        [sys.executable, "-c", LEAN, str(made)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_service_that_declares_no_capture_is_not_captured(store: FeatureStore) -> None:
    store.get_online_features("silent", {"card_id": [1]})
    assert store.capture.flush().offered == 0
    with pytest.raises(NotFound, match="silent"):
        captured(store, "silent")


def test_what_the_caller_tells_is_kept_for_each_row(store: FeatureStore) -> None:
    ask(store, 1, 2, context={"arm": "b", "position": [3, 1], "propensity": np.array([0.5, 0.25])})
    store.capture.flush()
    told = captured(store, "pay")["context"].to_pylist()
    assert told == [
        '{"arm": "b", "position": 3, "propensity": 0.5}',
        '{"arm": "b", "position": 1, "propensity": 0.25}',
    ]
    with pytest.raises(RequestError, match="'position' has 1 values for 2 rows"):
        ask(store, 1, 2, context={"position": [1]})


def test_the_callers_arrays_are_its_own_again(store: FeatureStore) -> None:
    keys, reader = np.array([4, 5]), store.reader("pay")
    reader.get({"card_id": keys}, request={"x": np.array([1.0, 2.0])}, at=NOW)
    keys[:] = 0
    store.capture.flush()
    assert captured(store, "pay")["key:card_id"].to_pylist() == [4, 5]


def test_a_sampled_entity_is_kept_with_all_its_requests(store: FeatureStore) -> None:
    for _ in range(3):
        store.get_online_features("some", {"card_id": list(range(400))})
    counts = store.capture.flush()
    chosen = entity_hashes([(list(range(400)), Int64)]) < np.uint64(2**62)
    kept = captured(store, "some")["key:card_id"].to_pylist()
    assert sorted(kept) == sorted(np.flatnonzero(chosen).tolist() * 3)
    assert counts.kept + counts.sampled_out == 1200


def test_a_request_is_sampled_as_a_whole(store: FeatureStore) -> None:
    for _ in range(100):
        store.get_online_features("each", {"card_id": [1, 2, 3]})
    store.capture.flush()
    table = captured(store, "each")
    rows = table["request_id"].value_counts().to_pylist()
    assert {r["counts"] for r in rows} == {3}
    assert 5 < len(rows) < 50


def test_the_fraction_of_entities_is_exact() -> None:
    """Of all hashes those below the fraction; and hashes are spread evenly."""
    drawn = entity_hashes([(list(range(200_000)), Int64)])
    for sample in (0.01, 0.1, 0.5):
        share = (drawn < np.uint64(int(sample * 2**64))).mean()
        assert abs(share - sample) < 4 * np.sqrt(sample * (1 - sample) / len(drawn))
    assert entity_hashes([([1], Int64)]).tolist() == entity_hashes([([1, 2], Int64)])[:1].tolist()
    pair: list[tuple[list[Any], DType]] = [(["a", "ab", None], String), (["bc", "c", "c"], String)]
    assert len(set(entity_hashes(pair).tolist())) == 3


@settings(max_examples=25)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_a_cursor_resumes_anywhere(made: Path, sizes: list[int], random: Any) -> None:
    """However rows were appended, compacted and read in between, each comes once and in order."""
    import tempfile

    schema = CapturedSchema("s", "f", (("k", Int64),), (), ())
    with tempfile.TemporaryDirectory() as path:
        log = CaptureLog(Path(path))
        folder = log.folder(schema)
        cursor: Any = {}
        seen: list[int] = []
        count = 0
        with folder.open() as events:
            for size in sizes:
                if size:
                    events.append(stored(schema, range(count, count + size)), 0)
                count += size
                if random.random() < 0.3:
                    compacted(folder)
                if random.random() < 0.3:
                    for rows in log.read("s", after=cursor, size=random.randint(1, 20)):
                        cursor, seen = rows.cursor, seen + rows.table["key:k"].to_pylist()
        for rows in log.read("s", after=cursor):
            seen += rows.table["key:k"].to_pylist()
        assert seen == list(range(count))


def compacted(folder: Any, **more: Any) -> Any:
    from featurestore.capture.compact import compact

    return compact(folder, 0, **more)


def stored(schema: CapturedSchema, keys: Any) -> pa.Table:
    """Rows of a schema with one key, served on the first day there is, three a day from then on."""
    from featurestore.log.events import arrow_schema

    values = {"key:k": list(keys), "request_id": [f"r{k}" for k in keys], "row": [0] * len(keys)}
    times = pa.array([k // 3 * 86_400_000_000 for k in keys], pa.int64()).view(pa.timestamp("us", tz="UTC"))
    rows = pa.table({**values, "at": times, "served_at": times})
    wanted = arrow_schema(schema.columns)
    return pa.table(
        [
            rows[f.name].cast(f.type) if f.name in rows.column_names else pa.nulls(len(keys), f.type)
            for f in wanted
        ],
        schema=wanted,
    )


def test_files_lie_by_service_meaning_and_day(store: FeatureStore, tmp_path: Path) -> None:
    ask(store, 1, 2)
    store.capture.flush()
    (done,) = store.capture.compact("pay")
    assert (done.rows, done.files) == (2, 1)
    (file,) = (tmp_path / "capture").rglob("*.parquet")
    day = datetime.now(UTC).date()
    assert file.parts[-4:-1] == ("service=pay", f"fingerprint={done.fingerprint}", f"day={day}")
    ask(store, 3)
    store.capture.flush()
    assert captured(store, "pay")["key:card_id"].to_pylist() == [1, 2, 3]
    (status,) = store.capture.status()
    assert (status.rows, status.logged_rows, status.files) == (3, 1, 1)


def test_what_is_past_its_retention_goes_by_the_day(tmp_path: Path) -> None:
    schema = CapturedSchema("s", "f", (("k", Int64),), (), ())
    folder = CaptureLog(tmp_path).folder(schema)
    with folder.open() as log:
        log.append(stored(schema, range(9)), 0)
    from featurestore.capture.compact import compact

    day = 86_400_000_000
    assert compact(folder, 2 * day, retention=day + 1).removed == 0
    assert compact(folder, 3 * day, retention=day + 1).removed == 3
    (rows,) = CaptureLog(tmp_path).read("s")
    assert rows.table["key:k"].to_pylist() == list(range(3, 9))


def test_a_changed_definition_is_another_schema(tmp_path: Path) -> None:
    """What was `amount` stays with its meaning; the new `amount` lies beside it."""
    path = project(tmp_path)
    with FeatureStore(path) as store:
        ask(store, 1)
        old = store.capture.flush()
        changed = DEFINITIONS.replace('latest("amount")', 'latest("n").named("amount")').replace(
            ', latest("n").default(7)', ""
        )
        retired = "\n".join(line for line in changed.splitlines() if not line.startswith("pay ="))
        for text in (
            retired,
            changed,
        ):  # what has served may not change; retired, its name is free for another version
            (path / "definitions.py").write_text(text)
            store.apply()
        store.materialize(end=NOW)
        ask(store, 1)
        store.capture.flush()
        assert old.kept == 1
        first, second = store.capture.rows("pay")
        assert first.schema.fingerprint != second.schema.fingerprint
        assert first.table["feature:amount"].type == pa.float64()
        assert second.table["feature:amount"].type == pa.int64()
        assert dict(second.cursor) == {first.schema.fingerprint: 1, second.schema.fingerprint: 1}


def test_rows_are_not_kept_under_the_schema_of_others(tmp_path: Path) -> None:
    log = CaptureLog(tmp_path)
    log.folder(CapturedSchema("s", "f", (("k", Int64),), (), ()))
    with pytest.raises(CaptureConflict, match="not kept"):
        log.folder(CapturedSchema("s", "f", (("k", String),), (), ()))


def test_under_overload_rows_are_shed_and_counted(made: Path, tmp_path: Path) -> None:
    """The sink stands still: reads go on, and what does not fit the buffer is counted."""
    let_go = threading.Event()

    class Slow(LogSink):
        def write(self, *given: Any) -> Any:
            let_go.wait(60)
            return super().write(*given)

    recorder = Recorder(lambda: Slow(CaptureLog(tmp_path)), buffer_rows=10, linger=0.001)
    with FeatureStore(made) as store:
        service, views = store.service("silent")
        read = store.get_online_features("silent", {"card_id": [1, 2, 3]})
        tap = recorder.tap(_with_capture(service), views, 1)
        assert tap is not None
        took = [tap.offer(read) for _ in range(5)]
        assert took == [True, True, True, False, False]
        assert recorder.counts().shed == 6
        with pytest.raises(CaptureError, match="9 rows were not on disk within"):
            recorder.flush(0.01)
        let_go.set()
        assert recorder.flush(60).kept == 9
        assert tap.offer(read)
        recorder.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_that_nobody_foresaw_is_told_and_capture_goes_on(made: Path, tmp_path: Path) -> None:
    errors, waited = [TypeError("a slip")], threading.Event()

    class Slips(LogSink):
        def write(self, *given: Any) -> Any:
            if errors:
                waited.wait(60)
                raise errors.pop()
            return super().write(*given)

    recorder = Recorder(lambda: Slips(CaptureLog(tmp_path)), linger=0.001)
    with FeatureStore(made) as store:
        service, views = store.service("silent")
        read = store.get_online_features("silent", {"card_id": [1, 2, 3]})
    tap = recorder.tap(_with_capture(service), views, 1)
    assert tap is not None
    assert tap.offer(read)
    threading.Timer(0.3, waited.set).start()
    with pytest.raises(CaptureError, match="3 rows are not kept yet: an error that nobody foresaw"):
        recorder.flush(60)
    assert recorder.flush(60).kept == 3  # by another thread
    assert tap.offer(read)
    counts = recorder.flush(60)
    assert (counts.kept, counts.failed, counts.waiting) == (6, 0, 0)
    recorder.close()


def _with_capture(service: Any) -> Any:
    from dataclasses import replace

    from featurestore.ir import Capture

    return replace(service, capture=Capture())


def test_a_full_disk_loses_nothing_that_was_acknowledged(made: Path, tmp_path: Path) -> None:
    """A file may not grow: `flush` says so, and once it may, the rows that waited are there."""
    recorder = Recorder(lambda: LogSink(CaptureLog(tmp_path)), linger=0.001)
    with FeatureStore(made) as store:
        service, views = store.service("silent")
        read = store.get_online_features("silent", {"card_id": list(range(50))})
    tap = recorder.tap(_with_capture(service), views, 1)
    assert tap is not None
    tap.offer(read)
    recorder.flush(60)
    (segment,) = tmp_path.rglob("*.segment")
    was, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (segment.stat().st_size + 100, limits[1]))
        tap.offer(read)
        with pytest.raises(CaptureError, match="50 rows are not kept yet"):
            recorder.flush(60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, was)
    assert recorder.flush(60).kept == 100
    recorder.close()
    rows = [row for rows in CaptureLog(tmp_path).read("silent") for row in rows.table["row_id"].to_pylist()]
    assert len(rows) == 100


def test_a_flipped_byte_is_set_aside_and_counted(store: FeatureStore, tmp_path: Path) -> None:
    for card in range(5):
        ask(store, card)
        store.capture.flush()
    (segment,) = (tmp_path / "capture").rglob("*.segment")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    assert len(captured(store, "pay")) == 4
    (status,) = store.capture.status()
    assert (status.rows, status.damaged_rows, len(status.bad_files)) == (4, 1, 1)
    ask(store, 9)
    store.capture.flush()
    store.capture.compact()
    assert captured(store, "pay")["key:card_id"].to_pylist()[-1] == 9


def test_a_torn_last_segment_is_mended_by_the_next_writer(store: FeatureStore, tmp_path: Path) -> None:
    ask(store, 1)
    store.capture.flush()
    store.close()  # the process is gone
    (segment,) = (tmp_path / "capture").rglob("*.segment")
    whole = segment.read_bytes()
    frame = whole.index(b"FRM1")
    segment.write_bytes(whole + whole[frame : frame + 100])  # the beginning of an append that did not end
    with FeatureStore(store.config.root) as again:
        ask(again, 2)
        again.capture.flush()
        assert captured(again, "pay")["key:card_id"].to_pylist() == [1, 2]


def test_a_clock_that_steps_back_takes_no_row_away(store: FeatureStore, tmp_path: Path) -> None:
    """What was served later by the log is later in the log, and has the time that its clock said."""
    moments = [5_000_000]
    recorder = Recorder(lambda: LogSink(CaptureLog(tmp_path)), linger=0.001, clock=lambda: moments[-1])
    service, views = store.service("silent")
    tap = recorder.tap(_with_capture(service), views, 1)
    assert tap is not None
    for moment in (5_000_000, 3_000_000, 4_000_000):
        moments.append(moment)
        tap.offer(store.get_online_features("silent", {"card_id": [1]}))
        recorder.flush(60)
    recorder.close()
    table = pa.concat_tables([rows.table for rows in CaptureLog(tmp_path).read("silent")])
    assert table["served_at"].cast(pa.int64()).to_pylist() == [5_000_000, 3_000_000, 4_000_000]
    assert table["__appended_at"].cast(pa.int64()).to_pylist() == [5_000_000] * 3
    (folder,) = CaptureLog(tmp_path).folders("silent")
    with folder.open() as log:
        assert log.stats().clamped == 2


def test_a_reader_goes_on_through_a_compaction(tmp_path: Path) -> None:
    """Rows that it was about to read from the log lie in files by then, merged files or none: each comes once."""
    schema = CapturedSchema("s", "f", (("k", Int64),), (), ())
    log = CaptureLog(tmp_path)
    folder = log.folder(schema)
    with folder.open() as events:
        for k in range(0, 30, 3):
            events.append(stored(schema, range(k, k + 3)), 0)
        reader, seen = log.read("s", size=2), list[int]()
        for number, rows in enumerate(reader):
            seen += rows.table["key:k"].to_pylist()
            if number in (2, 5, 7, 9, 11):
                compacted(folder)
                if number < 9:
                    events.append(stored(schema, range(30 + 3 * number, 33 + 3 * number)), 0)
    assert seen == [*range(30), *(30 + 3 * n + i for n in (2, 5, 7) for i in range(3))]


KILLED = """
import os, signal, sys
from featurestore import FeatureStore

store = FeatureStore(sys.argv[1])
while True:
    read = store.get_online_features("silent_captured", {"card_id": [1, 2, 3]})
    store.capture.flush()
    os.write(1, (" ".join(read.row_ids) + "\\n").encode())  # acknowledged: from here on it may not be lost
"""


def _writer(path: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KILLED, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)


def _line(writer: subprocess.Popen[str]) -> list[str]:
    """The row ids of one acknowledged read; none once the writer is gone."""
    assert writer.stdout is not None
    line = writer.stdout.readline()
    return line.split() if line.endswith("\n") else []


def test_two_processes_that_are_killed_lose_nothing_acknowledged(tmp_path: Path) -> None:
    """Both write to one folder, while a reader compacts; each is killed at some moment of its work."""
    path = project(
        tmp_path,
        DEFINITIONS + 'loud = FeatureService("silent_captured", features=[newest], capture=Capture())\n',
    )
    environment = {**os.environ, "FS_CAPTURE_LINGER_MS": "1"}
    told: list[str] = []
    with FeatureStore(path) as store:
        for rounds in range(2):
            with ExitStack() as stack:
                writers = [stack.enter_context(_writer(path, environment)) for _ in range(2)]
                for writer in writers:
                    told += [row for _ in range(5 + 4 * rounds) for row in _line(writer)]
                store.capture.compact()
                for writer in writers:
                    writer.kill()
                    while row_ids := _line(writer):
                        told += row_ids
        kept = captured(store, "silent_captured")["row_id"].to_pylist()
    assert len(set(kept)) == len(kept)
    assert not set(told) - set(kept)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("Capture(sample=0)", "captures a fraction of 0"),
        ("Capture(sample=1.5)", "captures a fraction of 1.5"),
        ('Capture(by="card")', "captures by='card'"),
        ('"all"', "capture='all'"),
    ],
)
def test_a_capture_that_cannot_be_is_refused_where_it_is_written(
    tmp_path: Path, wrong: str, says: str
) -> None:
    (tmp_path / "fs.toml").write_text('[project]\nname = "wrong"\n')
    (tmp_path / "definitions.py").write_text(DEFINITIONS.replace("Capture(retention=None)", wrong))
    with pytest.raises(DefinitionError, match=says):
        FeatureStore(tmp_path).definitions()
