"""What Prometheus sees. With several workers the files under PROMETHEUS_MULTIPROC_DIR make one figure of theirs."""

from __future__ import annotations

import os
from typing import Any, Final

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


def exposition() -> tuple[bytes, str]:
    """The text of `/metrics` and its content type, of all workers together."""
    registry: Any = REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST
