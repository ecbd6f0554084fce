"""The topic of a source: what is pushed goes in, and a stream reads it, by offsets that the stream keeps itself.

A record's timestamp is when its event arrived. A record without a value is a tombstone: it says that older records of its key
may be forgotten, takes no event back, and is counted. Headers and keys say nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from featurestore.errors import BrokerUnavailable, EventError, OutageTooLong
from featurestore.ir import Source
from featurestore.log.events import events_table
from featurestore.log.payloads import events_of, format_of, payloads_of
from featurestore.stream import kafka
from featurestore.stream.taken import Taken

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, Producer
    from confluent_kafka.admin import AdminClient

ASKED_SECONDS: Final = 0.5
"""How old an answer may be to the question where the topic ends: only then is it said that nothing more is there."""

LARGEST: Final = 1_000_000
"""Bytes of a record, at most, unless the property `message.max.bytes` says otherwise."""

Position = Mapping[str, Any]
"""`topic`, the id of the topic that was read, and `offsets`, of each partition by its number as text."""


class KafkaFeed:
    """The records of a topic, by partition and then offset."""

    name = "kafka"

    def __init__(self, source: Source) -> None:
        wire = source.stream
        assert wire is not None
        self.topic, self._schema = wire.path, source.schema
        self._cluster, self._form = kafka.cluster_of(wire), format_of(wire, source.schema)
        self._consumer: Consumer | None = None
        self._admin: AdminClient | None = None
        self._at: Position | None = None  # what the caller was told last
        self._next: dict[int, int] = {}  # of each partition the offset after what was fetched
        self._fetched: list[Message] = []
        self._asked_at = -1e9
        self._ends: dict[int, int] = {}

    # ── the feed

    def read(self, position: Any, now: int, rows: int) -> Taken | None:
        try:
            return self._read(position, now, rows)
        except BaseException:
            # Whatever was fetched is fetched again, by new clients: librdkafka 2.16 may hold on to an epoch of a leader
            # that a killed broker had, and be refused for ever.
            self.close()
            raise

    def _read(self, position: Any, now: int, rows: int) -> Taken | None:
        if self._at is None or position != self._at:
            self._go_to(position)
        deadline = time.monotonic() + kafka.PATIENCE_SECONDS
        self._fetch(rows, 0)
        while not self._fetched and not self._at_the_end():
            if time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"topic '{self.topic}' at {self._cluster.bootstrap} holds more than its broker gives"
                )
            self._fetch(rows, 0.05)
        assert self._at is not None
        offsets = {str(number): offset for number, offset in sorted(self._next.items())}
        if not self._fetched and offsets == self._at["offsets"]:
            return None
        messages, self._fetched = self._fetched, []
        self._at = {**self._at, "offsets": offsets}
        return self._taken(messages, now)

    def _taken(self, messages: list[Message], now: int) -> Taken:
        messages.sort(key=lambda m: (m.partition(), m.offset()))
        there = [m for m in messages if m.value() is not None]
        table, rows, dead = events_of([m.value() for m in there], self._form, self._schema)  # type: ignore[misc]
        # A record that has no timestamp is older than Kafka 0.10.
        stamps = [m.timestamp() for m in there]
        arrived = np.array([at * 1000 if kind else now for kind, at in stamps], np.int64)
        places = _Places(there)
        return Taken(
            table,
            arrived[rows],
            _Places([there[row] for row in rows]),
            [(places[letter.row], letter) for letter in dead],
            self._at,
            tombstones=len(messages) - len(there),
        )

    def since(self, moment: int) -> Position:
        """The position before the first record of each partition that is stamped with a moment (µs) or a later one."""
        numbers, ends = self._look()
        asked = kafka.offsets(self._asker(), self._cluster, self.topic, numbers, since=max(moment, 0) // 1000)
        same = kafka.topic_id(self._asker(), self._cluster, self.topic)
        return {"topic": same, "offsets": {str(n): ends[n] if at < 0 else at for n, at in asked.items()}}

    def lag(self, position: Any) -> int | None:
        numbers, ends = self._look()
        told: Mapping[str, int] = {} if position is None else position["offsets"]
        missing = [n for n in numbers if str(n) not in told]
        starts = self._offsets(missing, first=True) if missing else {}
        return sum(max(end - told.get(str(n), starts.get(n, 0)), 0) for n, end in ends.items())

    def wait(self, position: Any, seconds: float) -> None:
        if self._at is None:
            time.sleep(seconds)
        elif not self._fetched:
            self._fetch(1, seconds)

    def whole(self) -> bool:
        """Whether all partitions begin with their first record, and none was compacted away."""
        numbers, _ = self._look()
        if any(self._offsets(numbers, first=True).values()):
            return False
        return "compact" not in kafka.setting(self._asker(), self._cluster, self.topic, "cleanup.policy")

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
        self._consumer = self._admin = self._at = None
        self._fetched = []

    # ── where it is

    def _go_to(self, position: Position | None) -> None:
        """Reads on from a position. Raises OutageTooLong where that is not there any more."""
        from confluent_kafka import TopicPartition

        numbers, ends = self._look()
        starts = self._offsets(numbers, first=True)
        told = {} if position is None else {int(n): at for n, at in position["offsets"].items()}
        same = kafka.topic_id(self._asker(), self._cluster, self.topic)
        if position is not None and position["topic"] != same:
            raise OutageTooLong(
                max(told.values(), default=0), min(starts.values()), f"topic '{self.topic}', made anew,"
            )
        for number in numbers:
            at = told.get(number, starts[number])
            if not starts[number] <= at <= ends[number]:
                raise OutageTooLong(at, starts[number], self._partition(number))
        self._next = {n: told.get(n, starts[n]) for n in numbers}
        self._fetched = []
        at = {"topic": same, "offsets": {str(n): o for n, o in sorted(self._next.items())}}
        with kafka.typed(self._cluster):
            self._reader().assign([TopicPartition(self.topic, n, o) for n, o in self._next.items()])
        self._at = at

    def _look(self) -> tuple[list[int], dict[int, int]]:
        """The partitions, and where each ends now."""
        numbers = kafka.partitions(self._reader(), self._cluster, self.topic)
        self._ends = self._offsets(numbers)
        self._asked_at = time.monotonic()
        return numbers, self._ends

    def _offsets(self, numbers: Sequence[int], *, first: bool = False) -> dict[int, int]:
        return kafka.offsets(self._asker(), self._cluster, self.topic, list(numbers), first=first)

    def _at_the_end(self) -> bool:
        """Whether all that the topic held a moment ago was fetched; takes up partitions that are new."""
        from confluent_kafka import TopicPartition

        if time.monotonic() - self._asked_at > ASKED_SECONDS:
            numbers, _ = self._look()
            new = [n for n in numbers if n not in self._next]
            if new:
                starts = self._offsets(new, first=True)
                self._next |= starts
                with kafka.typed(self._cluster):
                    self._reader().incremental_assign(
                        [TopicPartition(self.topic, n, o) for n, o in starts.items()]
                    )
        return all(self._next.get(n, 0) >= end for n, end in self._ends.items())

    def _fetch(self, rows: int, seconds: float) -> None:
        """Takes what has come, or waits for a record for so long."""
        from confluent_kafka import KafkaError

        with kafka.typed(self._cluster):
            came = self._reader().consume(rows, 0)
            if not came and seconds:
                came = self._reader().consume(1, seconds)
        for message in came:
            error = message.error()
            number, offset = message.partition(), message.offset()
            if error is None:
                self._fetched.append(message)
                self._next[number or 0] = (offset or 0) + 1
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 (so it is called)
                # Behind the last record there may be marks of transactions.
                self._next[number or 0] = max(self._next.get(number or 0, 0), offset or 0)
            elif error.code() in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET):  # noqa: SLF001
                number = number or 0
                start = self._offsets([number], first=True)[number]
                raise OutageTooLong(self._next.get(number, 0), start, self._partition(number))
            else:
                raise kafka.error_of(error, self._cluster, self.topic)

    def _partition(self, number: int) -> str:
        return f"partition {number} of topic '{self.topic}'"

    def _reader(self) -> Consumer:
        if self._consumer is None:
            self._consumer = kafka.consumer(self._cluster)
        return self._consumer

    def _asker(self) -> AdminClient:
        if self._admin is None:
            self._admin = kafka.admin(self._cluster)
        return self._admin


class _Places(Sequence[str]):
    """Partition and offset as words, made when they are looked at."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    def __len__(self) -> int:
        return len(self._messages)

    def __getitem__(self, index: Any) -> Any:
        message = self._messages[index]
        return f"{message.partition()}/{message.offset()}"


