"""Clients of a real broker: what a source says of its cluster, and what can be wrong with it as errors of ours."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.cimpl import NewTopic

from featurestore import declare as d
from featurestore.errors import BrokerDenied, BrokerError, BrokerUnavailable, ConfigError, TopicNotFound
from featurestore.lower import location_of
from featurestore.stream import kafka
from featurestore.stream.kafka import Cluster, cluster_of
from tests.flink_broker import Broker, brokers, built, guarded
from tests.services import free_port

JAAS = 'org.apache.kafka.common.security.plain.PlainLoginModule required username="ann" password="s3cr\\"et";'


def topic_of(address: str, partitions: int = 2, **config: str) -> str:
    """A new topic; names of its settings have `_` for dots."""
    name = f"t{uuid.uuid4().hex[:12]}"
    settings = {k.replace("_", "."): v for k, v in config.items()}
    client = kafka.admin(Cluster(address))
    client.create_topics([NewTopic(name, partitions, 1, config=settings)])[name].result(30)
    while name not in kafka.topics(client, Cluster(address)):
        time.sleep(0.02)
    return name


def send(address: str, topic: str, *records: Any) -> None:
    """Writes records: values, or mappings of what `Producer.produce` takes."""
    client: Producer = kafka.producer(Cluster(address))
    for record in records:
        client.produce(topic, **(record if isinstance(record, Mapping) else {"value": record}))
    assert client.flush(30) == 0


def cluster(properties: Mapping[str, str], **environ: str) -> Cluster:
    wire = location_of(d.Kafka("t", bootstrap="${BROKERS}", properties=properties))
    return cluster_of(wire, {"BROKERS": "a:1,b:2", **environ})


def test_variables_are_taken_when_a_client_is_made() -> None:
    found = cluster({"sasl.password": "${PASSWORD}"}, PASSWORD="p")
    assert (found.bootstrap, found.properties["sasl.password"]) == ("a:1,b:2", "p")
    with pytest.raises(ConfigError, match="PASSWORD is not set"):
        cluster({"sasl.password": "${PASSWORD}"})


def test_a_login_may_be_as_flink_wants_it_and_is_never_shown() -> None:
    found = cluster({"sasl.jaas.config": "${JAAS}", "security.protocol": "SASL_SSL"}, JAAS=JAAS)
    assert found.properties == {
        "security.protocol": "SASL_SSL", "sasl.username": "ann", "sasl.password": 's3cr"et',
    }  # fmt: skip
    assert "s3cr" not in repr(found)


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"sasl.jaas.config": "required token=x;"}, "names no username and password"),
        ({"ssl.truststore.type": "JKS", "ssl.truststore.location": "x"}, "only Java can read"),
        ({"sasl.pasword": "hush"}, "'sasl.pasword' of Kafka"),
        ({"security.protocol": "hush"}, "'security.protocol' of Kafka"),
    ],
)
def test_a_property_that_does_not_fit_is_named_and_its_value_is_not(
    properties: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        kafka.consumer(cluster(properties))
    assert "hush" not in str(error.value)


def test_what_is_ours_reaches_no_client() -> None:
    assert cluster({"avro.schema": "{}", "schema.registry.url": "x"}).properties == {}


def test_a_topic_that_is_not_there_is_refused_with_the_nearest(kafka_address: str) -> None:
    there = topic_of(kafka_address, 3)
    client, at = kafka.admin(Cluster(kafka_address)), Cluster(kafka_address)
    assert kafka.partitions(client, at, there) == [0, 1, 2]
    with pytest.raises(TopicNotFound, match=f"did you mean '{there}'"):
        kafka.partitions(client, at, f"{there}x")
    reader = kafka.consumer(at)
    with pytest.raises(TopicNotFound):
        kafka.partitions(reader, at, f"{there}x")
    reader.close()
    assert f"{there}x" not in kafka.topics(client, at), "asking makes none"


def test_records_have_places_and_topics_ends(kafka_address: str) -> None:
    at, topic = Cluster(kafka_address), topic_of(kafka_address, 2)
    send(kafka_address, topic, {"value": b"a", "partition": 0}, {"value": b"b", "partition": 1})
    client = kafka.admin(at)
    assert kafka.offsets(client, at, topic, [0, 1]) == {0: 1, 1: 1}
    assert kafka.offsets(client, at, topic, [0, 1], first=True) == {0: 0, 1: 0}
    assert kafka.topic_id(client, at, topic) not in ("", kafka.topic_id(client, at, topic_of(kafka_address)))
    reader: Consumer = kafka.consumer(at)
    reader.assign([TopicPartition(topic, 1, 0)])
    message = reader.poll(10)
    assert message is not None
    assert (message.value(), message.offset()) == (b"b", 0)
    reader.close()


def test_a_broker_that_is_away_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "PATIENCE_SECONDS", 0.5)
    nowhere = Cluster(f"127.0.0.1:{free_port()}")
    for client in (kafka.admin(nowhere), kafka.producer(nowhere)):
        with pytest.raises(BrokerUnavailable, match=f"no Kafka broker answers at {nowhere.bootstrap}"):
            kafka.partitions(client, nowhere, "t")
    with pytest.raises(BrokerUnavailable):
        kafka.offsets(kafka.admin(nowhere), nowhere, "t", [0])


@pytest.mark.slow
def test_a_wrong_login_is_refused_and_a_right_one_is_not(tmp_path: Path) -> None:
    built()
    with brokers(tmp_path, **guarded("ann", "right")) as broker:
        login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "ann"}
        right = Cluster(broker.address, {**login, "sasl.password": "right"})
        assert kafka.topics(kafka.admin(right), right) == {}
        wrong = Cluster(broker.address, {**login, "sasl.password": "hunter2"})
        with pytest.raises(BrokerDenied, match="refused") as error:
            kafka.topics(kafka.admin(wrong), wrong)
        assert "hunter2" not in str(error.value)
        plain = Cluster(broker.address)
        with pytest.raises(BrokerError):
            kafka.topics(kafka.admin(plain), plain)


def test_the_commits_of_a_group_are_told_on_a_broker_that_nobody_asked_before(own_kafka: Broker) -> None:
    """Its groups have no coordinator yet."""
    topic = topic_of(own_kafka.address, 2)
    cluster = Cluster(own_kafka.address, {})
    assert kafka.committed(cluster, "nobody", topic, [0, 1]) == {}
    client = Consumer({"bootstrap.servers": own_kafka.address, "group.id": "somebody"})
    client.commit(offsets=[TopicPartition(topic, 1, 0)], asynchronous=False)
    client.close()
    assert kafka.committed(cluster, "somebody", topic, [0, 1]) == {1: 0}
