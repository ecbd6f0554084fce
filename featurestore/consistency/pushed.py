"""What was pushed to a source, with when: from its log, or from the records of its topic, which are stamped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Final

import pyarrow as pa

from featurestore.config import Config
from featurestore.ir import Source
from featurestore.log.eventlog import APPENDED_AT, OFFSET
from featurestore.stream.feeds import in_topic, log_directory, open_log
from featurestore.stream.topic import KafkaFeed
from featurestore.time import DAY

ROWS: Final = 65_536

BEFORE: Final = DAY
"""Records of a topic are read from so long before the events that are asked for: clocks of producers may run ahead."""


def pushed_events(config: Config, source: Source, start: int | None) -> Iterator[pa.Table]:
    """Events of a source as they were pushed, with `__appended_at`; of a topic those from about `start` (µs, event time) on.

    Where a source goes through a topic and names its arrivals itself, nothing is read: those are what counts. Raises
    BrokerError.
    """
    if source.stream is None:
        return
    if in_topic(config, source):
        if source.arrival_time is None:
            yield from _in_topic(source, start)
        return
    if not log_directory(config, source).is_dir():
        return
    with open_log(config, source) as log:
        position = log.start()
        while (batch := log.read(position)).next_offset != position:
            position = batch.next_offset
            if batch.table.num_rows:
                yield batch.table.drop_columns([OFFSET])


def _in_topic(source: Source, start: int | None) -> Iterator[pa.Table]:
    with closing(KafkaFeed(source)) as feed:
        position = None if start is None else feed.since(start - BEFORE)
        while (taken := feed.read(position, 0, ROWS)) is not None:
            position = taken.position
            if taken.table.num_rows:
                stamps = pa.array(taken.appended_at).view(pa.timestamp("us", tz="UTC"))
                yield taken.table.append_column(APPENDED_AT, stamps)


__all__ = ["pushed_events"]
