"""What the product needs of Kafka: clients of the cluster that a source names, and its errors as ours.

Nothing of a login is logged, shown or part of an error. confluent-kafka is imported when a client is made, never before.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from featurestore.config import expand
from featurestore.errors import (
    BrokerDenied,
    BrokerError,
    BrokerUnavailable,
    ConfigError,
    TopicNotFound,
    Unsupported,
)
from featurestore.ir import Location

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Producer
    from confluent_kafka.admin import AdminClient

PATIENCE_SECONDS: Final = 5.0
"""How long a broker has to answer a question."""

DELIVERY_SECONDS: Final = 30.0
"""How long records have to be acknowledged."""

OURS: Final = ("avro.", "schema.registry.")
"""Properties of a source that are no client's business begin so."""

T = TypeVar("T")

LOGGER = logging.getLogger("featurestore.kafka")
LOGGER.addHandler(
    logging.NullHandler()
)  # what matters becomes an error; the rest is for those who ask for it

_JAVA: Final = {
    "ssl.truststore.location": "ssl.ca.location",
    "ssl.truststore.certificates": "ssl.ca.pem",
    "ssl.keystore.certificate.chain": "ssl.certificate.pem",
    "ssl.keystore.key": "ssl.key.pem",
}
"""Names that the Java client has for what librdkafka calls otherwise. Its trust store has to be of type PEM."""

_NOT_HERE: Final = frozenset({"ssl.truststore.type", "ssl.truststore.password"})
_LOGIN: Final = re.compile(r"""(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s;]+))""")


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """A Kafka cluster: its address, and properties for every client, by librdkafka's names. They may hold a login.

    `complaints` has what a client last said by itself, which is where a refused login shows.
    """

    bootstrap: str
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    complaints: deque[KafkaError] = field(default_factory=lambda: deque(maxlen=1), repr=False)


def cluster_of(wire: Location, environ: Mapping[str, str] | None = None) -> Cluster:
    """The cluster of a topic, `${VARIABLE}` taken from the environment.

    Properties may have the Java client's names, as Flink wants them, or librdkafka's. Raises ConfigError naming a variable
    that is not set, and for a login that cannot be read.
    """
    assert wire.kind == "kafka"
    options = dict(wire.options)
    given = {
        name.removeprefix("property."): expand(value, environ)
        for name, value in options.items()
        if name.startswith("property.") and not name.removeprefix("property.").startswith(OURS)
    }
    return cluster_at(expand(options["bootstrap"], environ), given)


def cluster_at(bootstrap: str, properties: Mapping[str, str]) -> Cluster:
    """A cluster, and properties by names of the Java client or librdkafka. Raises ConfigError for a login that cannot be read."""
    return Cluster(bootstrap, _for_librdkafka(properties))


def _for_librdkafka(given: Mapping[str, str]) -> dict[str, str]:
    if (kind := given.get("ssl.truststore.type", "PEM").upper()) != "PEM":
        raise ConfigError(
            f"'ssl.truststore.type' is {kind}, which only Java can read\n  give certificates as PEM"
        )
    renamed = {_JAVA.get(name, name): value for name, value in given.items() if name not in _NOT_HERE}
    login = renamed.pop("sasl.jaas.config", None)
    if login is not None:
        found = {
            name: re.sub(r"\\(.)", r"\1", a or b or c) for name, a, b, c in _LOGIN.findall(login.rstrip("; "))
        }
        if not {"username", "password"} <= found.keys():
            raise ConfigError(
                "'sasl.jaas.config' names no username and password\n"
                '  write: …LoginModule required username="…" password="…";'
            )
        renamed |= {"sasl.username": found["username"], "sasl.password": found["password"]}
    return renamed


# ── clients


def consumer(cluster: Cluster, **properties: Any) -> Consumer:
    """A consumer without a group's offsets: whoever reads keeps the position, unless `properties` say otherwise.

    Where a position is not there any more it says so. Names have `_` for the dots of librdkafka's: `group_id="writer"`.
    """
    from confluent_kafka import Consumer

    settings = {
        "group.id": "fs",  # wanted even where no group is joined
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "allow.auto.create.topics": False,
        "isolation.level": "read_committed",
    }
    return _made(Consumer, cluster, settings, properties)


def producer(cluster: Cluster, **properties: Any) -> Producer:
    """A producer whose records are written once each, in order, and acknowledged by every replica in sync."""
    from confluent_kafka import Producer

    settings = {
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 5,
        "delivery.timeout.ms": int(DELIVERY_SECONDS * 1000),
        "compression.type": "lz4",
    }
    return _made(Producer, cluster, settings, properties)


def admin(cluster: Cluster) -> AdminClient:
    """A client for questions about topics."""
    from confluent_kafka.admin import AdminClient

    return _made(AdminClient, cluster, {}, {})


