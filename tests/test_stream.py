"""The embedded stream: what becomes of each event, hand-over, and whatever can be wrong with a log, a store or a definition."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

import featurestore as fs
from featurestore.config import Config
from featurestore.declare import declarations_in
from featurestore.errors import (
    ConfigError,
    EventError,
    LogCorrupt,
    NotFound,
    OutageTooLong,
    StreamConflict,
    Unsupported,
)
from featurestore.evaluate.arrow import arrow_type
from featurestore.ir import Plan, View
from featurestore.ledger import Hole
from featurestore.log.eventlog import Appended, EventLog
from featurestore.lower import lower
from featurestore.online.lmdb import LmdbStore
from featurestore.online.store import OnlineStore, open_store
from featurestore.serving import Reader
from featurestore.status import Status
from featurestore.store import FeatureStore
from featurestore.stream import Stream
from featurestore.stream.feeds import open_log
from featurestore.stream.state import Shelf, directory_of
from featurestore.stream.view import ViewStream
from featurestore.time import HOUR, MINUTE, SECOND
from tests.services import RedisServer

NOW = 1_700_000_000_000_000 - 1_700_000_000_000_000 % HOUR
"""A full hour; events of these tests are said in minutes after it."""

COLUMNS = {"k": fs.String, "at": fs.Timestamp, "id": fs.String, "x": fs.Int64}
FEATURES = [
    fs.count().over(fs.hours(1), fs.days(1)),
    fs.sum("x").over(fs.days(1)),
    fs.last("x").over(fs.days(1)),
    fs.last_k("x", k=3).over(fs.days(1)),
    fs.latest("x"),
]


def plan_of(
    features: Sequence[Any] = FEATURES,
    *,
    stream: Any = None,
    event_id: str | None = "id",
    lateness: fs.Duration | None = None,
    arrival_time: str | None = None,
    where: Any = None,
    more: Mapping[str, Any] | None = None,
) -> Plan:
    source: Any = fs.StreamSource(
        "events",
        batch=fs.Parquet("events/*.parquet"),
        stream=stream or fs.Kafka("events", bootstrap="nowhere:9092"),
        event_time="at",
        event_id=event_id,
        arrival_time=arrival_time,
        columns={**COLUMNS, **(more or {})},
        lateness=lateness or fs.hours(1),
    )
    source = source if where is None else source.where(where)
    view = fs.FeatureView("v", fs.Entity("who", key="k"), source, list(features))
    return lower(declarations_in([fs.FeatureService("svc", [view])]), lambda s: dict(s.columns or {}))


def event(k: str | None, minute: float, x: int | None = 1, id: str | None = None) -> dict[str, Any]:
    at = NOW + round(minute * MINUTE)
    return {"k": k, "at": datetime.fromtimestamp(at / SECOND, UTC), "id": id or f"{k}{minute}{x}", "x": x}


@dataclass
class Project:
    """A folder, an online store, and a stream over a log of its own; the clock is the test's."""

    root: Path
    store: OnlineStore
    plan: Plan = field(default_factory=plan_of)
    now: int = NOW
    holes: list[Hole] = field(default_factory=list)

    @property
    def view(self) -> View:
        return self.plan.views[0]

    @property
    def config(self) -> Config:
        return Config(self.root, "stream", threads=1)

    def push(self, *events: Mapping[str, Any], minute: float = 0) -> None:
        with open_log(self.config, self.view.source) as log:
            log.append(list(events), at=NOW + round(minute * MINUTE))

    def stream(self, **options: Any) -> ViewStream:
        return ViewStream(
            self.config,
            self.view,
            self.store,
            clock=lambda: self.now,
            report=lambda _, holes: self.holes.extend(holes),
            **options,
        )

    def run(self, **options: Any) -> Mapping[str, int]:
        """Takes what is there; what became of the events so far."""
        stream = self.stream(**options)
        try:
            while stream.advance():
                pass
            stream.settle()
            return {n: c for n, c in stream.meta.counts.items() if c}
        finally:
            stream.close()

    def read(self, *keys: str, minute: float = 1) -> dict[str, list[Any]]:
        reader = Reader(self.store, self.plan.services[0], {"v": self.view})
        return reader.read({"k": list(keys)}, at=NOW + round(minute * MINUTE)).to_dict()

    def dead(self) -> list[str]:
        shelf = Shelf.open(self.directory)
        assert shelf is not None
        with shelf:
            return [d.reason for d in shelf.dead()]

    @property
    def directory(self) -> Path:
        from featurestore.layout import layout_of
        from featurestore.online.codec import codec_of

        return directory_of(self.root, self.view, codec_of(self.view, layout_of(self.view)))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with open_store("lmdb://online", tmp_path) as store:
        yield Project(tmp_path, store)


