"""`store.capture`: what is kept of what was served, and what comes back of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from featurestore.capture.compact import Compacted, compact
from featurestore.capture.log import CaptureLog, Cursor, Rows
from featurestore.capture.status import SchemaStatus, status_of
from featurestore.config import Config
from featurestore.errors import Unsupported
from featurestore.serving.recorder import Counts, LogSink, Recorder, Sink
from featurestore.time import Moment, moment


def recorder_of(config: Config, clock: Callable[[], int]) -> Recorder:
    """The recorder of one process for a project, as `[capture]` says."""

    def sink() -> Sink:
        if config.capture_sink == "kafka":
            raise Unsupported("this version", "capture to Kafka", 'sink = "log" in [capture]')
        return LogSink(CaptureLog(config.capture))

    return Recorder(
        sink, buffer_rows=config.capture_buffer_rows, linger=config.capture_linger_ms / 1000, clock=clock
    )


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
