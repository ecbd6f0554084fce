"""Rows to be judged, as a relation of DuckDB: values cleaned as everywhere, columns in the types and order they lie in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from featurestore.compile.duckdb import DUCKDB, type_name
from featurestore.compile.sources import Connection, described, duck_type, location_sql, readable_as
from featurestore.compile.sql import clean_sql, ident, literal
from featurestore.errors import RequestError
from featurestore.ir import Location, Source
from featurestore.types import DType, Timestamp

TABLE = "judged_rows"


@dataclass(frozen=True)
class Rows:
    """`sql` is a SELECT of all columns. `types` has them in order; `unread` names those no type of ours holds, and their type."""

    con: Connection
    sql: str
    types: Mapping[str, DType]
    unread: Mapping[str, str]

    @property
    def relation(self) -> str:
        """The rows as something that stands behind FROM."""
        return f"({self.sql})"


def rows_of_source(
    con: Connection, source: Source, root: Path, start: int | None = None, end: int | None = None
) -> Rows:
    """All rows of a source, in the plan's types where they can be read as such. `start` and `end` bound event time.

    A column that became something else keeps its own type: what is expected of it then cannot be judged, or fails.
    """

    def wanted(name: str, found: DType) -> DType:
        plan = source.schema.get(name)
        return plan if plan is not None and readable_as(found, plan) else found

    bounds = {source.event_time: (start, end)} if source.event_time is not None else {}
    return rows_at(con, source.location, root, wanted, bounds)


def rows_of_table(con: Connection, table: Any, root: Path) -> Rows:
    """Rows of an Arrow table, a frame, a list of dicts, or a path of Parquet, CSV or JSON: a file, a folder or a glob."""
    if isinstance(table, str | Path):
        return rows_at(con, _file(Path(table)), root, lambda _, found: found, {})
    if isinstance(table, list):
        table = pa.Table.from_pylist(table)
    elif isinstance(table, dict):
        table = pa.table(table)
    try:
        con.register(TABLE, table)
    except (duckdb.InvalidInputException, TypeError) as error:
        raise RequestError(
            f"{type(table).__name__} holds no rows\n  give an Arrow table, a frame, a list of dicts, or a path"
        ) from error
    return rows_at(con, Location("table", TABLE), root, lambda _, found: found, {})


def _file(path: Path) -> Location:
    if path.is_dir():
        return Location("parquet", str((path / "*.parquet").absolute()))
    kind = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}.get(path.suffix, "parquet")
    return Location(kind, str(path.absolute()))


def rows_at(
    con: Connection,
    location: Location,
    root: Path,
    wanted: Callable[[str, DType], DType],
    bounds: Mapping[str, tuple[int | None, int | None]],
) -> Rows:
    """The rows at a location. `wanted` gives the type a column is read in. Raises SourceError where there is nothing."""
    select, types, unread, where = [], {}, {}, []
    for name, actual in described(con, location, root).items():
        found = duck_type(actual)
        if found is None:
            unread[name] = actual
            continue
        types[name] = dtype = wanted(name, found)
        column = ident(name, DUCKDB)
        raw = column if type_name(dtype) == actual else f"CAST({column} AS {type_name(dtype)})"
        select.append(f"{clean_sql(raw, dtype, DUCKDB)} AS {column}")
        for bound, sign in zip(bounds.get(name, (None, None)), (">=", "<"), strict=True):
            if bound is not None:
                where.append(f"{raw} {sign} {literal(bound, Timestamp, DUCKDB)}")
    kept = f" WHERE {' AND '.join(where)}" if where else ""
    sql = f"SELECT {', '.join(select) or '1 AS one'} FROM {location_sql(con, location, root)}{kept}"  # noqa: S608
    return Rows(con, sql, types, unread)


__all__ = ["Rows", "rows_at", "rows_of_source", "rows_of_table"]
