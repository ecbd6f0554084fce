"""Dead letters of jobs: the events that do not count, with the reason, as they lie in their topic."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from featurestore.compile.flink_job import topic_prefix
from featurestore.config import Config
from featurestore.errors import BrokerUnavailable, NotFound
from featurestore.flink.place import place_of
from featurestore.ir import View
from featurestore.processes import write_whole
from featurestore.stream import kafka

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


def dead_letters(config: Config, view: View) -> list[DeadLetter]:
    """The newest dead letters of a view's job that were not given back, the oldest first."""
    done = _replayed(config, view)
    return [letter for letter in _read(view) if letter.place not in done]


def replay(config: Config, view: View, places: Sequence[str] | None) -> list[DeadLetter]:
    """Gives events back to their topic, as if they had arrived now; those that were. All, or those of these places.

    Each is given back once; if this is killed between sending and noting that, the next run sends it again, and an event with
    an id counts once all the same. Raises NotFound for a place that is not there.
    """
    there = {letter.place: letter for letter in dead_letters(config, view)}
    for place in places or ():
        if place not in there:
            raise NotFound("dead letter", place, there, f"view '{view.name}'")
    chosen = list(there.values()) if places is None else [there[place] for place in places]
    if not chosen:
        return []
    wire = view.source.stream
    assert wire is not None
    cluster = kafka.cluster_of(wire)
    client = kafka.producer(cluster)
    failed: list[Any] = []
    with kafka.typed(cluster, client, wire.path):
        for letter in chosen:
            client.produce(wire.path, letter.payload, on_delivery=lambda error, _: failed.append(error))
        left = client.flush(kafka.DELIVERY_SECONDS)
    errors = [error for error in failed if error is not None]
    if errors or left:
        raise (
            kafka.error_of(errors[0], cluster, wire.path)
            if errors
            else BrokerUnavailable(
                f"{left} events were not acknowledged within {kafka.DELIVERY_SECONDS:.0f} s\n  those that were may come twice"
            )
        )
    _mark(config, view, [letter.place for letter in chosen])
    return chosen


def _read(view: View) -> Iterator[DeadLetter]:
    from confluent_kafka import KafkaError, TopicPartition

    wire = view.source.stream
    assert wire is not None
    cluster, topic = kafka.cluster_of(wire), f"{topic_prefix(view)}.dead-letters"
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


def _replayed(config: Config, view: View) -> set[str]:
    try:
        return set(json.loads(_file(config, view).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return set()


def _mark(config: Config, view: View, places: Sequence[str]) -> None:
    write_whole(_file(config, view), json.dumps(sorted(_replayed(config, view) | set(places))))


def _file(config: Config, view: View) -> Any:
    return place_of(config).folder / "replayed" / f"{topic_prefix(view)}.json"
