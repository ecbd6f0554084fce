"""The local log of a source's events: append-only segments in a directory, many writing processes, readers without locks.

An append is on disk when it returns, whole or not at all. Offsets count rows, from 0, and are never given twice; append
times never fall. A reader brings what it is about to hand out to disk first, so that nobody acts on events which a loss
of power could take back.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

from featurestore.errors import EventError, LogCorrupt, LogError, LogPruned
from featurestore.evaluate.arrow import arrow_type
from featurestore.evaluate.partials import Mask
from featurestore.log.events import arrow_schema, events_table
from featurestore.log.segment import (
    CLAMPED,
    ERASED,
    FRAME_MAGIC,
    GAP,
    SUFFIX,
    Bad,
    Frame,
    Segment,
    Torn,
    file_header,
    file_name,
    frame_bytes,
    frame_parts,
    parse_frame,
    payload_of,
    schema_bytes,
)
from featurestore.types import DType, Int64, Timestamp

OFFSET: Final = "__offset"
APPENDED_AT: Final = "__appended_at"
SEGMENT_BYTES: Final = 64 << 20
LOCK: Final = "lock"
TURN: Final = "turn"
BAD_SUFFIX: Final = ".bad"

_MAX_PAYLOAD: Final = 1 << 30
_HINT_BYTES: Final = 256 << 10
_LONGEST_NAP: Final = 0.02
_RETRY_SECONDS: Final = 0.02
_MOST_PARTS: Final = 1024
"""Linux takes no more at a time."""
_LOST_TAIL: Final = 1 << 32
"""Offsets left out when frames at the very end are unreadable, and so is how many rows they held."""


@dataclass(frozen=True, slots=True)
class Appended:
    """Where an append lies: offsets from `first_offset` to `last_offset`, both inside; `rows` of them.

    `appended_at` is the time it has in the log: the one given, or, if that was before the last, the last (`clamped`).
    """

    first_offset: int
    last_offset: int
    appended_at: int
    clamped: bool = False

    @property
    def rows(self) -> int:
        return self.last_offset - self.first_offset + 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Events in the order of the log: the schema's columns, then `__offset` (int64) and `__appended_at` (UTC µs).

    `next_offset` is where to read on. `skipped` counts the offsets in between whose events were set aside as corrupt.
    """

    table: pa.Table
    next_offset: int
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Skipped:
    """What `skip` set aside: `rows` offsets from `first_offset`; their bytes are in `file`."""

    first_offset: int
    rows: int
    file: Path


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune` removed; the log starts at `start` now."""

    segments: int
    bytes: int
    start: int


@dataclass(frozen=True, slots=True)
class LogStats:
    """A log in figures.

    `clamped` counts appends whose clock had stepped back, `skipped` rows set aside as corrupt, `erased` those erased.
    """

    start: int
    end: int
    segments: int
    bytes: int
    appends: int
    clamped: int
    skipped: int
    bad_files: tuple[Path, ...]
    last_appended_at: int | None
    erased: int = 0


@dataclass(slots=True)
class _Request:
    """One append of one thread, and what became of it."""

    payload: pa.Buffer
    rows: int
    at: int
    outcome: Appended | LogError | None = None


class _Tail:
    """How far one user of the log has followed it: the last segment, and what comes after its last whole frame."""

    def __init__(self, directory: Path, *, write: bool) -> None:
        self.directory, self._write = directory, write
        self.segment: Segment | None = None
        self.position = self.offset = self.synced = 0
        self.appended_at: int | None = None
        self._known: tuple[int, Frame] | None = None

    def close(self) -> None:
        if self.segment is not None:
            self.segment.close()
        self.segment = None

    def advance(self) -> None:
        """Follows frames and segments that others wrote. Raises LogCorrupt.

        Without the lock, a torn frame may be replaced while it is looked at: what seems bad is looked at twice.
        """
        try:
            self._advance()
        except LogCorrupt:
            if self._write:
                raise
            self.close()
            self._known = None
            time.sleep(_RETRY_SECONDS)
            self._advance()

    def _advance(self) -> None:
        while True:
            if self.segment is None and not self._open_last():
                return
            segment = self.segment
            assert segment is not None
            size = segment.size()
            if segment.removed or size < self.position:
                self.close()
                continue
            if size > self.position:
                self._follow(segment, size)
            following = self.directory / file_name(self.offset)
            if self.offset == segment.first_offset or not following.exists():
                return
            self.close()

    def _open_last(self) -> bool:
        while True:
            names = segment_offsets(self.directory)
            if not names:
                self.position = self.offset = 0
                self.appended_at = None
                return False
            try:
                segment = Segment(self.directory / file_name(names[-1]), write=self._write)
            except FileNotFoundError:
                continue
            self.start(segment)
            return True

    def start(self, segment: Segment) -> None:
        self.close()
        self.segment = segment
        self.position, self.offset, self.synced = segment.start, segment.first_offset, 0
        self.appended_at = segment.floor if segment.floor != NEVER else None
        if self._known is not None and self._known[0] == segment.inode:
            self._resume(segment, self._known[1])

    def _resume(self, segment: Segment, frame: Frame) -> None:
        """Goes on behind a frame that was followed before the file was closed: a log of many small appends is long."""
        if segment.holds(frame):
            self.position, self.offset, self.appended_at = frame.end, frame.next_offset, frame.appended_at

    def _follow(self, segment: Segment, size: int) -> None:
        inode = segment.inode
        for found in segment.frames(self.position, self.offset, end=size):
            match found:
                case Bad():
                    raise segment.corrupt(self.position, self.offset, found)
                case Torn():
                    return
                case (frame, _):
                    self.position, self.offset, self.appended_at = (
                        frame.end,
                        frame.next_offset,
                        frame.appended_at,
                    )
                    self._known = (inode, frame)

    def wrote(self, length: int, offset: int, appended_at: int | None) -> None:
        self.position += length
        self.offset = offset
        self.appended_at, self.synced = appended_at, self.position

    def sync(self) -> None:
        if self.segment is not None and self.synced < self.position:
            position = self.position
            os.fsync(self.segment.fd)
            self.synced = position


NEVER: Final = -(1 << 63)
"""The floor of the first segment: no append before it."""


def segment_offsets(directory: Path) -> list[int]:
    """The first offsets of the segments that there are, in order."""
    try:
        names = os.listdir(directory)  # noqa: PTH208 (no Path for each name)
    except OSError as error:
        raise LogError(
            f"{directory}: {error.strerror}\n  the log was in this directory: is it gone?"
        ) from error
    stems = (name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))
    return sorted(int(stem) for stem in stems if stem.isdecimal())


class EventLog:
    """The log of one source in one directory. Any number of processes and threads may append and read.

    >>> import tempfile
    >>> from featurestore.types import Float64, String
    >>> log = EventLog.open(Path(tempfile.mkdtemp()), {"card": String, "amount": Float64})
    >>> log.append([{"card": "a", "amount": 1.5}, {"card": "b", "amount": 2.0}], at=1_000_000)
    Appended(first_offset=0, last_offset=1, appended_at=1000000, clamped=False)
    >>> log.read(1).table.to_pylist()[0]["card"], log.end()
    ('b', 2)
    """

    def __init__(
        self, directory: Path, schema: Mapping[str, DType], segment_bytes: int, *, quick: bool = False
    ) -> None:
        self._quick = quick
        self.directory, self.schema = directory, dict(schema)
        self._segment_bytes = segment_bytes
        self._arrow_schema = arrow_schema(schema)
        self._schema_bytes = schema_bytes(schema)
        self._writer, self._reader = _Tail(directory, write=True), _Tail(directory, write=False)
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._requests: deque[_Request] = deque()
        self._hints: dict[tuple[int, int], list[tuple[int, int]]] = {}

    @classmethod
    def open(
        cls,
        directory: Path,
        schema: Mapping[str, DType],
        *,
        segment_bytes: int = SEGMENT_BYTES,
        quick: bool = False,
    ) -> Self:
        """The log in `directory`, which is made if it is not there; `schema` is the columns of events.

        A log that was written with another schema goes on with this one: what was appended before is read as this one
        where that changes no value (a new column is NULL, a dropped one is left out, a type may widen). A segment that
        has outgrown `segment_bytes` is followed by a new one. `quick` spends less time on compressing what is appended.
        """
        for name in (OFFSET, APPENDED_AT):
            if name in schema:
                raise LogError(f"column '{name}' is the log's own\n  give the source's column another name")
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LogError(
                f"{directory}: {error.strerror}\n  a log wants a directory that it can write to"
            ) from error
        return cls(directory, schema, segment_bytes, quick=quick)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EventLog({str(self.directory)!r})"

    def close(self) -> None:
        """Closes files. The log may be used again, and opens them anew; what it knows of them it does not look for again."""
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    # ── writing

    def append(self, events: Any, at: int) -> Appended:
        """Writes events to the end, all of them or none; they are on disk when it returns.

        `events` is whatever `events_table` takes, `at` the append time in UTC microseconds. Raises EventError for events
        of the wrong shape, LogCorrupt if the end of the log is damaged, LogError when the disk refuses.
        """
        table = events_table(events, self.schema).combine_chunks()
        if table.num_rows == 0:
            end = self.end()
            return Appended(end, end - 1, at)
        batches = table.to_batches()
        payload = payload_of(batches[0], quick=self._quick) if len(batches) == 1 else None
        if payload is None or len(payload) > _MAX_PAYLOAD:
            raise EventError(
                f"{table.num_rows} rows are more than one append can hold, 1 GiB\n  append them in parts"
            )
        request = _Request(payload, table.num_rows, at)
        self._requests.append(request)
        with self._writing:
            # Whoever waited here may find that the one before wrote for both: one sync, however many threads append.
            if request.outcome is None:
                self._commit([self._requests.popleft() for _ in range(len(self._requests))])
        if isinstance(request.outcome, Appended):
            return request.outcome
        assert request.outcome is not None
        raise request.outcome

    def _commit(self, group: Sequence[_Request]) -> None:
        """Writes the appends of all waiting threads, each a frame, and syncs them once. Each has an outcome then."""
        try:
            with self._locked():
                self._write_group(group)
        except LogError as error:
            for request in group:
                request.outcome = error
        finally:
            for request in group:
                if request.outcome is None:
                    request.outcome = LogError(
                        f"{self.directory}: the append was interrupted before it was done"
                    )

    def _write_group(self, group: Sequence[_Request]) -> None:
        segment = self._ready(sum(len(request.payload) for request in group))
        tail = self._writer
        offset, appended_at = tail.offset, tail.appended_at
        parts: list[bytes | pa.Buffer] = []
        done: list[Appended] = []
        for request in group:
            moment = request.at if appended_at is None else max(request.at, appended_at)
            clamped = moment != request.at
            flags = CLAMPED if clamped else 0
            parts += frame_parts(request.payload, offset, moment, request.rows, segment.schema_crc, flags)
            done.append(Appended(offset, offset + request.rows - 1, moment, clamped))
            offset, appended_at = offset + request.rows, moment
        length = sum(map(len, parts))
        self._write(segment, parts, length, tail.position)
        tail.wrote(length, offset, appended_at)
        for request, outcome in zip(group, done, strict=True):
            request.outcome = outcome

    def _ready(self, length: int) -> Segment:
        """The segment to write to, its torn end cut off: a new one if there is none, it is full, or of another schema."""
        tail = self._writer
        tail.advance()
        segment = tail.segment
        if segment is None:
            return self._roll(None)
        if segment.size() > tail.position:
            try:
                os.ftruncate(segment.fd, tail.position)
            except OSError as error:
                raise self._refused(error) from error
        full = tail.offset > segment.first_offset and tail.position + length > self._segment_bytes
        # Rolled for the order of columns, too: a frame has no schema but its segment's.
        if full or list(segment.schema.items()) != list(self.schema.items()):
            return self._roll(segment)
        return segment

    def _roll(self, old: Segment | None) -> Segment:
        """A new segment at the end. It has its name only when its header is on disk."""
        tail = self._writer
        path = self.directory / file_name(tail.offset)
        try:
            if old is not None:
                os.fsync(old.fd)
            floor = NEVER if tail.appended_at is None else tail.appended_at
            replace_file(path, [file_header(self._schema_bytes, tail.offset, floor)])
        except OSError as error:
            raise self._refused(error) from error
        tail.start(Segment(path, write=True))
        assert tail.segment is not None
        return tail.segment

    def _write(
        self, segment: Segment, parts: Sequence[bytes | pa.Buffer], length: int, position: int
    ) -> None:
        try:
            done = os.pwritev(segment.fd, parts, position) if len(parts) <= _MOST_PARTS else 0
            if done < length:
                rest = memoryview(b"".join(parts))[done:]
                while rest:
                    rest = rest[os.pwrite(segment.fd, rest, position + length - len(rest)) :]
            os.fsync(segment.fd)
        except OSError as error:
            # What is left if this fails as well is a torn frame, which the next writer cuts off.
            with suppress(OSError):
                os.ftruncate(segment.fd, position)
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> LogError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        works = (
            "make room, or prune the log; then append again" if full else "append again when the disk is well"
        )
        return LogError(f"{self.directory}: nothing was appended: {error.strerror or error}\n  {works}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # Two locks: who waits for the log holds the turn, so that one process that appends without a pause cannot
        # take the log again before the waiting one wakes up.
        with self._flock(TURN) as give_way, self._flock(LOCK):
            give_way()
            yield

    @contextmanager
    def _flock(self, name: str) -> Iterator[Callable[[], None]]:
        # Opened for each turn: an open file would share its lock with a forked child.
        try:
            fd = os.open(self.directory / name, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._refused(error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield lambda: fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    # ── reading

    def start(self) -> int:
        """The first offset that is there; `end()` if there is none."""
        names = segment_offsets(self.directory)
        return names[0] if names else 0

    def end(self) -> int:
        """The offset that the next event will have. Raises LogCorrupt if the end of the log is damaged."""
        with self._reading:
            self._reader.advance()
            return self._reader.offset

    def wait(self, offset: int, timeout: float) -> bool:
        """Blocks until there is something at `offset` or later, for at most `timeout` seconds; whether there is.

        It looks at the size of one file, every half millisecond at first and every 20 milliseconds later.
        """
        deadline, nap = time.monotonic() + timeout, 0.0005
        while True:
            try:
                if self.end() > offset:
                    return True
            except LogCorrupt as error:
                if error.offset is None or error.offset <= offset:
                    raise
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(nap, left))
            nap = min(nap * 1.5, _LONGEST_NAP)

    def read(self, offset: int, limit_rows: int = 65_536) -> Batch:
        """Up to `limit_rows` events from `offset` on; none, and `next_offset` as `offset`, at the end.

        Raises LogPruned if the events at `offset` were removed, LogCorrupt at damaged bytes (whole events before them
        come first), LogError for an offset that the log has not reached.
        """
        with self._reading:
            try:
                self._reader.advance()
                end = self._reader.offset
            except LogCorrupt as error:
                if error.offset is None or error.offset <= offset:
                    raise
                end = error.offset
            self._reader.sync()
            if offset > end:
                raise LogError(
                    f"{self.directory}: offset {offset} is past the end, {end}\n"
                    "  is this the log that the offset came from? then what it held was lost: rebuild from its start"
                )
            parts: list[tuple[pa.RecordBatch, Frame, int]] = []
            rows = skipped = 0
            position, again = offset, True
            while position < end and rows < limit_rows:
                before = position
                try:
                    for batch, frame in self._frames_from(position, end):
                        low = position - frame.first_offset
                        high = min(frame.rows, low + limit_rows - rows)
                        if batch is None:
                            high = frame.rows
                            skipped += 0 if frame.flags & ERASED else high - low
                        else:
                            parts.append((batch.slice(low, high - low), frame, low))
                            rows += high - low
                        position = frame.first_offset + high
                        if rows >= limit_rows:
                            break
                except LogCorrupt:
                    if position > offset:
                        break
                    if not again:
                        raise
                    # A torn frame that is being replaced looks damaged for a moment, and so does a replaced segment.
                    again = False
                    self._hints.clear()
                    time.sleep(_RETRY_SECONDS)
                    continue
                if position == before:
                    break
            return Batch(self._table(parts), position, skipped)

    def _frames_from(self, offset: int, end: int) -> Iterator[tuple[pa.RecordBatch | None, Frame]]:
        """The frames of the segment that holds `offset`, from the one that holds it; None as the batch of a gap."""
        names = segment_offsets(self.directory)
        at = bisect_right(names, offset) - 1
        if at < 0:
            raise LogPruned(offset, names[0] if names else end, self.directory)
        following = names[at + 1] if at + 1 < len(names) else None
        try:
            segment = Segment(self.directory / file_name(names[at]))
        except FileNotFoundError:
            raise LogPruned(offset, self.start(), self.directory) from None
        try:
            hints = self._hints.setdefault(
                (segment.first_offset, segment.inode), [(segment.first_offset, segment.start)]
            )
            expected, position = hints[bisect_right(hints, (offset, 1 << 62)) - 1]
            for frame, payload in self._checked(segment, position, expected, following):
                position, expected = frame.end, frame.next_offset
                if expected > hints[-1][0] and position - hints[-1][1] >= _HINT_BYTES:
                    hints.append((expected, position))
                if expected > offset:
                    yield (
                        (None if frame.flags & GAP else self._conformed(segment, segment.batch(payload))),
                        frame,
                    )
                if expected >= end:
                    return
        finally:
            segment.close()
            if len(self._hints) > len(names) + 8:
                self._hints = {k: v for k, v in self._hints.items() if k[0] in names}

    def _checked(
        self, segment: Segment, position: int, offset: int, following: int | None
    ) -> Iterator[tuple[Frame, pa.Buffer]]:
        """Whole frames, up to the end of the segment or of what is written; LogCorrupt where they do not add up."""
        for found in segment.frames(position, offset, payloads=True):
            match found:
                case Bad():
                    raise segment.corrupt(position, offset, found)
                case Torn():
                    if following is not None and offset != following:
                        bad = Bad(f"the segment ends here, and the next starts at offset {following}")
                        raise segment.corrupt(position, offset, bad)
                case (frame, payload):
                    yield frame, payload
                    position, offset = frame.end, frame.next_offset

    def _conformed(self, segment: Segment, batch: pa.RecordBatch) -> pa.RecordBatch:
        if batch.schema.equals(self._arrow_schema):
            return batch
        columns = []
        for name, dtype in self.schema.items():
            wanted = arrow_type(dtype)
            if name not in segment.schema:
                columns.append(pa.nulls(batch.num_rows, wanted))
                continue
            column = batch.column(name)
            try:
                columns.append(column if column.type == wanted else column.cast(wanted))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise LogError(
                    f"{segment.path}: column '{name}' was appended as {segment.schema[name]!r}, which is not {dtype!r} now\n"
                    f"  {str(error).splitlines()[0]}\n  prune what was appended before, or give the column another name"
                ) from error
        return pa.RecordBatch.from_arrays(columns, schema=self._arrow_schema)

    def _table(self, parts: Sequence[tuple[pa.RecordBatch, Frame, int]]) -> pa.Table:
        table = pa.Table.from_batches([batch for batch, _, _ in parts], self._arrow_schema)
        counts = [batch.num_rows for batch, _, _ in parts]
        firsts = np.array([frame.first_offset + low for _, frame, low in parts], np.int64)
        before = np.cumsum([0, *counts], dtype=np.int64)
        offsets = np.arange(before[-1]) + np.repeat(firsts - before[:-1], counts)
        times = np.repeat(np.array([frame.appended_at for _, frame, _ in parts], np.int64), counts)
        if len(parts) > 1:
            table = table.combine_chunks()
        table = table.append_column(OFFSET, pa.array(offsets, arrow_type(Int64)))
        return table.append_column(APPENDED_AT, pa.array(times).view(arrow_type(Timestamp)))

    # ── keeping

    def prune(
        self, *, before_offset: int | None = None, older_than: int | None = None, dry_run: bool = False
    ) -> Pruned:
        """Removes whole segments from the start, those with nothing that is to stay.

        To stay are events at `before_offset` and later, and those appended at `older_than` (UTC microseconds) or later,
        and the last segment. Readers may go on meanwhile; what they hold open they can read. `dry_run` only says what would
        be removed.
        """
        if before_offset is None and older_than is None:
            raise LogError(f"{self.directory}: prune what?\n  give before_offset=, older_than=, or both")
        removed = size = 0
        with self._writing, self._locked():
            names = segment_offsets(self.directory)
            for first, following in pairwise(names):
                if before_offset is not None and following > before_offset:
                    break
                if older_than is not None and self._floor(following) >= older_than:
                    break
                path = self.directory / file_name(first)
                size += path.stat().st_size
                if not dry_run:
                    path.unlink()
                removed += 1
            sync_directory(self.directory)
            return Pruned(removed, size, names[removed] if names else 0)

    def _floor(self, first: int) -> int:
        segment = Segment(self.directory / file_name(first))
        try:
            return segment.floor
        finally:
            segment.close()

    def stats(self) -> LogStats:
        """Counts what is there, from the headers of all frames. Raises LogCorrupt."""
        names = segment_offsets(self.directory)
        size = appends = clamped = skipped = erased = 0
        for name in names:
            segment = Segment(self.directory / file_name(name))
            try:
                size += segment.size()
                offset, position = segment.first_offset, segment.start
                for found in segment.frames(position, offset):
                    match found:
                        case Bad():
                            raise segment.corrupt(position, offset, found)
                        case (frame, _):
                            offset, position = frame.next_offset, frame.end
                            gone = frame.rows if frame.flags & GAP else 0
                            appends += not gone
                            skipped += 0 if frame.flags & ERASED else gone
                            erased += gone if frame.flags & ERASED else 0
                            clamped += bool(frame.flags & CLAMPED)
                        case Torn():
                            pass
            finally:
                segment.close()
        end, last = self.end(), self._reader.appended_at
        bad = tuple(sorted(self.directory.glob(f"*{BAD_SUFFIX}")))
        return LogStats(self.start(), end, len(names), size, appends, clamped, skipped, bad, last, erased)

    def erase(self, which: Callable[[pa.Table], Mask]) -> int:
        """Removes the rows that `which` says of each segment's events, a table as `read` gives it; how many there were.

        Their offsets stay taken, and all others stay as they are. A segment is rewritten as a whole or not at all, and
        readers may go on meanwhile; nobody appends while one is rewritten. Raises LogCorrupt at damaged bytes.
        """
        removed = 0
        for first in segment_offsets(self.directory):
            with self._writing, self._locked():
                names = segment_offsets(self.directory)
                if first in names:  # else it was pruned meanwhile
                    following = names[names.index(first) + 1] if first != names[-1] else None
                    removed += self._erase_in(first, following, which)
        return removed

    def _erase_in(self, first: int, following: int | None, which: Callable[[pa.Table], Mask]) -> int:
        segment = Segment(self.directory / file_name(first))
        try:
            frames = [
                (frame, None if frame.flags & GAP else segment.batch(payload))
                for frame, payload in self._checked(segment, segment.start, segment.first_offset, following)
            ]
            parts = [
                (self._conformed(segment, batch), frame, 0) for frame, batch in frames if batch is not None
            ]
            gone = which(self._table(parts))
            if not gone.any():
                return 0
            data = os.pread(segment.fd, frames[-1][0].end, 0)
        finally:
            segment.close()
        rewritten, at = [data[: segment.start]], 0
        for frame, batch in frames:
            mine = gone[at : at + frame.rows] if batch is not None else gone[:0]
            at += len(mine)
            if batch is None or not mine.any():
                rewritten.append(data[frame.position : frame.end])
            else:
                rewritten += _without(frame, batch, mine)
        try:
            replace_file(segment.path, rewritten)
        except OSError as error:
            raise self._refused(error) from error
        return int(gone.sum())

    def check(self) -> tuple[LogCorrupt, ...]:
        """Reads everything and compares all checksums: the first damage of each segment, none if the log is whole."""
        names = segment_offsets(self.directory)
        found = []
        for name, following in zip(names, [*names[1:], None], strict=True):
            try:
                segment = Segment(self.directory / file_name(name))
            except FileNotFoundError:
                continue
            except LogCorrupt as error:
                found.append(error)
                continue
            try:
                for _ in self._checked(segment, segment.start, segment.first_offset, following):
                    pass
            except LogCorrupt as error:
                found.append(error)
            finally:
                segment.close()
        return tuple(found)

    def skip(self, offset: int) -> Skipped:
        """Sets the damaged bytes at `offset` aside, so that reading goes on after them: the way out of LogCorrupt.

        `offset` is the error's. The bytes go to a `.bad` file beside the segment, a gap takes their place, and `Batch`
        and `stats` count its rows. Offsets of other events stay as they are, and none is given again. A damaged header of
        a segment is written anew without losing an event where its schema is known from another one.
        Raises LogError if nothing is damaged at `offset`.
        """
        with self._writing, self._locked():
            names = segment_offsets(self.directory)
            at = bisect_right(names, offset) - 1
            if at < 0:
                raise LogPruned(offset, names[0] if names else 0, self.directory)
            path = self.directory / file_name(names[at])
            following = names[at + 1] if at + 1 < len(names) else None
            try:
                segment = Segment(path)
            except LogCorrupt:
                return self._skip_header(path, names[at], following)
            try:
                return self._skip_frame(segment, offset, following)
            finally:
                segment.close()

    def _skip_frame(self, segment: Segment, offset: int, following: int | None) -> Skipped:
        position, expected, appended_at = segment.start, segment.first_offset, segment.floor
        fault: Bad | None = None
        for found in segment.frames(position, expected, payloads=True):
            match found:
                case Bad():
                    fault = found
                case Torn():
                    if following is not None and expected != following:
                        fault = Bad("the segment ends early")
                case (frame, _):
                    position, expected, appended_at = frame.end, frame.next_offset, frame.appended_at
        if fault is None or expected != offset:
            where = "nothing is damaged" if fault is None else f"the damage is at offset {expected}"
            raise LogError(f"{segment.path}: nothing is damaged at offset {offset}\n  {where}")
        data = os.pread(segment.fd, segment.size(), 0)
        trusted = fault.frame if fault.frame is not None and fault.frame.first_offset == expected else None
        resumed = _resume(data, position + 8 if trusted is None else trusted.end, expected)
        if resumed is not None:
            rows = resumed.first_offset - expected
        elif following is not None:
            rows = following - expected
        else:
            rows = _LOST_TAIL if trusted is None else trusted.rows
        after = len(data) if resumed is None else resumed.position
        set_aside = _set_aside(segment.path, expected, data[position:after])
        gap = _gap(expected, max(appended_at, 0), rows, segment.schema_crc, set_aside, fault.reason)
        replace_file(segment.path, [data[:position], gap, data[after:]])
        return Skipped(expected, rows, set_aside)

    def _skip_header(self, path: Path, first: int, following: int | None) -> Skipped:
        data = path.read_bytes()
        frame = _resume(data, 0, first)
        schemas = {zlib.crc32(text): text for text in self._known_schemas()}
        text = None if frame is None else schemas.get(frame.schema_crc)
        if frame is None or text is None:
            # Nobody can say what the columns are: all of it goes, and its end is found so that offsets go on.
            last, end = frame, frame
            while last is not None:
                end, last = last, _resume(data, last.end, last.next_offset)
            gone = _LOST_TAIL if end is None else end.next_offset - first
            rows = gone if following is None else following - first
            set_aside = _set_aside(path, first, data)
            floor = 0 if end is None else end.appended_at
            crc = zlib.crc32(self._schema_bytes)
            gap = _gap(first, floor, rows, crc, set_aside, "the header of the segment is damaged")
            replace_file(path, [file_header(self._schema_bytes, first, floor), gap])
            return Skipped(first, rows, set_aside)
        set_aside = _set_aside(path, first, data[: frame.position])
        lost = frame.first_offset - first
        gap = _gap(first, frame.appended_at, lost, frame.schema_crc, set_aside, "damaged") if lost else b""
        replace_file(path, [file_header(text, first, frame.appended_at), gap, data[frame.position :]])
        return Skipped(first, lost, set_aside)

    def _known_schemas(self) -> Iterator[bytes]:
        yield self._schema_bytes
        for name in segment_offsets(self.directory):
            with suppress(LogCorrupt):
                segment = Segment(self.directory / file_name(name))
                yield schema_bytes(segment.schema)
                segment.close()


def _resume(data: bytes, start: int, expected: int) -> Frame | None:
    """The first whole frame from `start` on, of offset `expected` or later; None if there is none."""
    at = data.find(FRAME_MAGIC, start)
    while at >= 0:
        frame = parse_frame(data, at, at)
        if frame is not None and frame.end <= len(data) and frame.first_offset >= expected:
            return frame
        at = data.find(FRAME_MAGIC, at + 1)
    return None


def _without(frame: Frame, batch: pa.RecordBatch, gone: Mask) -> Iterator[bytes]:
    """An append as several, at the same offsets: what stays, and gaps where rows are gone."""
    bounds = [0, *(np.flatnonzero(np.diff(gone)) + 1).tolist(), len(gone)]
    for low, high in pairwise(bounds):
        at, rows = frame.first_offset + low, high - low
        if gone[low]:
            yield frame_bytes(b"{}", at, frame.appended_at, rows, frame.schema_crc, GAP | ERASED)
        else:
            # Copied, not sliced: nothing of the other rows may be left in what is written.
            payload = payload_of(batch.take(pa.array(range(low, high))))
            flags = frame.flags if low == 0 else 0
            yield frame_bytes(payload, at, frame.appended_at, rows, frame.schema_crc, flags)


def _gap(offset: int, appended_at: int, rows: int, schema_crc: int, set_aside: Path, reason: str) -> bytes:
    note = json.dumps({"bad": set_aside.name, "reason": reason}).encode()
    return frame_bytes(note, offset, appended_at, rows, schema_crc, GAP)


def _set_aside(path: Path, offset: int, data: bytes) -> Path:
    """Writes damaged bytes to a file of their own, beside those of earlier damage at the same offset."""
    stem = path.with_name(f"{offset:020d}")
    number = 0
    while (bad := stem.with_name(f"{stem.name}{f'-{number}' if number else ''}{BAD_SUFFIX}")).exists():
        number += 1
    replace_file(bad, [data])
    return bad


def replace_file(path: Path, parts: Sequence[bytes]) -> None:
    """Writes a file that is there as a whole, on disk, or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
