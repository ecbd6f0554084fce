"""Every error a user can meet, in one tree.

FeatureStoreError
├── DefinitionError        mistakes in definitions, all of them at once
├── ConfigError            a mistake in fs.toml or in FS_… variables
├── NotFound               a name nobody declared, with the nearest one that exists
├── Unsupported            an engine cannot say this, with the closest thing that works
├── SourceError            a source that is missing, empty, or no longer what was applied
├── EngineError            DuckDB ran out of memory or disk, or met a file that is not what it was taken for
├── SpineError             rows to enrich that lack a key or a readable time
├── RequestError           an online request that does not fit the service
├── FunctionError          a Python function of an on-demand feature that raised, or gave what does not fit
│   └── FunctionChanged    the definitions no longer hold the function that was applied
├── DatasetError           a training set that cannot be split, compared or made again as asked
├── ExpectationFailed      rows that are not as expected, where that is to block
├── MaterializeError       a materialisation that was refused, or lost its place to another
│   ├── AlreadyRunning     somebody else is writing the view
│   └── WouldStepBack      an end before the one that is served
├── StatisticsError        statistics that cannot be had, merged or read as asked
│   └── ScalerError        a service that has no scaler, or not the one asked for
├── RegistryError
│   ├── RegistryCorrupt    unreadable, or not written by this product
│   ├── PlanConflict       somebody applied in between
│   ├── ServiceImmutable   a breaking edit to a service that has served
│   └── Unverified         views without a passing certificate, where one was asked for
├── LogError               an event log or a folder of event files that cannot go on
│   ├── LogCorrupt         bytes that are not what was written, and the call that sets them aside
│   ├── LogPruned          an offset whose events were removed
│   ├── LogUnread          events that may not be removed yet: a stream has still to read them
│   └── EventError         events of the wrong shape; none of them was kept
├── ConsumerError          a consumer of matured rows whose place is not known
│   ├── ConsumerBusy       another process trains for it
│   └── CursorMoved        it was committed elsewhere since a batch was read
├── CaptureError           what was served, or came back of it, that could not be kept or read
│   ├── CaptureConflict    rows of another meaning lie where these would be kept
│   └── RowTooLarge        a captured row that no record of a topic holds
├── StreamError            a stream that refused to start or to go on
│   ├── StreamConflict     another one owns what it would write
│   ├── OutageTooLong      events were removed from the log or topic before it read them
│   ├── FlinkError         a Flink cluster or job, and what would work
│   │   ├── FlinkUnavailable    the cluster does not answer
│   │   └── JobOutageTooLong    a job's state is older than it is kept for
│   └── BrokerError        a Kafka cluster refused
│       ├── BrokerUnavailable   no broker answered; trying again may help
│       ├── BrokerDenied   the login, or what it may do
│       └── TopicNotFound  no topic of that name, with the nearest one that exists
├── OnlineStoreError
│   ├── StoreCorrupt       bytes that do not decode
│   ├── StoreUnavailable   no answer
│   └── StoreFull          nothing more fits; what was there is untouched
└── ServingError           between a client and a server
    ├── AccessDenied       a key that is missing, unknown, revoked, or not for this
    ├── TooLarge           a body or a number of rows beyond the server's limits
    ├── Overloaded         the server is shedding load; `retry_after` says when to come back
    ├── DeadlineExceeded   no answer within the time that was given
    └── ServerUnavailable  no connection, or an answer that breaks off
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Where:
    """The line of a definition: what an editor can jump to. `line` counts from 1; 0 is the whole file."""

    file: str
    line: int

    def __str__(self) -> str:
        near = os.path.relpath(self.file) if Path(self.file).is_absolute() else self.file
        file = self.file if near.startswith("..") else near
        return f"{file}:{self.line}" if self.line else file


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it is, what is wrong, and lines that say what would work."""

    what: str
    where: Where | None = None
    help: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return "\n".join([head, *(f"  {line}" for line in self.help)])


class FeatureStoreError(Exception):
    """The root: `except FeatureStoreError` catches whatever this package raises on purpose."""


