"""Every entity that was known at a moment: the rows of a batch prediction or a backtest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.events import EventColumns, events_sql, key_names
from featurestore.compile.sources import Connection
from featurestore.compile.sql import ident
from featurestore.datasets.rows import Streamed
from featurestore.errors import DatasetError, NotFound
from featurestore.evaluate.arrow import arrow_type
from featurestore.evaluate.partials import Array
from featurestore.ir import Plan, View

BATCH_ROWS = 1 << 17
"""Rows made at a time."""

INSTANT = pa.timestamp("us", tz="UTC")


def moments_of(at: int | None, start: int | None, end: int | None, every: int | None) -> Array:
    """The moments asked for, in microseconds: `at` alone, or from `start` to `end` (exclusive) in steps of `every`."""
    rest = (start, end, every)
    if (at is None) == (None in rest) or (at is not None and any(r is not None for r in rest)):
        raise DatasetError("a spine is asked for at a moment (at=), or for several: start=, end= and every=")
    if at is not None:
        return np.array([at], np.int64)
    assert start is not None
    assert end is not None
    assert every is not None
    if every <= 0 or end <= start:
        raise DatasetError("there is no moment from start= to end= in steps of every=")
    return np.arange(start, end, every, dtype=np.int64)


def known_entities(
    con: Connection, plan: Plan, entity: str, root: Path, moments: Array, timestamp: str
) -> Streamed:
    """For each moment the entities with an event before it: by moment, then by first event, then by key.

    Events are those that some view of the entity keeps. A static source says nothing of when, so it counts only for an
    entity that has no other. The keys of the entities are held in memory, the rows are not.
    """
    names = [e.name for e in plan.entities]
    if entity not in names:
        raise NotFound("entity", entity, names)
    views = [v for v in plan.views if v.entity == entity]
    views = [v for v in views if v.source.event_time is not None] or views
    if not views:
        raise DatasetError(f"no view is about entity '{entity}', so nothing says which there are")
    keys = [k.name for k in views[0].keys]
    if timestamp in keys:
        raise DatasetError(
            f"'{timestamp}' is a join key of entity '{entity}'\n  name the moments otherwise: timestamp=…"
        )
    known = con.sql(_first_seen_sql(con, views, root, keys, int(moments[-1]))).to_arrow_table()
    schema = pa.schema(
        [*(pa.field(k.name, arrow_type(k.dtype)) for k in views[0].keys), pa.field(timestamp, INSTANT)]
    )
    seen = known.column("seen").to_numpy()
    entities = known.select(keys).cast(pa.schema(list(schema)[:-1])).combine_chunks()

    def batches() -> Iterator[pa.RecordBatch]:
        for moment in moments:
            count = int(np.searchsorted(seen, moment, "left"))
            for first in range(0, count, BATCH_ROWS):
                part = entities.slice(first, min(BATCH_ROWS, count - first))
                instants = pa.array(np.full(part.num_rows, moment, np.int64)).view(INSTANT)
                yield from part.append_column(schema.field(timestamp), instants).to_batches()

    said = {"spine": entity, "moments": [int(moments[0]), int(moments[-1]), len(moments)]}
    return Streamed(schema, batches, said)


def _first_seen_sql(con: Connection, views: list[View], root: Path, keys: list[str], end: int) -> str:
    """SELECT the keys and `seen`, the microsecond of the first event of each; before 1970 for a static source."""
    parts = []
    for view in views:
        static = view.source.event_time is None
        events = events_sql(
            con, view, root, EventColumns(view), ordered=False, copies=True, end=None if static else end
        )
        columns = [f"{k} AS {ident(n, DUCKDB)}" for k, n in zip(key_names(view), keys, strict=True)]
        time = "(-9223372036854775807)::BIGINT" if static else "t"
        parts.append(f"SELECT {', '.join(columns)}, {time} AS seen FROM ({events})")  # noqa: S608
    names = ", ".join(ident(n, DUCKDB) for n in keys)
    every = " UNION ALL ".join(parts)
    return f"SELECT {names}, min(seen) AS seen FROM ({every}) GROUP BY {names} ORDER BY seen, {names}"  # noqa: S608
