"""A job over a topic of Avro makes the tiles that it makes of the same events as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from featurestore import declare as d
from featurestore.compile.flink_job import job_of, wire_of
from featurestore.declare import declarations_in
from featurestore.expr import col
from featurestore.lower import lower
from featurestore.stream.topic import TopicInbox
from featurestore.time import SECOND, days, hours
from tests.flink_cluster import Flink
from tests.flink_columns import SCHEMA
from tests.parity.engines import declared
from tests.test_kafka import send, topic_of

pytestmark = [pytest.mark.flink, pytest.mark.kafka, pytest.mark.slow]

START = 1_700_000_000


def events() -> list[dict[str, Any]]:
    return [
        {
            "a": i * 10**15,
            "x": i / 7,
            "s": None if i % 5 == 0 else f"é{i % 3}",
            "p": i % 2 == 0,
            "m": Decimal(i) / 4,
            "t": datetime.fromtimestamp(START + i * 97 % 7200, UTC),
            "d": None,
        }
        for i in range(200)
    ]


def test_a_topic_of_avro_makes_the_tiles_of_one_of_json(flink: Flink, kafka_address: str) -> None:
    features = [
        d.count().over(hours(1)), d.sum("a").over(hours(1)), d.sum("m").over(hours(1)), d.max("x").over(days(1)),
        d.last("s").over(days(1)), d.count().where(col("p")).over(hours(1)).named("where_p"),
    ]  # fmt: skip
    found = []
    for properties in (None, {}, {"avro.schema.id": "12"}):
        topic = topic_of(kafka_address, 2, retention_ms="-1")
        wire = d.Kafka(
            topic,
            bootstrap=kafka_address,
            format="json" if properties is None else "avro",
            properties=properties or {},
        )
        source = d.StreamSource(
            "s", batch=d.Parquet("x"), stream=wire, event_time="t", arrival_time="t", columns=SCHEMA
        )
        view = lower(
            declarations_in(
                [d.FeatureService("svc", [d.FeatureView("v", d.Entity("e", key="s"), source, features)])]
            ),
            declared,
        ).view("v")
        inbox = TopicInbox(view.source)
        assert inbox.append(events(), START * SECOND).rows == 200
        inbox.close()
        send(kafka_address, topic, b"\x01 no event", b"")
        job = job_of(view, wire_of(view), mode="batch")
        bounded = {"scan.bounded.mode": "latest-offset"}
        steps = [step.sql.removesuffix(")") + f", '{k}' = '{v}')" if step.name == "payloads" else step.sql
                 for step in job.statements for k, v in bounded.items()]  # fmt: skip
        queries = [(q.sql, q.keys) for q in job.queries] + [(job.dead_letters, 0)]
        *tiles, dead = flink.run(queries, [*job.functions, *steps], settings=job.settings)
        found.append([sorted(map(str, rows)) for rows in tiles])
        assert sorted(row["reason"] for row in dead) == ["no key"] * 40 + ["unreadable"] * 2
    assert found[0] == found[1] == found[2]
    assert all(found[0])
