"""From columns of any declared type to the doubles that statistics are about, and the values whose identity counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.evaluate.arrow import to_physical
from featurestore.evaluate.ranges import Array
from featurestore.types import (
    Bool,
    Date,
    DecimalType,
    DType,
    ListType,
    MapType,
    Scalar,
    String,
    Timestamp,
    VectorType,
    is_numeric,
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One column of some rows: `numbers` are doubles with NaN for `nulls` NULLs and for NaN itself.

    `texts` are the distinct texts and how often each comes, where the column holds texts.
    """

    numbers: Array
    nulls: int
    texts: tuple[Array, Array] | None = None


def measures(dtype: DType) -> str:
    """What the numbers of this type are: `value`, `share` of true, `microseconds`, `days`, `characters` or `items`."""
    match dtype:
        case DecimalType():
            return "value"
        case ListType() | VectorType() | MapType():
            return "items"
        case Scalar():
            said = {Bool: "share", Timestamp: "microseconds", Date: "days", String: "characters"}
            return said.get(dtype, "value")
        case _:
            assert_never(dtype)


def measured(column: pa.Array | pa.ChunkedArray, dtype: DType) -> Measured:
    """A column that holds `dtype`. ValueError, which says why, when it holds something else.

    Any Arrow type of numbers will do for a number: a column of whole numbers and NULLs may come back from pandas as doubles.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        return Measured(np.full(len(array), np.nan), len(array), _no_texts() if dtype == String else None)
    try:
        return _measured(array, dtype)
    except pa.ArrowException as error:
        raise ValueError(f"{dtype} was declared, and the column holds {array.type}: {error}") from error


def _measured(array: Any, dtype: DType) -> Measured:
    kind = array.type
    if dtype == String:
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise _unlike(dtype, kind)
        counted = pc.value_counts(array.drop_null())
        texts = counted.field("values").to_numpy(zero_copy_only=False), counted.field("counts").to_numpy()
        return Measured(_doubles(pc.utf8_length(array)), array.null_count, texts)
    if isinstance(dtype, ListType | VectorType | MapType):
        if not pa.types.is_nested(kind) or pa.types.is_struct(kind):
            raise _unlike(dtype, kind)
        if pa.types.is_map(kind):
            array = array.view(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
        return Measured(_doubles(pc.list_value_length(array)), array.null_count)
    if dtype == Bool or is_numeric(dtype):
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        if not (number or pa.types.is_boolean(kind)):
            raise _unlike(dtype, kind)
        if pa.types.is_decimal(kind) and kind.precision <= 18 and isinstance(dtype, DecimalType):
            whole, valid = to_physical(array, dtype)
            values = whole / 10.0**dtype.scale
            return Measured(values if valid is None else np.where(valid, values, np.nan), array.null_count)
        return Measured(_doubles(array), array.null_count)
    values, valid = to_physical(array, dtype)  # Timestamp, Date
    doubles = values.astype(np.float64)
    return Measured(doubles if valid is None else np.where(valid, doubles, np.nan), array.null_count)


def _doubles(array: Any) -> Array:
    """NULL as NaN. Whole numbers past 2^53 are rounded."""
    doubles: Array = pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return doubles


def _no_texts() -> tuple[Array, Array]:
    return np.empty(0, object), np.empty(0, np.int64)


def _unlike(dtype: DType, kind: pa.DataType) -> ValueError:
    return ValueError(f"{dtype} was declared, and the column holds {kind}")


__all__ = ["Measured", "measured", "measures"]
