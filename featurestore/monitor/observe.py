"""What there is to look at: statistics that are kept of a service or view, or the rows of a source, by partitions of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore import ir
from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.sources import Connection, inspect, source_sql
from featurestore.compile.sql import ident
from featurestore.drift.compare import schema_changes
from featurestore.drift.verdicts import SchemaChange
from featurestore.errors import SourceError, nearest
from featurestore.statistics import Statistics
from featurestore.time import Duration
from featurestore.types import DType, ListType, MapType, VectorType

MOST_SLICES = 50
"""Slices that are looked at: those with most rows."""

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Observed:
    """Statistics by partitions of time, whole and by slice; `schema` is what of the columns is no longer as planned."""

    whole: Statistics
    slices: Mapping[str, Statistics] = field(default_factory=dict)
    schema: tuple[SchemaChange, ...] = ()
    notes: tuple[str, ...] = ()


def of_source(
    con: Connection,
    source: ir.Source,
    root: Path,
    *,
    start: int | None = None,
    end: int | None = None,
    every: Duration | None = None,
    by: str | None = None,
) -> Observed:
    """The rows of a source by event time, from `start` until before `end`; `by` is the column whose values are slices.

    NaN and infinities, which are NULL to every feature, are counted by themselves. A column that is gone, or of another type,
    is a change of schema; the others are read all the same. Raises SourceError for a source without event time, and when
    nothing can be read.
    """
    if source.event_time is None:
        raise SourceError(
            f"source '{source.name}' has no event time, so no window of it can be told from another\n"
            "  `fs stats` and expectations look at it as a whole"
        )
    planned = dict(source.columns)
    if by is not None and by not in planned:
        raise SourceError(
            "\n  ".join([f"source '{source.name}' has no column '{by}'", *nearest(by, planned)])
        )
    there = inspect(con, source.location, root)
    changes = _broken(con, source, root, there)
    broken = {c.column for c in changes if c.change != "added"}
    if source.event_time in broken:
        raise SourceError("; ".join(c.said for c in changes if c.column == source.event_time))
    columns = {
        n: t
        for n, t in planned.items()
        if n not in broken and n != source.event_time and _told(t) and n != source.event_id
    }
    whole = Statistics(columns, every=every)
    parts: dict[str, Statistics] = {}
    for batch in _batches(con, source, root, [*columns], start, end):
        whole.update(batch, source.event_time)
        if by is not None and by in columns:
            for name, rows in by_value(batch, by):
                parts.setdefault(name, Statistics(columns, every=every)).update(rows, source.event_time)
    kept, notes = most_rows(parts)
    return Observed(whole, kept, tuple(changes), notes)


def most_rows(parts: Mapping[str, Statistics]) -> tuple[dict[str, Statistics], tuple[str, ...]]:
    """The slices with most rows, and a word about those left out."""
    ordered = sorted(parts, key=lambda n: (-parts[n].total().rows, n))
    kept = {name: parts[name] for name in ordered[:MOST_SLICES]}
    left = len(ordered) - len(kept)
    notes = (f"{left:,} slices with fewer rows were left out: {MOST_SLICES} are looked at",) if left else ()
    return kept, notes


def by_value(rows: Any, by: str) -> Iterator[tuple[str, Any]]:
    """The rows of each value of a column, NULL among them."""
    column = rows.column(by)
    texts = pc.fill_null(pc.cast(column, pa.string()), "NULL")
    for name in sorted(pc.unique(texts).to_pylist()):
        yield name, rows.filter(pc.equal(texts, name))


def _broken(con: Connection, source: ir.Source, root: Path, there: Mapping[str, DType]) -> list[SchemaChange]:
    """Which columns cannot be read as planned, and which are new."""
    out = []
    for name, dtype in source.columns:
        if name not in there:
            out.append(SchemaChange(name, "removed", f"column '{name}' is gone"))
            continue
        try:
            source_sql(con, source, [name], root)
        except SourceError:
            out += schema_changes({name: dtype}, {name: there[name]})
    known = dict(source.columns)
    out += [SchemaChange(n, "added", f"column '{n}' is new: {t}") for n, t in there.items() if n not in known]
    return out


def _batches(
    con: Connection, source: ir.Source, root: Path, columns: list[str], start: int | None, end: int | None
) -> Iterator[pa.RecordBatch]:
    assert source.event_time is not None
    time = ident(source.event_time, DUCKDB)
    select = source_sql(con, source, [*columns, source.event_time], root, bare=True)
    bounds = [
        f"{time} {sign} make_timestamp(CAST({bound} AS BIGINT))"
        for sign, bound in ((">=", start), ("<", end))
        if bound is not None
    ]
    where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
    reader = con.sql(f"SELECT * FROM ({select}){where}").to_arrow_reader(BATCH_ROWS)  # noqa: S608  whole numbers and `ident`
    yield from reader


def _told(dtype: DType) -> bool:
    return not isinstance(dtype, ListType | VectorType | MapType)


__all__ = ["MOST_SLICES", "Observed", "by_value", "most_rows", "of_source"]