def _made(
    kind: Callable[[dict[str, Any]], T],
    cluster: Cluster,
    settings: Mapping[str, Any],
    properties: Mapping[str, Any],
) -> T:
    more = {name.replace("_", "."): value for name, value in properties.items()}
    told = {
        "bootstrap.servers": cluster.bootstrap,
        "reconnect.backoff.max.ms": 1000,  # back soon after a broker is
        **cluster.properties,
        **settings,
        **more,
    }
    with typed(cluster):
        return kind({**told, "error_cb": partial(_complain, cluster), "logger": LOGGER})


# ── questions


def partitions(client: Consumer | AdminClient | Producer, cluster: Cluster, topic: str) -> list[int]:
    """The partitions of a topic, in order. Raises TopicNotFound, BrokerUnavailable and BrokerDenied; makes no topic."""
    from confluent_kafka import Consumer

    if isinstance(client, Consumer):  # others may make the topic that they ask for by name
        with typed(cluster, client):
            told = client.list_topics(topic, timeout=PATIENCE_SECONDS).topics.get(topic)
        if told is not None and told.error is None and told.partitions:
            return sorted(told.partitions)
    found = topics(client, cluster)
    if topic not in found:
        raise TopicNotFound(topic, cluster.bootstrap, found)
    return found[topic]


def topics(client: Consumer | AdminClient | Producer, cluster: Cluster) -> dict[str, list[int]]:
    """The topics of a cluster with their partitions, its own apart. Raises BrokerUnavailable and BrokerDenied."""
    with typed(cluster, client):
        told = client.list_topics(timeout=PATIENCE_SECONDS).topics
    return {name: sorted(t.partitions) for name, t in told.items() if not name.startswith("__")}


def offsets(
    client: AdminClient,
    cluster: Cluster,
    topic: str,
    numbers: list[int],
    *,
    first: bool = False,
    since: int | None = None,
) -> dict[int, int]:
    """For each partition the offset after its last committed record, or with `first` that of the first that is left.

    With `since` that of the first record stamped then (ms) or later, −1 where there is none.
    """
    from confluent_kafka import IsolationLevel, TopicPartition
    from confluent_kafka.admin._listoffsets import OffsetSpec

    spec = OffsetSpec.earliest() if first else OffsetSpec.latest()  # type: ignore[no-untyped-call]
    if since is not None:
        spec = OffsetSpec.for_timestamp(since)
    with typed(cluster, client, topic):
        asked = client.list_offsets(
            {TopicPartition(topic, number): spec for number in numbers},
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=PATIENCE_SECONDS,
        )
        return {place.partition: answer.result(PATIENCE_SECONDS).offset for place, answer in asked.items()}


def committed(cluster: Cluster, group: str, topic: str, numbers: Sequence[int]) -> dict[int, int]:
    """The offsets that a group has committed of a topic, by partition; none for a partition of which it has committed nothing.

    Asked by a consumer, which joins nothing: while a group has no coordinator (a new broker, one that took over) the answer
    to librdkafka's admin client ends the process by a segmentation fault.
    """
    from confluent_kafka import KafkaError, KafkaException, TopicPartition

    moving = (
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    with closing(consumer(cluster, group_id=group)) as asking, typed(cluster, asking, topic):
        while True:
            try:
                told = asking.committed([TopicPartition(topic, n) for n in numbers], PATIENCE_SECONDS)
            except KafkaException as error:
                if error.args[0].code() not in moving or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)  # a coordinator is being chosen
            else:
                return {t.partition: t.offset for t in told if t.error is None and t.offset >= 0}


def topic_id(client: AdminClient, cluster: Cluster, topic: str) -> str:
    """The name that a topic never shares with a later one, "" from brokers that give none."""
    from confluent_kafka import TopicCollection

    with typed(cluster, client, topic):
        asked = client.describe_topics(TopicCollection([topic]), request_timeout=PATIENCE_SECONDS)
        told = asked[topic].result(PATIENCE_SECONDS).topic_id
    return "" if told is None else str(told)


def setting(client: AdminClient, cluster: Cluster, topic: str, name: str) -> str:
    """A setting of a topic."""
    from confluent_kafka.admin._config import ConfigResource
    from confluent_kafka.admin._resource import ResourceType

    resource = ConfigResource(ResourceType.TOPIC, topic)
    with typed(cluster, client, topic):
        asked = client.describe_configs([resource], request_timeout=PATIENCE_SECONDS)
        return str(asked[resource].result(PATIENCE_SECONDS)[name].value)


# ── errors


