"""Sources as DuckDB reads them: a relation whose columns have the plan's types, or a typed error that says why not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from featurestore.compile.duckdb import DUCKDB, type_name
from featurestore.compile.expectations import fails_sql, where_sql
from featurestore.compile.sql import clean_sql, ident, literal
from featurestore.config import expand
from featurestore.errors import EngineError, SourceError, Unsupported, nearest
from featurestore.expectations import Condition, Expectation, RowCheck, reads
from featurestore.ir import Location, Source
from featurestore.types import (
    Bool,
    Date,
    DecimalType,
    DType,
    Float32,
    Float64,
    Int32,
    Int64,
    ListType,
    String,
    Timestamp,
    VectorType,
)

Connection = duckdb.DuckDBPyConnection

_TYPES: dict[str, DType] = {
    "BIGINT": Int64,
    "UINTEGER": Int64,
    "INTEGER": Int32,
    "SMALLINT": Int32,
    "TINYINT": Int32,
    "USMALLINT": Int32,
    "UTINYINT": Int32,
    "DOUBLE": Float64,
    "FLOAT": Float32,
    "BOOLEAN": Bool,
    "VARCHAR": String,
    "UUID": String,
    "DATE": Date,
    "TIMESTAMP": Timestamp,
    "TIMESTAMP_S": Timestamp,
    "TIMESTAMP_MS": Timestamp,
    "TIMESTAMP_NS": Timestamp,
    "TIMESTAMP WITH TIME ZONE": Timestamp,
}
_WIDER = {(Int32, Int64), (Float32, Float64), (Int32, Float64)}


def connect(
    memory_limit: str | None = None, threads: int | None = None, spill: Path | None = None
) -> Connection:
    """A DuckDB in memory, in UTC. `spill` is where it writes what does not fit into `memory_limit`."""
    settings: dict[str, Any] = {"TimeZone": "UTC", "preserve_insertion_order": True}
    if memory_limit is not None:
        settings["memory_limit"] = memory_limit
    if threads is not None:
        settings["threads"] = threads
    if spill is not None:
        settings["temp_directory"] = str(spill)
    con = duckdb.connect(config={k: v for k, v in settings.items() if k != "TimeZone"})
    con.execute("SET TimeZone = 'UTC'")
    con.execute("SET enable_progress_bar = false")
    return con


_WAYS_OUT = {
    "IOException": "a file could not be read or written: is it whole, and is there room on the disk?",
    "InvalidInputException": "a file is not what it was taken for",
    "ConversionException": "a value does not fit its type",
    "OutOfMemoryException": "set [offline] memory_limit in fs.toml, and free some disk to spill to",
}
"""What DuckDB raises about files and memory, which are the user's, with the way out. Its other errors are ours."""


def engine_error(error: duckdb.Error) -> EngineError | None:
    """The typed error for one of DuckDB's that a user can do something about, None for another."""
    way_out = _WAYS_OUT.get(type(error).__name__)
    return None if way_out is None else EngineError(f"{str(error).strip()}\n  {way_out}")


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turns what DuckDB raises about files and memory into an EngineError."""
    try:
        yield
    except duckdb.Error as error:
        typed = engine_error(error)
        if typed is None:
            raise
        raise typed from error


def location_sql(con: Connection, location: Location, root: Path) -> str:
    """A table expression for where rows lie. Raises SourceError when nothing is there."""
    match location.kind:
        case "parquet" | "csv" | "json":
            path = expand(location.path)
            full = path if re.match(r"[a-z0-9]+://", path) else str(root / path)
            if "://" not in full and not _any_file(full):
                raise SourceError(
                    f"no file matches {path}\n  looked in {root.resolve()}\n  a path is relative to the folder of fs.toml"
                )
            reader = {"parquet": "read_parquet", "csv": "read_csv", "json": "read_json"}[location.kind]
            return f"{reader}({_text(full)})"
        case "delta" | "iceberg":
            _extension(con, location.kind)
            return f"{location.kind}_scan({_text(expand(location.path))})"
        case "sql":
            return _query(con, location)
        case "table":  # rows that the connection itself holds
            return _ident(location.path)
        case _:
            raise Unsupported(
                "batch reading", f"read a location of kind '{location.kind}'", "Parquet, Csv, Json or Sql"
            )


def at_rest(source: Source, root: Path) -> bool:
    """Whether a source that lies in files of this machine has any."""
    path = expand(source.location.path)
    return "://" in path or _any_file(str(root / path))


def inspect(con: Connection, location: Location, root: Path) -> dict[str, DType]:
    """The columns a location has, with types; those of a type no feature can hold are left out."""
    return {
        n: t
        for n, t in ((n, duck_type(s)) for n, s in described(con, location, root).items())
        if t is not None
    }


def duck_type(text: str) -> DType | None:
    """The type for DuckDB's name of one, None if there is none."""
    if text in _TYPES:
        return _TYPES[text]
    if text.startswith("ENUM("):
        return String
    if match := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", text):
        return DecimalType(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"FLOAT\[(\d+)\]", text):
        return VectorType(int(match[1]))
    if text.endswith("[]"):
        item = duck_type(text[:-2])
        return None if item is None else ListType(item)
    return None


def source_sql(
    con: Connection, source: Source, columns: Sequence[str], root: Path, *, bare: bool = False
) -> str:
    """A SELECT of `columns` in the plan's types: naive times read as UTC, floats that are not finite as NULL, −0 as 0.

    With `bare`, for whoever counts them, floats stay as they lie, except beside expectations that put rows aside.
    Rows that an expectation of the source puts aside are left out, for every reader alike; not of rows that the connection
    itself holds. Raises SourceError if a column is gone or of another type than the plan's.
    """
    aside = [] if source.location.kind == "table" else quarantining(source)
    if aside:
        needed = source.schema if any(isinstance(e.check, Condition) for e in aside) else _needed(aside)
        every = source_sql(con, replace(source, expectations=()), sorted({*columns, *needed}), root)
        names = ", ".join(map(_ident, columns)) or "1 AS one"
        fails = " OR ".join(put_aside_sql(e, source.schema) for e in aside)
        return f"SELECT {names} FROM ({every}) WHERE NOT ({fails})"
    actual = described(con, source.location, root)
    schema = source.schema
    wrong: list[str] = []
    select: list[str] = []
    for name in columns:
        if name not in actual:
            wrong.append(f"column '{name}' is gone; there is {', '.join(sorted(actual))}")
            wrong += [h for h in nearest(name, actual) if h.startswith("did")]
            continue
        found = duck_type(actual[name])
        if found != schema[name] and not readable_as(found, schema[name]):
            wrong.append(f"column '{name}' is {actual[name]}, and {schema[name]} in the plan")
            continue
        select.append(f"{_column(source, name, actual[name], bare=bare)} AS {_ident(name)}")
    if wrong:
        what = "\n  ".join([f"source '{source.name}' has changed: {source.location.path}", *wrong])
        raise SourceError(f"{what}\n  `fs plan` shows what taking the new schema over would change")
    return f"SELECT {', '.join(select) or '1 AS one'} FROM {location_sql(con, source.location, root)}"


def quarantining(source: Source) -> list[Expectation]:
    """What is expected of a source's rows, and puts aside those that fail."""
    return [e for e in source.expectations if e.on_failure == "quarantine"]


def put_aside_sql(expectation: Expectation, schema: Mapping[str, DType]) -> str:
    """Whether a row is put aside; never NULL."""
    check = expectation.check
    assert isinstance(check, RowCheck)  # `fitting.malformed` refuses others
    return f"({where_sql(expectation, schema)} AND {fails_sql(check, schema)})"


def _needed(expectations: Sequence[Expectation]) -> frozenset[str]:
    return frozenset().union(*map(reads, expectations))


def readable_as(found: DType | None, wanted: DType) -> bool:
    """Whether a column of one type is read as another without loss."""
    if found is None:
        return False
    if (found, wanted) in _WIDER or (found == Date and wanted == Timestamp):
        return True
    if isinstance(found, DecimalType) and isinstance(wanted, DecimalType):
        return (
            found.scale <= wanted.scale and found.precision - found.scale <= wanted.precision - wanted.scale
        )
    if isinstance(wanted, VectorType):  # Parquet has lists alone; DuckDB refuses one of another size
        return found in (ListType(Float32), ListType(Float64))
    return isinstance(wanted, DecimalType) and found in (Int32, Int64)


