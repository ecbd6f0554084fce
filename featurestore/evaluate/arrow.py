"""Between Arrow columns and the physical form of values: NumPy arrays and a mask of what is not NULL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.evaluate.partials import Array, Mask
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
    MapType,
    Scalar,
    String,
    Timestamp,
    VectorType,
    numpy_dtype,
)

_ARROW = {
    String: pa.string(),
    Int64: pa.int64(),
    Int32: pa.int32(),
    Float64: pa.float64(),
    Float32: pa.float32(),
    Bool: pa.bool_(),
    Timestamp: pa.timestamp("us", tz="UTC"),
    Date: pa.date32(),
}

_FEW: Final = 1 << 16
"""Of so many texts the quicker way is worth what it loads."""


def arrow_type(dtype: DType) -> pa.DataType:
    """The Arrow type a column of this type has in training sets and online results."""
    match dtype:
        case Scalar():
            return _ARROW[dtype]
        case DecimalType():
            return pa.decimal128(dtype.precision, dtype.scale)
        case ListType():
            return pa.list_(arrow_type(dtype.item))
        case VectorType():
            return pa.list_(pa.float32(), dtype.size)
        case MapType():
            return pa.map_(arrow_type(dtype.key), arrow_type(dtype.value))
        case _:
            assert_never(dtype)


def to_physical(column: pa.Array | pa.ChunkedArray, dtype: DType) -> tuple[Array, Mask | None]:
    """Values and mask of a column that holds `dtype`; the mask is None where nothing is NULL.

    Values under NULL are zero; of a list with an item that is NULL or not finite, all of it is NULL. The column's own Arrow
    type may be any that holds the same values (a timestamp of another unit, a dictionary of strings); a value that would change
    raises pyarrow.ArrowInvalid.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    valid = None if array.null_count == 0 else np.asarray(array.is_valid())
    if isinstance(dtype, ListType):
        return _lists(array.cast(arrow_type(dtype)), dtype.item)
    if isinstance(dtype, VectorType):
        return _vectors(array.cast(arrow_type(dtype)), dtype.size)
    if isinstance(dtype, DecimalType):
        return _unscaled(array.cast(pa.decimal128(38, dtype.scale))), valid
    array = array.cast(_ARROW[dtype] if isinstance(dtype, Scalar) else arrow_type(dtype))
    if dtype == String:
        return array.to_numpy(zero_copy_only=False), valid
    if dtype == Timestamp:
        array = array.view(pa.int64())
    elif dtype == Date:
        array = array.view(pa.int32())
    if valid is not None:
        array = pc.fill_null(array, False if dtype == Bool else pa.scalar(0, array.type))
    return array.to_numpy(zero_copy_only=False), valid


def _lists(array: pa.Array, item: DType) -> tuple[Array, Mask | None]:
    lengths = np.asarray(pc.fill_null(pc.list_value_length(array), 0))
    items, known = to_physical(array.flatten(), item)
    valid = np.asarray(array.is_valid())
    if items.dtype.kind == "f":
        finite = np.isfinite(items)
        known = finite if known is None else known & finite
        items = items + items.dtype.type(0)
    if known is not None:
        valid = valid.copy()
        valid[np.repeat(np.arange(len(array)), lengths)[~known]] = False
    flat, ends = items.tolist(), np.cumsum(lengths).tolist()
    lists = (flat[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True))
    return np.fromiter(lists, np.dtype(object), len(array)), None if valid.all() else valid


def _vectors(array: pa.Array, size: int) -> tuple[Array, Mask | None]:
    valid = np.asarray(array.is_valid())
    items = array.values[array.offset * size : (array.offset + len(array)) * size]
    matrix = np.asarray(pc.fill_null(items, np.float32("nan")), np.float32).reshape(-1, size)
    valid = valid & np.isfinite(matrix).all(axis=1)
    matrix = matrix + np.float32(0)
    return np.fromiter(matrix, np.dtype(object), len(matrix)), None if valid.all() else valid


