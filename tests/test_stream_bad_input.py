"""Bad input, end to end: what `fs push`, `fs stream` and `fs materialize` say of it, what is counted, and what is served then.

Each ends in a typed error, or in a count; and the values afterwards are those of the events that are left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import errors
from featurestore.cli.app import main
from featurestore.store import FeatureStore

ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 60

DEFINITIONS = """
import featurestore as fs

who = fs.Entity("who", key="k")
events = fs.StreamSource(
    "events", batch=fs.Parquet("events/*.parquet"), stream={stream}, event_time="at",
    event_id="id", columns={{"k": fs.String, "at": fs.Timestamp, "id": fs.String, "x": fs.Int64}},
)
day = fs.days(1)
v = fs.FeatureView("v", who, events, [
    fs.count().over(day), fs.sum("x").over(fs.hours(1), day), fs.last_k("x", k=2).over(day),
    fs.most_frequent("x", k=1, bound=3).over(day), {more}
])
svc = fs.FeatureService("svc", [v])
"""
TOPIC = 'fs.Kafka("events", bootstrap="nowhere")'
SCHEMA = pa.schema(
    [("k", pa.string()), ("at", pa.timestamp("us", tz="UTC")), ("id", pa.string()), ("x", pa.int64())]
)


def ago(seconds: float, x: int | None = 1, k: str = "a") -> dict[str, Any]:
    at = datetime.now(UTC) - timedelta(seconds=seconds)
    return {"k": k, "at": at, "id": f"{k}{at}{x}", "x": x}


def events_file(path: Path, events: Sequence[Mapping[str, Any]]) -> None:
    """Writes events as Parquet; for a directory that is watched, a file that has settled."""
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(e) for e in events], SCHEMA), path)
    os.utime(path, (time.time() - 10,) * 2)


@dataclass
class Project:
    """A project, driven as people drive it: by `fs`."""

    root: Path
    capture: pytest.CaptureFixture[str]
    pushed: list[dict[str, Any]] = field(default_factory=list)

    def define(self, *, stream: str = TOPIC, more: str = "") -> None:
        (self.root / "definitions.py").write_text(DEFINITIONS.format(stream=stream, more=more))
        self.fs("apply", "--yes")

    def fs(self, *arguments: str, status: int = 0) -> Any:
        """Runs `fs`, which has to end with this status; the JSON document that it prints."""
        self.capture.readouterr()
        ended = main([*arguments, "-C", str(self.root), "--json"])
        said = self.capture.readouterr()
        assert ended == status, f"{arguments}: {said.out}{said.err}"
        assert "Traceback" not in said.err
        return json.loads(said.out)

    def refused(self, *arguments: str) -> tuple[str, str]:
        """The type and message of the error that `fs` ends with."""
        error = self.fs(*arguments, status=1)["error"]
        assert issubclass(getattr(errors, error["type"]), errors.FeatureStoreError)
        return error["type"], error["message"]

    def push(self, *events: Mapping[str, Any], at: datetime | None = None) -> None:
        with FeatureStore(self.root) as store:
            store.push("events", [dict(e) for e in events], at=at)
        self.pushed += [dict(e) for e in events]

    def run(self) -> dict[str, int]:
        """Takes what is there; what became of all events so far."""
        (status,) = self.fs("stream", "run", "--once")["views"]
        return {name: count for name, count in status["counts"].items() if count}

    def get(self, key: str = "a") -> dict[str, Any]:
        """The served values of an entity."""
        (row,) = self.fs("get", "svc", f"k={key}")["rows"]
        return {name: f["value"] for name, f in row["features"].items()}

    @property
    def segments(self) -> list[Path]:
        return sorted((self.root / ".fs" / "log" / "events").glob("*.segment"))

    @contextmanager
    def streaming(self) -> Iterator[subprocess.Popen[str]]:
        """`fs stream run` in a process of its own, which has to end well."""
        process = self.start()
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "streaming; Ctrl-C ends it\n"
            self.until(lambda: bool(list((self.root / ".fs" / "stream").glob("*/state"))))
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, said

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "featurestore.cli", "stream", "run", "-C", str(self.root)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=pipe, stderr=pipe, text=True
        )

    def until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not true():
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.05)


@pytest.fixture
def project(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Project:
    (tmp_path / "fs.toml").write_text("[offline]\nthreads = 1\n")
    made = Project(tmp_path, capfd)
    made.define()
    return made


# ------------------------------------------------------------------------------------------------------------ what is pushed


@dataclass(frozen=True)
class Given:
    """A file that is pushed: its bytes, and the error that has to come or, of one that is taken, the rows."""

    name: str
    file: str
    content: bytes
    error: str | None = None
    says: str = ""
    rows: int = 0


def parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


AT = datetime(2024, 5, 1, tzinfo=UTC)
WHOLE = parquet(k=["a"], at=[AT], id=["1"], x=[1])
LINE = b'{"k": "a", "at": "2024-05-01T00:00:00Z", "id": "1", "x": 1}\n'

PUSHED = [
    Given(
        "a csv without a column", "e.csv", b"k,at,id\na,2024-05-01,1\n", "EventError", "column 'x' is missing"
    ),
    Given("parquet without a column", "e.parquet", parquet(k=["a"]), "EventError", "column 'at' is missing"),
    Given(
        "a column with a letter too many", "e.csv", b"k,att,id,x\n", "EventError", "column 'at' is missing"
    ),
    Given(
        "an object without a key: it is null, as in batch", "e.jsonl", LINE.replace(b', "x": 1', b""), rows=1
    ),
    Given(
        "an unknown column: it is not read, as in batch", "e.jsonl", LINE.replace(b"}", b', "y": 2}'), rows=1
    ),
    Given(
        "a value of the wrong type",
        "e.jsonl",
        LINE + LINE.replace(b'"x": 1', b'"x": "many"'),
        "EventError",
        "row 1, column 'x'",
    ),
    Given("half a number", "e.csv", b"k,at,id,x\na,2024-05-01,1,1.5\n", "EventError", "row 0, column 'x'"),
    Given(
        "a column of the wrong type",
        "e.parquet",
        parquet(k=["a"], at=[AT], id=["1"], x=[AT]),
        "EventError",
        "column 'x' is timestamp",
    ),
    Given("a time that is none", "e.csv", b"k,at,id,x\na,soon,1,1\n", "EventError", "row 0, column 'at'"),
    Given(
        "a number past 64 bits",
        "e.csv",
        b"k,at,id,x\na,2024-05-01,1,9223372036854775808\n",
        "EventError",
        "x",
    ),
    Given("no json", "e.jsonl", LINE + b"nonsense\n", "EventError", "row 1"),
    Given("half a line of json", "e.jsonl", LINE + LINE[:20], "EventError", "row 1"),
    Given("json that is no object", "e.jsonl", b"[1, 2]\n", "EventError", "row 0"),
    Given(
        "text that is no unicode",
        "e.csv",
        b"k,at,id,x\n\xff\xfe,2024-05-01,1,1\n",
        "LogCorrupt",
        "not a whole csv",
    ),
    Given("no parquet", "e.parquet", b"PAR1 nonsense PAR1", "LogCorrupt", "not a whole parquet file"),
    Given(
        "half of a parquet file", "e.parquet", WHOLE[: len(WHOLE) // 2], "LogCorrupt", "not a whole parquet"
    ),
    Given("an empty parquet file", "e.parquet", b"", "LogCorrupt", "not a whole parquet file"),
    Given("an empty csv", "e.csv", b"", "EventError", "is missing"),
    Given("a csv with a header alone", "e.csv", b"k,at,id,x\n"),
    Given("an empty file of json", "e.jsonl", b""),
    Given("a file of no known kind", "e.txt", LINE, "LogError", "what kind of file is this"),
    Given("a whole file", "e.parquet", WHOLE, rows=1),
]


@pytest.mark.parametrize("given", PUSHED, ids=lambda given: given.name)
def test_what_is_pushed_is_appended_whole_or_refused_whole(given: Given, project: Project) -> None:
    file = project.root / given.file
    file.write_bytes(given.content)
    if given.error is None:
        assert project.fs("push", "events", str(file))["rows"] == given.rows
    else:
        kind, message = project.refused("push", "events", str(file))
        assert (kind, given.says in message) == (given.error, True), message
    with FeatureStore(project.root) as store:
        (log,) = store.event_logs()
    assert (0 if log.stats is None else log.stats.end) == given.rows
    # Events of 2024 that arrive today are late: counted, and in no value.
    assert project.run() == ({"events": 1, "late": 1} if given.rows else {})
    project.push(ago(5, 4))
    project.run()
    assert project.get()["x_sum_1d"] == 4


def test_a_source_that_nobody_declared_takes_no_events(project: Project) -> None:
    file = project.root / "e.jsonl"
    file.write_bytes(LINE)
    assert project.refused("push", "event", str(file))[0] == "NotFound"
    assert (
        project.fs("push", "events", str(project.root / "gone.csv"), status=2)["error"]["type"]
        == "BadParameter"
    )


# ----------------------------------------------------------------------------------------------------------- what is streamed


@dataclass(frozen=True)
class Case:
    """What is done to a project; what `fs stream run --once` counts then, and what is served of `a`."""

    name: str
    do: Callable[[Project], None]
    counts: Mapping[str, int]
    served: Mapping[str, Any]


def torn(project: Project) -> None:
    project.push(ago(60, 1))
    project.push(ago(50, 2))
    (segment,) = project.segments
    segment.write_bytes(segment.read_bytes()[:-7])
    project.push(ago(40, 4))


def stepped_back(project: Project) -> None:
    now = datetime.now(UTC)
    for hours in (0, 2, 0.5):
        project.push(ago(60 * hours + 60, 1), at=now - timedelta(hours=hours))
    (log,) = project.fs("stream", "log", "status")["logs"]
    assert (log["appends"], log["clamped"]) == (3, 2)


def year_3000(project: Project) -> None:
    project.push(ago(60, 1), {**ago(0, 9), "at": datetime(3000, 1, 1, tzinfo=UTC)}, ago(50, 2))
    project.run()
    (letter,) = project.fs("stream", "dead-letters", "list")["dead_letters"]
    assert "seconds after it arrived" in letter["reason"]
    project.push(ago(40, 4))


STREAMED = [
    Case("a torn last append is as if it never was", torn, {"events": 2, "applied": 2}, {"x_sum_1d": 5}),
    Case(
        "a clock that steps back loses nothing",
        stepped_back,
        {"events": 3, "applied": 3},
        {"count_1d": 3},
    ),
    Case(
        "an event of the year 3000 closes no window",
        year_3000,
        {"events": 4, "applied": 3, "future": 1},
        {"count_1d": 3, "x_sum_1h": 7, "x_last_2_1d": [2, 4]},
    ),
    Case(
        "a key that is null is counted",
        lambda p: p.push({**ago(60), "k": None}, ago(50, 3)),
        {"events": 2, "applied": 1, "null_key": 1},
        {"x_sum_1d": 3},
    ),
    Case(
        "a list keeps as many as it may",
        lambda p: p.push(*(ago(60 - i, i % 2) for i in range(40))),
        {"events": 40, "applied": 40},
        {"x_last_2_1d": [0, 1], "x_most_frequent_1_1d": [0]},
    ),
    Case(
        "as many values as the bound are counted",
        lambda p: p.push(ago(60, 1), ago(50, 2), ago(40, 3), ago(30, 3)),
        {"events": 4, "applied": 4},
        {"x_most_frequent_1_1d": [3]},
    ),
]


@pytest.mark.parametrize("case", STREAMED, ids=lambda case: case.name)
def test_what_is_streamed_is_counted_and_served_right(case: Case, project: Project) -> None:
    case.do(project)
    assert project.run() == case.counts
    assert {name: project.get()[name] for name in case.served} == case.served


def test_more_values_than_the_bound_overflow_until_fewer_are_left(project: Project) -> None:
    project.push(*(ago(60 - i, i) for i in range(3)))
    project.run()
    project.push(ago(30, 7))
    project.run()
    (row,) = project.fs("get", "svc", "k=a")["rows"]
    feature = row["features"]["x_most_frequent_1_1d"]
    assert (feature["value"], feature["status"]) == (None, "OVERFLOW")
    assert project.get()["x_last_2_1d"] == [2, 7]
    events_file(project.root / "events" / "1.parquet", project.pushed)
    with FeatureStore(project.root) as store:
        spine = pa.table({"k": ["a"], "event_timestamp": [datetime.now(UTC)]})
        trained = store.get_historical_features(spine, "svc", statuses=True).to_arrow().to_pylist()[0]
    assert trained["x_most_frequent_1_1d"] is None
    assert trained["x_most_frequent_1_1d__status"] == "OVERFLOW"


def flip(project: Project, *appends: int) -> None:
    """Flips a byte in the payload of each of these appends."""
    (segment,) = project.segments
    raw = bytearray(segment.read_bytes())
    frames = [i for i in range(len(raw)) if raw[i : i + 4] == b"FRM1"]
    for number in appends:
        raw[frames[number] + 100] ^= 0xFF
    segment.write_bytes(raw)


def test_a_flipped_byte_stops_the_stream_until_it_is_set_aside(project: Project) -> None:
    for x in (1, 2, 4, 8):
        project.push(ago(60 - x, x))
    flip(project, 1, 2)
    for offset in (1, 2):  # the second is found behind the first: no end of the log is made up
        kind, message = project.refused("stream", "run", "--once")
        assert kind == "LogCorrupt"
        assert f"offset {offset}: the checksum of 1 rows differs" in message
        assert f"`fs stream log skip events {offset}` sets it aside in a .bad file" in message
        assert project.get()["x_sum_1d"] == 1, "what came before is served"
        checked = project.fs("stream", "log", "status", "--check", status=1)["logs"][0]
        assert [d["offset"] for d in checked["damage"]] == [offset]
        skipped = project.fs("stream", "log", "skip", "events", str(offset))
        assert (skipped["first_offset"], skipped["rows"]) == (offset, 1)
    assert project.run() == {"events": 2, "applied": 2, "skipped": 2}
    assert project.get()["x_sum_1d"] == 9
    status = project.fs("stream", "log", "status", "--check")["logs"][0]
    assert (status["skipped"], len(status["bad_files"]), status["read"]) == (2, 2, {"v": 4})
    assert project.refused("stream", "log", "skip", "events", "1")[0] == "LogError"


def test_a_damaged_end_refuses_pushes_and_says_the_command(project: Project) -> None:
    project.push(ago(60, 1))
    project.push(ago(50, 2))
    (segment,) = project.segments
    raw = bytearray(segment.read_bytes())
    raw[-3] ^= 0xFF
    segment.write_bytes(raw)
    file = project.root / "e.jsonl"
    file.write_bytes(LINE)
    kind, message = project.refused("push", "events", str(file))
    assert kind == "LogCorrupt"
    assert "`fs stream log skip events 1`" in message
    project.fs("stream", "log", "status", status=1)
    project.fs("stream", "log", "skip", "events", "1")
    project.push(ago(40, 4))
    assert project.run() == {"events": 2, "applied": 2, "skipped": 1}
    assert project.get()["x_sum_1d"] == 5


# ------------------------------------------------------------------------------------------------------ files of a directory


def test_events_of_the_wrong_shape_in_a_watched_file_are_dead_letters(project: Project) -> None:
    project.define(stream='fs.Files("incoming")')
    events_file(project.root / "incoming" / "1.parquet", [ago(60, 1)])
    wrong = parquet(k=["a", "a"], at=[AT, AT], id=["1", "2"], x=["5", "many"])
    bad = project.root / "incoming" / "2.parquet"
    bad.write_bytes(wrong)
    os.utime(bad, (time.time() - 9,) * 2)
    kind, message = project.refused("stream", "run", "--once")
    assert kind == "EventError"
    assert "column 'x' is string" in message
    assert "move the file out of its directory: the stream goes on without it" in message
    bad.write_bytes(WHOLE[:-20])
    os.utime(bad, (time.time() - 9,) * 2)
    kind, message = project.refused("stream", "run", "--once")
    assert kind == "LogCorrupt"
    assert "move the file out of its directory" in message
    events_file(project.root / "incoming" / "3.parquet", [ago(50, 4)])
    bad.unlink()
    assert project.run() == {"events": 2, "applied": 2}
    assert project.get()["x_sum_1d"] == 5


# ------------------------------------------------------------------------------------------------------------ an empty batch


def test_a_batch_that_is_not_there_or_empty_leaves_what_is_served(project: Project) -> None:
    project.push(ago(60, 3))
    project.run()
    kind, message = project.refused("materialize")
    assert kind == "SourceError"
    assert "events/*.parquet" in message
    assert project.refused("verify")[0] == "SourceError"
    events_file(project.root / "events" / "1.parquet", [])
    kind, message = project.refused("materialize")
    assert kind == "SourceError"
    assert "source 'events' is empty" in message
    assert project.get()["x_sum_1d"] == 3
    verdicts = project.fs("verify", status=1)["views"]
    assert [v["outcome"] for v in verdicts] == ["empty"], "nothing was compared: that is no pass"
    events_file(project.root / "events" / "1.parquet", project.pushed)
    project.fs("materialize")
    assert project.get()["x_sum_1d"] == 3


# --------------------------------------------------------------------------------------------------------- a running stream


def test_a_second_stream_of_a_project_is_refused_with_the_process_that_runs(project: Project) -> None:
    with project.streaming() as running:
        project.push(ago(5, 3))
        project.until(lambda: project.get()["x_sum_1d"] == 3)
        second = project.start()
        _, said = second.communicate(timeout=PATIENCE_SECONDS)
        assert second.returncode == 1
        assert f"view 'v' has a stream already, in process {running.pid}\n" in said
        assert "Traceback" not in said
        project.push(ago(4, 5))
        project.until(lambda: project.get()["x_sum_1d"] == 8)
    assert project.run() == {"events": 2, "applied": 2}


def test_a_definition_that_changes_under_a_running_stream_is_taken_up(project: Project) -> None:
    with project.streaming():
        project.push(ago(60, 3), ago(50, 5))
        project.until(lambda: project.get()["x_sum_1d"] == 8)
        project.define(more='fs.max("x").over(day)')
        project.push(ago(5, 4))
        project.until(lambda: project.get().get("x_max_1d") == 5 and project.get()["x_sum_1d"] == 12)
    assert project.run() == {"events": 3, "applied": 3}


def test_a_materialisation_over_a_running_stream_changes_no_value(project: Project) -> None:
    keys = [f"k{i}" for i in range(20)]

    def read(store: FeatureStore, at: datetime) -> list[dict[str, Any]]:
        return store.get_online_features("svc", {"k": keys}, at=at).to_arrow().to_pylist()

    def trained(store: FeatureStore, at: datetime) -> list[dict[str, Any]]:
        spine = pa.table({"k": keys, "event_timestamp": pa.array([at] * len(keys), SCHEMA.field("at").type)})
        table = store.get_historical_features(spine, "svc").to_arrow()
        return table.drop(["k", "event_timestamp"]).to_pylist()

    def caught_up() -> bool:
        (status,) = project.fs("stream", "status")["views"]
        return status["lag"] == 0 and status["counts"].get("events") == len(project.pushed)

    def bought(seconds: float) -> list[dict[str, Any]]:
        return [ago(seconds - i * 7, (i * 31) % 5 - 1, keys[i * int(seconds) // 30 % 17]) for i in range(40)]

    # What came before the stream was started: the first base takes a part of it over.
    for seconds in (9000, 6000, 4500):
        project.push(*bought(seconds), at=datetime.now(UTC) - timedelta(seconds=seconds - 280))
    with project.streaming(), FeatureStore(project.root) as store:
        for seconds in (3000, 1000, 300):
            project.push(*bought(seconds))
            at = datetime.now(UTC) + timedelta(seconds=1)
            project.until(caught_up)
            events_file(project.root / "events" / "1.parquet", project.pushed)
            want = trained(store, at)
            assert read(store, at) == want, "before"
            with looking(partial(read, store, at), want) as wrong:
                ended = subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "featurestore.cli",
                        "materialize",
                        "--json",
                        "-C",
                        str(project.root),
                    ],
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                time.sleep(1.5)  # the stream looks for a new base once a second, and forgets what it covers
            assert ended.returncode == 0, ended.stderr
            end = datetime.fromisoformat(json.loads(ended.stdout)["views"][0]["end"]).replace(tzinfo=UTC)
            assert project.pushed[0]["at"] < end < project.pushed[-1]["at"], "the cut is amid the events"
            assert not wrong, "during"
            assert read(store, at) == want, "after"
        (status,) = project.fs("stream", "status")["views"]
    assert (status["lag"], status["counts"]["events"]) == (0, len(project.pushed))


@contextmanager
def looking(read: Callable[[], object], want: object) -> Iterator[list[object]]:
    """Reads again and again meanwhile; what was read and is not what it should be."""
    wrong: list[object] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            found = read()
            if found != want:
                wrong.append(found)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        yield wrong
    finally:
        done.set()
        reader.join()