# ------------------------------------------------------------------------------------------------ what becomes of an event


def test_events_become_values(project: Project) -> None:
    project.push(event("a", -10, 1), event("a", -5, 2), event("b", -1, 4))
    assert project.run() == {"events": 3, "applied": 3}
    project.push(event("a", -7, 8))
    assert project.run() == {"events": 4, "applied": 4}
    read = project.read("a", "b", "nobody")
    assert read["x_sum_1d"] == [11, 4, None]
    assert read["x_last_1d"] == [2, 4, None]
    assert read["x_last_3_1d"] == [[1, 8, 2], [4], []]
    assert read["x"] == [2, 4, None]


def test_every_event_is_accounted_for(project: Project) -> None:
    project.plan = plan_of(where=fs.col("x") < 100)
    project.push(
        event("a", -10, 1, "1"),
        event("a", -10, 1, "1"),  # a copy
        event("a", -10, 2, "1"),  # no copy: it has another value
        event("a", -9, 1, "1"),  # an id with a new time is a new event
        event("a", -61, 5),  # late by a minute
        event("a", -60, 7),  # just on time
        event("a", 6, 9),  # stamped six minutes after it arrived
        event("a", 4, 9),  # clocks may differ by less
        event("a", 10**9, 9),  # the year 3871
        event(None, -1, 9),
        event("a", -1, 200),
        event("a", -1, None),
    )
    counts = project.run()
    assert counts == {
        "events": 12,
        "applied": 4,
        "duplicate": 1,
        "unequal": 1,
        "late": 1,
        "future": 2,
        "null_key": 1,
        "filtered": 2,  # NULL < 100 is not true
    }
    assert sum(counts.values()) == 2 * counts["events"]
    assert project.read("a", minute=5)["x_sum_1d"] == [1 + 1 + 7 + 9]
    assert sorted(project.dead()) == [
        "another event of this key, time and id came before, with other values",
        "it is stamped more than 300 seconds after it arrived",
        "it is stamped more than 300 seconds after it arrived",
    ]
    (hole,) = project.holes
    assert hole.start <= NOW - 61 * MINUTE < hole.end
    assert (hole.reason, hole.rows) == ("late", 1)


def test_copies_are_known_in_later_batches(project: Project) -> None:
    for _ in range(3):
        project.push(event("a", -10, 1, "1"), event("b", -10, 1, "1"))
        project.run()
    project.push(event("a", -10, 9, "1"))
    counts = project.run()
    assert (counts["applied"], counts["duplicate"], counts["unequal"]) == (2, 4, 1)
    assert project.read("a", "b")["x_sum_1d"] == [1, 1]


def test_ids_are_forgotten_when_their_events_would_be_late(project: Project) -> None:
    project.push(event("a", -10, 1, "1"))
    project.run()
    project.push(event("b", 200, 1), minute=200)
    project.now = NOW + 200 * MINUTE
    stream = project.stream()
    stream.advance()
    stream._looked_at = -1e9
    stream.advance()
    stream.close()
    project.push(event("a", -10, 1, "1"), minute=201)
    assert project.run()["late"] == 1
    with LmdbStore(project.directory / "state") as state:
        assert state.count(b"s") == 1


def test_a_declared_arrival_decides_who_is_late(project: Project) -> None:
    project.plan = plan_of(arrival_time="seen", more={"seen": fs.Timestamp})

    def seen(minute: float, lag: float | None) -> dict[str, Any]:
        at = None if lag is None else event("a", minute + lag)["at"]
        return {**event("a", minute), "seen": at}

    # Pushed ten hours later: what it says itself counts, and where it says nothing the log's own time.
    project.now = NOW + 600 * MINUTE
    project.push(seen(-30, 1), seen(-20, 59), seen(-10, 61), seen(-5, None), seen(595, None), minute=600)
    counts = project.run()
    assert (counts["applied"], counts["late"]) == (3, 2)