def limbs(column: pa.Array) -> tuple[Array, Array]:
    """The two limbs (uint64 low, int64 high) of 128-bit whole numbers; those under NULL are zero."""
    words = np.frombuffer(column.buffers()[1], np.int64)
    words = words[2 * column.offset : 2 * (column.offset + len(column))].reshape(-1, 2)
    lo, hi = words[:, 0].copy(), words[:, 1].copy()
    if column.null_count:
        empty = ~np.asarray(column.is_valid())
        lo[empty] = hi[empty] = 0
    return lo.view(np.uint64), hi


def _unscaled(column: pa.Array) -> Array:
    lo, hi = limbs(column)
    assert bool(np.all(hi == lo.view(np.int64) >> 63)), "a decimal of more than 18 digits"
    return lo.view(np.int64)


def from_physical(values: Array, valid: Mask, dtype: DType) -> pa.Array:
    """The Arrow column of physical values; NULL where `valid` is false."""
    null = ~valid
    some = bool(null.any())
    if isinstance(dtype, ListType | MapType):
        return _nested(values, null, dtype)
    if isinstance(dtype, VectorType):
        matrix = np.zeros((len(values), dtype.size), np.float32)
        if valid.any():
            matrix[valid] = np.stack(values[valid].tolist())
        return pa.FixedSizeListArray.from_arrays(
            flat(matrix.reshape(-1), pa.float32()), dtype.size, mask=flat(null, pa.bool_()) if some else None
        )
    if isinstance(dtype, DecimalType):
        lo = np.ascontiguousarray(values, np.int64)
        words = np.column_stack([lo, lo >> 63])
        bits = pa.py_buffer(np.packbits(valid, bitorder="little").tobytes()) if some else None
        return pa.Array.from_buffers(arrow_type(dtype), len(values), [bits, pa.py_buffer(words.tobytes())])
    if dtype == String:
        if len(values) > _FEW:
            return pa.array(values, pa.string(), mask=null if some else None)
        return texts(
            [v if there else None for v, there in zip(values, valid.tolist(), strict=True)]
            if some
            else values
        )
    return flat(values.astype(numpy_dtype(dtype), copy=False), _ARROW[dtype], valid if some else None)


# `pa.array` imports pandas, where it is installed, to see whether it was given something of that: half a second and 40 MB
# for the first online read of a process. These two make the same columns and do not.


def flat(values: Array, kind: pa.DataType, valid: Mask | None = None) -> pa.Array:
    """The column of numbers of a fixed width, or of booleans: of the same memory where they lie side by side."""
    bits = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    whole = (
        np.packbits(values, bitorder="little") if values.dtype == np.bool_ else np.ascontiguousarray(values)
    )
    return pa.Array.from_buffers(kind, len(values), [bits, pa.py_buffer(whole)])


def texts(values: Sequence[str | None] | Array) -> pa.Array:
    """The column of texts; None is NULL. Raises TypeError for what is neither, UnicodeEncodeError for half a character."""
    builder = pa.lib.StringBuilder()
    builder.append_values(values)
    return builder.finish()


def _nested(values: Array, null: Mask, dtype: ListType | MapType) -> pa.Array:
    """Lists (or dicts) of physical values, None where null, as one column."""
    whole = [() if gone else v for v, gone in zip(values.tolist(), null.tolist(), strict=True)]
    ends = np.cumsum([0, *map(len, whole)], dtype=np.int64)
    if ends[-1] >= 2**31:
        raise OverflowError(
            f"{ends[-1]} items in one column of lists, and Arrow's lists hold 2^31\n  read fewer rows"
        )
    offsets = flat(ends.astype(np.int32), pa.int32(), ~np.append(null, False))
    if isinstance(dtype, ListType):
        return pa.ListArray.from_arrays(offsets, _flat(chain.from_iterable(whole), int(ends[-1]), dtype.item))
    keys = _flat(chain.from_iterable(whole), int(ends[-1]), dtype.key)
    counts = chain.from_iterable(v.values() for v in whole if v)
    return pa.MapArray.from_arrays(offsets, keys, _flat(counts, int(ends[-1]), dtype.value))


def _flat(items: Iterable[Any], count: int, dtype: DType) -> pa.Array:
    values = np.fromiter(items, numpy_dtype(dtype), count)
    return from_physical(values, np.ones(count, np.bool_), dtype)
