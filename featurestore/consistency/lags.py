"""How far behind its events each source was when rows were served: the lag that makes a training set see no more than they did.

What was served at `q` with a watermark `w` had seen what arrived until `w`: an event counted from `q - w` after its arrival on.
A source that names no arrival is known by its events' own times, so for it the way from an event to its arrival counts too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.capture.log import CaptureLog
from featurestore.config import Config
from featurestore.consistency.captured import Meaning
from featurestore.errors import NotFound, RequestError
from featurestore.evaluate.partials import Array
from featurestore.ir import Source
from featurestore.log.eventlog import APPENDED_AT, OFFSET
from featurestore.stream.feeds import in_topic, log_directory, open_log

STEP = 1000
"""Lags are counted in steps of a millisecond, rounded up."""

LAST = 1_000_000
"""So many of the events that were pushed last say how long they take to arrive."""


@dataclass(frozen=True, slots=True)
class FittedLag:
    """The lag of one source, by `rows` that were served from it.

    `behind` is how old the watermark was at the quantile, `under_way` how long events take to arrive, where the source does not
    say itself; `lag` is both together. `median`, `p95` and `most` are of the age of the watermark.
    """

    source: str
    rows: int
    lag: timedelta
    behind: timedelta
    under_way: timedelta
    median: timedelta
    p95: timedelta
    most: timedelta

    def to_json(self) -> dict[str, Any]:
        """Lengths in seconds."""
        lengths = ("lag", "behind", "under_way", "median", "p95", "most")
        said = {name: getattr(self, name).total_seconds() for name in lengths}
        return {"source": self.source, "rows": self.rows, **said}


def fitted_lags(
    config: Config,
    log: CaptureLog,
    service: str,
    meanings: Mapping[str, Meaning],
    *,
    quantile: float = 0.5,
    start: int | None = None,
    end: int | None = None,
) -> dict[str, FittedLag]:
    """The lag of each source with times that a service was served from, by its captured rows with a moment in [start, end).

    `quantile` 0.5 is how it mostly was, 1.0 the worst. Raises NotFound where nothing was captured, RequestError where no row
    says how fresh it was.
    """
    if not 0 <= quantile <= 1:
        raise RequestError(f"{quantile} is no quantile\n  give a number from 0 to 1: 0.5 is the median")
    ages: dict[str, Counter[int]] = {}
    sources: dict[str, Source] = {}
    for view, source, some in _ages(log, service, meanings, start, end):
        sources[source.name] = source
        ages.setdefault(source.name, Counter()).update(some)
        del view
    if not ages:
        raise NotFound("captured row of", service, (), "that time, served from a view that had been written")
    found = {}
    for name, counts in sorted(ages.items()):
        steps = np.array(sorted(counts), np.int64)
        known = np.cumsum([counts[s] for s in steps.tolist()])
        behind, median, p95, most = (_at(steps, known, p) for p in (quantile, 0.5, 0.95, 1.0))
        way = _under_way(config, sources[name], quantile)
        found[name] = FittedLag(name, int(known[-1]), behind + way, behind, way, median, p95, most)
    return found


def _at(steps: Array, known: Array, quantile: float) -> timedelta:
    place = int(np.searchsorted(known, max(1, np.ceil(quantile * known[-1]))))
    return timedelta(microseconds=int(steps[place]) * STEP)


def _ages(
    log: CaptureLog, service: str, meanings: Mapping[str, Meaning], start: int | None, end: int | None
) -> Iterator[tuple[str, Source, Counter[int]]]:
    """Of batches of rows, for each view with times, how many rows its watermark was how many steps old at."""
    for rows in log.read(service, start=start, end=end, columns=["at", "watermarks", "degraded"]):
        meaning = meanings.get(rows.schema.fingerprint)
        if meaning is None or not rows.table.num_rows:
            continue
        asked = rows.table.column("at").cast(pa.int64()).to_numpy()
        codes = rows.table.column("watermarks").combine_chunks().dictionary_encode()
        if isinstance(codes, pa.ChunkedArray):
            codes = codes.combine_chunks()
        texts = codes.dictionary.to_pylist()
        place = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        healthy = ~np.asarray(rows.table.column("degraded").combine_chunks()).astype(np.bool_)
        for name, view in meaning.views.items():
            if view.source.event_time is None:
                continue
            marks = [json.loads(t).get(name) if t else None for t in texts]
            there = np.array([*(m is not None for m in marks), False], np.bool_)[place] & healthy
            mark = np.array([*(m or 0 for m in marks), 0], np.int64)[place]
            age = np.maximum(asked[there] - mark[there], 0)
            if len(age):
                yield name, view.source, Counter((-(-age // STEP)).tolist())


def _under_way(config: Config, source: Source, quantile: float) -> timedelta:
    """How long the events that were pushed last took from their own time until they arrived; 0 where the source says arrivals."""
    if source.arrival_time is not None or source.stream is None or in_topic(config, source):
        return timedelta(0)
    if source.event_time is None or not log_directory(config, source).is_dir():
        return timedelta(0)
    waits: list[Array] = []
    with open_log(config, source) as log:
        position = max(log.start(), log.end() - LAST)
        while (batch := log.read(position)).next_offset != position:
            position = batch.next_offset
            table = batch.table.drop_columns([OFFSET])
            at, came = (table.column(c).cast(pa.int64()) for c in (source.event_time, APPENDED_AT))
            known = np.asarray(at.is_valid())
            waits.append((came.to_numpy() - at.fill_null(0).to_numpy())[known])
    whole = np.concatenate(waits) if waits else np.zeros(0, np.int64)
    if not len(whole):
        return timedelta(0)
    wait = int(np.quantile(np.maximum(whole, 0), quantile, method="higher"))
    return timedelta(microseconds=-(-wait // STEP) * STEP)


__all__ = ["FittedLag", "fitted_lags"]