class DefinitionError(FeatureStoreError):
    """The mistakes found in one load, none left out."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n\n".join(map(str, self.problems)))


class ConfigError(FeatureStoreError):
    """A setting that cannot be read or does not exist."""


class NotFound(FeatureStoreError):
    """Nothing of this kind has that name."""

    def __init__(self, kind: str, name: str, known: Iterable[str], where: str = "") -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        within = f" in {where}" if where else ""
        lines = [f"no {kind} '{name}'{within}", *nearest(name, self.known)]
        super().__init__("\n  ".join(lines))


class Unsupported(FeatureStoreError):
    """A dialect or store cannot express a thing; a wrong number would be worse than none."""

    def __init__(self, who: str, what: str, instead: str) -> None:
        super().__init__(f"{who} cannot {what}\n  what works: {instead}")


class SourceError(FeatureStoreError):
    """A source is missing, empty where rows are needed, or its schema is no longer what was applied."""


class EngineError(FeatureStoreError):
    """DuckDB could not go on: memory, disk, or a file that is not what it was taken for. Nothing half-written stays."""


class SpineError(FeatureStoreError):
    """The rows to enrich lack a column, or hold a time that cannot be read."""


class RequestError(FeatureStoreError):
    """An online request lacks a key, names an unknown one, or has a value of a wrong type."""


class FunctionError(FeatureStoreError):
    """A Python function of an on-demand feature raised, or gave values of a wrong length or type."""


class FunctionChanged(FunctionError):
    """The definitions do not hold a Python function as it was applied; nothing was computed."""


class DatasetError(FeatureStoreError):
    """A training set that cannot be split, compared or made again as asked, or whose manifest cannot be read."""


class ExpectationFailed(FeatureStoreError):
    """Rows that are not as expected, where that is to block: nothing of them was written or served."""

    def __init__(self, who: str, failures: Sequence[str] = (), way_out: str = "") -> None:
        """`who` alone is the whole message: what a server said of it."""
        self.failures = tuple(failures)
        said = [f"{who} is not as expected, and that is to block", *self.failures, way_out]
        super().__init__("\n  ".join(said) if failures else who)


class MaterializeError(FeatureStoreError):
    """A materialisation was refused or could not go on; the ledger says where it is, and the next run goes on."""


class AlreadyRunning(MaterializeError):
    """Somebody else is writing the view; nothing was written."""


class WouldStepBack(MaterializeError):
    """What is served would end earlier than it does; nothing was written."""


class StatisticsError(FeatureStoreError):
    """Statistics of other columns, bytes that are none, or none kept of what was asked for."""


class ScalerError(StatisticsError):
    """A service that names no scaling, has no scaler fitted or pinned, or whose scaler is of other columns."""


class RegistryError(FeatureStoreError):
    """The registry refused."""


class RegistryCorrupt(RegistryError):
    """The registry cannot be read as one."""


class PlanConflict(RegistryError):
    """The registry changed between plan and apply; nothing was written."""


class ServiceImmutable(RegistryError):
    """A service that has served would change its meaning."""


class Unverified(RegistryError):
    """Views, or services that compute on demand, that no verification has passed were to be applied; nothing was.

    `views` are their names.
    """

    def __init__(self, views: Mapping[str, tuple[str, str]]) -> None:
        self.views = tuple(views)
        lines = [f"{kind} '{name}' {why}" for name, (kind, why) in views.items()]
        help_line = f"run `fs verify {self.views[0]}`" if len(views) == 1 else "run `fs verify`"
        super().__init__("\n  ".join(["nothing was applied: not verified", *lines, help_line]))


class LogError(FeatureStoreError):
    """The event log refused; what it holds is as it was before."""


class LogCorrupt(LogError):
    """Bytes of a log or of an event file are not what was written.

    `offset` is where reading stops, and what `EventLog.skip` takes; None for a file that has no offsets. `position`
    counts bytes from the start of `file`.
    """

    def __init__(self, file: Path, position: int, offset: int | None, reason: str, instead: str) -> None:
        self.file, self.position, self.offset, self.reason = file, position, offset, reason
        at = f"{file}: byte {position}" + ("" if offset is None else f", offset {offset}")
        super().__init__(f"{at}: {reason}\n  {instead}")


class ConsumerError(FeatureStoreError):
    """A consumer's place cannot be read or kept."""


class ConsumerBusy(ConsumerError):
    """Another process reads for this consumer."""


class CursorMoved(ConsumerError):
    """The consumer was committed elsewhere since this batch was read."""


class CaptureError(FeatureStoreError):
    """Rows that were served, predictions or labels that are not on disk, or cannot be read from there."""


class CaptureConflict(CaptureError):
    """A folder of captured rows is of another schema than the rows: they are not kept under a wrong name."""


class RowTooLarge(CaptureError):
    """A captured row that no record of a topic holds: it is counted as failed, and the rows beside it are kept."""

    def __init__(self, row_id: str, size: int, most: int) -> None:
        self.row_id = row_id
        super().__init__(
            f"row {row_id} has {size:,} bytes, and a record of the topic holds {most:,}: it is not captured\n"
            '  capture to the log (sink = "log"), or give less in context='
        )


