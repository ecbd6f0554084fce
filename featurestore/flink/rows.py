"""What a job in batch mode wrote, as the records that stores keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.flink_batch import Output
from featurestore.compile.sql import ident, literal
from featurestore.evaluate.partials import Array
from featurestore.layout import LatestSlot, Layout, Level, Slot
from featurestore.online.codec import Records, Section
from featurestore.online_records import set_bits
from featurestore.types import String


def output_sql(made: Path, output: Output) -> str:
    """SELECT of the rows that a job wrote, in the types of DuckDB."""
    columns = {name: _duckdb_type(kind) for name, kind in output.columns.items()}
    files = sorted(
        str(f) for f in (made / output.name).glob("**/*") if f.is_file() and not f.name.startswith((".", "_"))
    )
    if not files:
        return (
            f"SELECT {', '.join(f'NULL::{t} AS {ident(n, DUCKDB)}' for n, t in columns.items())} WHERE false"
        )
    named = ", ".join(literal(f, String, DUCKDB) for f in files)
    kinds = ", ".join(f"{literal(n, String, DUCKDB)}: '{t}'" for n, t in columns.items())
    return (
        f"SELECT * FROM read_json([{named}], columns = {{{kinds}}}, format = 'newline_delimited', "  # noqa: S608
        f"maximum_object_size = {1 << 30})"
    )


def _duckdb_type(kind: str) -> str:
    if kind.startswith("ARRAY<"):
        return f"{_duckdb_type(kind.removeprefix('ARRAY<').removesuffix('>'))}[]"
    plain = {
        "BIGINT": "BIGINT",
        "INT": "INTEGER",
        "DOUBLE": "DOUBLE",
        "FLOAT": "FLOAT",
        "BOOLEAN": "BOOLEAN",
        "STRING": "VARCHAR",
    }
    return plain[kind.removesuffix(" NOT NULL")]


# ── answers as records ──────────────────────────────────────────────────────────────────────────────────────


def tile_records(level: Level, section: Section, table: pa.Table, owner: Array) -> Records:
    """The tiles of one level, each of its owner."""
    rows = np.zeros(len(table), section.dtype)
    rows["tile"] = table.column("tile").to_numpy()
    strings: dict[str, Array] = {}
    items: dict[str, dict[str, Array]] = {}
    for slot in level.slots:
        if slot.ragged:
            items[slot.name] = _items(slot, table)
            continue
        for field in slot.fields:
            name = f"{slot.name}_{field.name}"
            values = _values(table.column(name), field.dtype)
            if name in section.strings:
                strings[name] = values
            else:
                kind, column = section.places[name]
                rows[kind][:, column] = values
        if slot.has_null_bit:
            first = table.column(f"{slot.name}_{slot.fields[0].name}")
            set_bits(rows, section.bits[slot.name], _known(slot, table, first))
    return Records(owner, rows, strings, items)


def _known(slot: Slot, table: pa.Table, first: pa.ChunkedArray) -> Array:
    """Where a slot is not null: a value that goes with a time is there with it."""
    names = {field.name for field in slot.fields}
    column = table.column(f"{slot.name}_v") if names == {"at", "v"} else first
    return np.asarray(column.combine_chunks().is_valid())


def _items(slot: Slot, table: pa.Table) -> dict[str, Array]:
    made: dict[str, Array] = {}
    for field in slot.fields:
        lists = table.column(f"{slot.name}_{field.name}")
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        made[field.name] = _values(pc.list_flatten(lists), field.dtype)
        made["ends"] = np.cumsum(lengths, dtype=np.int64)
    return made


def _values(column: pa.ChunkedArray, dtype: np.dtype[Any]) -> Array:
    """Physical values; NULL is 0, or an empty text."""
    if dtype == np.dtype(object):
        return np.array(column.to_pylist(), object)
    zero = False if pa.types.is_boolean(column.type) else 0
    known = column.fill_null(pa.scalar(zero, column.type)).combine_chunks()
    values: Array = known.to_numpy(zero_copy_only=False)
    return values.view(np.uint64) if dtype == np.uint64 else values.astype(dtype)


def latest_records(layout: Layout, section: Section, table: pa.Table) -> Records:
    """The newest row of each entity of `table`, in its order; none where no feature is a latest value."""
    count = len(table) if layout.latest else 0
    rows = np.zeros(count, section.dtype)
    strings: dict[str, Array] = {}
    if count:
        rows["at"] = table.column("last_at").to_numpy()
        for slot in layout.latest:
            column = table.column(slot.name)
            if slot.name in section.strings:
                strings[slot.name] = _values(column, np.dtype(object))
            else:
                kind, place = section.places[slot.name]
                rows[kind][:, place] = _values(column, _dtype_of(section, slot))
            set_bits(rows, section.bits[slot.name], np.asarray(column.combine_chunks().is_valid()))
    return Records(np.arange(count), rows, strings)


def _dtype_of(section: Section, slot: LatestSlot) -> np.dtype[Any]:
    dtype: np.dtype[Any] = section.fields[slot.name][0]
    return dtype
