"""The rows to enrich: any table-like thing or path, read in order as Arrow, its times and keys made physical."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.compile.sources import Connection
from featurestore.errors import SpineError, nearest
from featurestore.evaluate.arrow import to_physical
from featurestore.evaluate.on_demand import cleaned
from featurestore.evaluate.partials import Array, Mask
from featurestore.types import DType, Int64, String, Timestamp, is_integer


def spine_batches(con: Connection, spine: Any, rows: int) -> Iterator[pa.Table]:
    """The spine as tables of at most `rows` rows, in its own order; one empty table for an empty spine.

    `spine` is Arrow, pandas, polars, a DuckDB relation, anything with the Arrow C stream, or a path to Parquet or CSV.
    """
    try:
        reader = _reader(con, spine, rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SpineError(f"the spine is not a table: {error}") from error
    twice = [n for n, times in Counter(reader.schema.names).items() if times > 1]
    if twice:
        raise SpineError(f"the spine has two columns '{twice[0]}'\n  give each column a name of its own")
    pending: list[pa.RecordBatch] = []
    held, given = 0, False
    for batch in reader:
        start = 0
        while start < batch.num_rows:
            part = batch.slice(start, rows - held)
            start += part.num_rows
            pending.append(part)
            held += part.num_rows
            if held == rows:
                yield pa.Table.from_batches(pending, reader.schema)
                pending, held, given = [], 0, True
    if pending or not given:
        yield pa.Table.from_batches(pending, reader.schema)


def _reader(con: Connection, spine: Any, rows: int) -> pa.RecordBatchReader:
    if isinstance(spine, str | Path):
        path = Path(spine)
        if not path.exists() and not any(c in str(spine) for c in "*?["):
            raise SpineError(
                f"spine {spine} does not exist\n  give a path to Parquet or CSV files, or a table"
            )
        csv = path.suffix in (".csv", ".tsv")
        scan = "SELECT * FROM read_csv(?)" if csv else "SELECT * FROM read_parquet(?)"
        cursor = con.cursor()
        cursor.execute("SET TimeZone = 'UTC'")  # a cursor takes the reader's zone, not the connection's
        try:
            return cursor.sql(scan, params=[str(spine)]).to_arrow_reader(min(rows, 1_000_000))
        except duckdb.Error as error:
            raise SpineError(
                f"spine {spine} cannot be read\n  {str(error).splitlines()[0]}\n  a path names Parquet or CSV files"
            ) from error
    if isinstance(spine, pa.Table | pa.RecordBatch):
        return pa.RecordBatchReader.from_batches(
            spine.schema, spine.to_batches() if isinstance(spine, pa.Table) else [spine]
        )
    if hasattr(spine, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(spine)
    if isinstance(spine, dict | list):
        table = pa.table(spine) if isinstance(spine, dict) else pa.Table.from_pylist(spine)
        return pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
    raise SpineError(
        f"a spine cannot be a {type(spine).__name__}\n"
        "  give an Arrow table, a pandas or polars frame, a DuckDB relation, a dict of columns, or a path"
    )


def times_of(table: pa.Table, column: str, first: int = 0) -> Array:
    """The moments asked for, in microseconds. Naive times are UTC; texts are ISO 8601.

    Raises SpineError for a missing column, a NULL, or a time that cannot be read, naming the first such row; `first` is
    the number of the table's first row in the spine.
    """
    values = _column(table, column, "the moments asked for")
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        raise SpineError(
            f"spine column '{column}' is {kind}, not a time\n  the unit of a number is anybody's guess: cast it to a timestamp"
        )
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        values = _parsed(values.cast(pa.string()), column, first)
    if values.null_count:
        row = first + int(np.flatnonzero(np.asarray(values.is_null()))[0])
        raise SpineError(
            f"spine column '{column}' is NULL in row {row}\n  every row needs the moment it is asked at"
        )
    try:
        times, _ = to_physical(_microseconds(values), Timestamp)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SpineError(f"spine column '{column}' is {kind}, which is not a time: {error}") from error
    return times


def keys_of(table: pa.Table, column: str, dtype: DType, who: str) -> tuple[Array, Mask | None]:
    """A join key for each row; NULL is an unknown entity. Raises SpineError if it is missing or of another type.

    `who` looks it up, in words: `feature view 'card_spend'`.
    """
    values = _column(table, column, f"a join key of {who}")
    whole = pa.types.is_integer(values.type)
    if pa.types.is_null(values.type):
        values = values.cast(pa.string() if dtype == String else pa.int64())
    elif whole != is_integer(dtype) or not (whole or _is_text(values.type)):
        raise SpineError(f"spine column '{column}' is {values.type}, and the join key of {who} is {dtype}")
    try:
        return to_physical(values, Int64 if whole else dtype)  # an id past 32 bits is an unknown entity
    except pa.ArrowInvalid as error:
        raise SpineError(
            f"spine column '{column}' does not fit the join key of {who}, {dtype}: {error}"
        ) from error


def request_of(table: pa.Table, column: str, dtype: DType, service: str) -> tuple[Array, Mask | None]:
    """A request column for each row. Raises SpineError if it is missing, or holds what the declared type cannot."""
    values = _column(table, column, f"a request column of service '{service}'")
    try:
        return cleaned(*to_physical(values, dtype), dtype)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SpineError(
            f"spine column '{column}' is {values.type}, and service '{service}' takes {dtype} from the request: {error}"
        ) from error


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _column(table: pa.Table, name: str, why: str) -> pa.ChunkedArray:
    if name in table.column_names:
        return table.column(name)
    known = table.column_names
    near = [h for h in nearest(name, known) if h.startswith("did")]
    raise SpineError(
        "\n  ".join([f"the spine has no column '{name}', {why}", f"it has {', '.join(known)}", *near])
    )


_ZONED = r"[T ].*(Z|[+-]\d\d(:?\d\d)?)$"


def _parsed(values: pa.ChunkedArray, column: str, first: int) -> pa.ChunkedArray:
    """Texts as instants. Some may end in Z or an offset and some not: those without are UTC."""
    try:
        return _instants(values)
    except pa.ArrowInvalid as error:
        good, bad = 0, len(values)  # the first `good` are times, the first `bad` are not
        while bad - good > 1:
            middle = (good + bad) // 2
            try:
                _instants(values.slice(good, middle - good))
                good = middle
            except pa.ArrowInvalid:
                bad = middle
        raise SpineError(
            f"spine column '{column}' has {values[good].as_py()!r} in row {first + good}, which is not a time\n"
            "  a time is written 2013-07-01T12:00:00, in UTC unless it says otherwise"
        ) from error


def _instants(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    texts = pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1")  # nothing is finer than a microsecond
    zoned = pc.match_substring_regex(texts, _ZONED)
    nothing = pa.scalar(None, pa.string())
    aware = pc.if_else(zoned, texts, nothing).cast(pa.timestamp("us", tz="UTC"))
    naive = pc.if_else(zoned, nothing, texts).cast(pa.timestamp("us"))
    return pc.coalesce(aware, naive.cast(pa.timestamp("us", tz="UTC")))


def _microseconds(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Instants in microseconds; a nanosecond past the microsecond is still before the next, so this is a floor."""
    kind = values.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        floor = pc.floor_temporal(values, unit="microsecond")
        return floor.cast(pa.timestamp("us", tz=kind.tz))
    if pa.types.is_date(kind):
        return values.cast(pa.timestamp("us"))
    return values
