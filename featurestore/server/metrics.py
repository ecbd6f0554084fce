"""What Prometheus sees. With several workers the files under PROMETHEUS_MULTIPROC_DIR make one figure of theirs."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)

from featurestore.serving import OnlineFeatures
from featurestore.serving.recorder import Counts
from featurestore.status import Status

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, of no use here

SECONDS: Final = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0
)  # fmt: skip

REQUESTS = Counter("fs_requests", "Requests answered, by route and status.", ["route", "status"])
LATENCY = Histogram(
    "fs_request_seconds", "From the first byte that was read to the last that was written.", ["service", "route"],
    buckets=SECONDS,
)  # fmt: skip
STAGE = Histogram(
    "fs_stage_seconds", "Of a read: decode the request, read the store and finish, encode the answer.",
    ["service", "stage"], buckets=SECONDS,
)  # fmt: skip
ROWS = Counter("fs_rows", "Entity rows read.", ["service"])
CELLS = Counter("fs_cells", "Feature values given, by status (NOT_FOUND is a miss).", ["service", "status"])
DEGRADED = Counter("fs_degraded", "Answers made without the store.", ["service"])
FAILED = Counter("fs_read_failures", "Reads that were understood and not answered.", ["service"])
FRESHNESS = Gauge(
    "fs_freshness_seconds", "How long ago what is served of a view was complete.", ["view"],
    multiprocess_mode="mostrecent",
)  # fmt: skip
IN_FLIGHT = Gauge("fs_in_flight", "Requests begun and not yet answered.", multiprocess_mode="livesum")
LAG = Gauge("fs_lag_seconds", "How far behind a worker is.", multiprocess_mode="livemax")
BREAKER = Gauge(
    "fs_breaker_open",
    "1 while the store is not asked because it does not answer.",
    multiprocess_mode="livemax",
)
SHED = Counter("fs_shed", "Requests turned away so that the others are answered.", ["reason"])
REFUSED = Counter("fs_refused", "Requests refused for want of a right.", ["reason"])
REVISION = Gauge("fs_revision", "The registry's revision that is served.", multiprocess_mode="mostrecent")


CAPTURED = Counter("fs_capture_rows", "Rows served to be captured, by what became of them.", ["outcome"])
CAPTURE_WAITING = Gauge(
    "fs_capture_waiting_rows", "Rows served and not yet on disk.", multiprocess_mode="livesum"
)

_CAPTURED: dict[str, int] = {}


def put_capture(counts: Counts) -> None:
    """What became of the rows that this worker served."""
    CAPTURE_WAITING.set(counts.waiting)
    for outcome in ("kept", "sampled_out", "shed", "failed"):
        now = getattr(counts, outcome)
        CAPTURED.labels(outcome).inc(now - _CAPTURED.get(outcome, 0))
        _CAPTURED[outcome] = now


_KEPT: weakref.WeakSet[Meters] = weakref.WeakSet()


class Meters:
    """The metrics of one service: noted at once, and put where Prometheus sees them every tick.

    Putting each figure there by itself costs more than a small read. For the event loop alone.
    """

    def __init__(self, service: str) -> None:
        self._stages = [STAGE.labels(service, stage) for stage in ("decode", "read", "encode")]
        self._cells = [CELLS.labels(service, status.name) for status in Status]
        self._rows, self._degraded = ROWS.labels(service), DEGRADED.labels(service)
        self._failed = FAILED.labels(service)
        self._service = service
        self._times: dict[str, list[tuple[float, ...]]] = {}
        self._counts = np.zeros(len(Status), np.int64)
        self._present = self._row_count = self._degraded_count = 0
        _KEPT.add(self)

    def note(self, route: str, result: OnlineFeatures, *times: float, degraded: bool) -> None:
        """One read: seconds for decode, read, encode and the whole."""
        self.note_present(route, result.rows, 0, times)
        self._degraded_count += degraded
        for block in result.blocks:
            if block.status is None:
                self._present += block.values.size
            else:
                self._counts += np.bincount(block.status.reshape(-1), minlength=len(self._counts))

    def note_present(self, route: str, rows: int, values: int, times: tuple[float, ...]) -> None:
        """As `note`, of a read whose values are all PRESENT."""
        seconds = self._times.get(route)
        if seconds is None:
            seconds = self._times[route] = []
        seconds.append(times)
        self._row_count += rows
        self._present += values

    def failed(self) -> None:
        """A read that was understood, and whose store did not answer in time or at all."""
        self._failed.inc()

    def put(self) -> None:
        for route, seconds in self._times.items():
            table = np.array(seconds)
            for histogram, values in zip(
                [*self._stages, LATENCY.labels(self._service, route)], table.T, strict=True
            ):
                observe(histogram, values)
        self._times.clear()
        self._counts[0] += self._present
        for counter, count in zip(self._cells, self._counts.tolist(), strict=True):
            if count:
                counter.inc(count)
        self._counts[:] = 0
        for counter, count in ((self._rows, self._row_count), (self._degraded, self._degraded_count)):
            if count:
                counter.inc(count)
        self._present = self._row_count = self._degraded_count = 0


def observe(histogram: Any, values: np.ndarray[Any, Any]) -> None:
    """`histogram.observe` of many values at once."""
    bounds = histogram._upper_bounds  # noqa: SLF001  the library has no way to take many
    counts = np.bincount(np.searchsorted(bounds, values), minlength=len(bounds))
    for bucket, count in zip(histogram._buckets, counts.tolist(), strict=True):  # noqa: SLF001
        if count:
            bucket.inc(count)
    histogram._sum.inc(float(values.sum()))  # noqa: SLF001


def put_all() -> None:
    """What was noted since the last time, of all services."""
    for meters in list(_KEPT):
        meters.put()


def exposition(monitored: Path | None = None) -> tuple[bytes, str]:
    """The text of `/metrics` and its content type, of all workers together.

    Behind it is what stands in a file of the same format: figures of the newest pass of the monitors, where there was one.
    """
    registry: Any = REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    found = b""
    if monitored is not None:
        with suppress(OSError):  # nobody watches here
            found = monitored.read_bytes()
    return generate_latest(registry) + found, CONTENT_TYPE_LATEST