def test_events_of_one_microsecond_fall_into_order_in_any_batches(project: Project) -> None:
    ties = [event("a", -10, x, f"{x}") for x in (3, 1, 2)]
    for tie in ties:
        project.push(tie)
        project.run()
    assert project.read("a")["x_last_1d"] == [3]
    assert project.read("a")["x_last_3_1d"] == [[1, 2, 3]]
    assert project.read("a")["x"] == [3]


def test_nothing_new_changes_nothing(project: Project) -> None:
    project.push(event("a", -10))
    project.run()
    before = list(project.store.scan(b""))
    assert project.run() == {"events": 1, "applied": 1}
    assert list(project.store.scan(b"")) == before


def test_an_event_of_the_far_future_prunes_nothing(project: Project) -> None:
    project.push(event("a", -10), event("a", 500_000_000))
    project.run()
    project.push(event("a", -9))
    project.run()
    assert project.read("a")["count_1d"] == [2]


def test_tiles_that_no_window_reaches_are_dropped(project: Project) -> None:
    project.push(event("a", -10))
    project.run()
    project.now = NOW + 72 * HOUR
    project.push(event("a", 72 * 60 - 1), minute=72 * 60)
    project.run()
    assert project.read("a", minute=72 * 60)["count_1d"] == [1]
    reader = Reader(project.store, project.plan.services[0], {"v": project.view})
    past = reader.read({"k": ["a"]}, at=NOW)
    assert past.statuses[0, 1] == Status.INEXACT


def test_a_clock_that_steps_back_loses_nothing(project: Project) -> None:
    project.push(event("a", -10), minute=0)
    project.push(event("a", -9), minute=-30)  # the log keeps its time from falling
    project.push(event("a", -8), minute=-3000)
    assert project.run() == {"events": 3, "applied": 3}


# --------------------------------------------------------------------------------------------------------------- owners


def test_one_process_feeds_a_view(project: Project) -> None:
    stream = project.stream()
    with pytest.raises(StreamConflict, match="has a stream already, in process"):
        project.stream()
    stream.close()
    project.stream().close()


def test_a_stream_of_another_folder_is_noticed(project: Project, tmp_path: Path) -> None:
    project.push(event("a", -10))
    project.run()
    other = Project(tmp_path / "other", project.store)
    other.push(event("a", -10, 5))
    with pytest.raises(StreamConflict, match="is fed by another stream"):
        other.run()
    assert project.read("a")["x_sum_1d"] == [1]
    other.run(take_over=True)
    assert project.read("a")["x_sum_1d"] == [5]


def test_heads_that_others_wrote_are_gone_once_the_log_is_read(project: Project) -> None:
    project.push(event("a", -10), event("b", -10))
    project.run()
    other = replace(project, root=project.root / "second")
    other.push(event("a", -10, 7))
    other.run(take_over=True)
    assert project.read("a", "b")["x_sum_1d"] == [7, None]


def test_another_lateness_judges_all_events_anew(project: Project) -> None:
    project.push(event("a", -10), event("a", -100))
    assert project.run()["late"] == 1
    project.plan = plan_of(lateness=fs.hours(2))
    assert project.run() == {"events": 2, "applied": 2}
    assert project.read("a")["count_1d"] == [2]


# ----------------------------------------------------------------------------------------------------- logs that are damaged


def test_an_outage_longer_than_the_log_is_refused(project: Project) -> None:
    with EventLog.open(
        project.root / ".fs" / "log" / "events", project.view.source.schema, segment_bytes=100
    ) as log:
        log.append([event("a", -30)], at=NOW)
        project.run()
        for minute in range(-20, -10):
            log.append([event("a", minute)], at=NOW)
        log.prune(before_offset=8)
    with pytest.raises(OutageTooLong, match="--reset"):
        project.run()
    assert project.read("a")["count_1d"] == [1]
    project.run(fresh=True)
    assert project.read("a")["count_1d"] == [3]


