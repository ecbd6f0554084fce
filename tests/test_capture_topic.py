"""What is captured to a topic is fetched into the capture log: each row once, as it was served, whoever is killed or away."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.cimpl import NewTopic

from featurestore import FeatureStore, capture_topic
from featurestore.errors import BrokerError, CaptureError, RowTooLarge
from featurestore.stream import kafka
from tests.flink_broker import Broker, brokers, built, guarded
from tests.test_capture import ask, by_id, captured, differing, project
from tests.test_kafka import send, topic_of

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("captured"))


@pytest.fixture
def topic(kafka_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = topic_of(kafka_address)
    to_topic(monkeypatch, tmp_path, kafka_address, name)
    return name


def to_topic(monkeypatch: pytest.MonkeyPatch, path: Path, address: str, name: str) -> None:
    settings = {"PATH": str(path / "capture"), "SINK": "kafka", "BOOTSTRAP": address, "TOPIC": name}
    for key, value in settings.items():
        monkeypatch.setenv(f"FS_CAPTURE_{key}", value)


def test_rows_of_several_services_come_as_they_were_served(made: Path, topic: str) -> None:
    with FeatureStore(made) as store:
        reads = [ask(store, i % 30, None, 99) for i in range(40)]
        store.get_online_features("each", {"card_id": list(range(25))})
        counts = store.capture.flush()
        assert (counts.kept + counts.sampled_out, counts.shed, counts.failed) == (145, 0, 0)
        assert not list((store.config.capture).rglob("*.segment")), "they are in the topic alone"
        assert store.capture.fetch().rows == counts.kept
        rows = by_id(captured(store, "pay"))
        assert len(rows) == 120
        assert sum(differing(read, rows) for read in reads) == 0
        assert store.capture.fetch().records == 0
        ask(store, 3)
        store.capture.flush()
        assert store.capture.fetch().rows == 1
        assert store.capture.labels(reads[0].row_ids, [1, 2, 3], name="x").unknown == 0


def test_a_record_that_was_sent_again_is_taken_once(
    made: Path, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker had it, and the one who sent it never heard of that."""
    with FeatureStore(made) as store:
        deaf = [True, True]
        write = capture_topic.KafkaSink.write

        def forgets(self: Any, schema: Any, table: Any, at: int) -> Any:
            left = dict(self._left) if self._table is table else None
            done = write(self, schema, table, at)
            if deaf:
                deaf.pop()
                self._left = left or dict(zip(range(1), capture_topic._pieces(table), strict=True))
                raise BrokerError("no acknowledgement in time")
            return done

        monkeypatch.setattr(capture_topic.KafkaSink, "write", forgets)
        ask(store, 1, 2)
        for _ in range(3):
            try:
                store.capture.flush(60)
            except CaptureError:
                continue
            break
        assert store.capture.counts.kept == 2
        done = store.capture.fetch()
        assert (done.rows, done.records, done.again) == (2, 1, 2)
        assert captured(store, "pay").num_rows == 2


KILLED = """
import os, signal, sys
from featurestore import FeatureStore, capture_topic

step, seen = sys.argv[2], 0

def killed(name, real):
    def call(*given, **named):
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)
        done = real(*given, **named)
        if name + " done" == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    return call

for name in ("_save", "append"):
    setattr(capture_topic, name, killed(name, getattr(capture_topic, name)))
with FeatureStore(sys.argv[1]) as store:
    store.capture.fetch()
"""


@pytest.mark.parametrize("step", ["_save", "_save done", "append", "append done"])
def test_a_fetch_that_is_killed_is_done_once(made: Path, topic: str, step: str) -> None:
    with FeatureStore(made) as store:
        reads = [ask(store, i) for i in range(10)]
        store.capture.flush()
        codes = [
            subprocess.run([sys.executable, "-c", KILLED, str(made), step], check=False).returncode
            for _ in range(2)
        ]
        # Once the append is done there is nothing left to do but to find that out.
        assert codes == [-signal.SIGKILL, 0 if step == "append done" else -signal.SIGKILL]
        store.capture.fetch()
        ids = captured(store, "pay")["row_id"].to_pylist()
        assert sorted(ids) == sorted(r for read in reads for r in read.row_ids)


