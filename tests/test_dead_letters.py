"""Dead letters of a Flink job in a real topic: listed, and given back once, whoever is killed while doing so."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from featurestore import flink
from featurestore.errors import NotFound
from featurestore.ir import View
from featurestore.stream import kafka
from tests.test_writer import Project

pytestmark = [pytest.mark.flink, pytest.mark.kafka]

PAYLOADS = [b'{"k": null}', b"not json", b"\xff", b'{"k": 4}']


@pytest.fixture
def project(tmp_path: Path, kafka_address: str) -> Iterator[Project]:
    made = Project(tmp_path, kafka_address, "lmdb://.fs/online", wide=False)
    yield made
    made.close()


@pytest.fixture
def view(project: Project) -> View:
    """A view whose job set four events aside."""
    client = Producer({"bootstrap.servers": project.address})
    for payload in PAYLOADS:
        letter = {"reason": "unreadable", "payload": base64.b64encode(payload).decode()}
        client.produce(project.job.letters, json.dumps(letter).encode())
    client.flush(20)
    return project.view


def given_back(project: Project) -> list[bytes]:
    """What is in the topic of the source, as a job reads it."""
    reader = Consumer(
        {"bootstrap.servers": project.address, "group.id": "looks", "isolation.level": "read_committed",
         "enable.partition.eof": True}
    )  # fmt: skip
    reader.assign([TopicPartition(project.job.source, n, 0) for n in range(2)])
    found, ended = [], 0
    while ended < 2:
        for message in reader.consume(100, 1):
            if message.error() is not None:
                ended += 1
            else:
                found.append(message.value() or b"")
    reader.close()
    return sorted(found)


def test_each_letter_is_given_back_once_in_any_order(project: Project, view: View) -> None:
    places = [letter.place for letter in flink.dead_letters(view)]
    assert places == ["0/0", "0/1", "0/2", "0/3"]
    with pytest.raises(NotFound, match="0/7"):
        flink.replay(view, ["0/7"])
    assert [letter.payload for letter in flink.replay(view, ["0/2"])] == [PAYLOADS[2]]
    assert [letter.place for letter in flink.dead_letters(view)] == ["0/0", "0/1", "0/3"]
    flink.replay(view, ["0/0"])
    assert [letter.place for letter in flink.dead_letters(view)] == ["0/1", "0/3"]
    assert len(flink.replay(view, None)) == 2
    assert flink.dead_letters(view) == flink.replay(view, None) == []
    assert given_back(project) == sorted(PAYLOADS)


def test_one_that_is_killed_before_it_is_done_gave_nothing_back(
    project: Project, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = kafka.producer

    class Killed:
        """A producer whose process ends as it is about to commit."""

        def __init__(self, *args: object, **more: object) -> None:
            self._real = made(*args, **more)  # type: ignore[arg-type]

        def __getattr__(self, name: str) -> object:
            if name == "commit_transaction":
                self._real.flush(20)
                raise KeyboardInterrupt
            return getattr(self._real, name)

    monkeypatch.setattr(kafka, "producer", Killed)
    with pytest.raises(KeyboardInterrupt):
        flink.replay(view, None)
    monkeypatch.setattr(kafka, "producer", made)
    assert len(flink.dead_letters(view)) == 4
    flink.replay(view, None)
    assert flink.dead_letters(view) == []
    assert given_back(project) == sorted(PAYLOADS)
