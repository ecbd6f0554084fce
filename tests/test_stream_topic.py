"""The embedded stream over a topic of a real broker: what becomes of records, places, outages, and a broker that dies."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka.cimpl import NewPartitions

from featurestore.doctor import examine
from featurestore.errors import (
    BrokerUnavailable,
    ConfigError,
    EventError,
    OutageTooLong,
    TopicNotFound,
)
from featurestore.server.events import Events
from featurestore.store import FeatureStore
from featurestore.stream import kafka
from featurestore.stream.inbox import pushed_json
from featurestore.stream.kafka import Cluster
from featurestore.stream.topic import KafkaFeed, Sent
from tests.flink_broker import Broker
from tests.services import free_port
from tests.test_kafka import send, topic_of

DEFINITIONS = """
import featurestore as fs

events = fs.StreamSource(
    "events", batch=fs.Parquet("events/*.parquet"), stream=fs.Kafka("{topic}", bootstrap="${{BROKERS}}"),
    event_time="at", event_id="id", lateness=fs.hours(1),
    columns={{"k": fs.String, "at": fs.Timestamp, "id": fs.String, "x": fs.Int64, "m": fs.Decimal(12, 2)}},
)
v = fs.FeatureView("v", fs.Entity("who", key="k"), events, [
    fs.count().over(fs.days(1)), fs.sum("x").over(fs.days(1)), fs.last("x").over(fs.days(1)), fs.sum("m").over(fs.days(1)),
])
svc = fs.FeatureService("svc", [v])
"""

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a moment of its own: this module may have been read long before."""
    monkeypatch.setitem(globals(), "NOW", datetime.now(UTC))


def event(k: str = "a", x: int | None = 1, id: str | None = None, ago: float = 60.0) -> dict[str, Any]:
    at = NOW - timedelta(seconds=ago)
    return {"k": k, "at": at, "id": id or f"{k}{x}{ago}", "x": x, "m": "1.25"}


def record(**event: Any) -> bytes:
    return json.dumps({**event, "at": event["at"].isoformat()}).encode()


class Project:
    """A project whose events are in a topic."""

    def __init__(self, root: Path, topic: str) -> None:
        self.root, self.topic = root, topic
        (root / "fs.toml").write_text('[offline]\nthreads = 1\n[stream]\nevents = "kafka"\n')
        (root / "definitions.py").write_text(DEFINITIONS.format(topic=topic))
        self.store = FeatureStore(root)
        self.store.apply()

    def run(self, **options: Any) -> dict[str, int]:
        """Takes what is there; what became of the events so far."""
        self.store.run_stream(once=True, **options)
        return self.counts()

    def counts(self) -> dict[str, int]:
        (status,) = self.store.stream_status()
        return {name: n for name, n in status.counts.items() if n}

    def read(self, *keys: str) -> dict[str, list[Any]]:
        at = NOW + timedelta(minutes=2)
        return self.store.get_online_features("svc", {"k": list(keys)}, at=at).to_dict()

    def letters(self) -> list[tuple[str, str]]:
        return [(letter.place, letter.reason) for _, letter in self.store.dead_letters()]


