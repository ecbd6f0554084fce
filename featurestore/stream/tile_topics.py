"""The topics that a view's job writes: names and ids, where partitions begin and end, and what was removed of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from featurestore.compile.flink_job import topic_prefix
from featurestore.errors import StreamError, TopicNotFound
from featurestore.ir import View
from featurestore.stream import kafka
from featurestore.stream.clock import bounds, first_stamp
from featurestore.stream.positions import LETTERS, TILES


class TileTopics:
    """Those of one view, at the brokers of its source. `group` is the job's consumer group."""

    def __init__(self, view: View, clock: Callable[[], int]) -> None:
        assert view.source.stream is not None
        self.group = topic_prefix(view)
        self.names = {TILES: f"{self.group}.tiles", LETTERS: f"{self.group}.dead-letters"}
        self.source = view.source.stream.path
        self.cluster = kafka.cluster_of(view.source.stream)
        self.ids: dict[bytes, str] = {}
        self._clock = clock

    def kind(self, topic: str | None) -> bytes:
        """Which of the topics one is."""
        return TILES if topic == self.names[TILES] else LETTERS

    def find(self) -> None:
        """Learns the ids of the topics. Raises TopicNotFound while there are no tiles, and BrokerUnavailable."""
        admin = kafka.admin(self.cluster)
        there = kafka.topics(admin, self.cluster)
        if self.names[TILES] not in there:
            raise TopicNotFound(self.names[TILES], self.cluster.bootstrap, there)
        self.ids = {k: kafka.topic_id(admin, self.cluster, n) for k, n in self.names.items() if n in there}

    def bounds(self, kind: bytes, numbers: list[int]) -> dict[int, tuple[int, int]]:
        """Where partitions begin and end. Raises StreamError when the tiles lie in another topic by now."""
        admin, topic = kafka.admin(self.cluster), self.names[kind]
        name = kafka.topic_id(admin, self.cluster, topic)
        if kind == TILES and self.ids[kind] != name:
            raise StreamError(
                f"topic '{topic}' was made anew under its writer\n"
                "  start it again, with --take-over if this is the view's job now"
            )
        self.ids[kind] = name
        with closing(kafka.consumer(self.cluster)) as reader:
            return bounds(reader, self.cluster, topic, numbers)

    def removed_until(self) -> int | None:
        """When the first event of the source's topic arrived that is still there, if some were removed; else None."""
        with closing(kafka.consumer(self.cluster)) as reader:
            numbers = kafka.partitions(reader, self.cluster, self.source)
            there = bounds(reader, self.cluster, self.source, numbers)
        stamps = [self.first_stamp(self.source, n, start) for n, (start, _) in there.items() if start]
        return max(stamps, default=None)

    def first_stamp(self, topic: str, number: int, start: int) -> int:
        """When the record at the start of a partition was written; of one that has none, now."""
        with closing(kafka.consumer(self.cluster)) as reader:
            found = first_stamp(reader, topic, number, start)
        return self._clock() if found is None else found


__all__ = ["TileTopics"]
