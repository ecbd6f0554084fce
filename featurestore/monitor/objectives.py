"""Objectives of a service: what was promised, what of it was kept by the servers' own counters, and how much error is left."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa

from featurestore.check import Objective
from featurestore.errors import StatisticsError, Unsupported
from featurestore.time import SECOND

FAST_BURN = 14.4
"""A burn at which a thirtieth part of a month's budget goes in half an hour: worth waking somebody."""

TIMEOUT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Counted:
    """What the servers have counted since they started: reads of a service, those in time, and those that failed."""

    answered: float
    failed: float
    within: float | None
    """None where no bucket of the histogram ends at the latency that was promised."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Of all reads of a period, the share that was bad, and of the error that is allowed, how much is left (below 0: overdrawn).

    `burn` is how many times faster than allowed it went since the last run.
    """

    total: float
    bad: float
    left: float
    burn: float


def scrape(url: str) -> list[Any]:
    """The metric families at an address of servers. Raises StatisticsError, Unsupported."""
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError as error:
        raise Unsupported(
            "this installation", "read metrics", "pip install 'featurestore[server]'"
        ) from error
    import urllib.error
    import urllib.request

    if not url.startswith(("http://", "https://")):
        raise StatisticsError(
            f"[alerts] metrics is '{url}'\n  write the address of a server's metrics: http://host:6566/metrics"
        )
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310  the scheme was looked at
            text = answer.read().decode()
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise StatisticsError(f"no metrics at {url}: {reason}") from error
    return list(text_string_to_metric_families(text))


def counted(families: Iterable[Any], service: str, objective: Objective) -> Counted:
    """What the counters say of a service."""
    answered = failed = 0.0
    within: dict[float, float] = {}
    for family in families:
        for sample in family.samples:
            if sample.labels.get("service") != service:
                continue
            if sample.name == "fs_request_seconds_count":
                answered += sample.value
            elif sample.name == "fs_read_failures_total":
                failed += sample.value
            elif sample.name == "fs_request_seconds_bucket":
                bound = float(sample.labels["le"])
                within[bound] = within.get(bound, 0.0) + sample.value
    latency = objective.latency
    in_time = None
    if latency is not None:
        seconds = latency.microseconds / SECOND
        in_time = next((n for bound, n in sorted(within.items()) if abs(bound - seconds) < 1e-9), None)
    return Counted(answered, failed, in_time)


def increases(
    total: Sequence[tuple[int, float]], bad: Sequence[tuple[int, float]]
) -> list[tuple[int, float, float]]:
    """How much both counters grew up to each moment, since the one before. Where either fell, both began anew."""
    out = []
    for (a, b), (c, d) in zip(pairwise(total), pairwise(bad), strict=False):
        (_, before), (at, now), (_, wrong), (_, failed) = a, b, c, d
        anew = now < before or failed < wrong
        out.append((at, now if anew else now - before, failed if anew else failed - wrong))
    return out


def budget(
    total: Sequence[tuple[int, float]], bad: Sequence[tuple[int, float]], target: float, since: int
) -> Budget | None:
    """The error budget from the counters of runs; None before two runs, or of no reads."""
    grown = [step for step in increases(total, bad) if step[0] > since]
    reads, errors = sum(n for _, n, _ in grown), sum(n for _, _, n in grown)
    if not reads:
        return None
    allowed = 1 - target
    _, newest_reads, newest_errors = grown[-1]
    newest = newest_errors / newest_reads / allowed if newest_reads else 0.0
    return Budget(reads, errors, 1 - errors / reads / allowed, newest)


def counters_of(results: pa.Table, monitor: str, condition: str, figure: str) -> list[tuple[int, float]]:
    """A figure over the runs that are kept: moment and value."""
    out = []
    for row in results.select(["run_at", "monitor", "condition", "figures"]).to_pylist():
        if row["monitor"] == monitor and row["condition"] == condition:
            figures: Mapping[str, float] = json.loads(row["figures"])
            if figure in figures:
                out.append((int(row["run_at"].timestamp() * 1e6), figures[figure]))
    return out


__all__ = ["FAST_BURN", "Budget", "Counted", "budget", "counted", "counters_of", "increases", "scrape"]