def test_while_no_broker_answers_rows_wait_and_then_are_shed(
    made: Path, own_kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = topic_of(own_kafka.address)
    to_topic(monkeypatch, tmp_path, own_kafka.address, name)
    monkeypatch.setenv("FS_CAPTURE_BUFFER_ROWS", "4")
    monkeypatch.setattr(kafka, "DELIVERY_SECONDS", 2.0)
    monkeypatch.setattr(kafka, "PATIENCE_SECONDS", 2.0)
    with FeatureStore(made) as store:
        ask(store, 1)
        assert store.capture.flush(60).kept == 1
        own_kafka.kill()
        for card in range(6):
            ask(store, card)
        with pytest.raises(CaptureError, match="rows are not kept yet"):
            store.capture.flush(60)
        assert store.capture.counts.shed == 2
        own_kafka.start()
        for _ in range(20):
            try:
                store.capture.flush(60)
            except CaptureError:
                continue
            break
        assert store.capture.counts.kept == 5
        assert store.capture.fetch().rows == 5
        assert captured(store, "pay").num_rows == 5


def test_what_is_not_of_captured_rows_is_refused(made: Path, topic: str, kafka_address: str) -> None:
    send(kafka_address, topic, b"{}")
    with FeatureStore(made) as store, pytest.raises(CaptureError, match="is not of captured rows"):
        store.capture.fetch()


def test_a_row_that_no_record_holds_is_counted_and_those_beside_it_are_sent(
    made: Path, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    with FeatureStore(made) as store:
        notes = ["a"] * 9
        notes[4] = secrets.token_hex(3_000_000)
        large = ask(store, *range(9), context={"note": notes})
        other = ask(store, 1, context={"note": secrets.token_hex(300_000)})  # it fits
        counts = store.capture.flush(60)
        assert (counts.kept, counts.failed, counts.shed) == (9, 1, 0)
        (said,) = (r.args[1] for r in caplog.records if "was not captured" in r.msg)  # type: ignore[index]
        assert isinstance(said, RowTooLarge)
        assert said.row_id == large.row_ids[4]
        assert store.capture.fetch().rows == 9
        rows = captured(store, "pay")["row_id"].to_pylist()
        assert sorted(rows) == sorted(set(large.row_ids + other.row_ids) - {said.row_id})


def test_a_topic_that_is_not_there_is_said(
    made: Path, kafka_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_topic(monkeypatch, tmp_path, kafka_address, "nowhere")
    with FeatureStore(made) as store, pytest.raises(BrokerError, match="nowhere"):
        store.capture.fetch()


def test_the_command_line_fetches(made: Path, topic: str) -> None:
    with FeatureStore(made) as store:
        ask(store, 1, 2)
        store.capture.flush()
    command = [sys.executable, "-m", "featurestore.cli", "-C", str(made), "log", "fetch", "--json"]
    assert json.loads(subprocess.check_output(command)) == {"rows": 2, "records": 1, "again": 0}


def test_the_command_line_follows_until_it_is_told_to_stop(made: Path, topic: str) -> None:
    command = [
        sys.executable,
        "-m",
        "featurestore.cli",
        "-C",
        str(made),
        "log",
        "fetch",
        "--follow",
        "--every",
        "0.2",
    ]
    with FeatureStore(made) as store:
        ask(store, 1, 2)
        store.capture.flush()
        with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as following:
            assert following.stdout is not None
            try:
                assert json.loads(following.stdout.readline())["rows"] == 2
                ask(store, 3)
                store.capture.flush()
                assert json.loads(following.stdout.readline())["rows"] == 1
            finally:
                following.send_signal(signal.SIGTERM)
            assert following.wait(60) == 0
        assert captured(store, "pay").num_rows == 3


@pytest.mark.slow
def test_a_topic_behind_a_login(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built()
    with brokers(tmp_path, **guarded("ann", "right")) as broker:
        login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "ann"}
        right = kafka.cluster_at(broker.address, {**login, "sasl.password": "right"})
        client = kafka.admin(right)
        client.create_topics([NewTopic("captured", 1)])["captured"].result(60)
        to_topic(monkeypatch, tmp_path, broker.address, "captured")
        told = ",".join(f"{name}={value}" for name, value in login.items())
        monkeypatch.setenv("FS_CAPTURE_PROPERTIES", f"{told},sasl.password=right")
        with FeatureStore(made) as store:
            ask(store, 1)
            assert store.capture.flush().failed == 0
            assert store.capture.fetch().rows == 1
        monkeypatch.setenv("FS_CAPTURE_PROPERTIES", f"{told},sasl.password=hunter2")
        with FeatureStore(made) as store, pytest.raises(BrokerError, match="refused") as error:
            store.capture.fetch()
        assert "hunter2" not in f"{error.value} {store.config!r}"


def test_without_a_topic_there_is_nothing_to_fetch(made: Path) -> None:
    with FeatureStore(made) as store, pytest.raises(CaptureError, match="there is no topic to fetch from"):
        store.capture.fetch()