@contextmanager
def typed(cluster: Cluster, client: Any = None, topic: str | None = None) -> Iterator[None]:
    """What confluent-kafka raises inside becomes a BrokerError; a missing package and a wrong property are said too.

    `client` is asked what it has to complain of: it tells of a refused login there, and elsewhere only that nobody answers.
    """
    try:
        from confluent_kafka import KafkaException
    except ImportError as error:
        raise Unsupported(
            "this installation", "speak to Kafka", "pip install 'featurestore[kafka]'"
        ) from error
    try:
        yield
    except KafkaException as error:
        if client is not None and hasattr(client, "poll"):
            _hear(client)
        raise error_of(error.args[0], cluster, topic) from None  # its text may hold a property's value
    except TimeoutError as error:
        raise BrokerUnavailable(_unavailable(cluster, "no answer in time")) from error


def _hear(client: Any) -> None:
    """Has a client say what it has to complain of. Records that come meanwhile would be lost: not for a reader's consumer."""
    from confluent_kafka import Consumer, KafkaException

    if isinstance(client, Consumer) and client.assignment():
        return
    until = time.monotonic() + 0.05
    while time.monotonic() < until:
        try:
            client.poll(0.01)
        except KafkaException:
            return


def _complain(cluster: Cluster, error: KafkaError) -> None:
    """Remembers what a client says by itself; that no broker is left is no news after a refused login."""
    from confluent_kafka import KafkaError

    last = cluster.complaints[-1] if cluster.complaints else None
    if error.code() != KafkaError._ALL_BROKERS_DOWN or last is None or last.code() not in _denied():  # noqa: SLF001
        cluster.complaints.append(error)


@cache
def _denied() -> frozenset[int]:
    """Codes that say that a login or a right is wanting."""
    from confluent_kafka import KafkaError

    return frozenset(
        {
            KafkaError._AUTHENTICATION,  # noqa: SLF001 (so they are called)
            KafkaError._SSL,  # noqa: SLF001
            KafkaError.SASL_AUTHENTICATION_FAILED,
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.CLUSTER_AUTHORIZATION_FAILED,
            KafkaError.GROUP_AUTHORIZATION_FAILED,
            KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        }
    )


def error_of(error: KafkaError, cluster: Cluster, topic: str | None = None) -> BrokerError | ConfigError:
    """Ours for an error of confluent-kafka's."""
    from confluent_kafka import KafkaError

    said = cluster.complaints[-1] if cluster.complaints else error
    for one in (error, said):
        if one.code() in _denied():
            return BrokerDenied(
                f"Kafka at {cluster.bootstrap} refused: {one.str()}\n  look at the properties of Kafka(topic, properties={{…}})"
            )
    if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC) and topic is not None:  # noqa: SLF001
        return TopicNotFound(topic, cluster.bootstrap, ())
    if error.code() == KafkaError._INVALID_ARG:  # noqa: SLF001
        name = re.search(r'property:? "([\w.]+)"', error.str() or "")
        return ConfigError(
            f"{'a property' if name is None else f'property {name[1]!r}'} of Kafka(topic, properties={{…}}) is not one that"
            " librdkafka takes, or has a value that it refuses\n"
            "  names are librdkafka's, or the Java client's for logins and certificates"
        )
    if error.retriable() or error.code() in _away():
        return BrokerUnavailable(_unavailable(cluster, said.str() or error.name()))
    return BrokerError(f"Kafka at {cluster.bootstrap}: {error.str() or error.name()}")


_AWAY: Final = (
    "_NOENT _TRANSPORT _TIMED_OUT _ALL_BROKERS_DOWN _RESOLVE _MSG_TIMED_OUT _TIMED_OUT_QUEUE _WAIT_COORD _DESTROY",
    "LEADER_NOT_AVAILABLE NOT_LEADER_FOR_PARTITION REQUEST_TIMED_OUT BROKER_NOT_AVAILABLE REPLICA_NOT_AVAILABLE",
    "NETWORK_EXCEPTION NOT_ENOUGH_REPLICAS NOT_ENOUGH_REPLICAS_AFTER_APPEND NOT_CONTROLLER KAFKA_STORAGE_ERROR",
    "COORDINATOR_LOAD_IN_PROGRESS COORDINATOR_NOT_AVAILABLE NOT_COORDINATOR FENCED_LEADER_EPOCH UNKNOWN_LEADER_EPOCH",
    "OFFSET_NOT_AVAILABLE THROTTLING_QUOTA_EXCEEDED",
)
"""Errors that pass: nobody answers, or a broker that comes back or takes over from another has not begun yet."""


def _away() -> frozenset[int]:
    from confluent_kafka import KafkaError

    return frozenset(getattr(KafkaError, name) for names in _AWAY for name in names.split())


def _unavailable(cluster: Cluster, why: str) -> str:
    return (
        f"no Kafka broker answers at {cluster.bootstrap}: {why}\n  is it running, and is the address right?"
    )
