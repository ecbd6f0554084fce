"""A Kafka topic between those who serve and the capture log: rows go to it as to a segment, and are fetched from it.

A record holds rows of one schema, as an Arrow stream; its headers say the schema, and which record of which process it is. A
record that had to be sent again has the same number, and is taken once. Whoever fetches notes what it is about to append before
it does, so that no row is there twice, whenever it is killed.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from featurestore.capture.log import CaptureLog, append, locked, read_folder
from featurestore.capture.schema import CapturedSchema
from featurestore.config import Config
from featurestore.errors import BrokerUnavailable, CaptureError, RowTooLarge
from featurestore.log.eventlog import replace_file
from featurestore.stream import kafka
from featurestore.stream.clock import bounds

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, Producer

RECORD_BYTES: Final = 700_000
"""A record holds no more than about so many bytes of rows: brokers take a megabyte unless told otherwise."""

LARGEST: Final = 990_000
CHUNK_ROWS: Final = 65_536
POLL_SECONDS: Final = 1.0
FILE: Final = "fetched.json"
REMEMBERED: Final = 256
"""So many numbers of the records of a process are remembered; it has no more than a table's on their way."""


def cluster_of_captured(config: Config) -> kafka.Cluster:
    """The cluster that `[capture]` names, and how to log in there. Raises ConfigError for a login that cannot be read."""
    return kafka.cluster_at(config.capture_bootstrap, config.capture_properties)


class KafkaSink:
    """Captured rows in a topic. For the recorder's thread alone."""

    def __init__(self, cluster: kafka.Cluster, topic: str) -> None:
        self._cluster, self._topic = cluster, topic
        self._producer: Producer | None = None
        self._me, self._numbers = secrets.token_hex(8), count()
        self._table: pa.Table | None = None
        self._left: dict[int, bytes] = {}
        self._never: list[RowTooLarge] = []

    def write(self, schema: CapturedSchema, table: pa.Table, at: int) -> Sequence[RowTooLarge]:
        """Sends rows; every replica in sync has them when it returns, but for those that no record can hold.

        Raises BrokerError otherwise: what was not acknowledged is sent again when the same table comes again.
        """
        if table is not self._table:
            pieces = list(_pieces(table))
            self._never = [p for p in pieces if isinstance(p, RowTooLarge)]
            fitting = (p for p in pieces if isinstance(p, bytes))
            self._table, self._left = table, {next(self._numbers): p for p in fitting}
        errors: list[Any] = []
        producer = self._connected()
        headers = [("schema", json.dumps(schema.to_json())), ("process", self._me)]
        for number, value in list(self._left.items()):

            def delivered(error: Any, _: Message, number: int = number) -> None:
                if error is None:
                    self._left.pop(number, None)
                else:
                    errors.append(error)

            with kafka.typed(self._cluster, topic=self._topic):
                producer.produce(
                    self._topic,
                    value,
                    self._me,
                    headers=[*headers, ("number", str(number))],
                    timestamp=at // 1000,
                    on_delivery=delivered,
                )
        producer.flush(kafka.DELIVERY_SECONDS + 1)
        if self._left:
            self._producer = None  # it may be of no use any more; another one sends what is left
            if errors:
                raise kafka.error_of(errors[0], self._cluster, self._topic)
            raise BrokerUnavailable(f"Kafka at {self._cluster.bootstrap}: no acknowledgement in time")
        return self._never

    def _connected(self) -> Producer:
        if self._producer is None:
            producer = kafka.producer(self._cluster, message_max_bytes=LARGEST + 10_000)
            kafka.partitions(producer, self._cluster, self._topic)
            self._producer = producer
        return self._producer

    def close(self) -> None:
        """Lets go of the connection: all that was written is acknowledged."""
        self._producer = None


