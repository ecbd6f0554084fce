"""Generated events and spines, the same rows every time, kept in a folder between runs.

Keys are Zipf(1.0) over 100,000 entities, times lie on whole seconds of 90 days (so keys and times tie), some values are
NULL, and rows lie in the order they arrived in, which is not the order of event time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

KEYS, DAYS, START = 100_000, 90, 1_735_689_600  # 2025-01-01, in seconds
SIZES = {"3k": 3_000, "50k": 50_000, "100k": 100_000, "1m": 1_000_000, "5m": 5_000_000}
SIZES |= {"10m": 10_000_000, "30m": 30_000_000}

Array = NDArray[Any]
_INSTANT = pa.timestamp("us")
_SEEDS = {"spine": 11, "events": 21, "corrected": 31}


def folder() -> Path:
    """Where data is kept: `FS_BENCH_DATA`, or `featurestore-bench` in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("FS_BENCH_DATA", cache / "featurestore-bench"))


def dataset(kind: str, size: str) -> Path:
    """The Parquet file of `spine`, `events` or `corrected` with `size` rows, made if it is not there yet."""
    path = folder() / f"{kind}_{size}.parquet"
    if not path.exists():
        print(f"making {path} ({SIZES[size]:,} rows)", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        make = {"spine": _spine, "events": _events, "corrected": _corrected}[kind]
        table = make(SIZES[size], np.random.default_rng(_SEEDS[kind]))
        partial = path.with_suffix(".tmp")
        pq.write_table(table, partial, row_group_size=500_000, compression="zstd")
        partial.rename(path)
    return path


def _keys(random: np.random.Generator, n: int) -> Array:
    share = np.cumsum(1.0 / np.arange(1, KEYS + 1))
    names = np.random.default_rng(1).permutation(KEYS).astype(np.int64)
    return names[np.minimum(np.searchsorted(share / share[-1], random.random(n)), KEYS - 1)]


def _seconds(random: np.random.Generator, n: int) -> Array:
    return (START + random.integers(0, DAYS * 86_400, n)) * 1_000_000


def _spine(n: int, random: np.random.Generator) -> pa.Table:
    """Half of the moments fall on whole seconds, as event times do: an event at the very moment is not visible."""
    ts = _seconds(random, n)
    ts += np.where(random.random(n) < 0.5, random.integers(0, 1_000_000, n), 0)
    columns = {"row": np.arange(n), "entity_id": _keys(random, n), "ts": pa.array(ts, _INSTANT)}
    return pa.table({**columns, "label": random.integers(0, 2, n).astype(np.int8)})


def _events(n: int, random: np.random.Generator) -> pa.Table:
    keys, at = _keys(random, n), _seconds(random, n)
    delay = random.exponential(600, n) + np.where(random.random(n) < 0.01, random.exponential(86_400, n), 0)
    arrived = at + (delay * 1e6).astype(np.int64)
    order = np.argsort(arrived, kind="stable")

    def nulls(values: Array, share: float) -> pa.Array:
        return pa.array(values, mask=random.random(n) < share)

    return pa.table(
        {
            "event_id": np.arange(n),
            "entity_id": keys[order],
            "event_ts": pa.array(at[order], _INSTANT),
            "created_ts": pa.array(arrived[order], _INSTANT),
            "amount": nulls(np.round(random.lognormal(3, 1.2, n), 4), 0.05),
            "qty": nulls(random.integers(1, 21, n).astype(np.int32), 0.1),
            "score": nulls(random.normal(0, 1, n), 0.02),
        }
    )


def _corrected(n: int, random: np.random.Generator) -> pa.Table:
    """A fifth of the rows correct an earlier one: same key and event time, created later."""
    first = int(n * 0.8)
    keys, at = _keys(random, first), _seconds(random, first)
    created = at + (random.exponential(600, first) * 1e6).astype(np.int64)
    again = random.integers(0, first, n - first)
    later = created[again] + (random.exponential(43_200, n - first) * 1e6).astype(np.int64)
    keys, at = np.concatenate([keys, keys[again]]), np.concatenate([at, at[again]])
    created = np.concatenate([created, later])
    order = np.argsort(created, kind="stable")
    return pa.table(
        {
            "event_id": np.arange(n),
            "entity_id": keys[order],
            "event_ts": pa.array(at[order], _INSTANT),
            "created_ts": pa.array(created[order], _INSTANT),
            "f1": random.normal(size=n),
            "f2": pa.array(random.integers(0, 100, n), mask=random.random(n) < 0.1),
            "f3": random.normal(size=n),
        }
    )
