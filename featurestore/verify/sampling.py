"""Which entities a verification asks about, and their events: real ones, drawn from the view's source by a seed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from featurestore.compile.events import key_names
from featurestore.compile.reference import Event
from featurestore.compile.sampling import (
    raw_names,
    sampled_events_sql,
    sampled_keys_sql,
    sampled_rows_sql,
    used,
)
from featurestore.compile.sources import Connection, source_sql
from featurestore.evaluate.arrow import to_physical
from featurestore.ir import View
from featurestore.types import Date, DecimalType, DType, Float32, ListType, Timestamp, VectorType
from featurestore.verify.engines import Key

EVENTS = 150
"""Events taken of one entity, at most: a stretch without gaps."""


@dataclass(frozen=True)
class Sample:
    """Entities and their events, as raw physical values. `shortened` entities have more events than were taken."""

    keys: tuple[Key, ...]
    events: tuple[Event, ...]
    shortened: int


def draw(con: Connection, view: View, root: Path, size: int, seed: int) -> Sample:
    """`size` entities drawn by the hash of their key, besides those that are out of the ordinary, with their events.

    Out of the ordinary are the busiest, the sparsest, and those with events at one moment, NULLs and copies. The events are
    also those that the view's filter leaves out.
    The same rows and seed give the same sample. No entity at all gives an empty one. Raises SourceError when the source is
    gone or no longer what the plan says.
    """
    source, columns = view.source, used(view)
    schema = source.schema
    source_sql(con, source, columns, root)  # raises what is wrong with the source
    keys = key_names(view)
    con.execute(f"CREATE OR REPLACE TEMP VIEW sampled_rows AS {sampled_rows_sql(con, view, root)}")
    con.execute(f"CREATE OR REPLACE TEMP TABLE sampled_keys AS {sampled_keys_sql(view, size, seed)}")
    rows = con.sql(sampled_events_sql(view, EVENTS, seed)).to_arrow_table()
    found: dict[Key, int] = {}
    for row in rows.select([*keys, "many"]).to_pylist():
        found[tuple(row[k] for k in keys)] = row["many"]
    values = {
        name: _physical(rows.column(r), schema[name])
        for name, r in zip(columns, raw_names(view), strict=True)
    }
    events = tuple(dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True))
    return Sample(tuple(sorted(found, key=repr)), events, sum(many > EVENTS for many in found.values()))


def _physical(column: Any, dtype: DType) -> list[Any]:
    """Raw values as the reference takes them: floats may be NaN or infinite."""
    if isinstance(dtype, ListType | VectorType):
        whole = column.combine_chunks()
        items = iter(_physical(whole.flatten(), dtype.item if isinstance(dtype, ListType) else Float32))
        sizes = whole.value_lengths().to_pylist()
        return [None if size is None else list(islice(items, size)) for size in sizes]
    if dtype in (Timestamp, Date) or isinstance(dtype, DecimalType):
        values, valid = to_physical(column, dtype)
        return [v if valid is None or valid[i] else None for i, v in enumerate(values.tolist())]
    return list(column.to_pylist())