# ── what is pushed


@dataclass(frozen=True, slots=True)
class Sent:
    """Events that a topic's brokers acknowledged: how many, their timestamp, and the offsets of each partition, both inside."""

    rows: int
    appended_at: int
    offsets: Mapping[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Awaited:
    """Records on their way, and what became of them."""

    left: int
    offsets: dict[int, tuple[int, int]] = field(default_factory=dict)
    stamped: int = 0
    error: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def delivered(self, error: Any, message: Message) -> None:
        """Called by whichever thread asks the producer for news."""
        with self.lock:
            self.left -= 1
            if error is not None:
                self.error = error
                return
            number, offset = message.partition() or 0, message.offset() or 0
            first, last = self.offsets.get(number, (offset, offset))
            self.offsets[number] = min(first, offset), max(last, offset)
            self.stamped = max(self.stamped, message.timestamp()[1])


class TopicInbox:
    """The topic of a source, to write to. Copies of an event, which have its id, keep their order: the id is the record's key."""

    def __init__(self, source: Source) -> None:
        wire = source.stream
        assert wire is not None
        self.topic, self._source = wire.path, source
        self._cluster, self._form = kafka.cluster_of(wire), format_of(wire, source.schema)
        # As Java's producers do it: what others write of an event lies in the same partition.
        self._producer: Producer = kafka.producer(self._cluster, partitioner="murmur2_random")
        self._known = False

    def append(self, events: Any, at: int) -> Sent:
        """Writes events, each acknowledged when it returns. What does not fit is found before anything is sent.

        `at` in UTC microseconds is what they are stamped with. Raises EventError for events of the wrong shape, and
        BrokerError, after which some of them may be in the topic: those with an id may be pushed again.
        """
        source = self._source
        table = events_table(events, source.schema)
        payloads = payloads_of(table, self._form)
        keys: Iterable[Any] = [None] * len(payloads)
        if source.event_id is not None:
            keys = (None if k is None else str(k).encode() for k in table.column(source.event_id).to_pylist())
        records = list(zip(keys, payloads, strict=True))
        self._must_fit(records)
        if not self._known:
            kafka.partitions(self._producer, self._cluster, self.topic)
            self._known = True
        awaited = _Awaited(len(records))
        deadline = time.monotonic() + kafka.DELIVERY_SECONDS
        for key, payload in records:
            self._send(key, payload, at // 1000, awaited, deadline)
        self._await(awaited, 0, deadline)
        if awaited.error is not None:
            raise kafka.error_of(awaited.error, self._cluster, self.topic)
        return Sent(len(records), awaited.stamped * 1000 or at, dict(sorted(awaited.offsets.items())))

    def _must_fit(self, records: Sequence[tuple[bytes | None, bytes]]) -> None:
        most = int(self._cluster.properties.get("message.max.bytes", LARGEST))
        for row, (key, payload) in enumerate(records):
            if len(payload) + len(key or b"") + 100 > most:
                raise EventError(
                    f"row {row}: an event of {len(payload):,} bytes is more than a record holds, {most:,}\n"
                    '  properties={"message.max.bytes": …} of Kafka(…) says how much the broker takes',
                    row=row,
                )

    def _send(
        self, key: bytes | None, payload: bytes, stamp: int, awaited: _Awaited, deadline: float
    ) -> None:
        while True:
            try:
                with kafka.typed(self._cluster, topic=self.topic):
                    self._producer.produce(
                        self.topic, payload, key, timestamp=stamp, on_delivery=awaited.delivered
                    )
                return
            except BufferError:  # full: wait for some to be delivered
                self._await(awaited, awaited.left - 1, deadline)

    def _await(self, awaited: _Awaited, left: int, deadline: float) -> None:
        """Waits until no more than so many are on their way."""
        with kafka.typed(self._cluster):
            self._producer.poll(0)
            while awaited.left > left:
                # A moment more than records have: then the client itself says what became of them.
                if time.monotonic() > deadline + 1:
                    raise BrokerUnavailable(
                        f"topic '{self.topic}' at {self._cluster.bootstrap} did not acknowledge in time\n"
                        "  some events may be there: those with an id may be pushed again"
                    )
                self._producer.poll(0.05)

    # ── what a replay of dead letters asks

    def end(self) -> Any:
        """Where the topic ends."""
        client = kafka.admin(self._cluster)
        numbers = kafka.partitions(client, self._cluster, self.topic)
        ends = kafka.offsets(client, self._cluster, self.topic, numbers)
        same = kafka.topic_id(client, self._cluster, self.topic)
        return {"topic": same, "offsets": {str(n): o for n, o in ends.items()}}

    def holds(self, event: Mapping[str, Any], since: Any) -> bool:
        """Whether an event is in the topic behind where it ended at some time."""
        feed = KafkaFeed(self._source)
        try:
            while (taken := feed.read(since, 0, 10_000)) is not None:
                if event in taken.table.to_pylist():
                    return True
                since = taken.position
        finally:
            feed.close()
        return False

    def close(self) -> None:
        self._producer.flush(kafka.DELIVERY_SECONDS)
