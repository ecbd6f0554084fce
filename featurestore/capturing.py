"""`store.capture`: what is kept of what was served, and what comes back of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from featurestore.capture.compact import Compacted, compact
from featurestore.capture.log import CaptureLog, Cursor, Rows
from featurestore.capture.returned import Returned, Taken, What
from featurestore.capture.status import SchemaStatus, status_of
from featurestore.capture_topic import Fetched, KafkaSink, cluster_of_captured, fetch
from featurestore.config import Config
from featurestore.errors import BrokerUnavailable, CaptureError, RequestError, nearest
from featurestore.serving.recorder import Counts, LogSink, Recorder, Sink, note, noted
from featurestore.time import Moment, moment

FLUSH_SECONDS: Final = 5.0
"""So long predictions wait for the rows of their own process."""

Moments = Moment | Sequence[Moment]


def recorder_of(config: Config, clock: Callable[[], int]) -> Recorder:
    """The recorder of one process for a project, as `[capture]` says."""

    def sink() -> Sink:
        if config.capture_sink == "kafka":
            return KafkaSink(cluster_of_captured(config), config.capture_topic)
        return LogSink(CaptureLog(config.capture))

    return Recorder(
        sink,
        buffer_rows=config.capture_buffer_rows,
        linger=config.capture_linger_ms / 1000,
        clock=clock,
        note=lambda counts: note(config.capture, counts),
    )


def returned_file(path: Path, value: str, at: str | None) -> tuple[list[Any], list[Any], list[Any] | None]:
    """Row ids, values and moments of a file of them: Parquet, CSV or JSON lines. Raises RequestError."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    read: dict[str, Callable[[Path], Any]] = {
        ".parquet": pa.parquet.read_table,
        ".csv": pa.csv.read_csv,
        ".json": pa.json.read_json,
        ".jsonl": pa.json.read_json,
        ".ndjson": pa.json.read_json,
    }
    if path.suffix not in read:
        raise RequestError(f"{path}: no kind of file that is read here\n  there is {', '.join(read)}")
    try:
        table = read[path.suffix](path)
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"{path}: {str(error).splitlines()[0]}") from error
    for name in ("row_id", value, *([at] if at is not None else ())):
        if name not in table.column_names:
            raise RequestError(
                "\n  ".join([f"{path} has no column '{name}'", *nearest(name, table.column_names)])
            )
    moments = None if at is None else table[at].to_pylist()
    return table["row_id"].to_pylist(), table[value].to_pylist(), moments


class Capturing:
    """The capture log of a project: what was served in this process is flushed here, and everybody's is read."""

    def __init__(
        self,
        config: Config,
        recorder: Recorder,
        clock: Callable[[], int],
        retention: Callable[[str], int | None],
    ) -> None:
        """`retention` says how long (µs) rows of a service are kept; None is for good."""
        self._recorder, self._clock, self._retention = recorder, clock, retention
        self._config = config
        self.log = CaptureLog(config.capture)

    def flush(self, timeout: float | None = None) -> Counts:
        """Waits until what this process served before is on disk: from then on no crash takes it back.

        Raises CaptureError where the disk refuses, or after `timeout` seconds; the rows are kept and tried again.
        """
        return self._recorder.flush(timeout)

    @property
    def counts(self) -> Counts:
        """What became of the rows that this process served."""
        return self._recorder.counts()

    def rows(
        self,
        service: str,
        *,
        after: Cursor | None = None,
        fingerprint: str | None = None,
        start: Moment | None = None,
        end: Moment | None = None,
        columns: Sequence[str] | None = None,
        size: int = 65_536,
    ) -> Iterator[Rows]:
        """The captured rows of a service as they are stored, in Arrow batches, from a cursor on: see `CaptureLog.read`."""
        low, high = (None if m is None else moment(m) for m in (start, end))
        return self.log.read(
            service, after=after, fingerprint=fingerprint, start=low, end=high, columns=columns, size=size
        )

    def predictions(
        self, row_ids: Any, values: Any, *, model: str, version: str = "", at: Moments | None = None
    ) -> Taken:
        """Keeps what a model made of rows, named by their `row_ids`; on disk when it returns.

        A value is a number, a text, a boolean, or a list of them. The same again is taken once; a different one is the next
        version, and the newest is what is read. Rows that nothing was captured of are counted `unknown`, and kept.
        """
        return self._take("predictions", row_ids, values, model, str(version), at)

    def labels(self, row_ids: Any, values: Any, *, name: str, at: Moments | None = None) -> Taken:
        """Keeps what came of rows, as `predictions` does; `at` is when it came to pass: one moment, or one for each row."""
        return self._take("labels", row_ids, values, name, "", at)

    def _take(
        self, what: What, row_ids: Any, values: Any, name: str, version: str, at: Moments | None
    ) -> Taken:
        if self._recorder.counts().waiting:
            with suppress(CaptureError):  # then the rows are unknown yet, and no less kept
                self._recorder.flush(FLUSH_SECONDS)
        several = isinstance(at, Sequence) and not isinstance(at, str)
        moments = [moment(m) for m in at] if several else None if at is None else moment(at)  # type: ignore[union-attr,arg-type]
        return Returned(self.log, what).take(row_ids, values, name, version, moments, self._clock())

    def writers(self) -> Counts:
        """What became of the rows that all processes served, as far as each has said: within a second or so."""
        return noted(self.log.path)

    def returned(self, what: What) -> Returned:
        """What came back: `predictions` or `labels`."""
        return Returned(self.log, what)

    def fetch(self) -> Fetched:
        """Appends to the capture log what the topic of `[capture]` holds by now and was not fetched: each row once.

        Others may serve, read, compact and fetch meanwhile. Raises CaptureError where `[capture]` names no topic, or rows are
        gone from it; BrokerError where it cannot be read.
        """
        config = self._config
        if config.capture_sink != "kafka":
            raise CaptureError(
                "rows are captured to the capture log itself: there is no topic to fetch from\n"
                '  sink = "kafka" with bootstrap and topic in [capture] names one'
            )
        return fetch(self.log, cluster_of_captured(config), config.capture_topic, self._clock())

    def follow(self, wait: Callable[[float], bool], seconds: float) -> Iterator[Fetched | BrokerUnavailable]:
        """`fetch` again and again, `seconds` apart, until `wait` says that it is enough; what each brought, or who was away.

        Raises what `fetch` raises, but for a broker that does not answer: it is asked again.
        """
        while True:
            try:
                yield self.fetch()
            except BrokerUnavailable as error:
                yield error
            if wait(seconds):
                return

    def status(self) -> list[SchemaStatus]:
        """What is kept, by service and fingerprint."""
        return [status_of(folder) for name in self.log.services() for folder in self.log.folders(name)]

    def compact(self, service: str | None = None) -> list[Compacted]:
        """Moves what the log holds into Parquet files by day, of one service or all; what is past its retention goes.

        Others may serve and read meanwhile. Raises CaptureError when the disk refuses: all is read as before then.
        """
        services = self.log.services() if service is None else [service]
        return [
            compact(folder, self._clock(), retention=self._retention(name))
            for name in services
            for folder in self.log.folders(name)
        ]
