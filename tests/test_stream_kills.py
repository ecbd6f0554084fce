"""Killed at any moment, the next run goes on: no event is lost, none counts twice, and no value is wrong afterwards."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.store import FeatureStore
from tests.forks import Child, Forks, forks
from tests.services import RedisServer
from tests.test_kafka import topic_of

DEFINITIONS = """
import featurestore as fs

who = fs.Entity("who", key="k")
events = fs.StreamSource(
    "events", batch=fs.Parquet("events.parquet"), stream=fs.Kafka("TOPIC", bootstrap="BROKERS"), event_time="at",
    event_id="id", columns={"k": fs.Int64, "at": fs.Timestamp, "id": fs.String, "x": fs.Int64, "t": fs.String},
)
windows = fs.hours(1), fs.days(1)
v = fs.FeatureView("v", who, events, [
    fs.count().over(*windows), fs.sum("x").over(*windows), fs.max("x").over(fs.days(1)), fs.last("t").over(fs.days(1)),
    fs.first_k("x", k=4).over(fs.days(1)), fs.count_distinct("t", k=64).over(fs.days(1)), fs.latest("t"),
])
svc = fs.FeatureService("svc", [v])
"""

RUN = """
# Runs the stream of a project, to its end (`once`) or on and on; killed when it comes to a step for the so-manieth time.
import os, signal
import featurestore.stream.view as view
from featurestore.store import FeatureStore
from featurestore.stream import Stream

view.ROWS = 150

def work(root, name, number, once):
    seen = 0

    def step(done):
        nonlocal seen
        seen += done == name
        if done == name and seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    with FeatureStore(root) as store:
        with Stream(store.config, store.registry, store._store(), step=step) as stream:
            print("running", flush=True)
            stream.run(once=once)
"""

STEPS = ("taken", "merged", "committed", "published", "said", "settled")
"""The steps of `ViewStream`; those of its beginning are in `test_stream.py`."""

SCHEMA = pa.schema(
    [
        ("k", pa.int64()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("id", pa.string()),
        ("x", pa.int64()),
        ("t", pa.string()),
    ]
)


class Killed:
    """A project whose stream is killed again and again; it remembers what was pushed."""

    def __init__(
        self, root: Path, processes: Forks, url: str, topic: str = "", brokers: str = "nowhere"
    ) -> None:
        self.root, self.processes = root, processes
        events = "kafka" if topic else "log"
        (root / "fs.toml").write_text(
            f'[offline]\nthreads = 1\n[online]\nurl = "{url}"\n[stream]\nevents = "{events}"\n'
        )
        (root / "definitions.py").write_text(DEFINITIONS.replace("TOPIC", topic).replace("BROKERS", brokers))
        self.store = FeatureStore(root)
        self.store.apply()
        self.pushed: list[pa.Table] = []
        self.chance = random.Random(5)
        self.now = datetime.now(UTC)

    def push(self, events: int) -> None:
        """Random events of the last half hour; every tenth comes again."""
        chance = self.chance
        rows = []
        for _ in range(events):
            at = self.now - timedelta(microseconds=chance.randrange(1_800_000_000))
            rows.append(
                {
                    "k": chance.randrange(40),
                    "at": at.replace(microsecond=0) if chance.random() < 0.3 else at,
                    "id": f"{chance.random()}",
                    "x": chance.choice([None, 1, -5, 2**40, chance.randrange(1000)]),
                    "t": chance.choice([None, "", "a", "b", f"{chance.random():.2f}"]),
                }
            )
            if chance.random() < 0.1:
                rows.append(rows[chance.randrange(len(rows))])
        table = pa.Table.from_pylist(rows, SCHEMA)
        self.store.push("events", table)
        self.pushed.append(table)

    def start(self, step: str = "", number: int = 0, *, once: bool = True) -> Child:
        return self.processes.start(str(self.root), step, number, once)

    def check(self) -> None:
        """Runs to the end, and compares every value with the training set over what was pushed."""
        assert self.start().wait() == 0
        events = pa.concat_tables(self.pushed)
        pq.write_table(events, self.root / "events.parquet")
        (status,) = self.store.stream_status()
        counts = {n: c for n, c in status.counts.items() if c}
        distinct = len(set(zip(*(events.column(c).to_pylist() for c in ("k", "at", "id")), strict=True)))
        assert counts["events"] == len(events)
        assert counts["applied"] == distinct
        assert counts.get("duplicate", 0) == len(events) - distinct
        keys = list(range(41))
        at = self.now + timedelta(minutes=1)
        online = self.store.get_online_features("svc", {"k": keys}, at=at).to_arrow()
        spine = pa.table(
            {"k": keys, "event_timestamp": pa.array([at] * len(keys), pa.timestamp("us", tz="UTC"))}
        )
        training = self.store.get_historical_features(spine, "svc").to_arrow()
        assert online.to_pydict() == training.select(online.column_names).to_pydict()


@pytest.fixture(scope="module")
def processes() -> Iterator[Forks]:
    with forks(RUN) as made:
        yield made


@pytest.fixture(
    params=[
        "lmdb",
        pytest.param("redis", marks=[pytest.mark.redis, pytest.mark.slow]),
        pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.slow]),
    ]
)
def killed(request: pytest.FixtureRequest, tmp_path: Path, processes: Forks) -> Iterator[Killed]:
    """Events come by the local log, or by a topic of three partitions."""
    url, topic, brokers = "lmdb://.fs/online", "", "nowhere"
    if request.param == "kafka":
        brokers = request.getfixturevalue("kafka_address")
        topic = topic_of(brokers, 3)
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("fresh_redis")
        url = server.url
    project = Killed(tmp_path, processes, url, topic, brokers)
    yield project
    project.store.close()


QUICK = ("committed", "published")


@pytest.mark.parametrize(
    "step", [s if s in QUICK else pytest.param(s, marks=pytest.mark.slow) for s in STEPS]
)
def test_killed_at_a_step(killed: Killed, step: str) -> None:
    killed.push(400)
    assert killed.start(step, 1).wait() == -signal.SIGKILL, "the step is there"
    killed.push(200)
    assert killed.start(step, 2).wait() in (0, -signal.SIGKILL), "some steps come but once"
    killed.check()


def test_killed_at_random(killed: Killed, kills: int) -> None:
    for _ in range(kills):
        process = killed.start(once=False)
        process.readline()
        end = time.monotonic() + killed.chance.random() * 0.4
        while time.monotonic() < end:
            killed.push(killed.chance.randrange(1, 200))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    killed.check()