@pytest.fixture
def project(tmp_path: Path, kafka_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setenv("BROKERS", kafka_address)
    made = Project(tmp_path, topic_of(kafka_address))
    yield made
    made.store.close()


def test_what_is_pushed_goes_to_the_topic_and_comes_out_online(project: Project) -> None:
    done = project.store.push("events", [event(x=i, id=f"i{i}") for i in range(20)])
    assert isinstance(done, Sent)
    assert done.rows == sum(last - first + 1 for first, last in done.offsets.values()) == 20
    assert not (project.root / ".fs" / "log").exists()
    (before,) = project.store.stream_status()
    assert before.lag == 20
    assert project.run() == {"events": 20, "applied": 20}
    assert project.read("a")["count_1d"] == [20]
    assert [str(m) for m in project.read("a")["m_sum_1d"]] == ["25.00"]
    (after,) = project.store.stream_status()
    assert after.lag == 0
    project.store.push("events", [event(x=7, id="i7"), event(x=8, id="i7", ago=60)])
    assert project.run() == {"events": 22, "applied": 20, "duplicate": 1, "unequal": 1}
    assert project.letters()[0][1].startswith("another event of this key, time and id")


def test_pushed_events_arrive_when_they_are_said_to(project: Project) -> None:
    at = NOW - timedelta(seconds=30)
    with pytest.raises(EventError, match="row 1, column 'x': 'no' is not Int64"):
        project.store.push("events", [event(), {**event(), "x": "no"}])
    assert project.run() == {}, "nothing of it was sent"
    done = project.store.push("events", [event(ago=30), event(ago=3629), event(ago=3632)], at=at)
    assert done.appended_at == int(at.timestamp() * 1000) * 1000
    assert project.run() == {"events": 3, "applied": 2, "late": 1}


def test_a_bad_record_is_a_dead_letter_with_its_place_and_the_next_ones_count(
    project: Project, kafka_address: str
) -> None:
    good = event(x=5, id="good")
    bad = [
        b"not json",
        b"\xff\xfe\x00",
        b"[1]",
        b"{}",
        record(**{**good, "x": "five"}),
        record(**{**good, "y": 1}),
    ]
    records: list[Mapping[str, Any]] = [{"value": b, "partition": 1} for b in bad]
    records.append({"value": None, "key": b"good", "partition": 1})
    records.append(
        {"value": record(**good), "partition": 1, "headers": {"trace": b"\x00\xff"}, "key": b"\xff"}
    )
    send(kafka_address, project.topic, *records)
    assert project.run() == {"events": 1, "applied": 1, "malformed": 6, "tombstone": 1}
    letters = project.letters()
    assert [place for place, _ in letters] == [f"1/{i}" for i in range(6)]
    assert letters[0][1].startswith("not JSON")
    assert letters[4][1] == "'five' is not Int64"
    assert project.run()["malformed"] == 6, "none comes again"
    assert project.store.replay_dead_letters("v") == [], "none of them ever was an event"


def test_only_tombstones_are_no_end_of_the_topic(project: Project, kafka_address: str) -> None:
    send(kafka_address, project.topic, *[{"value": None, "key": b"k", "partition": 0}] * 3)
    project.run()
    project.store.push("events", [event()])
    assert project.run() == {"events": 1, "applied": 1, "tombstone": 3}
    assert project.store.stream_status()[0].lag == 0


def test_a_dead_letter_goes_back_to_the_topic_once(project: Project) -> None:
    project.store.push("events", [event(id="soon", ago=-600), event(id="now")])
    assert project.run() == {"events": 2, "applied": 1, "future": 1}
    (letter,) = project.store.replay_dead_letters("v")
    assert letter.replayed["offsets"]
    assert project.store.dead_letters() == []
    assert project.run()["events"] == 3, "it came again, and is of the future still"
    assert len(project.store.dead_letters()) == 1


def test_a_replay_that_was_killed_is_not_done_twice(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featurestore.stream.state import Shelf

    project.store.push("events", [event(id="soon", ago=-600)])
    project.run()

    def killed(self: Shelf, number: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Shelf, "forget", killed)
        with pytest.raises(KeyboardInterrupt):
            project.store.replay_dead_letters("v")
    assert len(project.store.replay_dead_letters("v")) == 1
    assert project.run()["events"] == 2


def test_records_of_other_partitions_are_found_while_it_runs(project: Project, kafka_address: str) -> None:
    project.store.push("events", [event(id="a")])
    client, stop = kafka.admin(Cluster(kafka_address)), threading.Event()
    runner = threading.Thread(target=lambda: project.store.run_stream(stop=stop))
    runner.start()
    try:
        client.create_partitions([NewPartitions(project.topic, 4)])[project.topic].result(10)
        send(kafka_address, project.topic, {"value": record(**event(id="b")), "partition": 3})
        until(lambda: project.counts().get("applied") == 2)
    finally:
        stop.set()
        runner.join()
    assert project.store.stream_status()[0].lag == 0


def test_a_topic_cut_short_behind_a_stream_is_an_outage_with_a_way_out(
    project: Project, kafka_address: str
) -> None:
    from confluent_kafka import TopicPartition

    project.store.push("events", [event(id=f"{i}") for i in range(8)])
    project.run()
    for i in range(8):
        send(kafka_address, project.topic, {"value": record(**event(id=f"n{i}")), "partition": i % 2})
    client = kafka.admin(Cluster(kafka_address))
    ends = kafka.offsets(client, Cluster(kafka_address), project.topic, [0, 1])
    for answer in client.delete_records(
        [TopicPartition(project.topic, n, e - 1) for n, e in ends.items()]
    ).values():
        answer.result(10)
    with pytest.raises(OutageTooLong, match=rf"topic '{project.topic}' starts at \d+.*\n.*--reset"):
        project.run()
    assert project.run(reset=True) == {"events": 2, "applied": 2}


def test_a_topic_that_was_made_anew_is_another_one(project: Project, kafka_address: str) -> None:
    at, client = Cluster(kafka_address), kafka.admin(Cluster(kafka_address))
    project.store.push("events", [event()])
    project.run()
    client.delete_topics([project.topic])[project.topic].result(10)
    until(lambda: project.topic not in kafka.topics(client, at))
    with pytest.raises(TopicNotFound, match=project.topic):
        project.run()
    send(kafka_address, project.topic, *[record(**event(id=f"{i}")) for i in range(9)])
    with pytest.raises(OutageTooLong, match="made anew"):
        project.run()
    assert project.run(reset=True) == {"events": 9, "applied": 9}


def test_a_topic_that_lost_its_beginning_is_not_whole(project: Project, kafka_address: str) -> None:
    def whole() -> bool:
        feed = KafkaFeed(project.store.registry.current().plan.sources[0])
        try:
            return feed.whole()
        finally:
            feed.close()

    assert whole()
    project.store.push("events", [event(id=f"{i}") for i in range(6)])
    assert whole()
    from confluent_kafka import TopicPartition

    client = kafka.admin(Cluster(kafka_address))
    for answer in client.delete_records(
        [TopicPartition(project.topic, 0, 1), TopicPartition(project.topic, 1, 1)]
    ).values():
        answer.result(10)
    assert not whole()


def test_a_compacted_topic_is_read_and_is_not_whole(
    tmp_path: Path, kafka_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKERS", kafka_address)
    project = Project(tmp_path, topic_of(kafka_address, 1, cleanup_policy="compact"))
    project.store.push("events", [event()])
    assert project.run() == {"events": 1, "applied": 1}
    feed = KafkaFeed(project.store.registry.current().plan.sources[0])
    assert not feed.whole()
    feed.close()


def test_marks_of_transactions_are_no_events_and_no_lag(project: Project, kafka_address: str) -> None:
    writer = kafka.producer(Cluster(kafka_address), transactional_id="t")
    writer.init_transactions(30)
    for end in (writer.abort_transaction, writer.commit_transaction):
        writer.begin_transaction()
        writer.produce(project.topic, record(**event(id="t")), partition=0)
        writer.flush(30)
        end(30)
    assert project.run() == {"events": 1, "applied": 1}
    assert project.store.stream_status()[0].lag == 0
    assert project.run() == {"events": 1, "applied": 1}


def test_a_topic_that_is_not_there_is_named_with_the_nearest(
    tmp_path: Path, kafka_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKERS", kafka_address)
    there = topic_of(kafka_address)
    project = Project(tmp_path, f"{there}s")
    for act in (project.run, lambda: project.store.push("events", [event()])):
        with pytest.raises(TopicNotFound, match=f"did you mean '{there}'"):
            act()


def test_no_broker_at_start_is_said_and_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setenv("BROKERS", f"127.0.0.1:{free_port()}")
    project = Project(tmp_path, "t")
    with pytest.raises(BrokerUnavailable, match="no Kafka broker answers"):
        project.run()
    with pytest.raises(BrokerUnavailable):
        project.store.push("events", [event()])
    (status,) = project.store.stream_status()
    assert (status.lag, status.clock) == (None, None)
    said: list[str] = []
    stop = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            stop.set()

    project.store.run_stream(stop=stop, say=say)
    assert said[0].startswith("Kafka does not answer; trying again in 0.1 s")


def test_the_doctor_asks_the_broker_for_the_topic(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def topic() -> tuple[str, str]:
        checks = examine(project.root, None, 0, "1")
        return next((c.state, c.text) for c in checks if c.subject == f"topic {project.topic}")

    assert topic() == ("ok", f"2 partitions at {os.environ['BROKERS']}, of source 'events'")
    monkeypatch.setattr(kafka, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setenv("BROKERS", f"127.0.0.1:{free_port()}")
    state, text = topic()
    assert state == "wrong"
    assert text.startswith("no Kafka broker answers at 127.0.0.1:")


def test_events_over_http_go_to_the_topic_when_it_answers(project: Project) -> None:
    plan, events = project.store.registry.current().plan, Events(project.store.config)
    row = {**event(), "at": event()["at"].isoformat()}
    with pytest.raises(EventError, match="row 0, column 'm': the column is missing"):
        events.append(plan, "events", [{k: v for k, v in row.items() if k != "m"}])
    assert pushed_json(events.append(plan, "events", [row]))["rows"] == 1
    assert events.append(plan, "events", [row, row]).rows == 2
    events.close()
    assert project.run() == {"events": 3, "applied": 1, "duplicate": 2}


def test_many_threads_push_at_once(project: Project) -> None:
    plan, events = project.store.registry.current().plan, Events(project.store.config)

    def push(turn: int) -> int:
        rows = [{**event(id=f"{turn}-{i}"), "m": None} for i in range(50)]
        return events.append(plan, "events", rows).rows

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(push, range(40))) == [50] * 40
    events.close()
    assert project.run() == {"events": 2000, "applied": 2000}


def test_where_events_are_is_a_setting(tmp_path: Path) -> None:
    def events(text: str) -> str:
        (tmp_path / "fs.toml").write_text(text)
        return FeatureStore(tmp_path).config.stream_events

    assert events("") == "log"
    assert events('[stream]\nevents = "kafka"') == "kafka"
    assert events('[stream]\nengine = "flink"') == "kafka"
    with pytest.raises(ConfigError, match="no stream events 'kafak'\n  did you mean 'kafka'"):
        events('[stream]\nevents = "kafak"')
    with pytest.raises(ConfigError, match=r"fs\.toml:3: events = 'log' is not for engine 'flink'"):
        events('[stream]\nengine = "flink"\nevents = "log"')


@pytest.mark.slow
def test_a_broker_killed_and_started_again_loses_nothing(
    tmp_path: Path, own_kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "PATIENCE_SECONDS", 2.0)
    monkeypatch.setenv("BROKERS", own_kafka.address)
    project = Project(tmp_path, topic_of(own_kafka.address))
    said: list[str] = []
    stop = threading.Event()
    runner = threading.Thread(target=lambda: project.store.run_stream(stop=stop, say=said.append))
    runner.start()
    pushed = []
    try:
        for turn in range(3):
            rows = [event("abc"[i % 3], i, f"{turn}-{i}", ago=60 + i / 7) for i in range(100)]
            project.store.push("events", rows)
            pushed += rows
            if turn < 2:
                own_kafka.kill()
                many = len(said)
                until(lambda many=many: len(said) > many)
                own_kafka.start()
        until(lambda: project.counts().get("applied") == 300)
    finally:
        stop.set()
        runner.join()
    assert project.counts() == {"events": 300, "applied": 300}
    assert all("does not answer" in line for line in said)
    equals_training(project, pushed)


def equals_training(project: Project, events: list[dict[str, Any]]) -> None:
    """Compares what is read online with the training set over the same events at rest."""
    schema = pa.schema(
        [
            ("k", pa.string()),
            ("at", pa.timestamp("us", tz="UTC")),
            ("id", pa.string()),
            ("x", pa.int64()),
            ("m", pa.string()),
        ]
    )
    table = pa.Table.from_pylist(events, schema)
    table = table.set_column(4, "m", table.column("m").cast(pa.decimal128(12, 2)))
    (project.root / "events").mkdir()
    pq.write_table(table, project.root / "events" / "1.parquet")
    keys, at = ["a", "b", "c", "d"], NOW + timedelta(minutes=2)
    spine = pa.table({"k": keys, "event_timestamp": pa.array([at] * 4, pa.timestamp("us", tz="UTC"))})
    training = project.store.get_historical_features(spine, "svc").to_arrow()
    online = project.read(*keys)
    assert online == {name: training.column(name).to_pylist() for name in online}


def until(done: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
