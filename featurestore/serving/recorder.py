"""The recorder: takes what was served off the serving thread, and says when it is on disk.

A read hands its result over and goes on: the buffer is bounded in rows, and what does not fit is shed and counted. A thread
wakes every few milliseconds, makes tables of what came, and gives them to the sink. What the sink refuses is kept and tried
again. A row is *acknowledged* when `flush` has returned after it was handed over, or when `kept` has counted it.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import secrets
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa

from featurestore.capture.log import CaptureLog, Folder, append
from featurestore.capture.schema import CapturedSchema
from featurestore.errors import CaptureConflict, CaptureError, FeatureStoreError
from featurestore.ir import Service, View
from featurestore.log.eventlog import EventLog
from featurestore.serving.captured import Kind, Served, served, tables
from featurestore.serving.result import OnlineFeatures

BUFFER_ROWS: Final = 262_144
LINGER_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 0.5
NOTE_SECONDS: Final = 1.0

_LOG = logging.getLogger("featurestore.capture")


class Sink(Protocol):
    """Where captured rows go."""

    def write(self, schema: CapturedSchema, table: pa.Table, at: int) -> Sequence[FeatureStoreError]:
        """Keeps the rows, for good when it returns; an error for each row that it can never keep.

        Raises FeatureStoreError when they are not kept.
        """

    def close(self) -> None:
        """Lets go of files and connections."""


class LogSink:
    """Captured rows in the log of the project. For the recorder's thread alone."""

    def __init__(self, log: CaptureLog) -> None:
        self._log = log
        self._open: dict[CapturedSchema, tuple[Folder, EventLog]] = {}

    def write(self, schema: CapturedSchema, table: pa.Table, at: int) -> Sequence[FeatureStoreError]:
        """Appends; on disk when it returns."""
        if schema not in self._open:
            folder = self._log.folder(schema)
            self._open[schema] = (folder, folder.open())
        append(self._open[schema][1], table, at)
        return ()

    def close(self) -> None:
        """Closes the files."""
        for _, log in self._open.values():
            log.close()
        self._open.clear()


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the rows that were served by this process.

    `kept` are on disk; `sampled_out` were not chosen; `shed` did not fit the buffer; `failed` could not be made into rows, are
    larger than what the sink holds, or lie under a schema that is another one's; `waiting` are in the buffer.
    """

    offered: int = 0
    kept: int = 0
    sampled_out: int = 0
    shed: int = 0
    failed: int = 0
    waiting: int = 0


_ME: Final = secrets.token_hex(8)


def note(path: Path, counts: Counts) -> None:
    """Leaves the counts of this process beside the log, for whoever looks from another one."""
    folder = path / "processes"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{os.getpid()}-{_ME}.json"
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(counts)))
    temporary.replace(file)


def noted(path: Path, since: int | None = None) -> Counts:
    """What became of the rows of all processes that ever served, added up; of those that said something since a moment (µs)."""
    whole: Counter[str] = Counter()
    for file in (path / "processes").glob("*.json"):
        if since is None or file.stat().st_mtime_ns // 1000 >= since:
            whole.update(json.loads(file.read_text()))
    return Counts(**{**asdict(Counts()), **whole})


class Tap:
    """Where the reads of one version of a service are handed to the recorder."""

    __slots__ = ("_recorder", "kind")

    def __init__(self, recorder: Recorder, kind: Kind) -> None:
        self._recorder, self.kind = recorder, kind

    def offer(
        self,
        result: OnlineFeatures,
        *,
        request_id: str | None = None,
        degraded: bool = False,
        context: Mapping[str, Any] | None = None,
        scaled: OnlineFeatures | None = None,
        scaler: int | None = None,
    ) -> bool:
        """Hands a read over; False when it is shed. Never waits. Raises RequestError for context that does not fit."""
        recorder = self._recorder
        one = served(result, recorder.clock(), request_id, degraded, context, scaled, scaler)
        return recorder.take(self.kind, one)


class Recorder:
    """One for each process and project; safe to share between threads, and used on both sides of a fork."""

    def __init__(
        self,
        sink: Callable[[], Sink],
        *,
        buffer_rows: int = BUFFER_ROWS,
        linger: float = LINGER_SECONDS,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
        note: Callable[[Counts], None] = lambda _: None,
    ) -> None:
        """`sink` is called by the recorder's thread when there is something to keep; `note` now and then with the counts."""
        self._note, self._noted = note, (Counts(), -NOTE_SECONDS)
        self.clock, self._make, self._limit, self._linger = clock, sink, buffer_rows, linger
        self._begin_anew()
        _RECORDERS.add(self)

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._wake = threading.Event()
        self._queue: deque[tuple[Kind, Served]] = deque()
        self._thread: threading.Thread | None = None
        self._sink: Sink | None = None
        self._unkept: list[tuple[CapturedSchema, pa.Table, int]] = []
        self._waiting = self._offered = self._settled = 0
        self._kept = self._sampled_out = self._shed = self._failed = 0
        self._refusals, self._refused = 0, ""
        self._closing = False

    def tap(self, service: Service, views: Mapping[str, View], version: int) -> Tap | None:
        """Where reads of a service are handed over; None for one that is not captured."""
        if service.capture is None:
            return None
        return Tap(self, Kind(CapturedSchema.of(service, views), version, service.capture))

    def take(self, kind: Kind, read: Served) -> bool:
        """What `Tap.offer` does with a read."""
        rows = read.rows
        with self._lock:
            waiting = self._waiting + rows
            if waiting > self._limit:
                self._shed += rows
                return False
            self._waiting = waiting
            self._offered += rows
            self._queue.append((kind, read))
            if self._thread is None:
                self._start()
        return True

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def counts(self) -> Counts:
        """What became of the rows so far."""
        with self._lock:
            offered = self._offered + self._shed
            return Counts(offered, self._kept, self._sampled_out, self._shed, self._failed, self._waiting)

    def flush(self, timeout: float | None = None) -> Counts:
        """Waits until all that was handed over before is kept: then it is acknowledged.

        Raises CaptureError when the sink refuses, or `timeout` seconds pass; the rows stay in the buffer and are tried again.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            wanted, refusals = self._offered, self._refusals
            while self._settled < wanted:
                if self._thread is None:  # it died since
                    self._start()
                self._wake.set()
                left = None if deadline is None else deadline - time.monotonic()
                if self._refusals > refusals:
                    raise CaptureError(f"{wanted - self._settled} rows are not kept yet: {self._refused}")
                if (left is not None and left <= 0) or not self._changed.wait(left):
                    raise CaptureError(
                        f"{wanted - self._settled} rows were not on disk within {timeout} s\n  they are tried again"
                    )
        return self.counts()

    def close(self, timeout: float | None = 10.0) -> None:
        """Flushes and ends the thread. The next read begins anew. Raises CaptureError as `flush` does."""
        if self._thread is None and not self._waiting:
            return
        try:
            self.flush(timeout)
        finally:
            with self._lock:
                thread, self._closing = self._thread, True
                self._wake.set()
            if thread is not None and thread is not threading.current_thread():
                thread.join(timeout)
            with self._lock:
                self._thread, self._closing = None, False

    # --- the recorder's thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        except BaseException:
            _LOG.exception("the thread that writes captured rows has ended; the next read begins another")
            self._died()
            raise

    def _died(self) -> None:
        """Lets who waits know, and the next read begin another thread: it goes on with all that are tables by now."""
        with self._changed:
            self._thread = None
            left = sum(read.rows for _, read in self._queue) + sum(rows for _, _, rows in self._unkept)
            lost = self._waiting - left
            self._settled, self._waiting = self._settled + lost, left
            self._failed += lost
            self._refused, self._refusals = (
                "an error that nobody foresaw, and which was logged",
                self._refusals + 1,
            )
            self._changed.notify_all()

    def _work(self) -> None:
        pause = self._linger
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            with self._lock:
                taken, self._queue = self._queue, deque()
            well = self._write(taken)
            pause = self._linger if well else max(self._linger, RETRY_SECONDS)
            with self._lock:
                closing = self._closing and (not self._queue or not well)
            self._say_counts(always=closing)
            if closing:
                break
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    def _write(self, taken: deque[tuple[Kind, Served]]) -> bool:
        by_kind: dict[int, tuple[Kind, list[Served]]] = {}
        for kind, read in taken:
            by_kind.setdefault(id(kind), (kind, []))[1].append(read)
        for kind, reads in by_kind.values():
            try:
                for table, rows in list(tables(kind, reads)):
                    self._count(rows - table.num_rows, sampled_out=rows - table.num_rows)
                    if table.num_rows:
                        self._unkept.append((kind.schema, table, table.num_rows))
            except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
                lost = sum(r.rows for r in reads)
                _LOG.exception("%d rows of '%s' were not captured", lost, kind.schema.service, exc_info=error)
                self._count(lost, failed=lost)
        while self._unkept:
            schema, table, rows = self._unkept[0]
            try:
                if self._sink is None:
                    self._sink = self._make()
                never = self._sink.write(schema, table, self.clock())
            except CaptureConflict as error:  # for good: they would be refused again
                _LOG.error("%d rows of '%s' were not captured: %s", rows, schema.service, error)
                self._unkept.pop(0)
                self._count(rows, failed=rows)
                continue
            except FeatureStoreError as error:
                self._refuse(error)
                return False
            self._unkept.pop(0)
            for one in never:
                _LOG.error("a row of '%s' was not captured: %s", schema.service, one)
            self._count(rows, kept=rows - len(never), failed=len(never))
        return True

    def _say_counts(self, *, always: bool) -> None:
        before, at = self._noted
        counts, now = self.counts(), time.monotonic()
        if counts == before or (not always and now - at < NOTE_SECONDS):
            return
        self._noted = (counts, now)
        try:
            self._note(counts)
        except OSError as error:
            _LOG.warning("the counts of captured rows are not on disk: %s", error)

    def _refuse(self, error: FeatureStoreError) -> None:
        with self._changed:
            if self._refused != str(error):
                _LOG.error("captured rows are not kept: %s", error)
            self._refused, self._refusals = str(error), self._refusals + 1
            self._changed.notify_all()

    def _count(self, settled: int, *, kept: int = 0, sampled_out: int = 0, failed: int = 0) -> None:
        if not settled:
            return
        with self._changed:
            self._settled += settled
            self._waiting -= settled
            self._kept += kept
            self._sampled_out += sampled_out
            self._failed += failed
            if kept:
                self._refused = ""
            self._changed.notify_all()


_RECORDERS: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _forked() -> None:
    """A child has no thread of the parent's, and what lay in the buffer is the parent's to keep."""
    for recorder in list(_RECORDERS):
        recorder._begin_anew()  # noqa: SLF001


def _ended() -> None:
    for recorder in list(_RECORDERS):
        try:
            recorder.close()
        except CaptureError as error:
            _LOG.error("%s", error)


os.register_at_fork(after_in_child=_forked)
atexit.register(_ended)
