"""Events into a topic and out of it again, by one process each way, without what a stream makes of them.

    python benchmarks/kafka.py [--events N]

`push` validates events, writes them as JSON or Avro and waits for the broker; `read` takes them as micro-batches of Arrow. Beside
them in the same run: the local log, and for reading the decoder alone, `json.loads` or `fastavro` (a floor). Times are seconds of
this process's CPU, so that other work on the machine matters little; the broker's own are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from _common import machine

import featurestore as fs
from featurestore.ir import Source
from featurestore.log.eventlog import EventLog
from featurestore.log.payloads import format_of, payloads_of
from featurestore.lower import location_of
from featurestore.stream.feeds import Feed, LogFeed
from featurestore.stream.inbox import Inbox, LogInbox
from featurestore.stream.topic import KafkaFeed, TopicInbox
from featurestore.types import Float64, Int64, String, Timestamp

sys.path.insert(0, str(Path(__file__).parents[1]))

COLUMNS = {"id": Int64, "ts": Timestamp, "x": Float64, "n": Int64, "shop": String, "event": String}
ROWS = 1 << 17


def events(count: int) -> pa.Table:
    rng = np.random.default_rng(7)
    return pa.table(
        {
            "id": rng.integers(0, 100_000, count),
            "ts": pa.array(1_700_000_000_000_000 + np.arange(count), pa.timestamp("us", tz="UTC")),
            "x": rng.normal(size=count),
            "n": rng.integers(0, 1000, count),
            "shop": [f"s{i}" for i in rng.integers(0, 500, count)],
            "event": [f"e{i}" for i in range(count)],
        }
    )


def source(topic: str, brokers: str, form: str) -> Source:
    wire = location_of(fs.Kafka(topic, bootstrap=brokers, format=form))  # type: ignore[arg-type]
    at = location_of(fs.Parquet("none"))
    return Source("s", at, tuple(COLUMNS.items()), "ts", event_id="event", stream=wire)


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def push(inbox: Inbox, table: pa.Table) -> None:
    for start in range(0, len(table), 10_000):
        inbox.append(table.slice(start, 10_000), time.time_ns() // 1000)


def read(feed: Feed, count: int) -> None:
    position, came = None, 0
    while came < count:
        taken = feed.read(position, 0, ROWS)
        if taken is not None:
            position, came = taken.position, came + len(taken.table)


def main() -> None:
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    from tests.flink_broker import brokers

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    count = parser.parse_args().events
    print(machine("confluent-kafka", "fastavro", "pyarrow"))
    table = events(count)
    print(f"{count:,} events of {len(COLUMNS)} columns; thousands a second of CPU\n")
    print(f"{'':8}{'push':>10}{'read':>10}{'decoder':>10}{'read/decoder':>14}")
    with tempfile.TemporaryDirectory() as folder, brokers(Path(folder)) as broker:
        admin = AdminClient({"bootstrap.servers": broker.address})
        log = EventLog.open(Path(folder) / "log", COLUMNS)
        wrote = seconds(lambda: push(LogInbox(log, "s"), table))
        took = seconds(lambda: read(LogFeed(log, "s"), count))
        print(f"{'log':8}{count / wrote / 1e3:>10,.0f}{count / took / 1e3:>10,.0f}")
        for form in ("json", "avro"):
            made = source(form, broker.address, form)
            admin.create_topics([NewTopic(form, 4, 1)])[form].result(30)
            inbox = TopicInbox(made)
            wrote = seconds(lambda inbox=inbox: push(inbox, table))
            feed = KafkaFeed(made)
            took = seconds(lambda feed=feed: read(feed, count))
            feed.close()
            assert made.stream is not None
            reader = format_of(made.stream, COLUMNS)
            payloads = payloads_of(table, reader)
            decode: Callable[[bytes], object] = json.loads if form == "json" else reader.read
            floor = seconds(lambda payloads=payloads, decode=decode: [decode(p) for p in payloads])
            figures = (count / wrote / 1e3, count / took / 1e3, count / floor / 1e3)
            print(f"{form:8}" + "".join(f"{f:>10,.0f}" for f in figures) + f"{floor / took:>14.2f}")


if __name__ == "__main__":
    main()
