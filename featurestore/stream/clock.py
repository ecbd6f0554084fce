"""Up to when a Flink job and the writers behind it have surely put into the online store what arrived: nothing is guessed.

The job commits its offsets once all that it made of the events before them is in the tile topic. So: the ends of the source's
partitions, and a moment before; then what the job has committed; then the ends of the tile topic. When writers have put
everything before these ends into the store, what arrived up to the committed offsets is readable.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Self

from featurestore.errors import BrokerUnavailable, StoreFull, StoreUnavailable, TopicNotFound
from featurestore.ir import View
from featurestore.stream import kafka
from featurestore.stream.positions import TILES, Positions
from featurestore.time import SECOND

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

TICK_SECONDS = 1.0
"""How often the clock is looked at."""

BACK = 20
"""How many offsets before a committed one a record is looked for: some may be a transaction's own."""


class Clock:
    """The clock of one view's stream, moved by whoever calls `tick` once in a while."""

    def __init__(
        self,
        view: View,
        group: str,
        tiles: str,
        positions: Positions,
        arrival: Callable[[Message], int | None],
        now: Callable[[], int],
    ) -> None:
        """`group` commits the job's offsets, `tiles` is its topic; `arrival` says when the event of a record arrived."""
        assert view.source.stream is not None
        self._cluster = kafka.cluster_of(view.source.stream)
        self._topic, self._group, self._tiles = view.source.stream.path, group, tiles
        self._declared = view.source.arrival_time is not None
        self._positions, self._arrival, self._now = positions, arrival, now
        # Of the job's group, to ask what it has committed; it never joins, and commits nothing itself.
        self._reader = kafka.consumer(self._cluster, group_id=group)
        self._pending: tuple[int, Mapping[int, int]] | None = None

    def close(self) -> None:
        self._reader.close()

    def tick(self) -> int | None:
        """A moment up to which all that arrived is in the store now; None when none is proven yet.

        Raises what Kafka and the online store raise.
        """
        if self._pending is None:
            self._pending = self._measured()
            if self._pending is None:
                return None
        clock, ends = self._pending
        there = self._positions.every(TILES)
        if all(end == 0 or (p in there and there[p].offset >= end) for p, end in ends.items()):
            self._pending = None
            return clock
        return None

    def _measured(self) -> tuple[int, Mapping[int, int]] | None:
        """What may be said once the tile topic is in the store up to these ends."""
        numbers = kafka.partitions(self._reader, self._cluster, self._topic)
        before = self._now()
        there = bounds(self._reader, self._cluster, self._topic, numbers)
        committed = self._committed(numbers)
        moments = []
        for number in numbers:
            # A producer stamps a record a little before it is there.
            seen = before - SECOND
            start, end = there[number]
            if end == start:
                moments += [] if self._declared else [seen]
                continue
            offset = committed.get(number)
            if offset is None:
                return None
            if offset >= end and not self._declared:
                moments.append(seen)
                continue
            record = self._record_before(number, offset, start)
            arrived = None if record is None else self._arrival(record)
            if arrived is None:
                return None
            moments.append(arrived)
        if not moments:
            return None
        parts = kafka.partitions(self._reader, self._cluster, self._tiles)
        tiles = bounds(self._reader, self._cluster, self._tiles, parts)
        return min(moments), {number: end for number, (_, end) in tiles.items()}

    def _committed(self, numbers: Sequence[int]) -> dict[int, int]:
        """The offsets that the job has committed."""
        from confluent_kafka import TopicPartition

        with kafka.typed(self._cluster):
            told = self._reader.committed(
                [TopicPartition(self._topic, n) for n in numbers], timeout=kafka.PATIENCE_SECONDS
            )
        return {t.partition: t.offset for t in told if t.offset >= 0}

    def _record_before(self, number: int, offset: int, start: int) -> Message | None:
        """The last record before an offset; None where there is none any more."""
        return last_before(self._reader, self._topic, number, max(offset - BACK, start), offset)


class Ticking:
    """A thread that moves a stream's clock while `wanted`; `failure` is what ended it."""

    def __init__(
        self,
        made: Callable[[], Clock],
        wanted: Callable[[], bool],
        proven: Callable[[int], None],
        say: Callable[[str], None],
    ) -> None:
        self._made, self._wanted, self._proven, self._say = made, wanted, proven, say
        self.failure: BaseException | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        clock = None
        try:
            while not self._done.wait(TICK_SECONDS):
                if not self._wanted():
                    continue
                try:
                    clock = clock or self._made()
                    moment = clock.tick()
                    if moment is not None:
                        self._proven(moment)
                except (BrokerUnavailable, TopicNotFound, StoreUnavailable, StoreFull) as error:
                    self._say(f"how fresh it is cannot be said: {error}")
        except BaseException as error:  # noqa: BLE001  (a thread: whoever made it raises it)
            self.failure = error
        finally:
            if clock is not None:
                clock.close()


def bounds(
    reader: Consumer, cluster: kafka.Cluster, topic: str, numbers: Sequence[int]
) -> dict[int, tuple[int, int]]:
    """Where partitions begin and end, of what is committed.

    A consumer is asked: librdkafka 2.16 ends the process (`eonce->refcnt > 0`) when a broker goes away while its admin
    client lists offsets.
    """
    from confluent_kafka import TopicPartition

    found = {}
    for number in numbers:
        with kafka.typed(cluster):
            told = reader.get_watermark_offsets(TopicPartition(topic, number), kafka.PATIENCE_SECONDS)
        if told is None:
            raise BrokerUnavailable(
                f"topic '{topic}', partition {number}: the broker does not say where it ends"
            )
        found[number] = told
    return found


def last_before(reader: Consumer, topic: str, number: int, first: int, end: int) -> Message | None:
    """The last record from offset `first` on and before `end`. Raises BrokerUnavailable when none comes in time."""
    from confluent_kafka import KafkaError, TopicPartition

    if first >= end:
        return None
    reader.assign([TopicPartition(topic, number, first)])
    deadline = time.monotonic() + kafka.PATIENCE_SECONDS
    found = None
    try:
        while time.monotonic() < deadline:
            for message in reader.consume(BACK, 0.2):
                error = message.error()
                offset = message.offset()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                    continue
                if error is None and offset is not None and offset < end:
                    found = message
                if error is not None or (offset is not None and offset >= end - 1):
                    return found
    finally:
        reader.unassign()
    raise BrokerUnavailable(
        f"topic '{topic}', partition {number}: the broker gave no record before offset {end}"
    )


def first_stamp(reader: Consumer, topic: str, number: int, start: int) -> int | None:
    """When the first record of a partition was written, in microseconds; None of an empty one."""
    from confluent_kafka import KafkaError, TopicPartition

    reader.assign([TopicPartition(topic, number, start)])
    deadline = time.monotonic() + kafka.PATIENCE_SECONDS
    try:
        while time.monotonic() < deadline:
            message = reader.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is None:
                return stamp(message)
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                return None
    finally:
        reader.unassign()
    raise BrokerUnavailable(f"topic '{topic}', partition {number}: the broker gave no record")


def stamp(message: Message) -> int | None:
    """Kafka's own time of a record, in microseconds."""
    kind, at = message.timestamp()
    return at * 1000 if kind else None


__all__ = ["Clock", "Ticking", "bounds", "first_stamp", "last_before", "stamp"]
