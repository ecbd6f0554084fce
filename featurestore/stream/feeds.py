"""Where a stream's events come from: the local log of a source or its topic, and a directory of event files.

A feed is read from a position that the caller keeps, in one transaction with what it made of the events. A new kind of
feed is a class here and a line in `feeds_of`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from featurestore.config import Config, expand
from featurestore.errors import EventError, LogCorrupt, LogPruned, OutageTooLong, Unsupported
from featurestore.evaluate.partials import Array
from featurestore.ir import Source
from featurestore.log.eventlog import APPENDED_AT, OFFSET, EventLog
from featurestore.log.files import SUFFIXES, FilesFeed
from featurestore.log.segment import SKIP
from featurestore.stream.taken import Taken
from featurestore.stream.topic import KafkaFeed


class Feed(Protocol):
    """Events in an order that is always the same. `name` is its own among the feeds of a source."""

    name: str

    def read(self, position: Any, now: int, rows: int) -> Taken | None:
        """At most `rows` events after `position` (None: from the start); None when nothing is there."""
        ...

    def lag(self, position: Any) -> int | None:
        """How many events come after `position`, None if that cannot be known."""
        ...

    def wait(self, position: Any, seconds: float) -> None:
        """Waits until something may have come, for at most so long."""
        ...

    def whole(self) -> bool:
        """Whether it still has its first event."""
        ...

    def close(self) -> None: ...


class LogFeed:
    """The local log of a source: what was pushed."""

    name = "log"

    def __init__(self, log: EventLog, source: str) -> None:
        self.log, self.source = log, source

    def read(self, position: Any, now: int, rows: int) -> Taken | None:
        offset = self._offset(position)
        with naming_the_way_out(self.source):
            if self.log.end() <= offset:
                return None
            try:
                batch = self.log.read(offset, rows)
                if batch.skipped and not batch.table.num_rows:
                    # Behind a gap more may be damaged: that is said now, and not taken for the end of the log.
                    behind = self.log.read(batch.next_offset, rows)
                    batch = replace(behind, skipped=batch.skipped + behind.skipped)
            except LogPruned as error:
                raise OutageTooLong(error.offset, error.start) from error
        if batch.next_offset == offset:
            return None
        appended = batch.table.column(APPENDED_AT).cast(pa.int64()).to_numpy()
        offsets = batch.table.column(OFFSET)
        places = _Offsets(offsets)
        events = batch.table.drop([OFFSET, APPENDED_AT])
        return Taken(events, appended, places, (), batch.next_offset, skipped=batch.skipped)

    def lag(self, position: Any) -> int | None:
        with naming_the_way_out(self.source):
            return max(self.log.end() - self._offset(position), 0)

    def wait(self, position: Any, seconds: float) -> None:
        with naming_the_way_out(self.source):
            self.log.wait(self._offset(position), seconds)

    def whole(self) -> bool:
        return self.log.start() == 0

    def _offset(self, position: Any) -> int:
        return self.log.start() if position is None else int(position)

    def close(self) -> None:
        self.log.close()


class _Offsets(Sequence[str]):
    """Offsets as words, made when they are looked at."""

    def __init__(self, offsets: pa.ChunkedArray) -> None:
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: Any) -> Any:
        return f"offset {self._offsets[index].as_py()}"


MOVE = "move the file out of its directory: the stream goes on without it"
"""The way out where an event file cannot be read at all."""


class DirectoryFeed:
    """Event files in a directory, each read once."""

    name = "files"

    def __init__(self, files: FilesFeed) -> None:
        self.files = files

    def read(self, position: Any, now: int, rows: int) -> Taken | None:
        try:
            batch = self.files.read(position, now, rows)
        except LogCorrupt as error:
            raise LogCorrupt(error.file, error.position, None, error.reason, MOVE) from error
        except EventError as error:
            raise EventError(f"{error}\n  {MOVE}", column=error.column) from error
        if batch.file is None:
            return None
        count = batch.table.num_rows
        places = [f"{batch.file}"] * count
        dead = [(f"{batch.file}, row {letter.row}", letter) for letter in batch.dead]
        return Taken(batch.table, None, places, dead, batch.position)

    def lag(self, position: Any) -> int | None:
        return None

    def wait(self, position: Any, seconds: float) -> None:
        time.sleep(seconds)

    def whole(self) -> bool:
        return True

    def close(self) -> None:
        self.files.close()


@contextmanager
def naming_the_way_out(source: str) -> Iterator[None]:
    """Where bytes of a source's log are damaged, the error says the command that sets them aside."""
    try:
        yield
    except LogCorrupt as error:
        way = SKIP.format(f"`fs stream log skip {source} {error.offset}`")
        raise LogCorrupt(error.file, error.position, error.offset, error.reason, way) from error


def log_directory(config: Config, source: Source) -> Path:
    """Where the events lie that were pushed to a source."""
    return config.root / ".fs" / "log" / source.name


def open_log(config: Config, source: Source) -> EventLog:
    """The local log of a source, made when it is not there."""
    return EventLog.open(log_directory(config, source), source.schema)


def in_topic(config: Config, source: Source) -> bool:
    """Whether the events of a source are in its topic: else a topic is only named, and a local log stands for it."""
    return config.stream_events == "kafka" and source.stream is not None and source.stream.kind == "kafka"


def feeds_of(config: Config, source: Source) -> list[Feed]:
    """The feeds of a source under the embedded engine: what was pushed to it, and the directory it names, if it does.

    The first is where pushed events are: the log, or the topic where the project's events go through Kafka.
    """
    if in_topic(config, source):
        return [KafkaFeed(source)]
    feeds: list[Feed] = [LogFeed(open_log(config, source), source.name)]
    if source.stream is not None and source.stream.kind == "files":
        directory = config.root / expand(source.stream.path)
        feeds.append(DirectoryFeed(FilesFeed(directory, _kind(source), source.schema)))
    return feeds


def _kind(source: Source) -> str:
    """Files on the wire are of the kind that those at rest are."""
    if source.location.kind in SUFFIXES:
        return source.location.kind
    raise Unsupported(
        f"source '{source.name}'",
        f"read event files beside a batch of kind '{source.location.kind}'",
        f"a batch of {', '.join(SUFFIXES)}: files on the wire are of the same kind",
    )


def arrivals(declared: Array | None, known: Array | None, appended: Array | None, times: Array) -> Array:
    """When each event arrived: as it declares itself, else when it was appended, else at its own time."""
    fallback = times if appended is None else appended
    if declared is None:
        return fallback
    return declared if known is None else np.where(known, declared, fallback)
