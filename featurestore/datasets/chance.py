"""Chance that comes out the same every time: a number for each row, made of a seed and of what the row is or where it is.

What a number is will not change between versions or machines; splits and samples made long ago depend on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.sources import Connection
from featurestore.compile.sql import ident
from featurestore.errors import DatasetError
from featurestore.evaluate.partials import Array


def of_positions(first: int, rows: int, salt: str) -> Array:
    """(rows,) uint64 for row numbers `first`, …: SplitMix64 (Steele, Lea and Flood, 2014) of number and salt."""
    start = np.uint64(int.from_bytes(hashlib.sha256(f"rows:{salt}".encode()).digest()[:8], "little"))
    with np.errstate(over="ignore"):
        z = (np.arange(first, first + rows, dtype=np.uint64) + np.uint64(1)) * np.uint64(
            0x9E3779B97F4A7C15
        ) + start
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def of_values(con: Connection, table: pa.Table, columns: Sequence[str], salt: str) -> Array:
    """(rows,) uint64 for the values of columns: the low half of the MD5 of their texts and the salt, about 1 µs a row.

    A whole number is its digits, a time its microseconds, whatever width or unit it has; NULL is a value of its own. Raises
    DatasetError for a column that is not there.
    """
    parts = []
    for name in columns:
        column_of(table, name)
        kind, column = table.schema.field(name).type, f"r.{ident(name, DUCKDB)}"
        if pa.types.is_timestamp(kind):
            micros = pc.floor_temporal(table[name], unit="microsecond").cast(pa.timestamp("us", kind.tz))
            table = table.set_column(table.column_names.index(name), name, micros.cast(pa.int64()))
        text = f"{column}::VARCHAR"
        parts.append(f"coalesce(length({text})::VARCHAR || ':' || {text}, '-')")
    con.register("chance_rows", table)
    found = con.sql(
        f"SELECT md5_number_lower(concat(?, ' ', {', '.join(parts)})) AS h FROM chance_rows r",  # noqa: S608
        params=[f"values:{salt}"],
    ).to_arrow_table()
    con.unregister("chance_rows")
    numbers: Array = found.column("h").to_numpy()
    return numbers


def column_of(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of the spine. Raises DatasetError with the nearest one when there is none."""
    from featurestore.errors import nearest

    if name not in table.column_names:
        raise DatasetError(
            "\n  ".join([f"the spine has no column '{name}'", *nearest(name, table.column_names)])
        )
    return table.column(name)


def below(numbers: Array, share: float) -> Array:
    """Which numbers lie in the first `share` (0 to 1) of all there could be."""
    if share >= 1.0:
        return np.ones(len(numbers), np.bool_)
    chosen: Array = numbers < np.uint64(int(share * 2.0**64))
    return chosen