def _column(source: Source, name: str, actual: str, *, bare: bool) -> str:
    """A raw column in the plan's type, cleaned; event time stays bare, so that a range of it prunes files and row groups."""
    wanted = source.schema[name]
    column = _ident(name)
    if actual == "TIMESTAMP_NS":  # a cast rounds, and an event may not move past the moment asked for
        column = f"make_timestamp((epoch_ns({column}) - ((epoch_ns({column}) % 1000) + 1000) % 1000) // 1000)"
    elif type_name(wanted) != actual:
        column = f"CAST({column} AS {type_name(wanted)})"
    if name == source.event_time or (bare and wanted in (Float32, Float64)):
        return column
    return clean_sql(column, wanted, DUCKDB)


def described(con: Connection, location: Location, root: Path) -> Mapping[str, str]:
    """The columns a location has, in order, with DuckDB's names of their types. Raises SourceError."""
    table = location_sql(con, location, root)
    try:
        rows = con.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()
    except duckdb.Error as error:
        raise SourceError(f"cannot read {location.path}\n  {str(error).splitlines()[0]}") from error
    return {name: kind for name, kind, *_ in rows}


def _any_file(pattern: str) -> bool:
    path = Path(pattern)
    if not any(c in pattern for c in "*?["):
        return path.exists()
    root = Path(path.anchor or ".")
    return any(True for _ in root.glob(str(path.relative_to(path.anchor)) if path.anchor else str(path)))


def _extension(con: Connection, name: str) -> None:
    try:
        con.execute(f"LOAD {name}")
    except duckdb.Error as error:
        raise SourceError(
            f"DuckDB's extension '{name}' is not installed\n  run `INSTALL {name}` once in DuckDB on a connected machine"
        ) from error


def _query(con: Connection, location: Location) -> str:
    """The rows of a query on another database, copied into a table: once for a connection, whose cursors all see the same."""
    import pyarrow as pa

    dsn, query = expand(dict(location.options)["dsn"]), expand(location.path)
    name = f"query_{abs(hash((dsn, query)))}"
    if con.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = ?", [name]).fetchall():
        return name
    if dsn.startswith("sqlite:///"):
        import sqlite3

        with sqlite3.connect(f"file:{dsn.removeprefix('sqlite:///')}?mode=ro", uri=True) as db:
            cursor = db.execute(query)
            names, rows = [c[0] for c in cursor.description], cursor.fetchall()
    elif dsn.startswith(("postgresql://", "postgres://")):
        try:
            import psycopg
        except ImportError as error:
            raise SourceError(
                "reading PostgreSQL wants psycopg\n  pip install 'featurestore[postgres]'"
            ) from error
        try:
            with psycopg.connect(dsn) as pg:
                done = pg.execute(query)
                names, rows = [c.name for c in done.description or ()], done.fetchall()
        except psycopg.Error as error:
            raise SourceError(f"the query failed: {str(error).splitlines()[0]}") from error
    else:
        raise Unsupported("Sql(…)", f"read from {dsn.split(':')[0]}://", "postgresql://… and sqlite:///…")
    table = pa.table({n: [r[i] for r in rows] for i, n in enumerate(names)})
    con.register(f"{name}_rows", table)
    con.execute(f"CREATE TABLE {name} AS SELECT * FROM {name}_rows")
    con.unregister(f"{name}_rows")
    return name


def _ident(name: str) -> str:
    return ident(name, DUCKDB)


def _text(value: str) -> str:
    return literal(value, String, DUCKDB)


def row_count(con: Connection, source: Source, root: Path) -> int | None:
    """How many rows a source holds at rest when its files' metadata says so, None when only reading them would tell.

    A stream source may have nothing at rest yet.
    """
    location = source.location
    if location.kind != "parquet":
        return None
    if source.stream is not None and not at_rest(source, root):
        return 0
    table = location_sql(con, location, root)
    found = con.execute(
        f"SELECT sum(num_rows) FROM {table.replace('read_parquet', 'parquet_file_metadata', 1)}"
    ).fetchone()
    return None if found is None or found[0] is None else int(found[0])