class LogPruned(LogError):
    """The events at an offset were removed; `start` is the first that is left."""

    def __init__(self, offset: int, start: int, file: Path) -> None:
        self.offset, self.start = offset, start
        super().__init__(
            f"{file}: the events at offset {offset} were pruned\n  the log starts at {start}: go on from there, or rebuild"
        )


class LogUnread(LogError):
    """Events were not removed from a log, because streams have still to read them. `views` are those that these feed."""

    def __init__(self, message: str, views: tuple[str, ...]) -> None:
        self.views = views
        super().__init__(message)


class EventError(LogError):
    """Events that do not fit their source; none of them was kept.

    `row` counts from 0 and, like `column`, is None where the mistake is not of one.
    """

    def __init__(self, message: str, *, row: int | None = None, column: str | None = None) -> None:
        self.row, self.column = row, column
        super().__init__(message)


class StreamError(FeatureStoreError):
    """A stream refused to start or to go on; what it had published stays as it is."""


class StreamConflict(StreamError):
    """Another stream owns what this one would write: two writers of one view would undo each other's work."""


class OutageTooLong(StreamError):
    """Events that a stream has not read were removed from where they came from: its tiles can never be whole again.

    It stopped at `offset`; the first that is left is at `start`, in `place`.
    """

    def __init__(
        self, offset: int, start: int, place: str = "the log", again: str = "fs stream run --reset"
    ) -> None:
        self.offset, self.start, self.place = offset, start, place
        super().__init__(
            f"the stream stopped at offset {offset}, and {place} starts at {start}: events were lost to it\n"
            f"  `fs materialize` up to a moment after the gap, then `{again}` starts from what {place} holds"
        )


class FlinkError(StreamError):
    """Flink is not there, refused a job, or a job failed."""


class FlinkUnavailable(FlinkError):
    """The Flink cluster does not answer."""


class JobOutageTooLong(FlinkError):
    """A job was down for longer than the state of its tiles is kept: going on would make partial tiles of whole ones."""

    def __init__(self, view: str, seconds: float, most: float) -> None:
        super().__init__(
            f"the newest state of view '{view}' is {seconds / 3600:.1f} h old, and is kept for {most / 3600:.0f} h\n"
            f"  `fs stream start --fresh --select {view}` materialises what batch holds, and begins behind that"
        )


class BrokerError(StreamError):
    """A Kafka cluster refused, or cannot be used as it is configured. Nothing of a login is in the message."""


class BrokerUnavailable(BrokerError):
    """No broker answered in time."""


class BrokerDenied(BrokerError):
    """A broker refused the login, or what it was to be used for."""


class TopicNotFound(BrokerError):
    """The cluster has no topic of this name. `known` are those that it has."""

    def __init__(self, topic: str, bootstrap: str, known: Iterable[str]) -> None:
        self.topic, self.known = topic, tuple(sorted(known))
        way_out = nearest(topic, self.known) if self.known else []
        lines = [
            f"no topic '{topic}' at {bootstrap}",
            *way_out,
            "make it, or correct the source's Kafka(topic, …)",
        ]
        super().__init__("\n  ".join(lines))


class OnlineStoreError(FeatureStoreError):
    """The online store refused."""


class StoreCorrupt(OnlineStoreError):
    """Stored bytes do not decode."""


class StoreUnavailable(OnlineStoreError):
    """The store did not answer in time."""


class StoreFull(OnlineStoreError):
    """The store has no room; the batch that did not fit left nothing behind."""


class ServingError(FeatureStoreError):
    """A server and its client did not come together: the request was refused, or there was no answer."""


class AccessDenied(ServingError):
    """The key is missing, unknown or revoked, or its role or scope does not cover what was asked for."""


class TooLarge(ServingError):
    """A body of more bytes, or a request of more rows, than the server takes."""


class Overloaded(ServingError):
    """The server takes no more for now. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class DeadlineExceeded(ServingError):
    """There was no answer within the time that the request or its service gives."""


class ServerUnavailable(ServingError):
    """There is no connection to the server, or its answer broke off."""


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Help lines for a wrong name: the nearest right one, or all of them when none is near.

    >>> nearest("amonut", ["amount", "card_id"])
    ["did you mean 'amount'?"]
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return [f"did you mean '{close[0]}'?"]
    return [f"there is {', '.join(names)}"] if names else ["there is none yet"]
