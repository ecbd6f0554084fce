"""The writer between a real topic and real stores: what is read online is what batch makes of all events, whatever happened."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis

from featurestore.compile.sources import connect
from featurestore.erasures import erasures
from featurestore.errors import MaterializeError, OutageTooLong, StreamConflict, StreamError, TopicNotFound
from featurestore.layout import layout_of
from featurestore.online.codec import NEVER, codec_of
from featurestore.online.state import StreamState, load_states, load_stream, stream_name
from featurestore.online.store import OnlineStore
from featurestore.store import FeatureStore
from featurestore.stream.positions import TILES, Positions
from featurestore.stream.writer import ViewWriter
from featurestore.stream.writers import Writer
from featurestore.stream.written import written
from featurestore.time import HOUR, MINUTE
from tests.services import RedisServer, free_port, tied
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

    def __init__(self, root: Path, address: str, url: str, *, wide: bool = True, topics: bool = True) -> None:
        self.root = root
        (root / "fs.toml").write_text(f'[offline]\nthreads = 1\n[online]\nurl = "{url}"\n')
        text = DEFINITIONS.format(
            topic=f"events-{random.randrange(10**9)}", address=address, key="String" if wide else "Int64",
            features=WIDE if wide else PLAIN,
        )  # fmt: skip
        (root / "definitions.py").write_text(text)
        self.store = FeatureStore(root)
        self.store.apply()
        self.online: OnlineStore = self.store._store()
        self.con = connect(threads=1)
        self.address = address
        self.follow(topics=topics)
        self.chance = random.Random(5)
        self.wide = wide
        self.now = time.time_ns() // 1000
        self.holes: list[Any] = []

    def follow(self, *, topics: bool = True) -> None:
        """A job of the view as it is applied now."""
        self.view = self.store.registry.current().plan.view("v")
        self.codec = codec_of(self.view, layout_of(self.view))
        self.job = TileJob(self.con, self.view, self.root, self.address)
        if topics:
            self.job.make_topics()

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
        return ViewWriter(self.view, self.online, report=self._report, **options)

    def _report(self, _: object, holes: Any) -> None:
        self.holes = list(holes)
        self.store.ledger.report_holes(self.view, holes)

    def counted(self) -> int:
        """How many events are in what is read."""
        keys = sorted({e["k"] for e in self.job.events})
        read = self.store.get_online_features("svc", {"k": keys}, at=moment_of(self.now + MINUTE)).to_dict()
        return sum(n or 0 for n in read["count_1d"])

    def caught_up(self) -> bool:
        """Whether every event that was sent can be read."""
        return self.counted() == len(self.job.events)

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


# ── whose it is, and what is there at all


def test_another_streams_view_is_refused_until_it_is_taken_over(plain: Project) -> None:
    plain.send(10)
    other = StreamState("somebody", plain.now, None, plain.now)
    plain.online.set_metas({stream_name(plain.codec): other.to_bytes()})
    with pytest.raises(StreamConflict, match="--take-over"):
        plain.writer().run(once=True)
    assert plain.writer(take_over=True).run(once=True) > 0
    plain.check()
    assert plain.writer().run(once=True) == 0, "it is its own from then on"


@pytest.mark.slow
def test_an_embedded_stream_is_refused_where_a_job_feeds(plain: Project) -> None:
    plain.send(10)
    plain.writer().run(once=True)
    with pytest.raises(StreamConflict):
        plain.store.run_stream(once=True)


@pytest.mark.slow
def test_without_a_topic_it_says_so_or_waits(tmp_path: Path, kafka_address: str) -> None:
    project = Project(tmp_path, kafka_address, "lmdb://.fs/online", wide=False, topics=False)
    try:
        with pytest.raises(TopicNotFound, match="tiles"):
            project.writer().run(once=True)
        with running(project) as said:
            wait_for(lambda: any("waiting for the topic" in s for s in said))
            project.job.make_topics()
            project.send(20)
            wait_for(lambda: settled(project))
        project.check()
    finally:
        project.close()


def test_records_that_are_none_are_counted_and_left_out(plain: Project) -> None:
    plain.send(10)
    plain.job.produce([(b"key", b""), (b"key", b"\1\0" + bytes(30)), (b"key", b"nothing of the kind")])
    plain.job.produce([(b"key" * 4, b"\1\x07" + bytes(300))])
    plain.writer().run(once=True)
    assert written(plain.online, plain.view).counts["unreadable"] == 4
    plain.check()
    plain.job.produce([(b"key", b"\2" + bytes(300))])
    with pytest.raises(StreamError, match="version 2"):
        plain.writer().run(once=True)


# ── hand-over


@pytest.mark.slow
def test_base_takes_over_and_heads_forget_it(project: Project) -> None:
    project.send(200)
    project.writer().run(once=True)
    project.store.materialize()
    project.check()
    project.send(50)
    project.writer().run(once=True)
    project.check()
    project.now += 4 * HOUR
    project.send(100)
    project.writer().run(once=True)
    said = load_stream(project.online, project.codec)
    assert said is not None
    moved = StreamState(said.owner, project.now, said.since, project.now)  # four hours have gone by
    project.online.set_metas({stream_name(project.codec): moved.to_bytes()})
    (done,) = project.store.materialize(end=moment_of(project.now))
    assert done.cut >= project.now - 2 * HOUR
    project.check()
    before = project.online.size().bytes
    project.send(60)
    project.writer().run(once=True)
    project.check()
    assert project.online.size().bytes < before + 60 * 1000


def test_late_events_are_holes_until_they_are_materialised(plain: Project) -> None:
    plain.send(50)
    plain.writer().run(once=True)
    plain.store.materialize()
    late = plain.event()
    late["at"] = plain.now - 5 * HOUR
    plain.job.events.append(late)
    plain.job.said = plain.job.tiles_now()  # batch has it; the job does not count it
    plain.job.dead_letter("late", late["at"])
    plain.job.dead_letter("unreadable", None)
    plain.writer().run(once=True)
    (hole,) = (h for h in plain.store.holes() if h.reason == "late")  # batch itself notices another file
    assert hole.rows == 1
    assert hole.start <= late["at"] < hole.end
    assert written(plain.online, plain.view).counts["late"] == 1
    said = load_stream(plain.online, plain.codec)
    assert said is not None
    moved = StreamState(said.owner, plain.now + HOUR, said.since, plain.now)
    plain.online.set_metas({stream_name(plain.codec): moved.to_bytes()})
    (done,) = plain.store.materialize(end=moment_of(plain.now + HOUR))
    assert "late" in [h.reason for h in done.closed]
    assert plain.store.holes() == []
    plain.check()


@pytest.mark.slow
def test_what_was_erased_stays_out(plain: Project) -> None:
    left = (
        300 - time.time() % 300
    )  # of the tile that is open: what comes before and after the erasure lies in it
    if left < 45:
        time.sleep(left + 1)
    plain.send(100)
    key = plain.job.events[0]["k"]
    plain.job.take([{**plain.event(), "k": key, "at": time.time_ns() // 1000}])
    plain.writer().run(once=True)
    plain.store.erase("who", {"k": key})
    plain.writer(erased=erasures(plain.store.registry), reset=True).run(once=True)
    got = plain.store.get_online_features("svc", {"k": [key]}).to_dict()
    assert got["count_1d"] == [None] or got["count_1d"] == [0]
    at = time.time_ns() // 1000 + 1000
    after = {**plain.event(), "k": key, "at": at}
    plain.job.take([after])
    plain.writer(erased=erasures(plain.store.registry)).run(once=True)
    reasons = {h.reason for h in plain.store.holes()}
    assert reasons == {"erased"}, "the tile holds events of before, and went as a whole"


@pytest.mark.slow
def test_an_erasure_waits_for_the_writers_that_run(plain: Project) -> None:
    plain.send(100)
    stop = threading.Event()
    writer = Writer(plain.store.config, plain.store.registry, plain.online)
    thread = threading.Thread(target=writer.run, args=(stop,))
    thread.start()
    try:
        wait_for(lambda: settled(plain))
        key = plain.job.events[0]["k"]
        receipt = plain.store.erase("who", {"k": key})
        assert receipt.done, receipt.waits
        plain.job.produce(
            list(plain.job.log)
        )  # what is written again, the erased key's too, comes to nothing
        wait_for(lambda: settled(plain))
        assert plain.store.get_online_features("svc", {"k": [key]}).to_dict()["count_1d"] in ([None], [0])
        assert written(plain.online, plain.view).counts["erased"] > 0
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_a_base_under_a_stream_that_has_said_nothing_yet_stays_where_it_was(plain: Project) -> None:
    plain.send(50)
    plain.store.materialize()
    plain.writer().run(once=True)
    said = load_stream(plain.online, plain.codec)
    assert said is not None
    nothing = StreamState(said.owner, NEVER, None, plain.now)
    plain.online.set_metas({stream_name(plain.codec): nothing.to_bytes()})
    before = load_states(plain.online, {"v": plain.codec})["v"].cut
    (done,) = plain.store.materialize()
    assert done.cut == before


@pytest.mark.slow
def test_nobody_knows_where_a_first_base_may_end_before_the_stream_has_said_how_far_it_is(
    plain: Project,
) -> None:
    plain.send(50)
    plain.writer().run(once=True)
    said = load_stream(plain.online, plain.codec)
    assert said is not None
    nothing = StreamState(said.owner, NEVER, None, plain.now)
    plain.online.set_metas({stream_name(plain.codec): nothing.to_bytes()})
    with pytest.raises(MaterializeError, match="how far it is"):
        plain.store.materialize()


# ── losses


def test_a_store_that_was_emptied_is_filled_again(plain: Project) -> None:
    plain.send(100)
    with running(plain) as said:
        wait_for(lambda: settled(plain))
        with redis.Redis.from_url(plain.store.config.online_url) as client:
            client.flushall()
        wait_for(lambda: settled(plain))
        plain.send(20)
        wait_for(lambda: settled(plain))
    assert any("restarted or emptied" in s for s in said)
    plain.check()


@pytest.mark.redis
@pytest.mark.slow
def test_a_store_that_is_away_is_waited_for(tmp_path: Path, kafka_address: str) -> None:
    kept = KeptRedis(tmp_path)
    kept.start()
    project = Project(tmp_path, kafka_address, f"redis://127.0.0.1:{kept.port}/0", wide=False)
    try:
        with running(project) as said:
            project.send(50)
            wait_for(lambda: settled(project))
            kept.kill()
            project.send(50)
            wait_for(lambda: any("trying again" in s for s in said))
            kept.start()
            wait_for(lambda: settled(project))
        project.check()
    finally:
        project.close()
        kept.kill()


@pytest.mark.slow
def test_a_store_that_stepped_back_is_read_on_from_there(plain: Project) -> None:
    """As a Redis does that is killed and starts from what it had on disk: here under its own identity, which is worse."""
    plain.send(100)
    plain.writer().run(once=True)
    with redis.Redis.from_url(plain.store.config.online_url) as client:
        old = {key: client.dump(key) for key in client.scan_iter()}
        plain.send(100)
        with running(plain):
            wait_for(lambda: settled(plain))
            pipe = client.pipeline()
            pipe.flushall()
            for key, value in old.items():
                pipe.restore(key, 0, value)
            pipe.execute()
            plain.send(30)
            wait_for(lambda: settled(plain))
    assert written(plain.online, plain.view).counts["rewound"] > 0
    plain.check()


@pytest.mark.slow
def test_a_topic_that_no_longer_reaches_back_is_said(plain: Project) -> None:
    plain.send(100)
    plain.writer().run(once=True)
    plain.send(100)
    plain.job.forget_tiles()
    plain.send(20)
    with pytest.raises(OutageTooLong, match="fs stream write --reset"):
        plain.writer().run(once=True)
    plain.writer(reset=True).run(once=True)
    said = load_stream(plain.online, plain.codec)
    assert said is not None
    assert said.since is not None, "what is served is complete from there on alone"


# ── several at once


@pytest.mark.slow
def test_a_killed_writers_partitions_go_to_the_others(plain: Project) -> None:
    plain.send(100)
    with running(plain), running(plain):
        for _ in range(5):
            plain.send(30)
            time.sleep(0.2)
        wait_for(lambda: settled(plain))
    with running(plain):
        plain.send(30)
        wait_for(lambda: settled(plain))
    plain.check()


@pytest.mark.slow
def test_the_writers_of_a_project_take_up_what_is_applied(plain: Project) -> None:
    plain.send(50)
    stop, notes = threading.Event(), list[str]()
    writer = Writer(plain.store.config, plain.store.registry, plain.online, say=notes.append)
    thread = threading.Thread(target=writer.run, args=(stop,))
    thread.start()
    try:
        wait_for(lambda: settled(plain))
        plain.check()
        text = (plain.root / "definitions.py").read_text()
        (plain.root / "definitions.py").write_text(
            text.replace("])\nsvc", ", fs.min('x').over(fs.hours(1))])\nsvc")
        )
        plain.store.apply()
        plain.follow()
        plain.send(20)
        wait_for(lambda: settled(plain))
        plain.check()
    finally:
        stop.set()
        thread.join()
    assert any("its writer starts" in note for note in notes)


class KeptRedis:
    """A Redis that has on disk what it was told, but for the last second, and is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()

    def start(self) -> None:
        words = [
            "--port",
            self.port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--dir",
            self.folder,
        ]
        command = [*tied(), "redis-server", *map(str, words)]
        self._server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with redis.Redis(port=self.port) as client:
            wait_for(lambda: answers(client))

    def kill(self) -> None:
        self._server.kill()
        self._server.wait()


def answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@contextmanager
def running(project: Project) -> Iterator[list[str]]:
    """A writer that goes on, in a thread; what it says."""
    stop, said = threading.Event(), list[str]()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            project.writer(say=said.append).run(stop)
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield said
    finally:
        stop.set()
        thread.join()
    assert failed == []


def moment_of(at: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at)


def settled(project: Project) -> bool:
    """Whether all that was written to the tile topic is in the store."""
    return sum(p.offset for p in Positions(project.online, project.codec).every(TILES).values()) == len(
        project.job.log
    )


def wait_for(done: Callable[[], bool], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "patience ended"
        time.sleep(0.05)
