"""Digests of files and of rows. Those of rows depend on values and types alone, not on how Arrow holds them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BLOCK = 1 << 16
"""Rows that go into a digest together. Part of what a digest means."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as `sha256sum` prints it; about 0.6 s for each GB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class RowsDigest:
    """A digest of rows that come table by table: the same rows in tables cut elsewhere have the same digest.

    Names and types count, and the order of columns and rows. A text of a dictionary or of any width is that text.
    """

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._schema: list[tuple[str, str]] | None = None
        self._pending: list[pa.RecordBatch] = []
        self._rows = 0

    def add(self, table: pa.Table) -> None:
        """The next rows."""
        if self._schema is None:
            self._schema = [(field.name, _type_name(field.type)) for field in table.schema]
            self._whole.update(repr(self._schema).encode())
        for batch in table.to_batches():
            start = 0
            while start < batch.num_rows:
                part = batch.slice(start, BLOCK - self._rows)
                start += part.num_rows
                self._pending.append(part)
                self._rows += part.num_rows
                if self._rows == BLOCK:
                    self._block()

    def hexdigest(self) -> str:
        """Of all rows so far; nothing may be added afterwards."""
        if self._rows:
            self._block()
        return self._whole.hexdigest()

    def _block(self) -> None:
        table = pa.Table.from_batches(self._pending)
        for column in table.columns:
            _update(self._whole, _one(column))
        self._pending, self._rows = [], 0


def _one(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return array


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _type_name(kind.value_type)
    if _is_text(kind):
        return "string"
    if _is_bytes(kind):
        return "binary"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_type_name(kind.value_type)}>"
    return str(kind)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _update(digest: Any, array: pa.Array) -> None:
    """Which values are NULL, then those that are not: what lies under a NULL does not count."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    digest.update(len(array).to_bytes(8, "little"))
    digest.update(np.packbits(np.asarray(array.is_valid()), bitorder="little").tobytes())
    kind = array.type
    if _is_text(kind) or _is_bytes(kind):
        array = array.cast(pa.large_binary())
    if array.null_count:
        array = array.drop_null()
    if _is_text(kind) or _is_bytes(kind):
        texts = array
        digest.update(np.asarray(pc.binary_length(texts)).astype("<i8").tobytes())
        offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
        if len(texts) and texts.buffers()[2] is not None:
            digest.update(memoryview(texts.buffers()[2])[offsets[0] : offsets[-1]])
    elif pa.types.is_boolean(kind):
        digest.update(np.packbits(array.to_numpy(zero_copy_only=False), bitorder="little").tobytes())
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        digest.update(np.asarray(pc.list_value_length(array)).astype("<i8").tobytes())
        _update(digest, array.flatten())
    elif pa.types.is_fixed_size_list(kind):
        _update(digest, array.flatten())
    elif pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            _update(digest, pc.struct_field(array, [i]))
    elif pa.types.is_null(kind):
        return
    elif not (
        pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_fixed_size_binary(kind)
    ):
        digest.update(repr(array.to_pylist()).encode())
    else:
        width = kind.bit_width // 8
        values = array.buffers()[1]
        if len(array):
            digest.update(memoryview(values)[array.offset * width : (array.offset + len(array)) * width])
