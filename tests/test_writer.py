"""The writer between a real topic and real stores: what is read online is what batch makes of all events, whatever happened."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from featurestore.compile.sources import connect
from featurestore.layout import layout_of
from featurestore.online.codec import codec_of
from featurestore.online.state import load_stream
from featurestore.online.store import OnlineStore
from featurestore.store import FeatureStore
from featurestore.stream.writer import ViewWriter, written
from featurestore.time import MINUTE
from tests.services import RedisServer
from tests.tile_job import TileJob

pytestmark = pytest.mark.flink

DEFINITIONS = """
import featurestore as fs

who = fs.Entity("who", key="k")
events = fs.StreamSource(
    "events", batch=fs.Parquet("events.parquet"), stream=fs.Kafka("{topic}", bootstrap="{address}"), event_time="at",
    event_id="id", columns={{"k": fs.{key}, "at": fs.Timestamp, "id": fs.String, "x": fs.Int64, "t": fs.String}},
    lateness=fs.hours(1),
)
windows = fs.hours(1), fs.days(1)
v = fs.FeatureView("v", who, events, [{features}])
svc = fs.FeatureService("svc", [v])
"""

PLAIN = "fs.count().over(*windows), fs.sum('x').over(*windows), fs.max('x').over(fs.days(1))"
WIDE = PLAIN + (
    ", fs.last('t').over(fs.days(1)), fs.first_k('x', k=4).over(fs.days(1)), fs.count_distinct('t', k=64).over(fs.days(1))"
    ", fs.latest('t')"
)


class Project:
    """A view, the topics of its job, and a store; its events are of the last half hour."""

    def __init__(self, root: Path, address: str, url: str, *, wide: bool = True) -> None:
        self.root = root
        (root / "fs.toml").write_text(f'[offline]\nthreads = 1\n[online]\nurl = "{url}"\n')
        text = DEFINITIONS.format(
            topic=f"events-{random.randrange(10**9)}", address=address, key="String" if wide else "Int64",
            features=WIDE if wide else PLAIN,
        )  # fmt: skip
        (root / "definitions.py").write_text(text)
        self.store = FeatureStore(root)
        self.store.apply()
        self.view = self.store.registry.current().plan.view("v")
        self.online: OnlineStore = self.store._store()
        self.codec = codec_of(self.view, layout_of(self.view))
        self.con = connect(threads=1)
        self.job = TileJob(self.con, self.view, root, address)
        self.job.make_topics()
        self.chance = random.Random(5)
        self.wide = wide
        self.now = time.time_ns() // 1000
        self.holes: list[Any] = []

    def close(self) -> None:
        self.con.close()
        self.store.close()

    def event(self) -> dict[str, Any]:
        number = self.chance.randrange(30)
        return {
            "k": f"k{number}" if self.wide else number,
            "at": self.now - self.chance.randrange(30 * MINUTE),
            "id": f"{self.chance.random()}",
            "x": self.chance.choice([None, 1, -5, 2**40, self.chance.randrange(1000)]),
            "t": self.chance.choice([None, "", "a", "b", f"{self.chance.random():.2f}"]),
        }

    def send(self, events: int) -> None:
        self.job.take([self.event() for _ in range(events)])

    def writer(self, **options: Any) -> ViewWriter:
        return ViewWriter(self.store.config, self.view, self.online, report=self._report, **options)

    def _report(self, _: object, holes: Any) -> None:
        self.holes = list(holes)
        self.store.ledger.report_holes(self.view, holes)

    def check(self) -> None:
        """Every value is that of a training set over all events."""
        keys = sorted({e["k"] for e in self.job.events}) + (["nobody"] if self.wide else [10**6])
        at = self.now + MINUTE
        stamp = pa.array([at] * len(keys), pa.timestamp("us", tz="UTC"))
        online = self.store.get_online_features("svc", {"k": keys}, at=stamp[0].as_py()).to_arrow()
        spine = pa.table({"k": keys, "event_timestamp": stamp})
        training = self.store.get_historical_features(spine, "svc").to_arrow()
        assert online.to_pydict() == training.select(online.column_names).to_pydict()


@pytest.fixture(params=["lmdb", pytest.param("redis", marks=pytest.mark.redis)])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "lmdb":
        return "lmdb://.fs/online"
    server: RedisServer = request.getfixturevalue("fresh_redis")
    return server.url


@pytest.fixture(params=["plain", "wide"])
def project(
    request: pytest.FixtureRequest, tmp_path: Path, kafka_address: str, url: str
) -> Iterator[Project]:
    made = Project(tmp_path, kafka_address, url, wide=request.param == "wide")
    yield made
    made.close()


@pytest.fixture
def plain(tmp_path: Path, kafka_address: str, fresh_redis: RedisServer) -> Iterator[Project]:
    made = Project(tmp_path, kafka_address, fresh_redis.url, wide=False)
    yield made
    made.close()


def test_what_is_read_online_is_what_batch_makes_of_it(project: Project) -> None:
    for events in (200, 50, 1):
        project.send(events)
        assert project.writer().run(once=True) > 0
        project.check()
    assert project.writer().run(once=True) == 0, "what is in the store is not read again"
    status = written(project.online, project.view)
    assert (status.lag, status.counts["records"]) == (0, len(project.job.log))
    said = load_stream(project.online, project.codec)
    assert said is not None
    assert said.since is None
    assert project.now - MINUTE < said.clock <= time.time_ns() // 1000