def _pieces(table: pa.Table) -> Iterator[bytes | RowTooLarge]:
    """A table as values of records, and an error in the place of each row that none holds."""
    rows = max(1, int(RECORD_BYTES / max(table.nbytes / table.num_rows, 1)))
    for low in range(0, table.num_rows, rows):
        yield from _halved(table.slice(low, rows))


def _halved(table: pa.Table) -> Iterator[bytes | RowTooLarge]:
    """Rows as one value, or, where that is too large, as those of both halves."""
    value = _value(table)
    if len(value) <= LARGEST:
        yield value
    elif table.num_rows == 1:
        row_id = f"{table['request_id'][0].as_py()}-{table['row'][0].as_py()}"
        yield RowTooLarge(row_id, len(value), LARGEST)
    else:
        half = table.num_rows // 2
        yield from _halved(table.slice(0, half))
        yield from _halved(table.slice(half))


def _value(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table.combine_chunks())
    value: bytes = sink.getvalue().to_pybytes()
    return value


# ---------------------------------------------------------------------------------------------------------------- fetching


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch put into the capture log; `again` records had come before."""

    rows: int = 0
    records: int = 0
    again: int = 0


@dataclass(slots=True)
class _Place:
    """How far a topic was fetched: the offset to go on from of each partition, and the newest numbers of each process.

    `begun` is an append that may or may not have happened.
    """

    positions: dict[str, int] = field(default_factory=dict)
    seen: dict[str, list[int]] = field(default_factory=dict)
    begun: dict[str, Any] | None = None


def fetch(log: CaptureLog, cluster: kafka.Cluster, topic: str, now: int) -> Fetched:
    """Appends what a topic holds by now to the capture log, from where the last fetch ended; on disk when it returns.

    One process at a time does so. Raises BrokerError where the topic cannot be read, and CaptureError for a record that is not
    of captured rows and for records that are gone before they were fetched.
    """
    log.path.mkdir(parents=True, exist_ok=True)
    with locked(log.path), closing(kafka.consumer(cluster)) as reader:
        file, key = log.path / FILE, f"{cluster.bootstrap}/{topic}"
        places = _load(file)
        place = places.setdefault(key, _Place())
        _settle(log, place)
        numbers = kafka.partitions(reader, cluster, topic)
        there = bounds(reader, cluster, topic, numbers)
        done = Fetched()
        for number, (start, end) in there.items():
            position = place.positions.setdefault(str(number), start)
            if not start <= position <= end:
                raise CaptureError(
                    f"topic '{topic}' has records {start} to {end} in partition {number}, and {position} is the next to fetch\n"
                    "  rows were removed from it, or it was made anew: fetch more often than its retention; "
                    f"remove the entry in {file} to begin anew"
                )
            for schema, tables, numbered, after in _chunks(reader, topic, number, position, end):
                fresh = _fresh(place, numbered, tables)
                done = _append(
                    log, file, places, place, schema, fresh, str(number), after, now, done, len(tables)
                )
        return done


def _fresh(
    place: _Place, numbered: Sequence[tuple[str, int]], tables: Sequence[pa.Table]
) -> list[tuple[str, int, pa.Table]]:
    """The records that did not come before, among these neither."""
    known = {(who, n) for who in {w for w, _ in numbered} for n in place.seen.get(who, ())}
    fresh = []
    for (who, n), table in zip(numbered, tables, strict=True):
        if (who, n) not in known:
            known.add((who, n))
            fresh.append((who, n, table))
    return fresh


def _append(
    log: CaptureLog, file: Path, places: Mapping[str, _Place], place: _Place, schema: CapturedSchema,
    fresh: Sequence[tuple[str, int, pa.Table]], number: str, after: int, now: int, done: Fetched, records: int,
) -> Fetched:  # fmt: skip
    """One append, and the note of it: before, that it is begun; afterwards, with the next, that it is done."""
    rows = sum(t.num_rows for _, _, t in fresh)
    if rows:
        with log.folder(schema).open() as events:
            first = fresh[0][2]
            place.begun = {
                "schema": schema.to_json(),
                "from": events.end(),
                "request": first["request_id"][0].as_py(),
                "row": first["row"][0].as_py(),
                "then": [number, after, [[who, n] for who, n, _ in fresh]],
            }
            _save(file, places)
            append(events, pa.concat_tables([t for _, _, t in fresh]), now)
    _take(place, number, after, [(who, n) for who, n, _ in fresh])
    _save(file, places)
    return Fetched(done.rows + rows, done.records + len(fresh), done.again + records - len(fresh))


def _take(place: _Place, number: str, after: int, taken: Sequence[tuple[str, int]]) -> None:
    place.begun = None
    place.positions[number] = after
    for who, n in taken:
        place.seen[who] = [*place.seen.get(who, ())[-REMEMBERED:], n]


def _settle(log: CaptureLog, place: _Place) -> None:
    """Finds out whether the append that was begun when somebody was killed has happened."""
    begun = place.begun
    if begun is None:
        return
    folder = log.folder(CapturedSchema.from_json(json.dumps(begun["schema"])))
    for table, _ in read_folder(folder, begun["from"]):
        rows = zip(table["request_id"].to_pylist(), table["row"].to_pylist(), strict=True)
        if (begun["request"], begun["row"]) in set(rows):
            number, after, taken = begun["then"]
            _take(place, number, after, [(who, n) for who, n in taken])
            return
    place.begun = None


def _chunks(
    reader: Consumer, topic: str, number: int, position: int, end: int
) -> Iterator[tuple[CapturedSchema, list[pa.Table], list[tuple[str, int]], int]]:
    """The records of a partition, some of one schema at a time, with their processes and numbers and where to go on."""
    from confluent_kafka import KafkaError, TopicPartition

    reader.assign([TopicPartition(topic, number, position)])
    schema, tables, numbered, rows = "", list[pa.Table](), list[tuple[str, int]](), 0
    deadline = time.monotonic() + kafka.PATIENCE_SECONDS
    while position < end:
        message = reader.poll(POLL_SECONDS)
        if message is None:
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"partition {number} of topic '{topic}': no answer in time")
            continue
        deadline = time.monotonic() + kafka.PATIENCE_SECONDS
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 (so it is called)
                break
            raise CaptureError(f"partition {number} of topic '{topic}': {error.str()}")
        said, record, table = _record(message)
        if tables and (said != schema or rows + table.num_rows > CHUNK_ROWS):
            yield CapturedSchema.from_json(schema), tables, numbered, position
            tables, numbered, rows = [], [], 0
        schema, position = said, (message.offset() or 0) + 1
        tables.append(table)
        numbered.append(record)
        rows += table.num_rows
    if tables:
        yield CapturedSchema.from_json(schema), tables, numbered, position


def _record(message: Message) -> tuple[str, tuple[str, int], pa.Table]:
    try:
        given = dict(message.headers() or ()).items()
        headers = {name: v.decode() if isinstance(v, bytes) else v or "" for name, v in given}
        table = pa.ipc.open_stream(message.value()).read_all()
        return headers["schema"], (headers["process"], int(headers["number"])), table
    except (KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise CaptureError(
            f"record {message.offset()} in partition {message.partition()} of topic '{message.topic()}' is not of captured rows:"
            f" {error}\n  the topic is for captured rows alone"
        ) from error


def _load(file: Path) -> dict[str, _Place]:
    try:
        return {key: _Place(**said) for key, said in json.loads(file.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise CaptureError(f"{file}: not what a fetch wrote: {error}\n  restore it from a backup") from error


def _save(file: Path, places: Mapping[str, _Place]) -> None:
    said = {k: {"positions": p.positions, "seen": p.seen, "begun": p.begun} for k, p in places.items()}
    try:
        replace_file(file, [json.dumps(said).encode()])
    except OSError as error:
        raise CaptureError(f"{file}: {error.strerror}\n  make room, then fetch again") from error
