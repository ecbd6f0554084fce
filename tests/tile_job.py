"""What a Flink job does, without Flink: events to their topic, the tiles that they change to another, offsets committed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from featurestore.compile.flink_job import NEWEST, Query, job_of, topic_prefix, wire_of
from featurestore.compile.sources import Connection
from featurestore.ir import View
from featurestore.layout import layout_of
from featurestore.log.events import arrow_schema
from tests.flink_records import key_of, partition_of, value_of
from tests.parity.engines import World
from tests.test_flink_tiles import newest_in_duckdb, payload, tiles_in_duckdb

PARTITIONS = 3
Record = tuple[bytes, bytes]


def signed(value: Any) -> Any:
    """Unsigned words are signed ones of the same bits there."""
    return value - 2**64 if isinstance(value, int) and value >= 2**63 else value


def records_of(con: Connection, world: Any, queries: Sequence[Query], epoch: int = 1) -> dict[bytes, bytes]:
    """The records of all tiles and newest rows of a world, as a job that has read all of it writes them."""
    found = {}
    layout, keys = layout_of(world.view), len(world.view.keys)
    for query in queries:
        newest = query.level == NEWEST
        cells = (
            newest_in_duckdb(con, world)
            if newest
            else tiles_in_duckdb(con, world, layout.levels[query.level])
        )
        for name, cell in cells.items():
            row = [*name, *(signed(cell[c]) for c in list(query.columns)[len(name) :])]
            key = key_of(query.columns, keys, query.level, row)
            found[key] = value_of(query.columns, query.level, epoch, row)
    return found


@dataclass
class TileJob:
    """The job of one view. `events` are all that were sent; physical times, in microseconds."""

    con: Connection
    view: View
    root: Path
    address: str
    epoch: int = 1
    events: list[dict[str, Any]] = field(default_factory=list)
    said: dict[bytes, bytes] = field(default_factory=dict)
    log: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.view.source.stream is not None
        self.source = self.view.source.stream.path
        self.prefix = topic_prefix(self.view)
        self.tiles, self.letters = f"{self.prefix}.tiles", f"{self.prefix}.dead-letters"
        self._producer = Producer(
            {"bootstrap.servers": self.address, "linger.ms": 1, "enable.idempotence": True}
        )
        self.queries = job_of(self.view, wire_of(self.view)).queries

    def make_topics(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.address})
        settings = {"cleanup.policy": "compact,delete"}
        topics = [
            NewTopic(self.source, 2, 1),
            NewTopic(self.tiles, PARTITIONS, 1, config=settings),
            NewTopic(self.letters, 1, 1),
        ]
        known = admin.list_topics(timeout=20).topics
        for made in admin.create_topics([t for t in topics if t.topic not in known]).values():
            made.result(20)

    def take(self, events: Sequence[Mapping[str, Any]], *, commit: bool = True) -> None:
        """Sends events, and all that the job makes of them."""
        self.events_only(events)
        now = self.tiles_now()
        self.produce([(k, v) for k, v in now.items() if self.said.get(k) != v])
        self.said = now
        if commit:
            self.commit()

    def events_only(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Sends events, for a job of Flink's own."""
        for event in events:
            self.events.append(dict(event))
            line = payload(event, self.view.source.schema).encode()
            self._producer.produce(self.source, line, partition=len(self.events) % 2)
        assert self._producer.flush(60) == 0

    def tiles_now(self) -> dict[bytes, bytes]:
        """The records of everything that was sent, and the batch of it in the file of the source."""
        self.write_batch()
        world: Any = World(None, self.root, self.events, None, self.view)  # type: ignore[arg-type]
        return records_of(self.con, world, self.queries, self.epoch)

    def write_batch(self) -> None:
        """Writes everything that was sent into the file of the source, at rest."""
        columns = {}
        for f in arrow_schema(self.view.source.schema):
            values = [event[f.name] for event in self.events]
            columns[f.name] = pa.array(values, pa.int64() if pa.types.is_timestamp(f.type) else f.type).cast(
                f.type
            )
        pq.write_table(pa.table(columns), self.root / self.view.source.location.path)

    def produce(self, records: Sequence[Record]) -> None:
        """Writes tile records, as they are."""
        for key, value in records:
            self._producer.produce(self.tiles, value, key, partition=partition_of(key, PARTITIONS))
        self.log += records
        self._producer.flush(20)

    def step_back(self, chance: Random) -> None:
        """What a restart from a checkpoint does: the last records come again, from some place on."""
        self.produce(self.log[-chance.randrange(1, 60) :])

    def forget_tiles(self) -> None:
        """Removes all tile records that there are, as retention does."""
        admin = AdminClient({"bootstrap.servers": self.address})
        ends = [TopicPartition(self.tiles, n, OFFSET_END) for n in range(PARTITIONS)]
        for done in admin.delete_records(ends).values():
            done.result(20)

    def dead_letter(self, reason: str, event_time: int | None) -> None:
        letter = {"reason": reason, "detail": None, "event_time": event_time, "payload": ""}
        self._producer.produce(self.letters, json.dumps(letter).encode())
        self._producer.flush(20)

    def commit(self) -> None:
        """Commits the ends of the source, as a checkpoint does."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": self.prefix})
        ends = [
            TopicPartition(self.source, n, consumer.get_watermark_offsets(TopicPartition(self.source, n))[1])
            for n in range(2)
        ]
        consumer.commit(offsets=ends, asynchronous=False)
        consumer.close()


def records_of_job(job: TileJob) -> tuple[Sequence[Query], list[bytes]]:
    """The job's queries, and the values of all records that DuckDB makes of what was sent."""
    return job.queries, list(job.tiles_now().values())