def test_a_flipped_byte_stops_the_stream_where_it_is(project: Project) -> None:
    for minute in range(-20, -10):
        project.push(event("a", minute))
    (segment,) = (project.root / ".fs" / "log" / "events").glob("*.segment")
    raw = bytearray(segment.read_bytes())
    raw[len(raw) * 2 // 3] ^= 0xFF
    segment.write_bytes(raw)
    with pytest.raises(LogCorrupt) as corrupt:
        project.run()
    taken = project.read("a")["count_1d"][0]
    assert 0 < taken < 10
    assert corrupt.value.offset == taken
    with open_log(project.config, project.view.source) as log:
        skipped = log.skip(taken)
    assert project.run()["events"] == 10 - skipped.rows
    assert project.read("a")["count_1d"] == [10 - skipped.rows]


def test_a_torn_last_append_is_as_if_it_never_was(project: Project) -> None:
    project.push(event("a", -10))
    project.push(event("a", -9))
    (segment,) = (project.root / ".fs" / "log" / "events").glob("*.segment")
    segment.write_bytes(segment.read_bytes()[:-7])
    assert project.run() == {"events": 1, "applied": 1}
    project.push(event("a", -8))
    assert project.run() == {"events": 2, "applied": 2}


# ------------------------------------------------------------------------------------------------------ directories of files


def test_files_of_a_directory_are_events(project: Project) -> None:
    project.plan = plan_of(stream=fs.Files("incoming"))
    incoming = project.root / "incoming"
    incoming.mkdir()
    schema = pa.schema(
        [("k", pa.string()), ("at", pa.timestamp("us", tz="UTC")), ("id", pa.string()), ("x", pa.int64())]
    )

    def drop(name: str, *events: Mapping[str, Any]) -> None:
        pq.write_table(pa.Table.from_pylist(list(events), schema), incoming / name)
        old = time.time() - 10
        import os

        os.utime(incoming / name, (old, old))

    project.now = time.time_ns() // 1000
    drop("1.parquet", event("a", -10), event("a", -3000), event("a", 500_000_000))
    drop("2.parquet", event("b", -10))
    # Files say nothing of arrival: no event of them is late. The future is still the future.
    assert project.run() == {"events": 4, "applied": 3, "future": 1}
    project.push(event("a", -8), minute=-1)  # what is pushed counts as well
    drop("3.parquet", event("b", -9))
    assert project.run()["applied"] == 5
    assert project.read("a", "b")["count_1d"] == [2, 2]


# ------------------------------------------------------------------------------------------------------------------- stores


def test_a_store_that_was_emptied_is_filled_again(project: Project, fresh_redis: RedisServer) -> None:
    with open_store(fresh_redis.url, project.root) as store, redis.Redis.from_url(fresh_redis.url) as client:
        project.store = store
        project.push(*(event(f"k{i}", -10, i) for i in range(50)))
        stream = project.stream()
        stream.advance()
        client.flushall()
        project.push(event("k1", -9, 100))
        while stream.advance():
            pass
        stream._looked_at = -1e9
        stream.advance()
        stream.close()
        read = project.read(*(f"k{i}" for i in range(50)))
    assert read["x_sum_1d"] == [0, 101, *range(2, 50)]


def test_a_store_that_is_away_is_waited_for(project: Project) -> None:
    project.push(event("a", -10))

    class Away(Exception):
        pass

    def fail(name: str) -> None:
        if name == "committed":
            raise Away

    stream = project.stream(step=fail)
    with pytest.raises(Away):
        stream.advance()
    assert project.read("a")["count_1d"] == [0]
    stream._step = lambda _: None
    stream.advance()
    stream.close()
    assert project.read("a")["count_1d"] == [1]


# -------------------------------------------------------------------------------------------------------- the whole project

DEFINITIONS = """
import featurestore as fs

who = fs.Entity("who", key="k")
events = fs.StreamSource(
    "events", batch=fs.Parquet("events/*.parquet"), stream=fs.Kafka("events", bootstrap="nowhere"), event_time="at",
    event_id="id", columns={{"k": fs.String, "at": fs.Timestamp, "id": fs.String, "x": fs.Int64}},
)
static = fs.BatchSource("static", batch=fs.Parquet("static.parquet"), columns={{"k": fs.String, "y": fs.Int64}})
v = fs.FeatureView("v", who, events, [fs.count().over(fs.days(1)), {more}])
svc = fs.FeatureService("svc", [v])
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    (tmp_path / "fs.toml").write_text("[offline]\nthreads = 1\n")
    (tmp_path / "definitions.py").write_text(DEFINITIONS.format(more='fs.sum("x").over(fs.days(1))'))
    with FeatureStore(tmp_path) as opened:
        opened.apply()
        yield opened


def ago(seconds: float, k: str = "a", x: int = 1) -> dict[str, Any]:
    at = time.time() - seconds
    return {"k": k, "at": datetime.fromtimestamp(at, UTC), "id": f"{k}{at}{x}", "x": x}


def test_pushed_events_are_served(store: FeatureStore) -> None:
    done = store.push("events", [ago(60), ago(30, x=4), ago(20, "b", 7)])
    assert done == Appended(0, 2, done.appended_at)
    assert store.run_stream(once=True) == 3
    online = store.get_online_features("svc", {"k": ["a", "b", "c"]})
    assert online.to_dict() == {"count_1d": [2, 1, 0], "x_sum_1d": [5, 7, None]}
    assert online.freshness["v"] is not None
    (status,) = store.stream_status()
    assert (status.view, status.lag, status.counts["applied"], status.dead) == ("v", 0, 3, 0)


def test_a_push_that_does_not_fit_pushes_nothing(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(EventError, match="row 1, column 'x'"):
        store.push("events", [ago(1), {**ago(1), "x": "many"}])
    with pytest.raises(NotFound, match="did you mean 'events'"):
        store.push("event", [ago(1)])
    file = tmp_path / "events.jsonl"
    file.write_text(
        '{"k": "a", "at": "2024-01-01T00:00:00Z", "id": "1", "x": 1}\n{"k": "a", "at": "soon", "id": "2", "x": 1}\n'
    )
    with pytest.raises(EventError, match="nothing was pushed"):
        store.push("events", file)
    assert store.run_stream(once=True) == 0


def test_a_batch_source_takes_no_events(store: FeatureStore, tmp_path: Path) -> None:
    extra = DEFINITIONS.format(more='fs.sum("x").over(fs.days(1))')
    extra += 'w = fs.FeatureView("w", who, static, [fs.latest("y")])\n'
    (tmp_path / "definitions.py").write_text(extra)
    pq.write_table(pa.table({"k": ["a"], "y": [1]}), tmp_path / "static.parquet")
    store.apply()
    with pytest.raises(Unsupported, match="BatchSource"):
        store.push("static", [{"k": "a", "y": 2}])
    with pytest.raises(NotFound, match="stream"):
        store.run_stream("w", once=True)


def test_a_definition_that_changes_under_its_stream_is_taken_up(store: FeatureStore, tmp_path: Path) -> None:
    said: list[str] = []
    stop = threading.Event()
    thread = threading.Thread(target=lambda: store.run_stream(stop=stop, say=said.append))
    thread.start()
    try:
        store.push("events", [ago(60), ago(30, x=4)])
        until(lambda: store.get_online_features("svc", {"k": ["a"]}).to_dict()["count_1d"] == [2])
        both = 'fs.sum("x").over(fs.days(1)), fs.max("x").over(fs.days(1))'
        (tmp_path / "definitions.py").write_text(DEFINITIONS.format(more=both))
        with FeatureStore(tmp_path) as other:

            def read() -> dict[str, list[Any]]:
                return other.get_online_features("svc", {"k": ["a"]}).to_dict()

            other.apply()
            until(lambda: read() == {"count_1d": [2], "x_sum_1d": [5], "x_max_1d": [4]})
            other.push("events", [ago(10, x=9)])
            until(lambda: read() == {"count_1d": [3], "x_sum_1d": [14], "x_max_1d": [9]})
    finally:
        stop.set()
        thread.join()
    assert said == ["view 'v' was changed: its stream starts"]


def test_dead_letters_are_listed_and_replayed_once(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.push("events", [ago(-400, x=5), ago(60)])
    store.run_stream(once=True)
    ((view, dead),) = store.dead_letters()
    assert (view, dead.place, dead.event["x"]) == ("v", "offset 0", 5)
    with pytest.raises(NotFound, match="dead letter"):
        store.replay_dead_letters("v", [7])

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:  # after the event is in the log, before it is forgotten
        patch.setattr(Shelf, "forget", kill)
        with pytest.raises(Killed):
            store.replay_dead_letters("v")
    assert len(store.dead_letters()) == 1
    assert [d.number for d in store.replay_dead_letters("v")] == [0]
    assert store.dead_letters() == []
    assert store.run_stream(once=True) == 1, "it is in the log once"
    ((_, again),) = store.dead_letters()
    assert again.reason == dead.reason, "seven minutes have not passed"


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------------------- batch and stream


def at_rest(store: FeatureStore, *rows: dict[str, Any], name: str = "1") -> None:
    schema = pa.schema([(c, arrow_type(t)) for c, t in store.registry.current().plan.sources[0].columns])
    folder = store.config.root / "events"
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema), folder / f"{name}.parquet")


def told(store: FeatureStore) -> dict[str, int]:
    (status,) = store.stream_status()
    return {name: n for name, n in status.counts.items() if n}


def both(store: FeatureStore, *keys: str) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Online and training values of now, and that every status is PRESENT."""
    at = datetime.now(UTC)
    online = store.get_online_features("svc", {"k": list(keys)}, at=at)
    assert not (online.statuses == Status.STALE).any()
    spine = pa.table(
        {"k": list(keys), "event_timestamp": pa.array([at] * len(keys), pa.timestamp("us", "UTC"))}
    )
    names = list(online.names)
    return online.to_dict(), store.get_historical_features(spine, "svc").to_arrow().select(names).to_pydict()


def test_a_stream_begins_with_what_batch_holds(store: FeatureStore) -> None:
    """What was served before is served after: the head that materialisation wrote becomes the stream's."""
    recent = max(min(600, int(time.time()) % 3600 - 5), 2)  # behind the cut, which lies on full hours
    old = [ago(60 * 60 * 30), ago(recent, x=2), ago(60, "b", 3)]
    at_rest(store, *old)
    store.materialize()
    before, training = both(store, "a", "b")
    assert before == training
    assert before["x_sum_1d"][1] == 3
    store.push("events", [old[1], ago(1, x=5)])  # one that batch has as well
    store.run_stream(once=True)
    assert told(store) == {"from_batch": told(store)["from_batch"], "events": 2, "applied": 1, "duplicate": 1}
    at_rest(store, *old, ago(10, x=5), name="1")
    after, _ = both(store, "a", "b")
    assert after["x_sum_1d"] == [7, 3]
    store.materialize()
    store.run_stream(once=True)
    after, _ = both(store, "a", "b")
    assert after["x_sum_1d"] == [7, 3]


def test_a_first_base_under_a_stream_hides_nothing(store: FeatureStore) -> None:
    old = [ago(600, x=2), ago(60, "b", 3)]
    at_rest(store, *old)
    store.push("events", [ago(10, x=5)])
    store.run_stream(once=True)
    assert store.get_online_features("svc", {"k": ["a", "b"]}).to_dict()["x_sum_1d"] == [5, None]
    store.materialize()
    store.run_stream(once=True)
    online, _ = both(store, "a", "b")
    assert online["x_sum_1d"] == [7, 3]


def test_killed_while_it_begins_a_stream_begins_anew(store: FeatureStore) -> None:
    at_rest(store, *(ago(i, f"k{i % 7}", i) for i in range(1, 400)))
    store.materialize()

    class Killed(BaseException):
        pass

    for wanted in ("filling", "committed", "filled", "published", "settled"):

        def kill(name: str, wanted: str = wanted) -> None:
            if name == wanted:
                raise Killed

        with pytest.raises(Killed), Stream(store.config, store.registry, store._store(), step=kill) as stream:
            stream.run(once=True)
    store.push("events", [ago(0, "k1", 1000)])
    store.run_stream(once=True)
    at_rest(store, ago(0, "k1", 1000), name="2")
    online, training = both(store, *(f"k{i}" for i in range(8)))
    assert online == training


def test_without_ids_what_batch_holds_counts_once(store: FeatureStore, tmp_path: Path) -> None:
    text = DEFINITIONS.format(more='fs.sum("x").over(fs.days(1))').replace('event_id="id", ', "")
    (tmp_path / "definitions.py").write_text(text)
    store.apply()
    old = [ago(600, x=2), ago(60, "b", 3)]
    at_rest(store, *old)
    store.materialize()
    store.push("events", [*old, ago(10, x=5)])
    store.run_stream(once=True)
    assert told(store)["batched"] == 2
    assert both(store, "a", "b")[0]["x_sum_1d"] == [7, 3]


def test_an_engine_that_cannot_do_it_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="--engine embedded"):
        store.run_stream(engine="flink", once=True)
    (tmp_path / "fs.toml").write_text('[stream]\nengine = "embeded"\n')
    with pytest.raises(ConfigError, match="did you mean 'embedded'"):
        FeatureStore(tmp_path)
    (tmp_path / "fs.toml").write_text('[stream]\nengine = "flink"\n')
    with FeatureStore(tmp_path) as other, pytest.raises(Unsupported):
        other.run_stream(once=True)
