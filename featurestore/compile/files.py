"""Which files a source has, and which event times each of them holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.sources import Connection, location_sql
from featurestore.compile.sql import ident, literal
from featurestore.ir import Source
from featurestore.types import String

Bounds = tuple[int, int | None, int | None]
"""Rows, and the times of the first and the last event."""


def files_of(con: Connection, pattern: str) -> list[str]:
    """The files that a pattern matches, as a reader of it would name them."""
    found = con.execute(f"SELECT file FROM glob({literal(pattern, String, DUCKDB)})").fetchall()
    return [name for (name,) in found]


def bounds_of(con: Connection, source: Source, root: Path, names: Sequence[str]) -> dict[str, Bounds]:
    """Of some of a source's files; one without rows may be left out. Their rows are read where statistics do not say."""
    found: dict[str, Bounds] = {}
    if source.location.kind == "parquet" and names:
        found = _from_statistics(con, source, names)
    rest = [name for name in names if name not in found]
    return found | (_from_rows(con, source, root, rest) if rest else {})


def _from_statistics(con: Connection, source: Source, names: Sequence[str]) -> dict[str, Bounds]:
    """Of Parquet files whose row groups all say least and greatest event time, or that every one is NULL."""
    files = f"[{', '.join(_texts(names))}]"
    counts = f"SELECT file_name, num_rows FROM parquet_file_metadata({files})"
    rows = {name: int(n) for name, n in con.execute(counts).fetchall()}
    if source.event_time is None:
        return {name: (n, None, None) for name, n in rows.items()}
    column = literal(source.event_time, String, DUCKDB)
    ends = [f"epoch_us(TRY_CAST(stats_{end}_value AS TIMESTAMPTZ))" for end in ("min", "max")]
    sql = (
        f"SELECT file_name, bool_and({ends[0]} IS NOT NULL AND {ends[1]} IS NOT NULL OR stats_null_count = num_values), "
        f"min({ends[0]}), max({ends[1]}) FROM parquet_metadata({files}) WHERE path_in_schema = {column} GROUP BY 1"
    )
    return {
        name: (rows[name], first, last) for name, whole, first, last in con.execute(sql).fetchall() if whole
    }


def _from_rows(con: Connection, source: Source, root: Path, names: Sequence[str]) -> dict[str, Bounds]:
    """By reading the event times of files."""
    table = location_sql(con, source.location, root).removesuffix(")") + ", filename = 'fs_file')"
    time = "NULL"
    if source.event_time is not None:
        time = f"epoch_us(TRY_CAST({ident(source.event_time, DUCKDB)} AS TIMESTAMP))"
    sql = (
        f"SELECT fs_file, count(*), min({time}), max({time}) FROM {table} "
        f"WHERE fs_file IN ({', '.join(_texts(names))}) GROUP BY 1"
    )
    return {name: (int(rows), first, last) for name, rows, first, last in con.execute(sql).fetchall()}


def _texts(names: Iterable[str]) -> list[str]:
    return [literal(name, String, DUCKDB) for name in names]
