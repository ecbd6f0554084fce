"""Columns of few different values: one in every row, or one for all rows of a read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import pyarrow as pa

from featurestore.evaluate.arrow import flat, texts
from featurestore.evaluate.partials import Array

KEPT_BYTES: Final = 2 << 20
"""A column of no more bytes than this is kept for the next time."""


def repeated(value: bool | float | str | None, kind: pa.DataType, rows: int) -> pa.Array:
    """A column of one value. It may be the beginning of a longer one, which was made before."""
    length = 1 << max(rows - 1, 0).bit_length()
    wide = len(value.encode()) + 4 if isinstance(value, str) else 8
    if length * wide > KEPT_BYTES:
        return _made(value, kind, rows)
    return _kept(value, kind, length).slice(0, rows)


def _made(value: bool | float | str | None, kind: pa.DataType, rows: int) -> pa.Array:
    if value is None:
        return pa.nulls(rows, kind)
    if isinstance(value, str):
        data = value.encode()
        return _texts(data * rows, len(data), rows)
    return flat(np.full(rows, value), kind)


_kept = lru_cache(32, typed=True)(_made)


def spread(values: Sequence[str], lengths: Array) -> pa.Array:
    """A column of texts, each as often as `lengths` says."""
    joined = "".join(values)
    data, wide = joined.encode(), len(values[0]) if values else 0
    if wide and len(data) == len(joined) and all(len(v) == wide for v in values):
        items = np.repeat(np.frombuffer(data, f"V{wide}"), lengths).view(np.uint8)
        return _texts(items, wide, int(lengths.sum()))
    of = flat(np.repeat(np.arange(len(values)), lengths), pa.int64())
    return texts(values).take(of)


def _texts(data: bytes | Array, wide: int, rows: int) -> pa.Array:
    """Texts of one length, from their bytes."""
    ends = np.arange(rows + 1, dtype=np.int64) * wide
    if ends[-1] >= 2**31:
        raise OverflowError(f"{rows} texts of {wide} bytes are more than one column holds, 2 GiB")
    return pa.Array.from_buffers(
        pa.string(), rows, [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(data)]
    )
