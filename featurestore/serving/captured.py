"""Served vectors as captured rows: many reads of one service as one Arrow table, bit for bit what was handed out."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.capture.schema import FEATURE, KEY, REQUEST, SCALED, CapturedSchema
from featurestore.errors import RequestError
from featurestore.evaluate.arrow import arrow_type, flat, from_physical, texts
from featurestore.evaluate.partials import Array, Mask
from featurestore.evaluate.ragged import hashes
from featurestore.ir import Capture
from featurestore.log.events import arrow_schema
from featurestore.serving.constants import repeated, spread
from featurestore.serving.request import Column
from featurestore.serving.result import Block, OnlineFeatures
from featurestore.types import DType, Float32, Float64, Int64, String, Timestamp

_FLOATS: Final = {Float32: np.dtype(np.float32), Float64: np.dtype(np.float64)}

TABLE_ROWS: Final = 65_536
"""A table holds no more rows of several reads than this."""


class Served(NamedTuple):
    """One read that went out: what is kept of it, and nothing that holds on to the rest.

    `keys` and `request` are copies: the caller's own arrays may be used again.
    """

    blocks: tuple[Block, ...]
    rows: int
    at: int
    request_id: str
    served_at: int
    watermarks: Mapping[str, int | None]
    keys: Mapping[str, Column]
    request: Mapping[str, tuple[Array, Mask | None]]
    degraded: bool = False
    context: Mapping[str, Any] | None = None
    scaled: OnlineFeatures | None = None
    scaler: int | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """What all rows of one version of a service have in common."""

    schema: CapturedSchema
    version: int
    capture: Capture


def served(
    result: OnlineFeatures,
    served_at: int,
    request_id: str | None = None,
    degraded: bool = False,  # noqa: FBT002  positions are quicker, and each read pays for it
    context: Mapping[str, Any] | None = None,
    scaled: OnlineFeatures | None = None,
    scaler: int | None = None,
) -> Served:
    """A read as it is handed to the recorder. Raises RequestError for context that does not fit the rows."""
    asked = result.asked
    assert asked is not None, "a read knows what was asked"
    return _new(
        Served,
        (
            result.blocks,
            result.rows,
            result.at,
            request_id or result.request_id,
            served_at,
            result.watermarks,
            {n: c.copy() if type(c) is np.ndarray else c for n, c in asked.columns.items()},
            {n: (v.copy(), valid) for n, (v, valid) in asked.asked.items()} if asked.asked else _NOTHING,
            degraded,
            _fitting(context, result.rows) if context else None,
            scaled,
            scaler,
        ),
    )


_new: Final = tuple.__new__  # a third of what Served(…) takes
_NOTHING: Final[Mapping[str, tuple[Array, Mask | None]]] = {}


def _fitting(context: Mapping[str, Any], rows: int) -> Mapping[str, Any]:
    for name, value in context.items():
        if isinstance(value, list | tuple | np.ndarray) and len(value) != rows:
            raise RequestError(
                f"context '{name}' has {len(value)} values for {rows} rows\n  give one value, or one for each row"
            )
    return dict(context)


def tables(kind: Kind, reads: Sequence[Served]) -> Iterator[tuple[pa.Table, int]]:
    """The rows of reads that are sampled, by what their arrays look like, and how many there were before sampling."""
    for group in _alike(reads):
        some: list[Served] = []
        rows = 0
        for read in group:
            if some and rows + read.rows > TABLE_ROWS:
                yield _table(kind, some), rows
                some, rows = [], 0
            some.append(read)
            rows += read.rows
        yield _table(kind, some), rows


def _alike(reads: Sequence[Served]) -> Iterable[Sequence[Served]]:
    """Reads by what their arrays look like; nearly always that is one way, and the very same objects say so."""
    first = reads[0]
    if first.scaled is None and all(r.scaled is None and _same(r.blocks, first.blocks) for r in reads):
        return [reads]
    alike: dict[Any, list[Served]] = {}
    for read in reads:
        scaled = None if read.scaled is None else (_layout(read.scaled.blocks), read.scaler)
        alike.setdefault((_layout(read.blocks), scaled), []).append(read)
    return alike.values()


def _same(some: Sequence[Block], others: Sequence[Block]) -> bool:
    if len(some) != len(others):
        return False
    return all(a.places is b.places and a.dtype == b.dtype for a, b in zip(some, others, strict=True))


def _layout(blocks: Sequence[Block]) -> tuple[tuple[bytes, str], ...]:
    return tuple([(b.places.tobytes(), b.dtype.str) for b in blocks])


def _table(kind: Kind, reads: Sequence[Served]) -> pa.Table:
    """Reads whose results lie in blocks alike, as the rows of one table."""
    schema, lengths = kind.schema, np.array([r.rows for r in reads], np.int64)
    rows = int(lengths.sum())
    columns: dict[str, Any] = {
        "request_id": spread([r.request_id for r in reads], lengths),
        "row": flat(_numbers(lengths), pa.int32()),
        "at": _instants([r.at for r in reads], lengths),
        "served_at": _instants([r.served_at for r in reads], lengths),
        "version": repeated(kind.version, pa.int64(), rows),
        "sample": repeated(float(kind.capture.sample), pa.float64(), rows),
        "degraded": _degraded(reads, lengths),
        "watermarks": _watermarks(reads, lengths),
        "context": _context(reads, rows),
        "statuses": _statuses(reads, len(schema.features), rows),
        "scaler": repeated(reads[0].scaler, pa.int64(), rows),
    }
    for name, dtype in schema.keys:
        columns[KEY + name] = _keys([r.keys[name] for r in reads], dtype)
    for name, dtype in schema.request:
        parts = [r.request[name] for r in reads]
        columns[REQUEST + name] = _cells([v for v, _ in parts], [m for _, m in parts], dtype)
    for name, column in _features([r.blocks for r in reads], schema.features).items():
        columns[FEATURE + name] = column
    if reads[0].scaled is not None:
        types = list(zip(reads[0].scaled.names, reads[0].scaled.dtypes, strict=True))
        scaled = _features([r.scaled.blocks for r in reads if r.scaled is not None], types, schema.scaled)
        columns |= {SCALED + name: column for name, column in scaled.items()}
    stored = arrow_schema(schema.columns)
    whole = [columns[f.name] if f.name in columns else pa.nulls(rows, f.type) for f in stored]
    table = pa.table(whole, schema=stored)
    kept = _sampled(kind, reads, lengths)
    return table if kept is None else table.filter(flat(kept, pa.bool_()))


def _numbers(lengths: Array) -> Array:
    """The number of each row in its read."""
    begin = (np.cumsum(lengths) - lengths).astype(np.int32)
    return np.arange(int(lengths.sum()), dtype=np.int32) - np.repeat(begin, lengths)


def _instants(moments: Sequence[int], lengths: Array) -> pa.Array:
    return flat(np.repeat(np.array(moments, np.int64), lengths), arrow_type(Timestamp))


def _degraded(reads: Sequence[Served], lengths: Array) -> pa.Array:
    if not any(r.degraded for r in reads):
        return repeated(value=False, kind=pa.bool_(), rows=int(lengths.sum()))
    return flat(np.repeat(np.array([r.degraded for r in reads]), lengths), pa.bool_())


def _watermarks(reads: Sequence[Served], lengths: Array) -> pa.Array:
    """Nearly always the same of all reads: each is written once."""
    first = reads[0].watermarks
    if all(r.watermarks == first for r in reads):
        return repeated(json.dumps(dict(first)), pa.string(), int(lengths.sum()))
    return spread([json.dumps(dict(r.watermarks)) for r in reads], lengths)


def _context(reads: Sequence[Served], rows: int) -> pa.Array:
    if all(r.context is None for r in reads):
        return repeated(None, pa.string(), rows)
    told: list[str | None] = []
    for read in reads:
        if read.context is None:
            told += [None] * read.rows
            continue
        by_row = {n: v for n, v in read.context.items() if isinstance(v, list | tuple | np.ndarray)}
        same = {n: v for n, v in read.context.items() if n not in by_row}
        if not by_row:
            told += [_json(same)] * read.rows
        else:
            told += [_json({**same, **{n: v[i] for n, v in by_row.items()}}) for i in range(read.rows)]
    return texts(told)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dt.date):
        return value.isoformat()
    return str(value)


def _statuses(reads: Sequence[Served], width: int, rows: int) -> pa.Array:
    """A digit for each feature, as texts of one length."""
    if all(b.status is None for r in reads for b in r.blocks):
        return repeated("0" * width, pa.string(), rows)
    codes = np.full((rows, width), ord("0"), np.uint8)
    for j, first in enumerate(reads[0].blocks):
        mine = first.places < width
        status = _end_to_end([_or(r.blocks[j].status, r.blocks[j], 0, np.uint8) for r in reads])
        codes[:, first.places[mine]] += status[:, mine]
    ends = np.arange(rows + 1, dtype=np.int32) * np.int32(width)
    return pa.Array.from_buffers(pa.string(), rows, [None, pa.py_buffer(ends), pa.py_buffer(codes)])


def _or(array: Array | None, block: Block, fill: int, dtype: Any) -> Array:
    return np.full(block.values.shape, fill, dtype) if array is None else array


def _keys(parts: Sequence[Column], dtype: DType) -> pa.Array:
    if all(isinstance(p, np.ndarray) for p in parts):
        return flat(_end_to_end(parts), arrow_type(dtype))
    listed = [v for p in parts for v in (p.tolist() if isinstance(p, np.ndarray) else p)]
    if dtype == String:
        return texts(listed)
    known = np.array([v is not None for v in listed], np.bool_)
    return flat(np.array([0 if v is None else v for v in listed], np.int64), arrow_type(dtype), known)


def _cells(values: Sequence[Array], masks: Sequence[Mask | None], dtype: DType) -> pa.Array:
    whole = _end_to_end(values)
    valid = [np.ones(len(v), np.bool_) if m is None else m for v, m in zip(values, masks, strict=True)]
    return from_physical(whole, _end_to_end(valid), dtype)


def _features(
    results: Sequence[Sequence[Block]],
    features: Sequence[tuple[str, DType]],
    wanted: Sequence[str] | None = None,
) -> dict[str, pa.Array]:
    """The columns of results that lie in blocks alike, or the `wanted` ones of them."""
    found: dict[str, pa.Array] = {}
    for j, first in enumerate(results[0]):
        chosen = [
            (k, *features[place])
            for k, place in enumerate(first.places.tolist())
            if place < len(features) and (wanted is None or features[place][0] in wanted)
        ]
        if not chosen:
            continue
        values = Block.end_to_end([r[j] for r in results])
        valid = None
        if any(r[j].valid is not None for r in results):
            valid = np.asfortranarray(_end_to_end([_or(r[j].valid, r[j], 1, np.bool_) for r in results]))
        everywhere = np.ones(values.shape[1], np.bool_)
        for k, name, dtype in chosen:
            if valid is None and values.dtype == _FLOATS.get(dtype):
                found[name] = flat(values[k], arrow_type(dtype))
                continue
            found[name] = from_physical(values[k], everywhere if valid is None else valid[:, k], dtype)
    return found


def _end_to_end(parts: Sequence[Any]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


# --------------------------------------------------------------------------------------------------------------- sampling


def _sampled(kind: Kind, reads: Sequence[Served], lengths: Array) -> Mask | None:
    """Which rows are kept; None for all."""
    if kind.capture.sample >= 1.0:
        return None
    if kind.capture.by == "request":
        drawn = np.repeat(hashes(np.array([r.request_id for r in reads], object)), lengths)
    else:
        drawn = entity_hashes(
            [([v for r in reads for v in _listed(r.keys[n])], dtype) for n, dtype in kind.schema.keys]
        )
    return drawn < np.uint64(int(kind.capture.sample * 2**64))


def _listed(column: Column) -> Sequence[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else column


def entity_hashes(columns: Sequence[tuple[Sequence[Any], DType]]) -> Array:
    """The 64 bits that say whether an entity is sampled: below `sample * 2^64` it is, in all its requests.

    They begin as 0; for each key column in order they become splitmix64(bits XOR hash), where `hash` is splitmix64 of a
    number, the first 8 bytes of the MD5 of a text's UTF-8 (the first the lowest), and 0 of NULL.
    """
    bits = np.zeros(len(columns[0][0]) if columns else 0, np.uint64)
    for values, dtype in columns:
        known = np.array([v is not None for v in values], np.bool_)
        some = [v for v in values if v is not None]
        own = np.zeros(len(bits), np.uint64)
        if some:
            own[known] = hashes(np.array(some, np.int64 if dtype == Int64 else object))
        bits = hashes((bits ^ own).view(np.int64))
    return bits
