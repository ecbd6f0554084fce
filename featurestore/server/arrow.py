"""Arrow IPC streams in and out: columns in their declared types, NULLs as NULLs, for clients of any language."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from featurestore.errors import RequestError, TooLarge
from featurestore.evaluate.arrow import arrow_type
from featurestore.server.asking import Ask, ask_of
from featurestore.server.catalog import Served
from featurestore.serving import OnlineFeatures
from featurestore.types import Int64

CONTENT_TYPE = b"application/vnd.apache.arrow.stream"


def decode(body: bytes, served: Served, max_rows: int, max_bytes: int) -> Ask:
    """Key and request columns of a stream. Raises RequestError for what is no stream or does not fit, TooLarge."""
    batches, rows, size = [], 0, 0
    try:
        with pa.ipc.open_stream(body) as stream:
            schema = stream.schema
            twice = next((n for n in schema.names if schema.names.count(n) > 1), None)
            if twice is not None:
                raise RequestError(f"the stream has two columns '{twice}'")
            for batch in stream:
                batch.validate(full=True)
                rows, size = rows + batch.num_rows, size + batch.nbytes
                if rows > max_rows:
                    raise TooLarge(f"more than {max_rows} rows in one request\n  ask in parts")
                if size > 4 * max_bytes:
                    raise TooLarge(f"the stream unpacks to more than {4 * max_bytes} bytes")
                batches.append(batch)
        table = pa.Table.from_batches(batches, schema)
        columns = {name: _column(name, table[name], served) for name in schema.names}
    except (pa.ArrowException, OSError, OverflowError, ValueError) as error:  # of bytes that are no text, too
        raise RequestError(
            f"the body is no Arrow IPC stream of what is wanted: {str(error).splitlines()[0]}"
        ) from error
    return ask_of(served, columns, max_rows)


def _column(name: str, column: pa.ChunkedArray, served: Served) -> Any:
    dtype = served.keys.get(name)
    if dtype is None:
        asked = served.asked.get(name)
        if asked is None:
            return column  # who names it says so
        text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        if not text and not pa.types.is_null(column.type) and not pa.types.is_dictionary(column.type):
            column = column.cast(arrow_type(asked))
        return column.to_pylist()
    wanted = arrow_type(dtype)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    whole = pa.types.is_integer(column.type)
    if whole != (dtype == Int64) and not pa.types.is_null(column.type):
        raise RequestError(f"key '{name}' of {served.reference} is {column.type}, and it is declared {dtype}")
    column = column.cast(wanted)
    if dtype == Int64 and column.null_count == 0:
        return column.to_numpy()
    return column.to_pylist()


def encode(result: OnlineFeatures, ask: Ask, request_id: str, *, statuses: bool, degraded: bool) -> Any:
    """One batch of the service's columns. With `statuses` a column `statuses` of uint8 lists, a code for each feature."""
    table = result.to_arrow()
    if statuses:
        flat = pa.array(np.ascontiguousarray(result.statuses).reshape(-1))
        table = table.append_column(
            "statuses", pa.FixedSizeListArray.from_arrays(flat, max(len(result.names), 1))
        )
    said = {
        "service": ask.served.reference,
        "request_id": request_id,
        "at": result.at,
        "freshness_seconds": dict(result.freshness),
        "degraded": degraded,
    }
    table = table.replace_schema_metadata({"featurestore": orjson.dumps(said).decode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
