"""A real Kafka broker for tests: one process, KRaft, on free ports; one for the session, or one to kill and start again."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.flink_cluster import STREAMING
from tests.services import MISSING, free_port, tied

JARS = STREAMING / "build" / "broker"
PATIENCE_SECONDS = 60.0

JAVA = ["java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{JARS}/*"]


@dataclass
class Broker:
    """A broker in a folder. Topics come to be when they are written to, with two partitions."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    _server: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    def prepare(self) -> None:
        """Writes what a broker wants to have before it starts for the first time."""
        controller = free_port()
        told = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": f"{self.folder / 'kafka'}",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "num.partitions": "2",
            "group.initial.rebalance.delay.ms": "0",
            "log.retention.check.interval.ms": "500",
            "broker.session.timeout.ms": "2000",  # for so long one that was killed is taken for alive
            "broker.heartbeat.interval.ms": "500",
            **self.settings,
        }
        self._config.write_text("".join(f"{name}={value}\n" for name, value in told.items()))
        name = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        made = [
            *JAVA, "kafka.tools.StorageTool", "format", "-t", f"a{name[1:]}", "-c", str(self._config),
        ]  # fmt: skip
        with self._log.open("a") as log:
            subprocess.run(made, check=True, stdout=log, stderr=log)

    def start(self) -> None:
        """Starts it, and waits until it answers, for all topics that it has."""
        with self._log.open("a") as log:
            self._server = subprocess.Popen(
                [*tied(), *JAVA, "kafka.Kafka", str(self._config)], stdout=log, stderr=log
            )
        wait_for(self.port, self._server)
        if "SASL" in self.settings.get("listener.security.protocol.map", ""):
            return  # whoever has a login may ask
        asked = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not _led(asked):
            if time.monotonic() > deadline:
                raise RuntimeError("the broker leads nothing: see broker.log")
            time.sleep(0.1)

    def kill(self) -> None:
        """Ends it by SIGKILL."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    @property
    def _config(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _log(self) -> Path:
        return self.folder / "broker.log"


def guarded(user: str, password: str) -> dict[str, str]:
    """Settings of a broker that lets one user in."""
    users = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}"'
    return {
        "listener_security_protocol_map": "CONTROLLER:PLAINTEXT,PLAINTEXT:SASL_PLAINTEXT",
        "sasl_enabled_mechanisms": "PLAIN",
        "sasl_mechanism_inter_broker_protocol": "PLAIN",
        "listener_name_plaintext_plain_sasl_jaas_config": f'{users} username="{user}" password="{password}";',
    }


@contextmanager
def brokers(folder: Path, **settings: str) -> Iterator[Broker]:
    """A broker that runs; names of its settings have `_` for dots."""
    one = Broker(folder, {name.replace("_", "."): value for name, value in settings.items()})
    one.prepare()
    try:
        one.start()
        yield one
    finally:
        one.kill()


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """The address of a broker whose topics come to be when they are written to."""
    with brokers(folder) as one:
        yield one.address


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for the session: who shares it chooses topics of their own, and kills it never."""
    built()
    with brokers(tmp_path_factory.mktemp("kafka")) as one:
        yield one


@pytest.fixture(scope="session")
def kafka_address(kafka_server: Broker) -> str:
    """`127.0.0.1:PORT`."""
    return kafka_server.address


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own, to kill and start again."""
    built()
    folder = tmp_path / "kafka-broker"
    folder.mkdir()
    with brokers(folder) as one:
        yield one


def built() -> None:
    """Skips where there is no broker; under CI=true that is a failure."""
    if JARS.is_dir():
        return
    reason = f"{MISSING}Kafka broker (make -C streaming broker)"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; under CI=true nothing may be missing", pytrace=False)
    pytest.skip(reason)


def _led(asked: AdminClient) -> bool:
    """Whether a broker answers, and leads the partitions of every topic."""
    try:
        topics = asked.list_topics(timeout=2).topics
    except KafkaException:
        return False
    return all(part.leader >= 0 for topic in topics.values() for part in topic.partitions.values())


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("the broker did not start: see broker.log")
