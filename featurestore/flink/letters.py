"""Dead letters of jobs: the events that do not count, with the reason, as they lie in their topic."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from featurestore.compile.flink_job import topic_prefix
from featurestore.errors import NotFound
from featurestore.ir import View
from featurestore.stream import kafka

if TYPE_CHECKING:
    from confluent_kafka import TopicPartition

MOST: Final = 10_000
"""So many of the newest letters of a view are looked at."""

POLL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that does not count.

    `place` is `partition/offset` in the topic of dead letters, `at` when it was put there (UTC microseconds), `event_time` its
    own where it has one.
    """

    place: str
    at: int
    reason: str
    detail: str | None
    event_time: int | None
    payload: bytes

    @property
    def event(self) -> Any:
        """The payload as JSON, or as text where it is none."""
        try:
            return json.loads(self.payload)
        except ValueError:
            return self.payload.decode(errors="replace")


def dead_letters(view: View) -> list[DeadLetter]:
    """The newest dead letters of a view's job that were not given back, the oldest first."""
    found = {letter.place: letter for letter in _read(view)}
    done = _replayed(view, list(_by_partition(found))) if found else {}
    return [letter for place, letter in found.items() if not _given_back(place, done)]


def replay(view: View, places: Sequence[str] | None) -> list[DeadLetter]:
    """Gives events back to their topic, as if they had arrived now; those that were. All, or those of these places.

    Each is given back once, whenever this is killed: the events, and which letters they were of, are one transaction of Kafka's,
    and the job reads committed records alone. Raises NotFound for a place that is not there, and BrokerError.
    """
    there = {letter.place: letter for letter in dead_letters(view)}
    for place in places or ():
        if place not in there:
            raise NotFound("dead letter", place, there, f"view '{view.name}'")
    chosen = list(there.values()) if places is None else [there[place] for place in dict.fromkeys(places)]
    if not chosen:
        return []
    wire = view.source.stream
    assert wire is not None
    cluster = kafka.cluster_of(wire)
    left = _by_partition(there.keys() - {letter.place for letter in chosen})
    ends = {number: offsets[-1] + 1 for number, offsets in _by_partition(there).items()}
    said = _replayed(view, list(ends))
    client = kafka.producer(cluster, transactional_id=f"{topic_prefix(view)}.replay")
    group = kafka.consumer(cluster, group_id=_group(view))
    try:
        with kafka.typed(cluster, client, wire.path):
            client.init_transactions(kafka.DELIVERY_SECONDS)
            client.begin_transaction()
            for letter in chosen:
                client.produce(wire.path, letter.payload)
            marks = [
                _mark(view, number, max(end, said[number][0]), left.get(number, []))
                for number, end in ends.items()
            ]
            client.send_offsets_to_transaction(marks, group.consumer_group_metadata(), kafka.DELIVERY_SECONDS)
            client.commit_transaction(kafka.DELIVERY_SECONDS)
    finally:
        group.close()
    return chosen


def _read(view: View) -> Iterator[DeadLetter]:
    from confluent_kafka import KafkaError, TopicPartition

    wire = view.source.stream
    assert wire is not None
    cluster, topic = kafka.cluster_of(wire), _topic(view)
    client = kafka.admin(cluster)
    if topic not in kafka.topics(client, cluster):
        return
    numbers = kafka.partitions(client, cluster, topic)
    ends = kafka.offsets(client, cluster, topic, numbers)
    firsts = kafka.offsets(client, cluster, topic, numbers, first=True)
    each = max(MOST // max(len(numbers), 1), 1)
    begins = {n: max(firsts[n], ends[n] - each) for n in numbers}
    reader = kafka.consumer(cluster, **{"group.id": f"{topic}.looked-at", "enable.auto.commit": False})
    try:
        with kafka.typed(cluster, reader, topic):
            reader.assign([TopicPartition(topic, n, begins[n]) for n in numbers if begins[n] < ends[n]])
        found = []
        left = {n for n in numbers if begins[n] < ends[n]}
        while left:
            with kafka.typed(cluster, reader, topic):
                messages = reader.consume(1000, POLL_SECONDS)
            if not messages:
                break
            for message in messages:
                failure, number, offset = message.error(), message.partition(), message.offset()
                if failure is not None and failure.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                    continue
                if failure is not None:
                    raise kafka.error_of(failure, cluster, topic)
                assert number is not None
                assert offset is not None
                found.append(_letter(f"{number}/{offset}", message))
                if offset >= ends[number] - 1:
                    left.discard(number)
    finally:
        reader.close()
    yield from sorted(found, key=lambda letter: letter.at)


def _letter(place: str, message: Any) -> DeadLetter:
    raw = message.value() or b""
    at = 1000 * message.timestamp()[1]
    try:
        said = json.loads(raw)
        payload = base64.b64decode(said["payload"] or "")
        return DeadLetter(place, at, str(said["reason"]), said.get("detail"), said.get("event_time"), payload)
    except (ValueError, KeyError, TypeError, binascii.Error):
        return DeadLetter(place, at, "unreadable letter", None, None, raw)


def _given_back(place: str, done: Mapping[int, tuple[int, set[int]]]) -> bool:
    number, _, offset = place.partition("/")
    end, left = done[int(number)]
    return int(offset) < end and int(offset) not in left


# ── which were given back: an offset for each partition, and which letters before it were not


def _group(view: View) -> str:
    return f"{topic_prefix(view)}.replay"


def _by_partition(places: Iterable[str]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for place in places:
        number, _, offset = place.partition("/")
        found.setdefault(int(number), []).append(int(offset))
    return {number: sorted(offsets) for number, offsets in found.items()}


def _mark(view: View, number: int, end: int, left: Sequence[int]) -> TopicPartition:
    """What is committed of a partition. What is said beside the offset has to be short: rows of numbers by first and last."""
    from confluent_kafka import TopicPartition

    rows: list[list[int]] = []
    for offset in left:
        if rows and rows[-1][1] == offset - 1:
            rows[-1][1] = offset
        else:
            rows.append([offset, offset])
    return TopicPartition(_topic(view), number, end, json.dumps(rows, separators=(",", ":")))


def _replayed(view: View, numbers: Sequence[int]) -> dict[int, tuple[int, set[int]]]:
    """By partition: letters before an offset were given back, but for those of a set."""
    from confluent_kafka import TopicPartition

    wire = view.source.stream
    assert wire is not None
    cluster = kafka.cluster_of(wire)
    # Not waiting for a transaction that somebody left open who was killed: it never happened.
    client = kafka.consumer(cluster, group_id=_group(view), isolation_level="read_uncommitted")
    try:
        with kafka.typed(cluster):
            told = client.committed(
                [TopicPartition(_topic(view), n) for n in numbers], kafka.PATIENCE_SECONDS
            )
    finally:
        client.close()
    found = {}
    for place in told:
        rows = json.loads(place.metadata) if place.offset >= 0 and place.metadata else []
        found[place.partition] = (place.offset, {n for first, last in rows for n in range(first, last + 1)})
    return found


def _topic(view: View) -> str:
    return f"{topic_prefix(view)}.dead-letters"
